"""Ceilings: how fast a large matrix product is in each precision, and how fast memory is copied.

Those of a CPU are measured in a process of its own, pinned to the CPUs that the subjects use: float32 and bfloat16 by
PyTorch (oneDNN), int8 by OpenVINO, each on matrices that fill the machine. The kernel benchmark measures those of its
device in its own process.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kdcmae.bench.machine.state import run_pinned
from kdcmae.bench.report.records import Ceilings, DeviceCeilings
from kdcmae.errors import EngineError
from kdcmae.timing import time_window

if TYPE_CHECKING:
    import torch

    from kdcmae.bench.machine.clock import Clock

__all__ = ["best_ceilings", "device_ceilings", "measure_ceilings", "measure_here"]

_COPY_BYTES = 1 << 28
_SIDE = 2048
_TIMEOUT_S = 300


def measure_ceilings(cpus: tuple[int, ...], *, seconds: float) -> Ceilings:
    """Measure the machine with one thread on each of these CPUs.

    Raises:
        EngineError: the process that measures failed.
    """
    try:
        printed = run_pinned("kdcmae.bench.machine.ceilings", len(cpus), seconds, cpus=cpus, timeout_s=_TIMEOUT_S)
    except EngineError as error:
        raise EngineError(f"the ceilings could not be measured: {error}") from error
    return Ceilings(**json.loads(printed))


def best_ceilings(first: Ceilings, second: Ceilings) -> Ceilings:
    """The higher of every figure, because a slow moment of the machine does not lower its ceilings.

    Args:
        first, second: of the same machine and threads.
    """
    return Ceilings(
        flop_per_s={name: max(rate, second.flop_per_s[name]) for name, rate in first.flop_per_s.items()},
        copy_bytes_per_s=max(first.copy_bytes_per_s, second.copy_bytes_per_s),
        how=first.how,
    )


def device_ceilings(
    clock: Clock, device: torch.device, dtype: torch.dtype, *, copy_bytes: int, matmul_side: int, seconds: float
) -> DeviceCeilings:
    """Measure copy bandwidth, matrix products and the timer itself.

    Args:
        clock: of the device.
        device: to measure.
        dtype: of the matrix products.
        copy_bytes: more than the caches hold.
        matmul_side: of square matrices that fill the device.
        seconds: for each of the three.
    """
    import torch

    from kdcmae.bench.machine.clock import PLAIN_WARM

    def median_us(call: Callable[[], object]) -> float:
        return statistics.median(clock.prepare(call, PLAIN_WARM)(seconds))

    with clock.running():
        source = torch.empty(copy_bytes, dtype=torch.uint8, device=device).random_()
        target = torch.empty_like(source)
        copy_us = median_us(lambda: target.copy_(source))
        # Random numbers: products of zeros draw less power and run faster.
        left, right = (torch.randn(matmul_side, matmul_side, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(left)
        matmul_us = median_us(lambda: torch.mm(left, right, out=out))
        timer_us = median_us(lambda: None)
    return DeviceCeilings(
        copy_bytes_per_s=1e6 * 2 * copy_bytes / copy_us,
        matmul_flop_per_s=1e6 * 2 * matmul_side**3 / matmul_us,
        matmul_dtype=str(dtype).removeprefix("torch."),
        timer_floor_us=timer_us,
    )


def measure_here(threads: int, seconds: float, *, side: int = _SIDE, copy_bytes: int = _COPY_BYTES) -> dict[str, Any]:
    """The fields of :class:`~kdcmae.bench.report.records.Ceilings`, measured in this process, which is pinned."""
    import torch

    from kdcmae.bench.machine.clock import CpuClock

    torch.set_num_threads(threads)
    flop_per_s, how, copy = {}, {}, 0.0
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        measured = device_ceilings(
            CpuClock(), torch.device("cpu"), dtype, copy_bytes=copy_bytes, matmul_side=side, seconds=seconds
        )
        flop_per_s[name] = measured.matmul_flop_per_s
        how[name] = f"PyTorch {torch.__version__}, {side} x {side} by {side} x {side}"
        copy = max(copy, measured.copy_bytes_per_s)
    how["copy"] = f"PyTorch {torch.__version__}, {copy_bytes >> 20} MiB"
    try:
        flop_per_s["int8"], how["int8"] = _int8(threads, seconds, side)
    except ImportError:
        how["int8"] = "not measured: OpenVINO is not installed"
    return {"flop_per_s": flop_per_s, "copy_bytes_per_s": copy, "how": how}


def _int8(threads: int, seconds: float, side: int) -> tuple[float, str]:
    """An int8 product in OpenVINO: activations quantised on the way in, weights stored as int8."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as ops

    from kdcmae.runtime.openvino_library import openvino_core

    generator = np.random.default_rng(0)
    values = ops.parameter([side, side], np.float32)
    low, high = np.float32(-4), np.float32(4 * 127 / 128)
    quantised = ops.fake_quantize(values, low, high, low, high, 256)
    weights = generator.integers(-127, 128, (side, side), dtype=np.int8)
    scaled = ops.multiply(ops.convert(ops.constant(weights), "f32"), np.float32(0.01))
    product = ops.matmul(quantised, scaled, False, True)
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_core().compile_model(ov.Model([product], [values]), "CPU", options)
    executed = {
        layer.get_rt_info()["runtimePrecision"].astype(str)
        for layer in compiled.get_runtime_model().get_ops()
        if layer.get_rt_info()["layerType"].astype(str) in ("FullyConnected", "MatMul")
    }
    request = compiled.create_infer_request()
    feed = [generator.standard_normal((side, side), dtype=np.float32)]
    calls = sorted(time_window(lambda: request.infer(feed, share_inputs=True, share_outputs=True), seconds))
    rate = 2e3 * side**3 / calls[len(calls) // 2]
    return rate, f"OpenVINO {ov.__version__.partition('-')[0]}, executed in {', '.join(sorted(executed))}"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure_here(int(sys.argv[1]), float(sys.argv[2]))))
