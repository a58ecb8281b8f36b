from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch

from kdcmae.data.images import read_image
from kdcmae.drawing.matrices import MOST_CELLS
from kdcmae.training.figures import confusion_picture, curves_picture, open_figures, training_label
from kdcmae.training.loop import Trainer
from kdcmae.training.tracking import EpochEnd
from kdcmae.training.validation import Confusion, Criterion, Validation

LOSS = Criterion(metric="loss", higher_is_better=False)

pytest.importorskip("PIL", reason="Pillow is not installed")


def test_pictures_of_a_run_are_drawn_after_every_epoch(random_runs, tmp_path):
    """Also where nothing was measured, and for a few clips."""
    for stage, names in (("finetune", {"curves", "confusion"}), ("pretrain", {"curves", "audio", "image"})):
        folder = tmp_path / stage
        run = random_runs.random_run(stage, folder, epochs=1, batches={"clips": 4})
        Trainer(run, device=torch.device("cpu"), resume=False, progress=io.StringIO()).fit()
        assert {path.stem for path in folder.glob("*.png")} == names
        assert all(read_image(path).std() > 0 for path in folder.glob("*.png"))


def test_a_run_that_nobody_watches_draws_nothing(random_runs, tmp_path):
    random_runs.train(random_runs.random_run("finetune", tmp_path, epochs=1, batches={"clips": 4}))
    assert not list(tmp_path.glob("*.png"))


def test_curves_take_thousands_of_lines_and_what_is_not_a_number():
    lines = [
        {"step": step, "loss": None if step == 7 else 1 / step, "learning_rate": 1e-3, "validation_loss": 0.5}
        if step % 500 == 0
        else {"step": step, "loss": None if step == 7 else 1 / step, "learning_rate": 1e-3}
        for step in range(1, 2001)
    ]
    picture = curves_picture(lines, 500, LOSS, ("loss",), "training")
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3


@pytest.mark.parametrize(
    ("smoothing", "mixup", "label"),
    [(0.1, 0.5, "training (smoothed, mixed)"), (0.0, 0.5, "training (mixed)"), (0.0, 0.0, "training")],
)
def test_the_legend_says_how_training_is_measured_otherwise(smoothing, mixup, label):
    identity = {"label_smoothing": smoothing, "data.augmentation": {"mixup_rate": mixup}}
    assert training_label(identity) == label


def test_a_confusion_of_many_classes_in_any_script_shows_those_that_are_confused():
    from kdcmae.drawing.figures import confusion_figure  # needs Pillow

    labels = tuple(f"$\u72ac_{index}$" for index in range(60))
    picture = confusion_picture(Confusion(labels=labels, counts=np.eye(60, dtype=np.int64)), "after epoch 1")
    whole = confusion_figure("as many as have names", labels[:MOST_CELLS], np.eye(MOST_CELLS, dtype=np.int64))
    assert picture.shape == whole.shape
    few = confusion_picture(Confusion(labels=labels[:3], counts=np.full((3, 3), 2)), "after epoch 1")
    assert few.size < picture.size


def test_without_pillow_a_run_goes_on(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert (
        open_figures(tmp_path / "metrics.jsonl", steps_per_epoch=1, criterion=LOSS, measured=(), trained="", show=None)
        is None
    )


def test_tensorboard_gets_the_confusion_too(tmp_path):
    shown = []
    tracker = open_figures(
        tmp_path / "metrics.jsonl",
        **{"steps_per_epoch": 5, "criterion": LOSS, "measured": ("loss",), "trained": "training"},
        show=lambda step, name, picture: shown.append((step, name, picture.shape[2])),
    )
    ending = EpochEnd(
        **{"epoch": 1, "epochs": 2, "step": 5, "loss": 0.5, "best": True, "clips_per_second": 1.0, "pictures": {}},
        metrics={"loss": 0.4},
        validation=Validation(
            metrics={"loss": 0.6}, confusion=Confusion(labels=("a", "b"), counts=np.eye(2, dtype=np.int64))
        ),
    )
    for _ in range(2):  # drawn again each time
        tracker.epoch(ending)
    assert shown == [(5, "confusion", 3)] * 2
    assert {path.name for path in tmp_path.glob("*")} == {"curves.png", "confusion.png"}
