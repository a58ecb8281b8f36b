"""Charts: numbers in words, marks where they belong, and no text that could become markup."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcmae.drawing import charts, matrices

NASTY = "<b>&\"'</svg>"


def parsed(svg: str) -> ElementTree.Element:
    """The drawing as a tree: it is well-formed."""
    return ElementTree.fromstring(re.sub(r"^<div.*?>|</div>$", "", svg))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234.5, "1234"),
        (12.345, "12.35"),
        (0.012346, "0.01235"),
        (1e6, "1000000"),
        (20, "20"),
        (-2.5, "-2.5"),
    ],
)
def test_numbers_have_four_digits_and_no_exponent(value, text):
    assert charts.number(value) == text


@given(st.floats(1e-9, 1e12))
def test_a_number_keeps_its_value(value):
    assert float(charts.number(value)) == pytest.approx(value, rel=6e-4)


DRAWINGS = {
    "bars": charts.bars(NASTY, [charts.Bar(label=NASTY, value=3, high=4, note=NASTY)], unit=NASTY),
    "stacked": charts.stacked(NASTY, {NASTY: {NASTY: 1.0, "b": 2.0}}, unit="ms"),
    "lines": charts.lines(NASTY, [charts.Line(label=NASTY, points=((1, 2), (2, 3)))], x_label=NASTY, y_label=NASTY),
    "scatter": charts.scatter(NASTY, [charts.Point(label=NASTY, x=1, y=2)], x_label=NASTY, y_label=NASTY),
    "confusion": matrices.confusion(NASTY, [NASTY, "b"], [[3, 1], [0, 0]]),
    "matrix": matrices.matrix(NASTY, [NASTY, "b"], [[None, (NASTY, 0.5)], [("1\n2", 2.0), None]]),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_is_well_formed_and_named(name):
    tree = parsed(DRAWINGS[name])
    assert tree.get("role") == "img"
    assert tree.get("aria-label") == NASTY
    assert any(NASTY in (text.text or "") for text in tree.iter("text"))
    assert not list(tree.iter("b"))


@pytest.mark.parametrize(
    "drawing",
    [
        charts.bars("x", [], unit="ms"),
        charts.bars("x", [charts.Bar(label="a", value=0)], unit="ms"),
        charts.stacked("x", {}, unit="ms"),
        charts.lines("x", [], x_label="x", y_label="y"),
        charts.lines("x", [charts.Line(label="a", points=((1, 0),))], x_label="x", y_label="y"),
        charts.scatter("x", [], x_label="x", y_label="y"),
        charts.scatter("x", [charts.Point(label="a", x=0, y=0)], x_label="x", y_label="y"),
        matrices.matrix("x", [], []),
        matrices.confusion("x", [], []),
    ],
)
def test_nothing_to_draw_is_drawn_too(drawing):
    assert parsed(drawing).get("role") == "img"


def test_bars_are_as_long_as_their_values():
    tree = parsed(charts.bars("x", [charts.Bar(label=str(value), value=value) for value in (1, 2, 4)], unit="ms"))
    widths = [float(one.get("width", "0")) for one in tree.iter("rect")]
    assert widths == [pytest.approx(widths[0] * factor, rel=0.01) for factor in (1, 2, 4)]


def test_a_logarithmic_bar_grows_by_the_same_length_for_every_power_of_ten():
    rows = [charts.Bar(label=str(value), value=value) for value in (0.0, 1e-6, 1e-5, 1e-4)]
    tree = parsed(charts.bars("x", rows, unit="", logarithmic=True))
    none, one, two, three = (float(found.get("width", "0")) for found in tree.iter("rect"))
    assert none == 0 < one
    assert three - two == pytest.approx(two - one, abs=0.2)


def test_a_bar_beyond_its_limit_is_bad_and_each_limit_is_marked():
    rows = [charts.Bar(label=str(value), value=value, limit=1e-4) for value in (1e-6, 1e-2)]
    tree = parsed(charts.bars("x", rows, unit="", logarithmic=True))
    assert [found.get("class") for found in tree.iter("rect")] == ["c0", "bad"]
    assert sum(found.get("class") == "limit" for found in tree.iter("path")) == 2


def test_a_bar_shows_its_own_text_for_its_value():
    [label, value] = parsed(charts.bars("x", [charts.Bar(label="a", value=1, text="one")], unit="ms")).iter("text")
    assert (label.text, value.text) == ("a", "one")


def test_whiskers_reach_from_the_bar_to_the_high_value():
    tree = parsed(charts.bars("x", [charts.Bar(label="a", value=2, high=4)], unit="ms"))
    (bar,) = tree.iter("rect")
    (whisker,) = (one for one in tree.iter("path") if one.get("class") == "whisker")
    start, end = (float(found) for found in re.findall(r"[MH]([\d.]+)", whisker.get("d", ""))[:2])
    assert start == pytest.approx(float(bar.get("width", "0")), abs=0.1)
    assert end == pytest.approx(2 * start, rel=0.01)


def test_what_stands_behind_the_longest_bar_has_room():
    bar = charts.Bar(label="a", value=3.539, high=5.2, note="92.7%, unstable")
    tree = parsed(charts.bars("x", [bar], unit="ms"))
    width = float(tree.get("viewBox", "").split()[2])
    [text] = [one for one in tree.iter("text") if one.get("class") == "value"]
    assert float(text.get("x", "0")) + 6.5 * len(text.text or "") <= width


def test_stages_follow_each_other():
    tree = parsed(charts.stacked("x", {"a": {"one": 1, "two": 3}}, unit="ms"))
    legend_one, legend_two, one, two = tree.iter("rect")
    assert float(two.get("x", "0")) == pytest.approx(float(one.get("width", "0")), abs=0.1)
    assert one.get("class") == legend_one.get("class") != two.get("class") == legend_two.get("class")


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=6))
def test_marks_stay_inside_the_drawing(places):
    tree = parsed(charts.lines("x", [charts.Line(label="a", points=tuple(sorted(places)))], x_label="x", y_label="y"))
    width, height = map(float, tree.get("viewBox", "").split()[2:])
    for circle in tree.iter("circle"):
        assert 0 <= float(circle.get("cx", "-1")) <= width
        assert 0 <= float(circle.get("cy", "-1")) <= height


def test_marked_points_are_joined_from_left_to_right():
    points = [charts.Point(label="a", x=3, y=2, marked=True), charts.Point(label="b", x=1, y=1, marked=True)]
    tree = parsed(charts.scatter("x", [*points, charts.Point(label="c", x=2, y=0)], x_label="x", y_label="y"))
    (front,) = (one.get("d", "") for one in tree.iter("path") if one.get("class") == "front")
    first, second = (float(part.split()[0].strip("M")) for part in front.split("L"))
    assert first < second


def test_every_cell_of_a_matrix_is_said_with_its_row_and_column():
    drawn = matrices.matrix("", ["a", "b", "c"], [[None, ("1\n2", None), ("3", 0.0)], [None] * 3, [None] * 3])
    assert "<title>a and b: 1, 2</title>" in drawn
    assert "<title>a and c: 3</title>" in drawn


def test_a_cell_of_a_confusion_matrix_is_as_dark_as_its_share_of_the_row():
    tree = parsed(matrices.confusion("x", ["a", "b"], [[3, 1], [0, 2]]))
    heats = [one.get("style") for one in tree.iter("rect") if one.get("class") == "heat"]
    assert heats == ["opacity:0.75", "opacity:0.25", "opacity:0.00", "opacity:1.00"]
    assert [one.text for one in tree.iter("text") if "cell" in one.get("class", "")] == ["3", "1", "2"]
    assert "a, predicted b: 1 clips, 25%" in [one.text for one in tree.iter("title")]


def test_labels_of_points_that_lie_close_do_not_cover_each_other():
    points = [charts.Point(label=str(index), x=100 + index / 3, y=92.7) for index in range(9)]
    points.append(charts.Point(label="far", x=20, y=10))
    drawn = parsed(charts.scatter("", points, x_label="", y_label=""))
    numbers = [group.find("text") for group in drawn.iter("g")]
    places = [(float(text.get("x", "")), float(text.get("y", ""))) for text in numbers]
    for index, (x, y) in enumerate(places):
        assert all(abs(x - left) >= 8 or abs(y - low) >= 10 for left, low in places[:index])


def test_a_batch_is_a_whole_number_at_its_axis():
    line = charts.Line(label="a", points=((1, 2), (2, 3)))
    drawn = parsed(charts.lines("", [line], x_label="batch", y_label=""))
    assert [text.text for text in drawn.iter("text") if text.get("class") == "tick middle"] == ["1", "2"]


def test_a_cell_without_expectations_is_neither_good_nor_bad():
    drawn = matrices.matrix("", ["a", "b"], [[None, ("52", None)], [("52", 0.0), None]])
    assert [drawn.count(f'class="{kind}"') for kind in ("track", "kept", "lost")] == [1, 1, 0]
