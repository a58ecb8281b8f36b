"""The CPU's ceilings: how fast a large matrix product is in each precision, and how fast memory is copied.

Measured in a process of its own, pinned to the CPUs that the subjects use: float32 and bfloat16 by PyTorch (oneDNN),
int8 by OpenVINO, each on matrices that fill the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from kdcmae.bench.machine.state import pinned
from kdcmae.bench.report.records import Ceilings
from kdcmae.errors import EngineError
from kdcmae.timing import time_window

__all__ = ["best_ceilings", "measure_ceilings"]

_COPY_BYTES = 1 << 28
_SIDE = 2048
_TIMEOUT_S = 300


def measure_ceilings(cpus: tuple[int, ...], *, seconds: float) -> Ceilings:
    """Measure the machine with one thread on each of these CPUs.

    Args:
        cpus: their numbers.
        seconds: for each figure.

    Raises:
        EngineError: the process that measures failed.
    """
    with pinned(cpus):
        command = [sys.executable, "-m", "kdcmae.bench.machine.ceilings", str(len(cpus)), str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    if done.returncode:
        raise EngineError(f"the ceilings could not be measured: {done.stderr.strip()[-500:]}")
    return Ceilings(**json.loads(done.stdout))


def best_ceilings(one: Ceilings, other: Ceilings) -> Ceilings:
    """The higher of every figure: a slow moment of the machine does not lower what it can do.

    Args:
        one, other: of the same machine and threads.
    """
    return Ceilings(
        flop_per_s={name: max(rate, other.flop_per_s[name]) for name, rate in one.flop_per_s.items()},
        copy_bytes_per_s=max(one.copy_bytes_per_s, other.copy_bytes_per_s),
        how=one.how,
    )


def _measure(threads: int, seconds: float) -> dict[str, Any]:
    """Run in the pinned process."""
    import torch

    from kdcmae.bench.kernels.ceilings import CeilingSizes
    from kdcmae.bench.kernels.ceilings import measure_ceilings as measure_products
    from kdcmae.bench.machine.clock import CpuClock

    torch.set_num_threads(threads)
    sizes = CeilingSizes(copy_bytes=_COPY_BYTES, matmul_side=_SIDE)
    flop_per_s, how, copy = {}, {}, 0.0
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found = measure_products(torch.device("cpu"), CpuClock(), dtype, sizes, seconds=seconds)
        flop_per_s[name] = found.matmul_flop_per_s
        how[name] = f"PyTorch {torch.__version__}, {_SIDE} x {_SIDE} by {_SIDE} x {_SIDE}"
        copy = max(copy, found.copy_bytes_per_s)
    how["copy"] = f"PyTorch {torch.__version__}, {_COPY_BYTES >> 20} MiB"
    try:
        flop_per_s["int8"], how["int8"] = _int8(threads, seconds)
    except ImportError:
        how["int8"] = "not measured: OpenVINO is not installed"
    return {"flop_per_s": flop_per_s, "copy_bytes_per_s": copy, "how": how}


def _int8(threads: int, seconds: float) -> tuple[float, str]:
    """An int8 product in OpenVINO: activations quantised on the way in, weights stored as int8."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as ops

    from kdcmae.runtime.openvino import openvino_core

    generator = np.random.default_rng(0)
    given = ops.parameter([_SIDE, _SIDE], np.float32)
    low, high = np.float32(-4), np.float32(4 * 127 / 128)
    quantised = ops.fake_quantize(given, low, high, low, high, 256)
    weights = generator.integers(-127, 128, (_SIDE, _SIDE), dtype=np.int8)
    scaled = ops.multiply(ops.convert(ops.constant(weights), "f32"), np.float32(0.01))
    product = ops.matmul(quantised, scaled, False, True)
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_core().compile_model(ov.Model([product], [given]), "CPU", options)
    executed = {
        layer.get_rt_info()["runtimePrecision"].astype(str)
        for layer in compiled.get_runtime_model().get_ops()
        if layer.get_rt_info()["layerType"].astype(str) in ("FullyConnected", "MatMul")
    }
    request = compiled.create_infer_request()
    feed = [generator.standard_normal((_SIDE, _SIDE), dtype=np.float32)]
    calls = sorted(time_window(lambda: request.infer(feed, share_inputs=True, share_outputs=True), seconds))
    rate = 2e3 * _SIDE**3 / calls[len(calls) // 2]
    return rate, f"OpenVINO {ov.__version__.partition('-')[0]}, executed in {', '.join(sorted(executed))}"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure(int(sys.argv[1]), float(sys.argv[2]))))
