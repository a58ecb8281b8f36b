"""State, energy and pinning of the machine, on made-up counters."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pynvml
import pytest

from kdcmae import host
from kdcmae.bench.machine import selfcheck
from kdcmae.bench.machine import state as state_module
from kdcmae.bench.machine.state import energy_counter, gpu_memory_bytes, gpu_state, machine_state, pinned
from kdcmae.bench.report.records import SelfCheck
from kdcmae.errors import GateError


class Driver:
    """NVML with one GPU, which does not tell its clock."""

    NVMLError = pynvml.NVMLError
    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM = pynvml.NVML_TEMPERATURE_GPU, pynvml.NVML_CLOCK_SM

    def __getattr__(self, name):
        def refuse(*_):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

        answers = {
            "nvmlInit": None,
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": "gpu 0",
            "nvmlDeviceGetName": "A GPU",
            "nvmlDeviceGetTemperature": 41,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=123),
            "nvmlDeviceGetTotalEnergyConsumption": 5000,
        }
        return (lambda *_: answers[name]) if name in answers else refuse


@pytest.fixture
def no_driver(fails):
    fails("pynvml.nvmlInit", pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))


def zone(folder, name, now, most=1000):
    path = folder / name
    path.mkdir(exist_ok=True, parents=True)
    (path / "energy_uj").write_text(f"{now}\n")
    (path / "max_energy_range_uj").write_text(f"{most}\n")


def test_the_state_of_this_machine_has_every_field():
    state = machine_state()
    assert state["load_average_1min"] is None or state["load_average_1min"] >= 0
    assert state["cpu_frequency_mhz"] is None or state["cpu_frequency_mhz"] > 0


@pytest.mark.parametrize("error", [NotImplementedError("can't find current frequency file"), FileNotFoundError(2, "")])
def test_a_system_that_hides_the_clock_frequency_has_a_state_all_the_same(fails, error):
    fails("psutil.cpu_freq", error)
    assert machine_state()["cpu_frequency_mhz"] is None


def test_what_the_system_shows_of_governors_and_throttling_is_read(tmp_path):
    for path, text in (
        ("cpu0/cpufreq/scaling_governor", "powersave\n"),
        ("cpu0/thermal_throttle/core_throttle_count", "7"),
        ("cpu1/thermal_throttle/core_throttle_count", "2"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    state = machine_state(tmp_path)
    assert state["frequency_governors"] == ["powersave"]
    assert state["throttle_events"] == 9


@pytest.mark.usefixtures("no_driver")
def test_rapl_adds_up_packages_and_survives_their_overflow(tmp_path):
    zone(tmp_path, "intel-rapl:0", 900)
    zone(tmp_path, "intel-rapl:1", 100)
    zone(tmp_path, "intel-rapl:0:0", 5)  # a part of the first package: it is in there already
    counter = energy_counter(tmp_path)
    before = counter.joules()
    zone(tmp_path, "intel-rapl:0", 50)
    zone(tmp_path, "intel-rapl:1", 300)
    assert counter.joules() - before == pytest.approx((150 + 200) / 1e6)
    assert counter.source == "RAPL, CPU packages"


@pytest.mark.usefixtures("no_driver")
def test_a_machine_without_counters_says_so(tmp_path):
    assert energy_counter(tmp_path) == "the machine exposes neither RAPL nor NVML energy counters"
    (tmp_path / "intel-rapl:0").mkdir()
    assert "RAPL cannot be read" in energy_counter(tmp_path)


def test_a_gpu_tells_energy_and_state(monkeypatch, tmp_path):
    monkeypatch.setattr(state_module, "pynvml", Driver())
    counter = energy_counter(tmp_path)
    assert (counter.source, counter.joules()) == ("NVML, GPU 0", 5.0)
    assert gpu_memory_bytes() == 123
    assert gpu_state() == [{"name": "A GPU", "memory_used_bytes": 123, "celsius": 41, "clock_mhz": None}]


@pytest.mark.usefixtures("no_driver")
def test_without_a_driver_there_is_no_gpu():
    assert gpu_state() == []
    assert gpu_memory_bytes() is None


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no CPU affinity")
def test_pinning_ends_with_its_context(monkeypatch):
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = os.sched_getaffinity(0)
    with pinned((min(before),)):
        assert os.sched_getaffinity(0) == {min(before)}
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"
    assert os.sched_getaffinity(0) == before
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


CLOCK = {"sleep_s": 0.0502, "clock_ratio": 1.0}
PRODUCTS = {"stolen": 0.01, "twice the work": 2.02, "gflop_per_s": 90.0}


def test_a_sound_machine_has_no_problems():
    assert selfcheck.judge(CLOCK, {0: PRODUCTS, 1: PRODUCTS}) == ()


@pytest.mark.parametrize(
    ("figure", "value", "words"),
    [
        ("sleep_s", 0.08, "a sleep of 50 ms took 80.0 ms"),
        ("sleep_s", 0.04, "a sleep of 50 ms took 40.0 ms"),
        ("clock_ratio", 1.05, "two clocks disagree by 5.0%"),
        ("stolen", 0.3, "on cpu 0 other work took 30% of the time"),
        ("twice the work", 1.4, "on cpu 0 twice the work took 1.40 times as long"),
    ],
)
def test_each_problem_is_named(figure, value, words):
    clock, products = ({**figures, figure: value} if figure in figures else figures for figures in (CLOCK, PRODUCTS))
    assert selfcheck.judge(clock, {0: products}) == (words,)


def test_a_problem_stops_the_run_unless_it_is_overridden():
    with pytest.raises(GateError, match="nothing was timed, because clocks disagree"):
        selfcheck.require_sound(SelfCheck(problems=("clocks disagree",), figures={}, overridden=False))
    selfcheck.require_sound(SelfCheck(problems=("clocks disagree",), figures={}, overridden=True))
    selfcheck.require_sound(SelfCheck(problems=(), figures={}, overridden=False))


def test_a_clock_that_runs_fast_is_noticed():
    import time

    figures = selfcheck.timed_sleep(lambda: 1.2 * time.perf_counter())
    assert figures["clock_ratio"] == pytest.approx(1.2, rel=0.02)
    assert len(selfcheck.judge(figures, {0: PRODUCTS})) == 2


def test_this_machine_is_probed():
    found = selfcheck.check_machine(host.cpu_numbers()[:1], overridden=True)
    assert found.figures["sleep_s"] >= 0.05
    assert sum(name.endswith("gflop_per_s") for name in found.figures) == 1
