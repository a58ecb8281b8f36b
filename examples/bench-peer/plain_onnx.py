"""A peer for kdcmae-bench: an engine's graph in ONNX Runtime without its graph optimisations."""

from dataclasses import replace
from pathlib import Path

import onnxruntime

from kdcmae.bench.run.peers import Peer
from kdcmae.bench.run.subjects import Arrays, Subject, engine_facts
from kdcmae.runtime.manifest import Manifest


class PlainOnnx(Subject):
    """Runs the graph as it was exported."""

    def __init__(self, source: str, threads: int) -> None:
        folder, manifest = Path(source), Manifest.read(source)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        file = folder / manifest.engine["file"]
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._outputs = [spec.name for spec in manifest.outputs]
        self.facts = replace(engine_facts(folder, manifest), kind="onnxruntime", ladder=None)

    def run(self, inputs: Arrays) -> Arrays:
        """One inference, from numpy arrays to numpy arrays."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))


PEER = Peer(
    name="plain-onnx",
    label="ONNX Runtime, not optimised",
    about="an ONNX engine's graph without graph optimisations",
    open=PlainOnnx,
    runs="onnx",
)
