"""The state of the machine around a measurement: load, clock frequency, temperature, energy, and what GPUs report."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import psutil
import pynvml

from kdcmae.errors import DeviceError, EngineError

__all__ = ["EnergyCounter", "energy_counter", "gpu_memory_bytes", "gpu_state", "machine_state", "pinned", "run_pinned"]

_POWERCAP = Path("/sys/class/powercap")
_CPUS = Path("/sys/devices/system/cpu")

_THREADS_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def machine_state(cpus: Path = _CPUS) -> dict[str, Any]:
    """Load, mean CPU frequency, hottest sensor, throttling events and GPUs; None where the system does not say.

    Args:
        cpus: where Linux shows its governors and throttling events, which psutil does not read.
    """
    frequency = None
    with suppress(AttributeError, NotImplementedError, OSError):  # by system and by what the kernel shows
        frequency = psutil.cpu_freq()
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    governors = {path.read_text().strip() for path in cpus.glob("cpu*/cpufreq/scaling_governor")}
    throttled = [_read(path) for path in cpus.glob("cpu*/thermal_throttle/core_throttle_count")]
    return {
        "load_average_1min": psutil.getloadavg()[0],
        "cpu_frequency_mhz": frequency.current if frequency else None,
        "frequency_governors": sorted(governors),
        "hottest_sensor_celsius": max((sensor.current for chip in sensors.values() for sensor in chip), default=None),
        "throttle_events": int(sum(throttled)) if throttled else None,
        "gpus": gpu_state(),
    }


@contextmanager
def pinned(cpus: tuple[int, ...], threads: int | None = None) -> Iterator[None]:
    """Pin every process that starts in this context to these CPUs.

    Args:
        cpus: their numbers; on systems without affinity only the number of threads holds.
        threads: of each process; one for each CPU where None.
    """
    before = {name: os.environ.get(name) for name in _THREADS_VARIABLES}
    process = psutil.Process()
    usable = process.cpu_affinity() if hasattr(process, "cpu_affinity") else []
    os.environ.update(dict.fromkeys(_THREADS_VARIABLES, str(threads or len(cpus))))
    try:
        if usable:
            process.cpu_affinity(cpus)
        yield
    finally:
        if usable:
            process.cpu_affinity(usable)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def run_pinned(module: str, *arguments: object, cpus: tuple[int, ...], timeout_s: float) -> str:
    """Run a module in a process of its own that is pinned to CPUs, and return what it prints.

    Raises:
        DeviceError: this machine lacks what it needs.
        EngineError: it failed.
        TimeoutExpired: it took too long.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with pinned(cpus):
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        error = DeviceError if done.returncode == DeviceError.exit_code else EngineError
        raise error(done.stderr.strip()[-500:])
    return done.stdout


class EnergyCounter(Protocol):
    """A counter that only goes up.

    Attributes:
        source: what it counts, for the report.
    """

    source: str

    def joules(self) -> float:
        """Its present reading."""


def energy_counter(powercap: Path = _POWERCAP) -> EnergyCounter | str:
    """The machine's counter: a GPU's where there is one, else the CPU packages'; or why there is none.

    Args:
        powercap: where Linux shows the RAPL counters.
    """
    if gpu_state() and _known(_NvmlEnergy().joules) is not None:
        return _NvmlEnergy()
    zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    try:
        return _RaplEnergy(zones) if zones else "the machine exposes neither RAPL nor NVML energy counters"
    except OSError as error:
        return f"RAPL cannot be read: {error.strerror}; it needs root on most systems"


class _RaplEnergy:
    """The packages' counters added up; each starts again at its maximum."""

    source = "RAPL, CPU packages"

    def __init__(self, zones: list[Path]) -> None:
        self._zones = zones
        self._most = [_read(zone / "max_energy_range_uj") for zone in zones]
        self._last = self._readings()
        self._total_uj = 0.0

    def joules(self) -> float:
        now = self._readings()
        self._total_uj += sum((new - old) % most for new, old, most in zip(now, self._last, self._most, strict=True))
        self._last = now
        return self._total_uj / 1e6

    def _readings(self) -> list[float]:
        return [_read(zone / "energy_uj") for zone in self._zones]


class _NvmlEnergy:
    """The first GPU's total energy."""

    source = "NVML, GPU 0"

    def joules(self) -> float:
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(0)) / 1e3)


def gpu_state() -> list[dict[str, Any]]:
    """Used memory, temperature and clock of every NVIDIA GPU, None where it does not say; no GPU without a driver."""
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
    return [
        {
            "name": pynvml.nvmlDeviceGetName(handle),
            "memory_used_bytes": _known(lambda handle=handle: int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)),
            "celsius": _known(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
            "clock_mhz": _known(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
        }
        for handle in handles
    ]


def _known(ask: Callable[..., Any], *arguments: Any) -> Any:
    """NVML's answer; None where this GPU does not support the question."""
    try:
        return ask(*arguments)
    except pynvml.NVMLError:
        return None


def gpu_memory_bytes() -> int | None:
    """Memory in use on the first GPU, by all processes; None without a driver."""
    gpus = gpu_state()
    return gpus[0]["memory_used_bytes"] if gpus else None


def _read(path: Path) -> float:
    return float(path.read_text())
