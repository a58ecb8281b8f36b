"""An ONNX engine's graph with ONNX Runtime's dynamic quantisation: int8 weights, int8 activations on the fly."""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from kdcmae.bench.run.peers import Peer
from kdcmae.bench.run.subjects import Arrays, Subject, engine_facts
from kdcmae.extras import to_compile
from kdcmae.runtime.backend import import_library
from kdcmae.runtime.manifest import Manifest

__all__ = ["PEER"]


class _DynamicInt8Subject(Subject):
    def __init__(self, source: str, threads: int) -> None:
        folder, manifest = Path(source), Manifest.read(source)
        ort = import_library("onnxruntime", install=to_compile("onnx"))
        quantization = import_library("onnxruntime.quantization", install=to_compile("onnx"))
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            quantised = Path(scratch) / "int8.onnx"
            logging.disable(logging.WARNING)  # it advises steps that a graph from torch's exporter went through
            quantization.quantize_dynamic(
                folder / manifest.engine["file"], quantised, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True
            )
            logging.disable(logging.NOTSET)
            options = ort.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = threads
            self._session = ort.InferenceSession(quantised, options, providers=["CPUExecutionProvider"])
            size = quantised.stat().st_size
        self._outputs = [spec.name for spec in manifest.outputs]
        self.facts = replace(
            engine_facts(folder, manifest),
            kind="onnxruntime",
            computes_in="int8 dynamic",
            tolerance=None,
            ladder=None,
            artifact_bytes=size,
            compile_s=time.perf_counter() - start,
        )

    def run(self, inputs: Arrays) -> Arrays:
        """One inference."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))


PEER = Peer(
    name="ort-int8",
    label="ONNX Runtime dynamic int8",
    about="an ONNX engine's graph with ONNX Runtime's dynamic int8",
    open=_DynamicInt8Subject,
    runs="onnx",
    needs=to_compile("onnx"),
    precision="int8",
    suite=("fp32",),
)
