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
from click.testing import CliRunner
from safetensors.torch import load_file

from kdcmae.cli import main
from kdcmae.errors import CheckpointError
from kdcmae.training.resume import load_run_state, random_state, restore_random_state, save_run_state
from kdcmae.training.tracking import read_metrics

SCRIPT = Path(__file__).parent / "random_run.py"
COMMAND = str(Path(sys.executable).with_name("kdcmae"))


@pytest.fixture
def one_thread():
    """Sums are split over threads, so bit-equal losses need as many in every process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run_and_kill(command: list[str], folder: Path, lines: int) -> int:
    """Start a run in a folder and kill it once its log has so many lines; the last step in the log."""
    log = folder / "metrics.jsonl"
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        while process.poll() is None and (not log.exists() or log.read_text().count("\n") < lines):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, f"the run ended before line {lines} of its log"
    step = read_metrics(log)[-1]["step"]
    assert isinstance(step, int)
    return step


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "options"),
    [("pretrain", {"epochs": 8}), ("finetune", {"epochs": 8, "average_from_epoch": 2, "accumulation_steps": 2})],
)
def test_a_killed_run_resumes_to_the_same_losses(stage, options, random_runs, tmp_path, one_thread):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    lines = random.randrange(1, 25)  # of at least 48; another number each time the tests run
    pairs = [f"{key}={value}" for key, value in options.items()]
    logged = run_and_kill([sys.executable, str(SCRIPT), stage, str(killed), *pairs], killed, lines)
    trainer = random_runs.trainer(random_runs.random_run(stage, killed, **options), resume=True)
    assert trainer.position.step >= (logged - 1) // 3 * 3  # it saves every three steps, and does not start over
    trainer.fit()
    random_runs.train(random_runs.random_run(stage, whole, **options))
    resumed, expected = (read_metrics(folder / "metrics.jsonl") for folder in (killed, whole))
    assert resumed == expected, f"killed after step {logged}"
    weights = load_file(whole / "model.safetensors")
    for name, tensor in load_file(killed / "model.safetensors").items():
        assert torch.equal(tensor, weights[name]), f"{name}, killed after step {logged}"


@pytest.mark.slow
def test_the_killed_command_resumes_to_the_same_losses(pretrain_arguments, tmp_path, one_thread):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    lines = random.Random(0).randrange(4, 13)  # of 20, past the first saved state
    logged = run_and_kill([COMMAND, *pretrain_arguments(killed)], killed, lines)
    for arguments in ([*pretrain_arguments(killed), "--resume"], pretrain_arguments(whole)):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        assert ("going on after step" in result.stderr) == ("--resume" in arguments)
    resumed, expected = (read_metrics(folder / "metrics.jsonl") for folder in (killed, whole))
    assert resumed[-1]["step"] == 16
    assert resumed == expected, f"killed after step {logged}"


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of a process are POSIX's")
def test_a_full_disk_keeps_the_older_state(tmp_path: Path) -> None:
    """A limit on the size of files, in a process of its own, stands for the disk."""
    path = tmp_path / "run_state.pt"
    save_run_state({"step": 1}, path)
    code = (
        "import resource, torch\n"
        "from pathlib import Path\n"
        "from kdcmae.errors import DiskFullError\n"
        "from kdcmae.training.resume import save_run_state\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        f"path = Path({str(path)!r})\n"
        "try:\n"
        "    save_run_state({'step': 2, 'weights': torch.zeros(1_000_000)}, path)\n"
        "except DiskFullError as error:\n"
        "    assert str(error).startswith(f'{path}: no space left'), error\n"
        "    raise SystemExit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7
    assert load_run_state(path) == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["run_state.pt"]
