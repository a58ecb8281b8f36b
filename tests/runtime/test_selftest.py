"""The self-test of a folder that holds clips: through the app's own calls, within the limits of what executes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcmae.errors import EngineError
from kdcmae.runtime import load_engine, selftest
from kdcmae.runtime.cpu import CLASSES, Cpu, this_cpu
from kdcmae.runtime.golden import GOLDEN_FILE, Clips, Golden, read_golden
from kdcmae.runtime.manifest import Manifest
from kdcmae.runtime.metrics import Limits
from kdcmae.runtime.preprocessing import Preprocessing, prepare_audio, prepare_image

LIMITS = {
    "fp32": Limits(max_error=1e-4, min_cosine=0.999999, min_agreement=1.0, tie=2e-4),
    "fp16": Limits(max_error=1e-2, min_cosine=0.9999, min_agreement=1.0, tie=1e-2),
    "bf16": Limits(max_error=4e-2, min_cosine=0.999, min_agreement=0.95, tie=8e-2),
    "int8": Limits(max_error=2e-1, min_cosine=0.98, min_agreement=0.9, tie=2e-1),
}
NAMES = ["audio", "image"]


def golden_of(tiny: Any, names: list[str] = NAMES, **changes: Any) -> Golden:
    rng = np.random.default_rng(0)
    # What three classes differ by is what sound and picture have on average: louder, darker, of one colour.
    loudness = np.array([9000, 2000, 300, 30])[:, None]
    waveforms = (rng.uniform(-1, 1, (4, 4000)) * loudness).astype(np.int16)
    frames = (
        rng.integers(0, 256, (4, 40, 60, 3))
        * np.array([[1, 0.2, 0.1], [0.1, 1, 0.3], [0, 0.2, 1], [1, 1, 1]])[:, None, None]
    ).astype(np.uint8)
    prepared = {
        "audio": np.concatenate([prepare_audio(waveform, 16000, Preprocessing()) for waveform in waveforms]),
        "image": np.concatenate([prepare_image(frame, Preprocessing()) for frame in frames]),
    }
    inputs = tiny.feed(names, 2)
    clips = Clips(
        waveforms=waveforms if "audio" in names else None,
        frames=frames if "image" in names else None,
        reference={"logits": tiny.logits({name: prepared[name] for name in names})},
        labels=tiny.labels,
        precisions=("fp32",),
        limits=LIMITS,
    )
    clips = dataclasses.replace(clips, **changes)
    return Golden(inputs=inputs, reference={"logits": tiny.logits(inputs)}, tolerance={"logits": 1e-4}, clips=clips)


def write(folder: Path, golden: Golden) -> None:
    golden.write(folder / GOLDEN_FILE)
    Manifest.read(folder).write(folder)


def outcome(tiny: Any, golden: Golden, names: list[str] = NAMES, **manifest_changes: Any) -> selftest.SelfTest:
    folder = tiny.make("onnx", names, **manifest_changes)
    write(folder, golden)
    with load_engine(folder) as engine:
        return engine.self_test()


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
@pytest.mark.parametrize("names", [NAMES, ["audio"], ["image"]])
def test_a_whole_engine_passes_with_its_clips(tiny: Any, names: list[str], scores: str) -> None:
    result = outcome(tiny, golden_of(tiny, names), names, scores=scores)
    assert result.passed
    assert (result.problems, result.clips) == ((), 4)
    assert result.decided >= 3
    assert result.tolerance == {"logits": 1e-4}
    assert f"4 clips as an app has them, {result.decided} keep their class" in str(result)


def test_a_model_without_labels_is_tested_through_its_preprocessing(tiny: Any) -> None:
    golden = golden_of(tiny, labels=())
    folder = tiny.make("onnx", NAMES, labels=())
    write(folder, golden)
    assert load_engine(folder).self_test().passed
    tiny.edit(folder, lambda manifest: manifest["preprocessing"].update(fbank_mean=-4.9))
    result = load_engine(folder).self_test()
    assert "logits of the clips differs by" in str(result)
    assert "stored inputs" not in str(result)  # which are prepared


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_a_clip_that_changes_class_is_named(tiny: Any, scores: str) -> None:
    barking, singing, idling = tiny.labels
    result = outcome(tiny, golden_of(tiny), labels=(singing, barking, idling), scores=scores)
    assert not result.passed
    assert f"the labels are not the model's: number 1 is {singing!r}, built as {barking!r}" in result.problems
    assert any(problem.startswith("clip ") and "by the model, here" in problem for problem in result.problems)


def test_labels_that_are_missing_are_said(tiny: Any) -> None:
    result = outcome(tiny, golden_of(tiny), labels=("barking", "singing", "idling"))
    assert "the labels are not the model's: number 3 is 'idling', built as 'engine, idling'" in str(result)
    assert result.max_error == {"logits": np.inf}


def test_labels_that_two_classes_share_are_no_trouble(tiny: Any) -> None:
    shared = ("barking", "barking", "engine, idling")
    assert outcome(tiny, golden_of(tiny, labels=shared), labels=shared).passed


def test_a_clip_that_the_engine_fails_on_fails_the_test(tiny: Any) -> None:
    folder = tiny.make("onnx", NAMES)
    write(folder, golden_of(tiny))
    with load_engine(folder) as engine:
        run = engine.infer
        poisoned = {"logits": np.full((1, 3), np.nan, np.float32)}
        engine.infer = lambda feed: run(feed) if len(feed["audio"]) > 1 else poisoned  # type: ignore[method-assign]
        result = engine.self_test()
    assert not result.passed
    assert "clip 1: engine" in str(result)
    assert "not finite" in str(result)


def test_what_executes_widens_the_limits(tiny: Any) -> None:
    clips = golden_of(tiny).clips
    assert clips.limits_of({}) == clips.limits_of({"fp32": 5, "other": 1}) == LIMITS["fp32"]
    assert clips.limits_of({"fp32": 3, "bf16": 2}) == LIMITS["bf16"]
    assert dataclasses.replace(clips, precisions=("fp32", "int8")).limits_of({"bf16": 2}) == LIMITS["int8"]


def test_an_engine_that_rounds_repeats_what_it_gave_where_it_was_built(tiny: Any) -> None:
    golden = golden_of(tiny, precisions=("int8",), products={}, cpu_class=this_cpu().class_name)
    reference = golden.clips.reference["logits"].astype(np.float64)
    spread = np.abs(reference - reference.mean(axis=1, keepdims=True)).max()
    folder = tiny.make("onnx", NAMES)
    for moved, passes in ((0.001, True), (0.1, False)):
        built = reference + moved * spread * np.array([1, -1, 0])
        clips = dataclasses.replace(golden.clips, built={"logits": built.astype(np.float32)})
        write(folder, dataclasses.replace(golden, clips=clips))
        result = load_engine(folder).self_test()
        assert result.passed is passes, str(result)
        if not passes:
            assert result.problems[0].startswith("it gave something else where it was built: logits of the clips")


def test_another_release_of_the_library_may_round_another_way(tiny: Any) -> None:
    golden = golden_of(tiny, precisions=("int8",), products={}, cpu_class=this_cpu().class_name)
    reference = golden.clips.reference["logits"].astype(np.float64)
    spread = np.abs(reference - reference.mean(axis=1, keepdims=True)).max()
    built = (reference + 0.02 * spread * np.array([1, -1, 0])).astype(np.float32)
    changed = dataclasses.replace(golden, clips=dataclasses.replace(golden.clips, built={"logits": built}))
    folder = tiny.make("onnx", NAMES)
    write(folder, changed)
    assert not load_engine(folder).self_test().passed
    tiny.edit(folder, lambda manifest: manifest["libraries"].update(onnxruntime="1.0.0"))
    assert load_engine(folder).self_test().passed


def test_what_it_gave_elsewhere_says_as_much_as_the_processor_has_in_common(tiny: Any) -> None:
    built = {"logits": np.zeros((4, 3), np.float32)}
    clips = golden_of(tiny, built=built, products={"int8": 2}, cpu_class="avx512").clips
    cpus = {name: Cpu(machine=found.machine, features=found.features) for name, found in CLASSES.items()}
    assert clips.limits_of_repeating({"int8": 2}, cpus["avx512"]) == LIMITS["fp16"]
    assert clips.limits_of_repeating({"int8": 2}, cpus["avx512"], same_libraries=False) == LIMITS["bf16"]
    assert clips.limits_of_repeating({"int8": 2}, cpus["avx2"]) == LIMITS["bf16"]
    assert clips.limits_of_repeating({"int8": 2}, cpus["arm64"]) is None
    assert clips.limits_of_repeating({"int8": 1, "fp32": 1}, cpus["avx512"]) is None
    assert dataclasses.replace(clips, built={}).limits_of_repeating({"int8": 2}, cpus["avx512"]) is None


def test_a_clip_is_decided_by_more_than_the_limits_let_it_move() -> None:
    logits = np.array([[10.0, 0.0, 0.0], [1.0, 0.9, 0.0], [0.0, 0.0, 0.0]])
    assert selftest.decided(logits, LIMITS["int8"]).tolist() == [True, False, False]
    assert selftest.decided(logits, LIMITS["fp32"]).tolist() == [True, True, False]
    assert selftest.decided(logits + 100, LIMITS["int8"]).tolist() == [True, False, False]
    assert selftest.decided(np.zeros((2, 1)), LIMITS["fp32"]).all()


def test_the_file_reads_as_it_was_written(tiny: Any) -> None:
    built = {"logits": np.ones((4, 3), np.float16)}
    golden = golden_of(tiny, built=built, products={"int8": 2}, cpu_class="avx2", precisions=("int8", "bf16"))
    folder = tiny.make("onnx", NAMES)
    write(folder, golden)
    found = read_golden(folder / GOLDEN_FILE, Manifest.read(folder))
    for name in ("labels", "precisions", "limits", "products", "cpu_class"):
        assert getattr(found.clips, name) == getattr(golden.clips, name)
    np.testing.assert_array_equal(found.clips.waveforms, golden.clips.waveforms)
    np.testing.assert_array_equal(found.clips.frames, golden.clips.frames)
    np.testing.assert_array_equal(found.clips.built["logits"], built["logits"])
    content = (folder / GOLDEN_FILE).read_bytes()
    golden.write(folder / GOLDEN_FILE)
    assert (folder / GOLDEN_FILE).read_bytes() == content


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.update(facts=np.array("{")),
        lambda content: content.update(facts=np.array(json.dumps({"labels": []}))),
        lambda content: content.update({"clip.frame": content["clip.frame"][:1]}),
        lambda content: content.pop("clip.output.logits"),
        lambda content: content.update(facts=np.array(str(content["facts"]).replace('"bf16"', '"bf17"'))),
    ],
)
def test_damaged_clips_are_said(tiny: Any, damage: Any) -> None:
    folder = tiny.make("onnx", NAMES)
    golden_of(tiny).write(folder / GOLDEN_FILE)
    with np.load(folder / GOLDEN_FILE) as arrays:
        content = dict(arrays)
    damage(content)
    np.savez(folder / GOLDEN_FILE, **content)
    Manifest.read(folder).write(folder)
    with pytest.raises(EngineError, match=r"golden\.npz is not a self-test of this engine: .+; rebuild"):
        load_engine(folder).self_test()


def test_another_device_repeats_nothing(tiny: Any) -> None:
    golden = golden_of(tiny, precisions=("int8",), products={}, cpu_class=this_cpu().class_name)
    clips = dataclasses.replace(golden.clips, built={"logits": -golden.clips.reference["logits"]})
    folder = tiny.make("onnx", NAMES)
    write(folder, dataclasses.replace(golden, clips=clips))
    assert not load_engine(folder).self_test().passed
    assert load_engine(folder, device="cpu").self_test().passed
