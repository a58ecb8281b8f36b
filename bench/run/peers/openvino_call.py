"""OpenVINO's call alone on the IR of an engine, by OpenVINO's clock: what ``benchmark_app`` times.

Every window runs in a new process, because where a small model happens to lie in memory is worth several percent for as
long as the process lives. That process runs this module.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kdcmae.bench.run.peers import Peer
from kdcmae.bench.run.subjects import Arrays
from kdcmae.bench.run.tools import ToolSubject, require_single_ir
from kdcmae.errors import KdcmaeError
from kdcmae.extras import to_run
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.manifest import Manifest
from kdcmae.timing import time_window

__all__ = ["PEER"]


class _CallSubject(ToolSubject):
    def __init__(self, source: str, threads: int) -> None:
        require_single_ir(Path(source))
        self._command = [sys.executable, "-m", __name__, source, str(threads)]
        super().__init__(Path(source), boundary="library call")

    def window(self, inputs: Arrays, seconds: float) -> list[float]:
        """Latencies in ms of every call of one run, which is as long as one of the tool's."""
        latencies_ms: list[float] = json.loads(self.ask([*self._command, self.whole_seconds(seconds)]))
        return latencies_ms


PEER = Peer(
    name="openvino-call",
    label="OpenVINO {precision} call alone",
    about="OpenVINO's call alone on an engine's IR, by OpenVINO's clock",
    open=_CallSubject,
    runs="openvino",
    needs=to_run("openvino"),
    suite=("bf16",),
)


def main(folder: Path, threads: int, seconds: float) -> None:
    """Print the latency of each call of one window in ms, as a JSON array."""
    from kdcmae.runtime.openvino import compile_native
    from kdcmae.runtime.openvino_library import import_openvino, openvino_core

    manifest = Manifest.read(folder)
    properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    model = openvino_core().read_model(folder / manifest.engine["file"])
    compiled = compile_native(
        model, manifest.engine.get("device", "CPU"), manifest.engine["inference_precision"], properties
    )
    request = compiled.create_infer_request()
    for name, array in example_inputs(manifest.inputs, manifest.batch.min).items():
        request.set_tensor(name, import_openvino().Tensor(array, shared_memory=False))
    latencies_ms: list[float] = []

    def call() -> None:
        request.infer(share_outputs=True)
        latencies_ms.append(request.latency)

    timed = len(time_window(call, seconds))
    sys.stdout.write(json.dumps(latencies_ms[-timed:]))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    except KdcmaeError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None
