from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kdcmae.errors import EngineError
from kdcmae.runtime import load_engine
from kdcmae.runtime.facts import read_with_facts

RUNG = {"name": "engine", "status": "passed", "errors": {"logits": None}, "agreement": 1.0}
CLAIM = {"layers": "products", "claimed": "fp32", "besides": {}, "executed": {"fp32": 3}}


def test_facts_of_the_right_kinds_are_read(tiny: Any) -> None:
    folder = tiny.make("onnx", parity=[RUNG], precision={"claims": [CLAIM], "new": [1]}, build={"seconds": {"x": 1}})
    assert read_with_facts(folder).parity == [RUNG]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["parity"][0].update(name=[]), r"parity\[0\].name must be a text, got \[\]"),
        (lambda m: m["parity"][0].pop("status"), r"parity\[0\].status is missing"),
        (lambda m: m["parity"][0]["errors"].update(logits="1"), r"errors.logits must be a number or null, got '1'"),
        (lambda m: m["precision"].update(claims=[{}]), r"claims\[0\].layers is missing"),
        (lambda m: m["precision"].update(claims={}), r"precision.claims must be a list"),
        (lambda m: m["precision"].update(executed={"a": {"fp32": True}}), "executed.a.fp32 must be a whole number"),
        (lambda m: m.update(build={"seconds": {"x": None}}), "build.seconds.x must be a number, got None"),
    ],
)
def test_a_fact_of_another_kind_is_named(change: Callable[[dict[str, Any]], Any], message: str, tiny: Any) -> None:
    folder = tiny.make("onnx", parity=[RUNG])
    tiny.edit(folder, change)
    with pytest.raises(EngineError, match=message):
        read_with_facts(folder)


def test_facts_that_only_people_read_stop_no_app(tiny: Any) -> None:
    folder = tiny.make("onnx")
    tiny.edit(folder, lambda manifest: manifest.update(build={"seconds": "long"}, parity=[{}]))
    with load_engine(folder) as engine:
        assert engine.self_test().passed
