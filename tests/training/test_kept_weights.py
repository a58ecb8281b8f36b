"""``best``, ``last`` and ``model`` in a run's folder."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from kdcmae.errors import CheckpointError, ConfigError, TrainingError
from kdcmae.training.kept_weights import KeptWeights
from kdcmae.training.settings import HELD_OUT, FinetuningSettings
from kdcmae.training.tracking import read_metrics
from kdcmae.training.validation import Criterion
from kdcmae.training.weight_files import Best, Final

ACCURACY = Criterion(metric="accuracy", higher_is_better=True)


def facts(path) -> dict:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["kdcmae_training"])


def same(path, other) -> bool:
    here, there = load_file(path), load_file(other)
    return all(torch.equal(tensor, there[name]) for name, tensor in here.items())


@pytest.fixture
def model(random_runs, tmp_path):
    return random_runs.random_run("finetune", tmp_path).model


@pytest.fixture
def kept(model, random_runs, tmp_path):
    """Makes what keeps the weights of a run with further settings."""

    def make(criterion: Criterion = ACCURACY, **changes) -> KeptWeights:
        settings = FinetuningSettings(**{**random_runs.DEFAULTS, "epochs": 9, **changes})
        return KeptWeights(model, criterion, settings, tmp_path)

    return make


def state_of(model: torch.nn.Module, value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(tensor, value) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    ("criterion", "values", "best"),
    [
        (ACCURACY, [0.5, 0.7, 0.7, 0.6], 2),  # a tie is not better
        (Criterion(metric="loss", higher_is_better=False), [3.0, 2.0, 2.5, 1.0], 4),
        (ACCURACY, [float("nan"), 0.1, float("nan")], 2),
    ],
)
def test_best_is_the_epoch_with_the_best_metric(criterion, values, best, model, kept, tmp_path):
    weights = kept(criterion)
    for epoch, value in enumerate(values, start=1):
        weights.end_epoch(epoch, state_of(model, float(epoch)), {criterion.metric: value})
    assert weights.best == Best(epoch=best, metric=criterion.metric, value=values[best - 1])
    assert load_file(tmp_path / "best.safetensors")["norm.weight"][0] == best
    assert load_file(tmp_path / "last.safetensors")["norm.weight"][0] == len(values)
    measured = {f"validation_{criterion.metric}": values[best - 1]}
    assert facts(tmp_path / "best.safetensors") == {"weights": "best", "epoch": best, **measured}


def test_a_run_is_stale_after_so_many_epochs_without_a_better_one(model, kept):
    weights = kept(early_stop_epochs=2)
    stale = []
    for epoch, value in enumerate([0.5, 0.6, 0.6, 0.3, 0.7, 0.1], start=1):
        weights.end_epoch(epoch, state_of(model, 1.0), {"accuracy": value})
        stale.append(weights.is_stale(epoch))
    assert stale == [False, False, False, True, False, False]


@pytest.mark.parametrize(
    ("settings", "values", "final"),
    [
        ({}, [0.5, 0.4], Final(weights="last", first_epoch=2, last_epoch=2)),
        ({"early_stop_epochs": 5}, [0.5, 0.4], Final(weights="best", first_epoch=1, last_epoch=1)),
        ({"average_from_epoch": 1}, [0.5, 0.4], Final(weights="average", first_epoch=1, last_epoch=2)),
        # It stopped before the first epoch that was to be averaged.
        ({"average_from_epoch": 8, "early_stop_epochs": 1}, [0.5, 0.4],
         Final(weights="best", first_epoch=1, last_epoch=1)),
    ],
)  # fmt: skip
def test_what_the_run_is_for(settings, values, final, model, kept):
    weights = kept(**settings)
    for epoch, value in enumerate(values, start=1):
        weights.end_epoch(epoch, state_of(model, float(epoch)), {"accuracy": value})
    found, state = weights.final(len(values))
    assert found == final
    expected = {"average": 1.5, "best": 1.0, "last": None}[final.weights]
    assert (state["norm.weight"][0].item() if state else None) == expected


def test_the_weights_of_an_epoch_that_the_saved_state_does_not_know_are_not_taken_for_the_best(model, kept):
    """Killed between writing them and saving the state, and resumed with less patience than before."""
    weights = kept(early_stop_epochs=1)
    weights.end_epoch(1, state_of(model, 1.0), {"accuracy": 0.5})
    saved = weights.state_dict()
    weights.end_epoch(2, state_of(model, 2.0), {"accuracy": 0.6})
    weights.load_state_dict(saved)
    with pytest.raises(CheckpointError, match=r"best\.safetensors is of epoch 2, .* saved is epoch 1; .*--patience"):
        weights.final(2)


def test_spoilt_weights_replace_nothing(model, kept, tmp_path):
    weights = kept()
    weights.end_epoch(1, state_of(model, 1.0), {"accuracy": 0.5})
    spoilt = {
        **state_of(model, 2.0),
        "norm.weight": torch.full_like(state_of(model, 0.0)["norm.weight"], torch.nan),
    }
    with pytest.raises(TrainingError, match=r"last\.safetensors: 1 of \d+ tensors are no longer finite, norm\.weight"):
        weights.end_epoch(2, spoilt, {"accuracy": 0.9})
    for name in ("best", "last"):
        assert load_file(tmp_path / f"{name}.safetensors")["norm.weight"][0] == 1


def test_a_run_that_stops_early_keeps_the_best_and_goes_on_with_more_patience(random_runs, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    # A learning rate that spoils what was learned, so that later epochs are worse.
    settings = {"epochs": 5, "learning_rate": 0.03, "batches": {"clips": 8}}
    random_runs.train(random_runs.random_run("finetune", whole, **settings))
    stopped = random_runs.train(random_runs.random_run("finetune", parts, **settings, early_stop_epochs=1))
    assert stopped.stopped_early
    assert stopped.epochs < 5
    assert stopped.best.epoch == stopped.epochs - 1
    assert stopped.final == Final(weights="best", first_epoch=stopped.best.epoch, last_epoch=stopped.best.epoch)
    assert same(parts / "model.safetensors", parts / "best.safetensors")
    assert not same(parts / "model.safetensors", parts / "last.safetensors")
    again = random_runs.train(random_runs.random_run("finetune", parts, **settings, early_stop_epochs=1), resume=True)
    assert (again.epochs, again.best, again.stopped_early) == (stopped.epochs, stopped.best, True)
    resumed = random_runs.train(random_runs.random_run("finetune", parts, **settings), resume=True)
    assert (resumed.epochs, resumed.stopped_early) == (5, False)
    for name in ("model", "best", "last"):
        assert same(parts / f"{name}.safetensors", whole / f"{name}.safetensors")
    assert read_metrics(parts / "metrics.jsonl") == read_metrics(whole / "metrics.jsonl")


def test_epochs_measured_on_other_clips_are_not_compared(random_runs, tmp_path, caplog):
    def trainer(clips: str, **changes):
        run = random_runs.random_run("finetune", tmp_path, batches={"clips": 4}, early_stop_epochs=1, **changes)
        return random_runs.trainer(dataclasses.replace(run, identity={HELD_OUT: clips}), resume=True)

    trainer("easy", epochs=1).fit()
    assert trainer("easy", epochs=1).fit().best.epoch == 1
    assert not caplog.messages
    other = trainer("hard", epochs=2)
    assert other.kept.best is None
    assert ["validation clips are not those that epoch 1 was best on" in line for line in caplog.messages] == [True]
    assert other.fit().best.epoch == 2


def test_the_average_is_measured_too(random_runs, tmp_path):
    summary = random_runs.train(random_runs.random_run("finetune", tmp_path, epochs=2, average_from_epoch=1))
    written = facts(tmp_path / "model.safetensors")
    assert written["weights"] == "average"
    assert written["average_accuracy"] == summary.metrics["average_accuracy"]
    assert str(summary.final) == "weights averaged over epochs 1 to 2"


def test_stopping_early_needs_validation(random_runs, tmp_path):
    with pytest.raises(ConfigError, match=r"early_stop_epochs=2 watches the validation metric.*give --validation"):
        random_runs.train(random_runs.random_run("pretrain", tmp_path, early_stop_epochs=2))
