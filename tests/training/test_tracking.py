from __future__ import annotations

import importlib.util
import io

import numpy as np
import pytest

from kdcmae.errors import DataError
from kdcmae.training.tracking import EpochEnd, MetricsLog, ProgressLine, open_tensorboard, read_metrics
from kdcmae.training.validation import Validation


def test_a_resumed_log_drops_what_came_after_the_saved_state(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, resume_step=0)
    for step in (1, 2, 3):
        log.scalars(step, {"loss": 1.0 / step})
    log.close()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # cut off by a kill
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]
    log = MetricsLog(path, resume_step=2)
    log.scalars(3, {"loss": 0.5})
    log.close()
    assert read_metrics(path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 0.5}]


def test_what_is_not_a_number_is_null(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", resume_step=0)
    log.scalars(1, {"grad_norm": float("inf"), "loss": 1.0})
    log.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "grad_norm": None, "loss": 1.0}]


def test_a_log_that_is_something_else(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('hello\n{"step": 1}\n')
    with pytest.raises(DataError, match="line 1"):
        read_metrics(path)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="TensorBoard is installed")
def test_without_tensorboard_a_run_goes_on(tmp_path):
    assert open_tensorboard(tmp_path, resume_step=0) is None


def test_tensorboard_gets_scalars_and_pictures(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = open_tensorboard(tmp_path, resume_step=0)
    tracker.scalars(1, {"loss": 0.5})
    ending = EpochEnd(
        **{"epoch": 1, "epochs": 2, "step": 2, "loss": 0.5, "best": True, "clips_per_second": 1.0},
        metrics={"loss": 0.4, "validation_loss": 0.6},
        validation=Validation(metrics={"loss": 0.6}),
        pictures={"audio": np.zeros((8, 8, 3), dtype=np.uint8)},
    )
    tracker.epoch(ending)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, pytest.approx(0.4))]
    assert [event.step for event in events.Scalars("validation_loss")] == [2]
    assert events.Tags()["images"] == ["audio"]


class Terminal(io.StringIO):
    """A stream that somebody watches."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_an_epoch_s_line_takes_the_bar_s_place_and_the_bar_goes_on_below():
    terminal = Terminal()
    line = ProgressLine(
        terminal,
        **{"total_steps": 4, "done_steps": 0, "clips_per_step": 2, "headline": ("loss",), "validated": ("loss",)},
    )
    values = {"loss": 0.5, "learning_rate": 0.1}
    line.scalars(1, values)
    line.epoch(
        EpochEnd(
            **{"epoch": 1, "epochs": 2, "step": 2, "loss": 0.5, "best": True, "clips_per_second": 3.0, "pictures": {}},
            metrics=values,
            validation=Validation(metrics={"loss": 0.25}),
        )
    )
    line.scalars(3, values)
    line.close()
    shown = terminal.getvalue()
    bar, rest = shown.split("\r\x1b[Kepoch 1/2  loss 0.5  validation: loss 0.25 (best)  lr 0.1  3.0 clips/s  ")
    assert "1/4" in bar
    assert rest.startswith("0.0 min left\n")
    assert "3/4" in rest
