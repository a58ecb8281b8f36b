"""Run in a new process: OpenVINO's call alone on the IR of an engine, by OpenVINO's clock; prints the latencies.

A process for every window, because where a small model happens to lie in memory is worth several percent for as long as
the process lives.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kdcmae.errors import KdcmaeError
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.manifest import Manifest
from kdcmae.runtime.openvino import compile_native, import_openvino, openvino_core
from kdcmae.timing import time_window


def main(folder: Path, threads: int, seconds: float) -> None:
    """Print the latency of each call of one window in ms, as a JSON array.

    Args:
        folder: of an engine for OpenVINO.
        threads: CPU threads.
        seconds: length of the window.
    """
    manifest = Manifest.read(folder)
    device = manifest.engine.get("device", "CPU")
    properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    model = openvino_core().read_model(folder / manifest.engine["file"])
    compiled = compile_native(model, device, manifest.engine["inference_precision"], properties)
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
