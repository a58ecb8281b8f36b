from __future__ import annotations

import numpy as np
import pytest

from kdcmae.drawing.figures import timeline_figure
from kdcmae.drawing.timelines import Timeline, clock, runs, time_ticks


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00.0"), (9.96, "0:10.0"), (75.25, "1:15.2"), (3599.99, "1:00:00"), (10805, "3:00:05")],
)
def test_times_are_read_like_a_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_runs_are_of_equal_values() -> None:
    assert runs([3, 3, 1, 3]) == [(0, 2), (2, 3), (3, 4)]
    assert runs([]) == []


@pytest.mark.parametrize("duration_s", [0.3, 2, 61, 1000, 10800, 200000])
def test_ticks_are_few_and_within_the_clip(duration_s: float) -> None:
    ticks = time_ticks(duration_s, 5)
    assert 2 <= len(ticks) <= 6 or duration_s == 2
    assert ticks[0] == 0
    assert ticks[-1] <= duration_s + 1e-6


def made(windows: int, classes: int) -> Timeline:
    """Class k is heard in the k-th part of the clip alone, and louder than the one before it."""
    scores = np.full((windows, classes), 0.01)
    for number in range(windows):
        heard = number * classes // windows
        scores[number, heard] = 0.5 + 0.5 * heard / classes
    labels = [f"class <{number}>" for number in range(classes)]
    return Timeline.of("a & b.mp4", "model", [(n, n + 2.0) for n in range(windows)], scores, labels)


@pytest.mark.parametrize(("windows", "classes"), [(1, 1), (9, 3), (1000, 20)])
def test_what_is_drawn_is_bounded_and_holds_what_was_loudest(windows: int, classes: int) -> None:
    timeline = made(windows, classes)
    columns = len(timeline.edges_s) - 1
    assert columns <= 240
    assert timeline.scores.shape == (columns, len(timeline.labels))
    assert timeline.edges_s[0] == 0
    assert timeline.edges_s[-1] == timeline.duration_s == windows + 1
    assert np.all(np.diff(timeline.edges_s) > 0)
    assert set(timeline.labels) == {f"class <{number}>" for number in range(max(0, classes - 8), classes)}
    assert [label for _, _, label, _ in timeline.heard] == [f"class <{number}>" for number in range(classes)]
    loudest = timeline.labels.index(f"class <{classes - 1}>")
    assert timeline.scores[:, loudest].argmax() >= columns * (classes - 1) // classes - 1


def test_a_page_escapes_names_and_loads_nothing() -> None:
    page = made(1000, 20).page()
    assert "a &amp; b.mp4" in page
    assert "class &lt;19&gt;, 1" in page
    assert "<script" not in page
    assert "://" not in page
    assert page.count("<rect") < 8 * 250


def test_a_picture_is_darkest_where_a_class_is_heard() -> None:
    timeline = made(10, 2)
    picture = timeline_figure(timeline).astype(int).sum(axis=-1)
    for row, label in enumerate(timeline.labels):
        strip = picture[70 + 30 * row + 15, 222:1118]
        left, right = strip[:400].mean(), strip[500:].mean()
        assert (left < right) == (label == "class <0>")
