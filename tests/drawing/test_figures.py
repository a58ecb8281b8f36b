"""Figures: pictures of pixels whose marks lie where their numbers say."""

from __future__ import annotations

import numpy as np
import pytest

from kdcmae.drawing.charts import Line
from kdcmae.drawing.figures import confusion_figure, lines_figure
from kdcmae.drawing.matrices import MOST_CELLS

HEAT = (31, 95, 196)


def places(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """(N, 2) rows and columns of the pixels of a colour."""
    return np.argwhere((picture == colour).all(axis=-1))


def test_a_perfect_classifier_is_a_dark_diagonal():
    picture = confusion_figure("a", ["cat", "dog", "rain"], 4 * np.eye(3, dtype=np.int64))
    rows, columns = (places(picture, HEAT) // 30).T
    assert len(rows) > 3 * 500
    assert len(set(rows - columns)) <= 3  # the matrix does not begin at a multiple of a cell
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("classes", [1, MOST_CELLS, MOST_CELLS + 1, 400])
def test_any_number_of_classes_has_a_picture_of_bounded_size(classes):
    counts = np.random.default_rng(0).integers(0, 3, (classes, classes))
    picture = confusion_figure("many", [f"class {index}" for index in range(classes)], counts)
    assert max(picture.shape) <= 1200
    assert len(places(picture, (255, 255, 255))) > 100


def test_lines_rise_as_their_numbers_do():
    line = Line(label="mAP", points=((1, 0.1), (2, 0.5), (3, float("nan")), (4, 0.9)))
    picture = lines_figure("validation", [line], x_label="epoch", y_label="mAP")
    marks = places(picture, (47, 111, 222))
    marks = marks[marks[:, 1] > 60]
    left, right = marks[marks[:, 1].argmin()], marks[marks[:, 1].argmax()]
    assert right[0] < left[0] - 200


def test_nothing_to_draw_is_drawn_too():
    assert lines_figure("nothing yet", [], x_label="epoch", y_label="loss").ndim == 3
    assert lines_figure("nothing yet", [Line(label="a", points=())], x_label="epoch", y_label="loss").ndim == 3
