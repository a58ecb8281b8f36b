"""What goes wrong while the commands train: kills, NaN, many workers, another number of ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from kdcmae.cli import main
from kdcmae.data.dataset import ClipDataset
from kdcmae.errors import TrainingError
from kdcmae.training.resume import load_run_state
from kdcmae.training.tracking import read_metrics

HERE = Path(__file__).parent
COMMAND = str(Path(sys.executable).with_name("kdcmae"))
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
WEIGHTS = ("model", "best", "last")

# Writes half of a file in the place of the second one, and is killed as by the system when memory runs out.
KILLED_WHILE_SAVING = """
import os, signal, sys
import {module}
import random_run

save, calls = {module}.{function}, []

def half(content, file, **options):
    calls.append(file)
    if len(calls) < {call}:
        return save(content, file, **options)
    with open(file, "wb") if isinstance(file, (str, os.PathLike)) else file as written:
        written.write(b"half")
        written.flush()
        os.kill(os.getpid(), signal.SIGKILL)

{module}.{function} = half
random_run.main("finetune", sys.argv[1], "epochs=3")
"""


@pytest.fixture
def one_thread():
    """Sums are split over threads, so bit-equal losses need as many in every process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same_weights(one: Path, two: Path) -> bool:
    pairs = [[load_file(folder / f"{name}.safetensors") for folder in (one, two)] for name in WEIGHTS]
    return all(torch.equal(tensor, there[name]) for here, there in pairs for name, tensor in here.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "function", "call"),
    # The state of the second epoch; and, of the second epoch's weights, those that are written first.
    [("torch", "save", 4), ("safetensors.torch", "save_file", 3)],
)
def test_a_kill_during_a_save_loses_nothing_that_was_saved(module, function, call, random_runs, tmp_path, one_thread):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    code = KILLED_WHILE_SAVING.format(module=module, function=function, call=call)
    result = subprocess.run([sys.executable, "-c", code, str(killed)], cwd=HERE, env=ONE_THREAD, timeout=120)
    assert result.returncode == -signal.SIGKILL
    assert load_run_state(killed / "run_state.pt")["position"]["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in load_file(killed / "best.safetensors").values())
    assert [path.name for path in killed.glob(".*")]
    random_runs.train(random_runs.random_run("finetune", killed, epochs=3), resume=True)
    assert not list(killed.glob(".*"))
    random_runs.train(random_runs.random_run("finetune", whole, epochs=3))
    assert read_metrics(killed / "metrics.jsonl") == read_metrics(whole / "metrics.jsonl")
    assert same_weights(killed, whole)


def arguments(folder: Path, **settings: object) -> list[str]:
    """A finetuning of tiny models over a few clips."""
    values = {
        **{"epochs": 2, "batch_size": 4, "workers": 0, "log_every_steps": 1, "average_from_epoch": "none"},
        **{"embed_dim": 64, "num_heads": 1, "specific_depth": 1, "decay_start_epoch": 1},
        **settings,
    }
    pairs = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    data = ["--data", "avsynth:16", "--validation", "avsynth:6", "--device", "cpu"]
    return ["finetune", *data, "--output", str(folder), *pairs]


def test_a_batch_that_is_not_finite_ends_the_run_and_keeps_what_it_had(tmp_path, monkeypatch, one_thread):
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    sample_of = ClipDataset.__getitem__

    def spoilt(self, draw):
        sample = sample_of(self, draw)
        if draw.epoch == 1 and draw.position == 9:
            sample["audio"] = sample["audio"].fill_(torch.nan)
        return sample

    with monkeypatch.context() as patch:
        patch.setattr(ClipDataset, "__getitem__", spoilt)
        result = CliRunner().invoke(main, arguments(broken))
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "is not finite at step 7 (epoch 2): loss nan" in line
    assert line.count("train-") == 4  # the clips of that batch
    assert not (broken / "model.safetensors").exists()
    for name in ("best", "last"):
        assert all(tensor.isfinite().all() for tensor in load_file(broken / f"{name}.safetensors").values())
    resumed = CliRunner().invoke(main, [*arguments(broken), "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert CliRunner().invoke(main, arguments(whole)).exit_code == 0
    assert read_metrics(broken / "metrics.jsonl") == read_metrics(whole / "metrics.jsonl")
    assert same_weights(broken, whole)


def test_weights_that_the_last_step_of_an_epoch_spoils_are_not_written(random_runs, tmp_path):
    steps = []

    def spoil(optimizer, *_):
        steps.append(optimizer)
        if len(steps) == 12:  # of six in an epoch
            optimizer.param_groups[0]["params"][0].data.fill_(torch.inf)

    spoiling = register_optimizer_step_post_hook(spoil)
    run = random_runs.random_run("pretrain", tmp_path, checkpoint_every_steps=100)
    with pytest.raises(TrainingError, match=r"1 of \d+ tensors are no longer finite"):
        random_runs.train(run)
    spoiling.remove()
    assert load_run_state(tmp_path / "run_state.pt")["position"]["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "last.safetensors").values())


@pytest.mark.slow
def test_eight_workers_see_the_same_clips_and_end(tmp_path):
    folders = {workers: tmp_path / str(workers) for workers in (0, 8)}
    for workers, folder in folders.items():
        command = [COMMAND, *arguments(folder, workers=workers, mixup_rate=0.5, frequency_mask=20)]
        # It ends by itself, and takes its workers with it.
        result = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, timeout=240)
        assert result.returncode == 0, result.stderr
    assert read_metrics(folders[8] / "metrics.jsonl") == read_metrics(folders[0] / "metrics.jsonl")
    assert same_weights(folders[0], folders[8])
