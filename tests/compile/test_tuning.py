"""Builds that choose a variant of their graph; latencies are planted, engines are real."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from kdcmae.compile import tuning
from kdcmae.compile.targets import Target
from kdcmae.compile.targets.onnx import TARGET as ONNX
from kdcmae.compile.targets.onnx import OnnxRuntime
from kdcmae.compile.targets.openvino import OpenVino
from kdcmae.compile.targets.openvino_variants import VARIANTS, _write
from kdcmae.compile.variants import CONTROL, PLAIN, Variant, ranked, timings_of
from kdcmae.runtime.cpu import CLASSES, Cpu
from kdcmae.runtime.openvino_library import import_openvino


def variant(name: str, change) -> Variant:
    def write(source, path):
        return _write(change, source, path)

    return Variant(name=name, reason="planted", precisions=("fp32",), write=write, suffix=".xml")


def breaks(model) -> bool:
    """Treble the results of a layer."""
    ops = import_openvino().opset13
    add = next(op for op in model.get_ordered_ops() if op.get_type_name() == "Add")
    readers = add.output(0).get_target_inputs()
    shifted = ops.multiply(add, ops.constant(np.float32(3)))
    for reader in readers:
        reader.replace_source_output(shifted.output(0))
    return True


THREE = next(one for one in VARIANTS if one.name == "three-products")
WRONG = variant("wrong", breaks)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list]:
    """Plant variants of a target and their latencies; the result lists what was timed."""

    def plant(target: type[Target], variants: tuple[Variant, ...], latencies_ms: dict[str, float]) -> list:
        timed: list[tuple[str, ...]] = []

        def fake(calls):
            timed.append(tuple(calls))
            return timings_of({name: [latencies_ms.get(name, 10.0)] * 3 for name in calls})

        monkeypatch.setattr(target, "variants", property(lambda _: variants))
        monkeypatch.setattr(tuning, "time_in_turns", fake)
        return timed

    return plant


@pytest.fixture
def built(run: Callable[..., Result], checkpoint: Path, tmp_path: Path) -> Callable[..., dict]:
    """Build an engine; the manifest's section on variants, with what the command said and wrote."""

    def build(*options: str, name: str = "engine", target: str = "openvino", precision: str = "fp32") -> dict:
        folder = tmp_path / name
        arguments = ("--target", target, "--precision", precision, "--checkpoint", checkpoint, "--output", folder)
        result = run(*arguments, *options)
        assert result.exit_code == 0, result.stderr
        manifest = json.loads((folder / "manifest.json").read_text())
        page = (folder / "report.html").read_text()
        products = manifest["precision"]["products"]
        return {**manifest["build"].get("variants", {}), "said": result.output, "page": page, "products": products,
                "weights": b"".join(path.read_bytes() for path in sorted(folder.glob("*.bin")))}  # fmt: skip

    return build


def test_a_wrong_variant_fails_the_ladder_and_the_next_best_is_taken(planted, built):
    planted(OpenVino, (WRONG, THREE), {"wrong": 5.0, "three-products": 8.0})
    facts = built("--tune", "on", "--no-cache")
    assert (facts["chosen"], facts["origin"]) == ("three-products", "measured")
    problems = {timing["variant"]: timing["problem"] for timing in facts["timings"]}
    assert "first rung out of tolerance is 'engine'" in problems.pop("wrong")
    assert set(problems.values()) == {""}
    assert "wrong was faster and is not taken: parity" in facts["said"]
    assert "three-products" in facts["page"]


def test_a_choice_is_cached_by_class(planted, built, monkeypatch):
    timed = planted(OpenVino, (THREE,), {"three-products": 8.0})
    assert built("--tune", "on", name="one")["origin"] == "measured"
    # Another number of clips: the engine itself is not in the cache.
    again = built("--tune", "on", "--proof-clips", "9", name="two")
    assert (again["chosen"], again["origin"]) == ("three-products", "cache")
    assert timed == [(PLAIN, CONTROL, "three-products")]
    other = Cpu(machine="x86_64", features=CLASSES["avx2-vnni"].features, name="another")
    monkeypatch.setattr(tuning, "this_cpu", lambda: other)
    elsewhere = built("--tune", "on", "--proof-clips", "10", name="three")
    assert (elsewhere["origin"], elsewhere["cpu_class"]) == ("measured", "avx2-vnni")
    assert len(timed) == 2


def test_a_variant_that_failed_for_one_model_is_proved_anew_for_the_next(planted, built):
    planted(OpenVino, (variant("three-products", breaks),), {"three-products": 8.0})
    assert built("--tune", "on", name="one")["chosen"] == PLAIN
    planted(OpenVino, (THREE,), {})  # another model of this form
    again = built("--tune", "on", "--proof-clips", "9", name="two")
    assert (again["chosen"], again["origin"]) == ("three-products", "cache")
    assert {timing["problem"] for timing in again["timings"]} == {""}


def test_the_table_decides_where_nothing_is_timed(planted, built, monkeypatch):
    timed = planted(OpenVino, (THREE,), {})
    entry = {
        "cpu_class": tuning.this_cpu().class_name,
        "target": "openvino",
        "precision": "fp32",
        "chosen": "three-products",
        "measured_on": "A CPU",
        "timings": [],
    }
    monkeypatch.setattr(tuning, "measured_table", lambda: [entry])
    table = built("--tune", "table", "--no-cache", name="table")
    monkeypatch.setattr(tuning, "measured_table", lambda: [{**entry, "cpu_class": "another"}])
    plain = built("--tune", "table", "--no-cache", name="plain")
    assert (table["chosen"], plain["chosen"]) == ("three-products", PLAIN)
    assert table["products"]["fp32"] > plain["products"]["fp32"]
    assert timed == []
    monkeypatch.setattr(OpenVino, "variants", property(lambda _: pytest.fail("asked with --tune off")))
    off = built("--tune", "off", "--no-cache", name="off")
    assert "chosen" not in off
    assert off["weights"] == plain["weights"]


def test_onnx_runtime_rounds_to_the_range_of_each_clip(planted, built):
    planted(OnnxRuntime, ONNX.variants, {"dynamic-ranges": 8.0})
    facts = built("--calibration", "avsynth:4", "--tune", "on", target="onnx", precision="int8")
    assert facts["chosen"] == "dynamic-ranges"
    assert facts["products"]["int8"] == 12  # four in each of three blocks


@pytest.mark.slow
def test_a_variant_that_really_is_slower_is_not_chosen():
    def call(seconds: float) -> Callable[[], None]:
        return lambda: time.sleep(seconds)

    timings = tuning.time_in_turns({PLAIN: call(0.002), CONTROL: call(0.002), "slower": call(0.0025)})
    assert ranked(timings) == []
