"""Engines of both targets that run on a CPU; what is special about one is in its own file."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcmae.errors import (
    DataError,
    EngineError,
    EngineInputError,
)
from kdcmae.runtime import Engine, Prediction, load_engine
from kdcmae.runtime.manifest import BatchRange, Manifest
from kdcmae.runtime.onnx import ONNXBackend
from kdcmae.runtime.preprocessing import Preprocessing, prepare_audio, prepare_image


@pytest.fixture
def engine(engine_folder: Path) -> Iterator[Engine]:
    with load_engine(engine_folder) as engine:
        yield engine


def rewrite_golden(folder: Path, **changes: np.ndarray | float) -> None:
    with np.load(folder / "golden.npz") as arrays:
        content = {name: arrays[name] for name in arrays.files}
    np.savez(folder / "golden.npz", **(content | changes))
    Manifest.read(folder).write(folder)


def clip(seed: int = 0) -> tuple[np.ndarray, int, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, 16000).astype(np.float32), 16000, rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_infer_computes_the_model(engine: Engine, tiny: Any, batch: int) -> None:
    feed = tiny.feed(["x"], batch)
    results = engine.infer(feed)
    assert list(results) == ["logits"]
    assert results["logits"].dtype == np.float32
    np.testing.assert_allclose(results["logits"], tiny.logits(feed), rtol=1e-5, atol=1e-6)


def test_results_belong_to_the_caller(engine: Engine, tiny: Any) -> None:
    first = engine.infer(tiny.feed(["x"], 2, seed=1))["logits"]
    kept = first.copy()
    second = engine.infer(tiny.feed(["x"], 2, seed=2))["logits"]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, kept)
    first[:] = 0  # writable
    assert second.any()


def test_inputs_of_any_memory_layout_give_the_same_and_stay_as_they_are(engine: Engine, tiny: Any) -> None:
    x = tiny.feed(["x"], 2)["x"]
    fortran, read_only = np.asfortranarray(x), x.copy()
    read_only.flags.writeable = False
    spread = np.zeros((2, 5, 8), dtype=np.float32)
    spread[..., ::2] = x
    expected = engine.infer({"x": x})["logits"]
    for array in (fortran, read_only, spread[..., ::2]):
        np.testing.assert_array_equal(engine.infer({"x": array})["logits"], expected)
        np.testing.assert_array_equal(array, x)


def test_backends_get_contiguous_arrays(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    monkeypatch.setattr(ONNXBackend, "infer", lambda _, feed: seen.extend(feed.values()) or {})
    load_engine(tiny.make("onnx")).infer({"x": np.zeros((5, 4, 2), np.float32).T.swapaxes(1, 2)})
    assert [array.flags.c_contiguous for array in seen] == [True]


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        (None, "mapping from name to array, got None"),
        ([1.0], "mapping from name to array, got list"),
        ({}, "input x is missing; the engine takes x"),
        ({"x": np.zeros((1, 5, 4), np.float32), "y": 1}, "unexpected input 'y'; the engine takes x"),
        ({"xx": np.zeros((1, 5, 4), np.float32)}, r"unexpected input 'xx'; did you mean x\?"),
        ({"x": [[[0.0] * 4] * 5]}, "input x must be a numpy array, got list"),
        ({"x": np.zeros((1, 5, 4))}, r"input x must be float32, got float64; convert it with \.astype\('float32'\)"),
        ({"x": np.zeros((1, 5, 4), ">f4")}, "input x must be float32, got >f4"),
        ({"x": np.zeros((5, 4), np.float32)}, r"must have 3 axes \(batch, 5, 4\), got 2 axes \(5, 4\)"),
        ({"x": np.zeros((1, 5, 3), np.float32)}, r"axis 2 of input x must be 4, got 3"),
        ({"x": np.zeros((1, 0, 4), np.float32)}, r"axis 1 of input x must be 5, got 0"),
        ({"x": np.zeros((0, 5, 4), np.float32)}, "batch size 0, the engine takes 1 to 4"),
        ({"x": np.zeros((5, 5, 4), np.float32)}, "batch size 5, the engine takes 1 to 4"),
    ],
)
def test_a_wrong_input_is_its_own_error(engine: Engine, feed: Any, message: str) -> None:
    with pytest.raises(EngineInputError, match=message):
        engine.infer(feed)


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_inputs_of_one_call_share_their_batch_size(tiny: Any, target: str) -> None:
    engine = load_engine(tiny.make(target, ["audio", "image"]))
    feed = tiny.feed(["audio"], 2) | tiny.feed(["image"], 3)
    with pytest.raises(EngineInputError, match="one batch size, got audio 2, image 3"):
        engine.infer(feed)


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_static_engine_takes_its_own_batch_only(tiny: Any, target: str) -> None:
    engine = load_engine(tiny.make(target, batch=BatchRange(2, 2, 2)))
    assert engine.self_test().passed
    with pytest.raises(EngineInputError, match="batch size 1, the engine takes 2 only"):
        engine.infer(tiny.feed(["x"], 1))


def test_threads_may_share_an_engine(engine: Engine, tiny: Any) -> None:
    feeds = [tiny.feed(["x"], 1 + seed % 4, seed) for seed in range(200)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(engine.infer, feeds))
    for feed, result in zip(feeds, results, strict=True):
        np.testing.assert_allclose(result["logits"], tiny.logits(feed), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.parametrize("names", [["audio", "image"], ["audio"], ["image"]])
@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_classify_prepares_runs_and_sorts(tiny: Any, target: str, names: list[str], scores: str) -> None:
    waveform, rate, frame = clip()
    engine = load_engine(tiny.make(target, names, BatchRange(1, 1, 1), scores=scores))
    inputs = {
        "audio": prepare_audio(waveform, rate, Preprocessing()),
        "image": prepare_image(frame, Preprocessing()),
    }
    [logits] = tiny.logits({name: inputs[name] for name in names})
    expected = np.exp(logits) / np.exp(logits).sum() if scores == "softmax" else 1 / (1 + np.exp(-logits))
    given = (waveform if "audio" in names else None, rate, frame if "image" in names else None)

    predictions = engine.classify(*given)

    assert [p.label for p in predictions] == [tiny.labels[index] for index in np.argsort(-expected)]
    np.testing.assert_allclose([p.score for p in predictions], np.sort(expected)[::-1], atol=1e-4)
    assert engine.classify(*given, top=1) == predictions[:1]
    assert engine.classify(waveform, rate, frame) == predictions  # an input the engine lacks is ignored


def test_classify_fills_the_smallest_batch(tiny: Any) -> None:
    one = load_engine(tiny.make("onnx", ["audio", "image"], BatchRange(1, 1, 1)))
    many = load_engine(tiny.make("openvino", ["audio", "image"], BatchRange(3, 4, 8)))
    for single, filled in zip(one.classify(*clip()), many.classify(*clip()), strict=True):
        assert single.label == filled.label
        assert single.score == pytest.approx(filled.score, abs=1e-5)


def test_classify_uses_the_manifests_preprocessing(tiny: Any) -> None:
    louder = Preprocessing(fbank_mean=-9.0).to_dict()
    engine = load_engine(tiny.make("onnx", ["audio"], preprocessing=louder))
    other = load_engine(tiny.make("openvino", ["audio"]))
    assert engine.classify(*clip()) != other.classify(*clip())


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_scores_of_huge_logits_stay_finite(tiny: Any, scores: str) -> None:
    engine = load_engine(tiny.make("onnx", ["audio"], scores=scores))
    engine.infer = lambda feed: {"logits": np.float32([[-2e4, 3e4, 1e4]])}
    best, *rest = engine.classify(*clip())
    assert best == Prediction("singing", 1.0)
    assert all(0 <= prediction.score <= 1 for prediction in rest)


def test_classify_says_what_it_cannot_do(tiny: Any) -> None:
    waveform, rate, frame = clip()
    engine = load_engine(tiny.make("onnx", ["audio", "image"]))
    with pytest.raises(EngineInputError, match="input audio needs a waveform as a numpy array, got None"):
        engine.classify(None, rate, frame)
    with pytest.raises(EngineInputError, match="input image needs a frame as a numpy array, got list"):
        engine.classify(waveform, rate, [1])
    for top in (0, 1.5, "2", None, True, np.float32(2), float("nan")):
        with pytest.raises(EngineInputError, match=r"top=.* must be a whole number of at least 1"):
            engine.classify(waveform, rate, frame, top=top)
    assert len(engine.classify(waveform, rate, frame, top=np.int64(2))) == 2
    with pytest.raises(DataError, match="too short"):
        engine.classify(waveform[:100], rate, frame)
    engine.infer = lambda feed: {"logits": np.float32([[0, np.nan, 0]])}
    with pytest.raises(EngineError, match="not finite"):
        engine.classify(waveform, rate, frame)


def test_frames_come_from_whatever_yields_them(tiny: Any) -> None:
    waveform, rate, frame = clip()
    engine = load_engine(tiny.make("onnx", ["audio", "image"]))
    expected = engine.prepare(waveform, rate, [frame, frame[::-1]])
    for frames in (np.stack([frame, frame[::-1]]), (one for one in (frame, frame[::-1]))):
        for name, array in engine.prepare(waveform, rate, frames).items():
            np.testing.assert_array_equal(array, expected[name])
    with pytest.raises(EngineInputError, match="at least one frame"):
        engine.prepare(waveform, rate, [])
    with pytest.raises(EngineInputError, match="frames must be a sequence of numpy arrays, got int"):
        engine.prepare(waveform, rate, 5)


def test_classify_needs_a_clip_model_with_labels(tiny: Any) -> None:
    with pytest.raises(EngineError, match="takes x, which no clip becomes"):
        load_engine(tiny.make("onnx")).classify(*clip())
    with pytest.raises(EngineError, match="no labels"):
        load_engine(tiny.make("openvino", ["audio"], labels=())).classify(*clip())


def test_self_test_passes_on_a_good_engine(engine: Engine) -> None:
    result = engine.self_test()
    assert result.passed
    assert result.tolerance == {"logits": 1e-5}
    assert 0 <= result.max_error["logits"] <= 1e-5


def test_self_test_measures_relative_to_the_largest_reference(engine_folder: Path, tiny: Any) -> None:
    reference = tiny.logits(tiny.feed(["x"], 2)).astype(np.float64)
    largest = np.abs(reference).max()
    reference[0, 0] += 0.01 * largest
    rewrite_golden(engine_folder, **{"output.logits": reference})
    result = load_engine(engine_folder).self_test()
    assert not result.passed
    assert result.max_error["logits"] == pytest.approx(0.01 * largest / np.abs(reference).max(), rel=1e-2)
    rewrite_golden(engine_folder, **{"tolerance.logits": 0.02})
    assert load_engine(engine_folder).self_test().passed


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_self_test_fails_on_outputs_that_are_not_finite(engine_folder: Path, tiny: Any, poison: float) -> None:
    x = tiny.feed(["x"], 2)["x"]
    x[1, 2, 3] = poison
    rewrite_golden(engine_folder, **{"input.x": x, "tolerance.logits": np.inf})
    result = load_engine(engine_folder).self_test()
    assert result.max_error == {"logits": np.inf}
    assert not result.passed


def test_self_test_fails_on_a_reference_of_another_shape_or_no_number(engine_folder: Path, tiny: Any) -> None:
    rewrite_golden(engine_folder, **{"output.logits": np.zeros((1, 3))})
    assert not load_engine(engine_folder).self_test().passed
    rewrite_golden(engine_folder, **{"output.logits": np.full((2, 3), np.nan)})
    assert not load_engine(engine_folder).self_test().passed


def test_self_test_says_what_is_missing(tiny: Any) -> None:
    folder = tiny.make("onnx")
    np.savez(folder / "golden.npz", **{"input.x": np.zeros((1, 5, 4), np.float32)})
    Manifest.read(folder).write(folder)
    with pytest.raises(EngineError, match=r"golden\.npz is not a self-test of this engine.*output\.logits"):
        load_engine(folder).self_test()
    (folder / "golden.npz").unlink()
    Manifest.read(folder).write(folder)
    with pytest.raises(EngineError, match=r"has no golden\.npz"):
        load_engine(folder).self_test()


def _flipped(content: bytes) -> bytes:
    """The archive with damage where the compressed arrays are."""
    middle = len(content) // 8
    return content[:middle] + bytes(byte ^ 0xFF for byte in content[middle : 4 * middle]) + content[4 * middle :]


@pytest.mark.parametrize(
    "damage", [lambda _: b"not a zip", lambda _: b"", lambda content: content[: len(content) // 2], _flipped]
)
def test_a_damaged_self_test_behind_a_right_digest_is_said(tiny: Any, damage: Any) -> None:
    folder = tiny.make("onnx")
    with np.load(folder / "golden.npz") as arrays:
        np.savez_compressed(folder / "golden.npz", **arrays)
    (folder / "golden.npz").write_bytes(damage((folder / "golden.npz").read_bytes()))
    Manifest.read(folder).write(folder)
    with pytest.raises(EngineError, match=r"golden\.npz is not a self-test of this engine: .+; rebuild"):
        load_engine(folder).self_test()


@pytest.mark.parametrize("tolerance", [np.array([1.0, 2.0]), np.array("wide")])
def test_a_tolerance_that_is_no_number_is_said(tiny: Any, tolerance: np.ndarray) -> None:
    folder = tiny.make("onnx")
    rewrite_golden(folder, **{"tolerance.logits": tolerance})
    with pytest.raises(EngineError, match=r"golden\.npz is not a self-test of this engine"):
        load_engine(folder).self_test()


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def test_self_test_never_unpickles(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tiny.make("onnx")
    rewrite_golden(folder, **{"input.x": np.array([_Bomb()], dtype=object)})
    with pytest.raises(EngineError, match="is not a self-test"):
        load_engine(folder).self_test()
    assert not (tmp_path / "exploded").exists()


def test_a_closed_engine_says_so(engine_folder: Path, tiny: Any) -> None:
    with load_engine(engine_folder) as engine:
        assert engine.self_test().passed
    engine.close()
    with pytest.raises(EngineError, match="is closed; load it again"):
        engine.infer(tiny.feed(["x"], 1))


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_clips_run_together_as_they_do_one_by_one(tiny: Any, target: str) -> None:
    folder = tiny.make(target, ["audio", "image"], BatchRange(1, 2, 3))
    rng = np.random.default_rng(0)
    clips: list[Any] = [
        (rng.uniform(-0.5, 0.5, 16_000 + 400 * number), 16_000, rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))
        for number in range(5)
    ]
    with load_engine(folder) as loaded:
        alone = [loaded.classify(*clip, top=3) for clip in clips]
        together = loaded.classify_batch(clips, top=3)
        frames = [clip[2] for clip in clips]
        several = loaded.classify_batch([(clips[0][0], 16_000, frames)], top=3)[0]
        by_frame = [loaded.classify(clips[0][0], 16_000, frame, top=3) for frame in frames]
        assert loaded.classify_batch([]) == []
    for one, other in zip(together, alone, strict=True):
        assert [prediction.label for prediction in one] == [prediction.label for prediction in other]
        np.testing.assert_allclose([p.score for p in one], [p.score for p in other], atol=1e-4)
    for prediction in several:
        scores = [found.score for predictions in by_frame for found in predictions if found.label == prediction.label]
        assert prediction.score == pytest.approx(np.mean(scores), abs=1e-4)


def test_an_engine_says_what_it_is(engine_folder: Path) -> None:
    with load_engine(engine_folder) as loaded:
        assert re.fullmatch(r"<Engine .*-engine: (onnx|openvino), fp32, 3 labels, batch 1 to 4>", repr(loaded))
    assert repr(loaded).endswith("closed>")


def test_a_pickled_engine_is_loaded_again_in_the_same_way(engine_folder: Path, tiny: Any) -> None:
    feed = tiny.feed(("x",), 2)
    with load_engine(engine_folder, threads=1) as loaded, pickle.loads(pickle.dumps(loaded)) as again:  # noqa: S301
        assert again.folder == loaded.folder.absolute()
        np.testing.assert_array_equal(again.infer(feed)["logits"], loaded.infer(feed)["logits"])
