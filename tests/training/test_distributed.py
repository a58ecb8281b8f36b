"""Two ranks compute what one process computes with the same global batch."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from kdcmae.cli import main
from kdcmae.collectives import gather_rows
from kdcmae.errors import ConfigError, DeviceError
from kdcmae.training.distributed import joined, spread
from kdcmae.training.tracking import read_metrics

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
COMMAND = str(Path(sys.executable).with_name("kdcmae"))


def written_facts(path: Path) -> dict:
    """What a file of weights says about them."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["kdcmae_training"])


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Iterator[tuple[Path, Path]]:
    """Folders of the same runs on one process and on two ranks."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*TORCHRUN, str(HERE / "two_ranks.py"), str(two)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as ranks, pytest.MonkeyPatch.context() as patch:  # fmt: skip
        patch.syspath_prepend(str(HERE))
        module = importlib.import_module("two_ranks")
        for name in ("sharded", "sharded_finetune"):
            patch.setitem(module.RUNS, name, {**module.RUNS[name], "parallel": "ddp"})
        module.run_all(one)
        output, _ = ranks.communicate(timeout=250)
        assert ranks.returncode == 0, output
        yield one, two


@pytest.mark.parametrize("name", ["pretrain", "uncertainty", "finetune", "sharded", "sharded_finetune"])
def test_losses_and_weights_are_those_of_one_process(name, both):
    one, two = (read_metrics(folder / name / "metrics.jsonl") for folder in both)
    assert len(one) == len(two) >= 2
    assert any("validation_loss" in line for line in one) == (name != "uncertainty")
    for here, there in zip(one, two, strict=True):
        assert there == pytest.approx(here, rel=1e-5, abs=1e-6)
    weights, spread_weights = (load_file(folder / name / "model.safetensors") for folder in both)
    for tensor_name, tensor in weights.items():
        # A view keeps one token of these small images: attention to itself does not depend on queries and keys, and
        # Adam moves weights whose gradients are rounding noise by as much as any others.
        if ".attn.qkv." not in tensor_name:
            assert (spread_weights[tensor_name] - tensor).abs().median() < 1e-5, tensor_name


@pytest.mark.parametrize("name", ["finetune", "sharded_finetune"])
def test_averaged_weights_measure_as_in_one_process(name, both):
    one, two = (written_facts(folder / name / "model.safetensors") for folder in both)
    assert one.pop("weights") == two.pop("weights") == "average"
    assert {"average_loss", "average_accuracy", "average_mAP"} <= one.keys()
    assert two == pytest.approx(one, rel=1e-5, abs=1e-6)


def test_a_run_goes_on_with_another_number_of_ranks(both, tmp_path):
    """What two ranks began, one process ends like what it began itself."""
    module = importlib.import_module("two_ranks")
    curves = []
    for folder, place in zip(both, ("one", "two"), strict=True):
        shutil.copytree(folder / "finetune", tmp_path / place)
        run = module.random_run(output=tmp_path / place, **{**module.RUNS["finetune"], "epochs": 3})
        summary = module.train(run, resume=True)
        curves.append([*read_metrics(tmp_path / place / "metrics.jsonl"), summary.metrics])
    assert curves[0][-2]["epoch"] == 3
    for here, there in zip(*curves, strict=True):
        assert there == pytest.approx(here, rel=1e-4, abs=1e-5)


def test_the_command_goes_on_with_fewer_ranks_as_one_process(pretrain_arguments, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    first_half = [word if word != "epochs=4" else "epochs=2" for word in pretrain_arguments(two)]
    ranks = subprocess.run(
        [*TORCHRUN, "--no-python", COMMAND, *first_half],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert ranks.returncode == 0, ranks.stderr
    assert "on 2 x cpu" in ranks.stderr
    for arguments in (pretrain_arguments(one), [*pretrain_arguments(two), "--resume"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
    assert "going on after step 8" in result.stderr
    expected, found = (read_metrics(folder / "metrics.jsonl") for folder in (one, two))
    assert len(expected) == len(found) == 20  # 16 steps and 4 validations
    for here, there in zip(expected, found, strict=True):
        assert there == pytest.approx(here, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("loss", ["one_direction", "bidirectional", "distillation", "softmax_distillation"])
def test_gradients_are_those_of_one_process(loss, both):
    one, two = (torch.tensor(json.loads((folder / "gradients.json").read_text())[loss]) for folder in both)
    assert one.abs().max() > 1e-3
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6)


def test_broken_clips_of_all_ranks_count(both):
    one, two = (json.loads((folder / "broken.json").read_text()) for folder in both)
    assert two == one * 2
    assert "2 of 24 clips cannot be used, more than the limit of 5.00%" in one[0]
    for clip in ("clip_0", "clip_1"):
        assert f"{clip}: is damaged" in one[0]


def test_without_other_ranks_rows_stay_as_they_are():
    rows = torch.randn(2, 3)
    assert gather_rows(rows) is rows


def test_sharding_needs_torchrun():
    with pytest.raises(ConfigError, match="torchrun"):
        spread(torch.nn.Linear(2, 2), "fsdp", torch.device("cpu"))


def test_a_sharded_model_is_never_moved_whole(random_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "to", lambda *_: pytest.fail("the whole model was moved"))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'ranks'}", rank=0, world_size=1)
    try:
        model = random_runs.random_run("pretrain", tmp_path / "run").model
        spread(model, "fsdp", torch.device("cpu"))
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named():
    with pytest.raises(DeviceError, match="no CUDA device"), joined("cuda"):
        pass
