"""Progress as records: one per step that begins or ends."""

from __future__ import annotations

import json

import pytest

from kdcmae.progress import Steps, counted, observed, write_lines


def test_a_step_is_told_when_it_begins_and_when_it_ends():
    told = []
    steps = Steps(told.append)
    with steps("export"), steps("trace"):
        pass
    assert [(one.name, one.state, one.index) for one in told] == [
        ("export", "running", 1), ("trace", "running", 2), ("trace", "done", 2), ("export", "done", 1),
    ]  # fmt: skip
    assert steps.seconds == {"trace": told[2].seconds, "export": told[3].seconds}
    assert told[3].seconds >= told[2].seconds >= 0
    assert {(one.count, one.remaining_s) for one in told} == {(None, None)}


def test_a_step_that_fails_says_so_and_has_no_time():
    told = []
    steps = Steps(told.append)
    with pytest.raises(KeyError), steps("export"):
        raise KeyError("weights")
    assert [one.state for one in told] == ["running", "failed"]
    assert steps.seconds == {}


def test_an_earlier_run_tells_how_many_steps_there_are_and_how_long_the_rest_takes():
    told = []
    steps = Steps(told.append, expected={"export": 2.0, "build": 3.0})
    for name in ("export", "build", "not done before"):
        with steps(name):
            pass
    assert [one.count for one in told] == [2, 2, 2, 2, None, None]
    assert [one.remaining_s for one in told] == [5.0, 3.0, 3.0, 0.0, None, None]


def test_the_innermost_step_tells_how_many_of_its_parts_are_done():
    told = []
    steps = Steps(told.append)
    with steps("reference outputs"):
        with steps("read clips"):
            assert list(counted("ab")) == ["a", "b"]
        list(counted("abc"))
    list(counted("ab"))  # no step runs
    parts = [(record.name, record.parts.done, record.parts.total) for record in told if record.parts]
    assert parts == [("read clips", 1, 2), ("reference outputs", 1, 3), ("reference outputs", 2, 3)]


def test_another_process_reads_lines(tmp_path):
    path = tmp_path / "progress"
    with observed(write_lines(path)), Steps()("a step\nof two lines"):
        pass
    Steps()("not observed any more")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["name"], line["state"]) for line in lines] == [
        ("a step\nof two lines", "running"), ("a step\nof two lines", "done"),
    ]  # fmt: skip
