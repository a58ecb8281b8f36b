from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kdcmae.errors import CheckpointError
from kdcmae.training.resume import load_run_state, random_state, restore_random_state, save_run_state
from kdcmae.training.tracking import read_metrics

SCRIPT = Path(__file__).parent / "random_run.py"


@pytest.fixture
def one_thread():
    """Sums are split over threads, so bit-equal losses need as many in every process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run_and_kill(stage: str, folder: Path, options: dict[str, int], lines: int) -> None:
    """Start a run in a process of its own and kill it as soon as its log has so many lines."""
    command = [sys.executable, str(SCRIPT), stage, str(folder), *(f"{key}={value}" for key, value in options.items())]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        log = folder / "metrics.jsonl"
        while process.poll() is None and (not log.exists() or log.read_text().count("\n") < lines):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, f"the run ended before line {lines} of its log"


@pytest.mark.parametrize(
    ("stage", "options"),
    [("pretrain", {"epochs": 8}), ("finetune", {"epochs": 8, "average_from_epoch": 2, "accumulation_steps": 2})],
)
def test_a_killed_run_resumes_to_the_same_losses(stage, options, random_runs, tmp_path, one_thread):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    lines = random.randrange(1, 25)  # of at least 48; another number each time the tests run
    run_and_kill(stage, killed, options, lines)
    logged = read_metrics(killed / "metrics.jsonl")[-1]["step"]
    trainer = random_runs.trainer(random_runs.random_run(stage, killed, **options), resume=True)
    assert trainer.position.step >= (logged - 1) // 3 * 3  # it saves every three steps, and does not start over
    trainer.fit()
    random_runs.train(random_runs.random_run(stage, whole, **options))
    resumed, expected = (read_metrics(folder / "metrics.jsonl") for folder in (killed, whole))
    assert resumed == expected, f"killed after step {logged}"
    weights = load_file(whole / "model.safetensors")
    for name, tensor in load_file(killed / "model.safetensors").items():
        assert torch.equal(tensor, weights[name]), f"{name}, killed after step {logged}"


class Killed(BaseException):
    """Stands for a signal that no handler sees."""


@pytest.mark.parametrize("moment", ["torch.save", "os.replace"])
def test_a_run_killed_while_it_saves_keeps_the_older_state(moment, random_runs, tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_run_state({"step": 1}, path)

    def killed(*arguments, **keywords):
        if moment == "torch.save":
            arguments[1].write(b"half a sta")
        raise Killed

    monkeypatch.setattr(moment, killed)
    with pytest.raises(Killed):
        save_run_state({"step": 2}, path)
    monkeypatch.undo()
    assert load_run_state(path) == {"step": 1}
    save_run_state({"step": 2}, path)
    assert load_run_state(path) == {"step": 2}
    assert os.listdir(tmp_path) == ["state.pt"]


def test_a_damaged_state_is_named(tmp_path):
    path = tmp_path / "state.pt"
    save_run_state({"weights": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=r"state\.pt is not the state of a run"):
        load_run_state(path)


def test_random_state_round_trip(tmp_path):
    path = tmp_path / "state.pt"
    save_run_state(random_state(), path)

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    first = draw()
    assert draw() != first
    restore_random_state(load_run_state(path))
    assert draw() == first
