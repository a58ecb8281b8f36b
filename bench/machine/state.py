"""The state of the machine around a measurement: load, clock frequency, temperature, energy and GPU memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

__all__ = ["EnergyCounter", "energy_counter", "gpu_memory_bytes", "machine_state", "pinned"]

_THERMAL = Path("/sys/class/thermal")
_POWERCAP = Path("/sys/class/powercap")
_CPUS = Path("/sys/devices/system/cpu")
_CPUINFO = Path("/proc/cpuinfo")

_THREADS_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def machine_state() -> dict[str, Any]:
    """Load, mean CPU frequency, hottest sensor and throttling events, each None where the system does not say."""
    governors = {path.read_text().strip() for path in _CPUS.glob("cpu*/cpufreq/scaling_governor")}
    temperatures = [value / 1e3 for value in _numbers(_THERMAL, "thermal_zone*/temp")]
    return {
        "load_average_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "cpu_frequency_mhz": _frequency_mhz(),
        "frequency_governors": sorted(governors),
        "hottest_sensor_celsius": max(temperatures, default=None),
        "throttle_events": _total(_CPUS, "cpu*/thermal_throttle/core_throttle_count"),
    }


@contextmanager
def pinned(cpus: tuple[int, ...]) -> Iterator[None]:
    """Whatever process starts in this context may run on these CPUs only, with one thread for each.

    Args:
        cpus: their numbers; on systems without affinity only the number of threads holds.
    """
    before = {name: os.environ.get(name) for name in _THREADS_VARIABLES}
    can_pin = hasattr(os, "sched_setaffinity")
    usable = os.sched_getaffinity(0) if can_pin else set()
    os.environ.update(dict.fromkeys(_THREADS_VARIABLES, str(len(cpus))))
    try:
        if can_pin:
            os.sched_setaffinity(0, cpus)
        yield
    finally:
        if can_pin:
            os.sched_setaffinity(0, usable)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class EnergyCounter(Protocol):
    """A counter that only goes up.

    Attributes:
        source: what it counts, for the report.
    """

    source: str

    def joules(self) -> float:
        """What it says now."""


def energy_counter(powercap: Path = _POWERCAP) -> EnergyCounter | str:
    """The machine's counter: that of a GPU where there is one, else that of the CPU packages; or why there is none.

    Args:
        powercap: where Linux shows the RAPL counters.
    """
    management = _nvml()
    if management is not None and (gpu := _NvmlEnergy(management)).works():
        return gpu
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
        self._most = [_number(zone / "max_energy_range_uj") for zone in zones]
        self._last = self._read()
        self._total_uj = 0.0

    def joules(self) -> float:
        now = self._read()
        self._total_uj += sum((new - old) % most for new, old, most in zip(now, self._last, self._most, strict=True))
        self._last = now
        return self._total_uj / 1e6

    def _read(self) -> list[float]:
        return [_number(zone / "energy_uj") for zone in self._zones]


class _NvmlEnergy:
    """The first GPU's total energy."""

    source = "NVML, GPU 0"

    def __init__(self, library: Any) -> None:
        self._library = library
        self._handle = _nvml_handle(library)

    def works(self) -> bool:
        return self._handle is not None and self._millijoules() is not None

    def joules(self) -> float:
        return (self._millijoules() or 0) / 1e3

    def _millijoules(self) -> int | None:
        found = ctypes.c_ulonglong()
        status = self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(found))
        return found.value if status == 0 else None


class _NvmlMemory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


def gpu_memory_bytes() -> int | None:
    """Memory in use on the first GPU, by all processes; None where NVML is not there."""
    library = _nvml()
    handle = _nvml_handle(library) if library is not None else None
    if library is None or handle is None:
        return None
    memory = _NvmlMemory()
    return int(memory.used) if library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0 else None


def _nvml() -> Any | None:
    """NVIDIA's management library, started; None where there is no driver."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


def _nvml_handle(library: Any) -> ctypes.c_void_p | None:
    handle = ctypes.c_void_p()
    return handle if library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)) == 0 else None


def _frequency_mhz() -> float | None:
    now = [value / 1e3 for value in _numbers(_CPUS, "cpu*/cpufreq/scaling_cur_freq")]
    if not now and _CPUINFO.is_file():
        lines = _CPUINFO.read_text(errors="replace").splitlines()
        now = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return fmean(now) if now else None


def _total(folder: Path, pattern: str) -> int | None:
    values = _numbers(folder, pattern)
    return int(sum(values)) if values else None


def _numbers(folder: Path, pattern: str) -> list[float]:
    values = []
    for path in folder.glob(pattern):
        try:
            values.append(_number(path))
        except (OSError, ValueError):  # sensors that are asleep refuse
            continue
    return values


def _number(path: Path) -> float:
    return float(path.read_text())
