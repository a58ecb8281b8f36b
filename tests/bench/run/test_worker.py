"""Workers with fake subjects: answers, refusals, crashes, hangs."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from kdcmae.bench.run.worker import Session, Worker
from kdcmae.errors import DeviceError, EngineError
from kdcmae.host import cpu_numbers


@pytest.fixture
def start(open_fake):
    """Starts a worker that is ended with the test."""
    workers = []

    def start(source: str, *, timeout_s: float = 60, threads: int = 1, cpus: tuple[int, ...] | None = None) -> Worker:
        workers.append(Worker(source, threads=threads, timeout_s=timeout_s, open_subject=open_fake, cpus=cpus))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def test_a_worker_answers_until_it_is_closed(start):
    worker = start("an engine")
    loaded = worker.ask(Session.load)
    assert loaded.facts.kind == "fake engine"
    assert loaded.load_ms > 0
    first = worker.ask(Session.first_inference, 3, 0)
    assert first.outputs["logits"].shape == (3, 4)
    assert worker.ask(Session.self_test).passed
    assert len(worker.ask(Session.window, 0.01)) >= 1
    assert worker.ask(Session.memory).peak_rss_bytes > 1_000_000
    worker.close()
    worker.close()


def test_two_workers_run_the_same_inputs(start):
    outputs = []
    for _ in range(2):
        worker = start("an engine")
        worker.ask(Session.load)
        outputs.append(worker.ask(Session.first_inference, 2, 7).outputs["logits"])
    np.testing.assert_array_equal(*outputs)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no CPU affinity")
def test_a_worker_is_pinned_to_its_cpus(start):
    before = os.sched_getaffinity(0), os.environ.get("OMP_NUM_THREADS")
    cpu = cpu_numbers()[-1]
    worker = start("an engine", cpus=(cpu,))
    assert worker.ask(Session.load).facts.kind == "fake engine"
    assert os.sched_getaffinity(worker._process.pid) == {cpu}
    assert (os.sched_getaffinity(0), os.environ.get("OMP_NUM_THREADS")) == before


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no CPU affinity")
def test_more_threads_than_cpus_share_all_of_them(start):
    worker = start("says its threads", threads=4096)
    assert worker.ask(Session.load).facts.kind == "4096 threads, 4096 of OpenMP"
    assert os.sched_getaffinity(worker._process.pid) == set(cpu_numbers())


def test_what_this_machine_lacks_is_told_from_what_is_broken(start):
    with pytest.raises(DeviceError, match="needs a CUDA device"):
        start("no device").ask(Session.load)
    with pytest.raises(EngineError, match="broken file is truncated"):
        start("broken file").ask(Session.load)
    with pytest.raises(EngineError, match="No such file"):
        start("no folder").ask(Session.load)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals that end a process")
def test_a_killed_worker_is_reported_with_its_signal(start):
    with pytest.raises(EngineError, match="ended by SIGKILL; most often the system was out of memory"):
        start("crash at load").ask(Session.load)


def test_a_bug_in_a_worker_is_one_line(start, capfd, monkeypatch):
    monkeypatch.delenv("KDCMAE_TRACEBACK", raising=False)
    with pytest.raises(EngineError, match=r"^ZeroDivisionError: a bug \(KDCMAE_TRACEBACK=1 shows where\)$"):
        start("bug at load").ask(Session.load)
    assert "Traceback" not in capfd.readouterr().err


def test_a_bug_in_a_worker_shows_its_traceback_where_that_is_asked_for(start, capfd, monkeypatch):
    monkeypatch.setenv("KDCMAE_TRACEBACK", "1")
    with pytest.raises(EngineError, match="crashed: its process ended with exit code 1"):
        start("bug at load").ask(Session.load)
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err


def test_a_dead_worker_refuses_further_questions(start):
    worker = start("crash at load")
    with pytest.raises(EngineError, match="crashed"):
        worker.ask(Session.load)
    with pytest.raises(EngineError, match="crashed"):
        worker.ask(Session.window, 0.01)


def test_a_hung_worker_is_stopped(start):
    with pytest.raises(EngineError, match=r"no answer within 0.2 s \(--timeout\)"):
        start("hang at load", timeout_s=0.2).ask(Session.load)


def test_what_a_library_prints_stays_off_stdout(start, capfd):
    start("chatter").ask(Session.load)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "a library printed this" in printed.err


def test_a_worker_does_not_load_torch_by_itself():
    code = "import sys, kdcmae.bench.run.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_worker_whose_parent_stops_listening_ends_quietly(start, capfd):
    worker = start("slow load", timeout_s=0.1)
    worker._connection.send((Session.load, (), {}))
    worker.close()
    assert worker._process.exitcode == 0
    assert capfd.readouterr().err == ""


def test_closing_ends_a_worker_that_does_not_end_by_itself(start, monkeypatch):
    monkeypatch.setattr("kdcmae.bench.run.worker._EXIT_TIMEOUT_S", 0.1)
    worker = start("hang at load")
    worker._connection.send((Session.load, (), {}))
    worker.close()
    assert not worker._process.is_alive()
