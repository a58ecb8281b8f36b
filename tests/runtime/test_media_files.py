"""Media files through an engine; tests/cli/test_predict_report.py compares them with ``kdcmae predict``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcmae.errors import ConfigError, DataError, EngineError, EngineInputError, MissingDependencyError
from kdcmae.runtime import load_engine


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds: two windows, the second of which ends with the clip."""
    pytest.importorskip("av")
    from kdcmae.data.synthetic import write_clip

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    write_clip(path, rng.uniform(-0.5, 0.5, 12 * 16000).astype(np.float32), 16000, pictures, 5)
    return path


@pytest.mark.parametrize("batch", [1, 4])
def test_a_file_has_the_scores_of_its_windows(tiny: Any, clip: Path, batch: int) -> None:
    from kdcmae.media.clip import read_waveform
    from kdcmae.runtime.manifest import BatchRange

    sound = read_waveform(clip)
    done: list[tuple[int, int]] = []
    with load_engine(tiny.make("onnx", ["audio", "image"], BatchRange(1, 1, batch))) as engine:
        result = engine.classify_file(clip, progress=lambda *steps: done.append(steps), top=3)
        length = engine.preprocessing.audio_samples
        starts = [window.start_s for window in result.windows]
        assert starts == pytest.approx([0.0, (len(sound) - length) / 16000])
        assert done == [(number, len(starts)) for number in range(len(starts) + 1)]
        means = {
            label: np.mean([{p.label: p.score for p in window.predictions}[label] for window in result.windows])
            for label in tiny.labels
        }
        assert {p.label: p.score for p in result.predictions} == pytest.approx(means)
        count = len(range(0, len(sound) - 15999, 16000))
        assert len(engine.classify_file(clip, window=1.0, hop=1.0).windows) == count + 1
        assert len(engine.classify_file(clip, top=1, average_frames=True).windows[0].predictions) == 1


def test_features_of_a_clip_and_of_a_file(tiny: Any, clip: Path) -> None:
    from kdcmae.media.clip import read_clip

    whole = read_clip(clip)
    with load_engine(tiny.make("onnx", ["audio", "image"], labels=())) as engine:
        one = engine.embed(whole.waveform, 16000, whole.frames[5])
        expected = engine.infer(engine.prepare(whole.waveform, 16000, [whole.frames[5]]))
        assert {name: array.shape for name, array in one.items()} == {"logits": (3,)}
        np.testing.assert_array_equal(one["logits"], expected["logits"][0])
        clips = [(whole.waveform, 16000, frames) for frames in (list(whole.frames[:2]), whole.frames[5])]
        both = engine.embed_batch(clips)
        each = [engine.embed(whole.waveform, 16000, frame)["logits"] for frame in whole.frames[:2]]
        np.testing.assert_allclose(both[0]["logits"], np.mean(each, axis=0), rtol=1e-5)
        np.testing.assert_allclose(both[1]["logits"], one["logits"], rtol=1e-5)
        result = engine.embed_file(clip, window=4.0, hop=4.0)
        assert [window.start_s for window in result.windows][:3] == [0.0, 4.0, 8.0]
        means = np.mean([window.features["logits"] for window in result.windows], axis=0)
        np.testing.assert_allclose(result.features["logits"], means)
        with pytest.raises(EngineError, match=r"has no labels, so it cannot classify; use embed\(\)"):
            engine.classify_file(clip)


def test_a_file_that_cannot_be_used_and_wrong_use_are_said(tiny: Any, clip: Path, tmp_path: Path) -> None:
    with load_engine(tiny.make("onnx", ["audio", "image"])) as engine:
        with pytest.raises(DataError, match="no such file"):
            engine.classify_file(tmp_path / "none.mp4")
        with pytest.raises(ConfigError, match=r"more than the 10\.2"):
            engine.classify_file(clip, window=60)
        with pytest.raises(EngineInputError, match="top=0"):
            engine.classify_file(clip, top=0)
        with pytest.raises(EngineError, match="is a classifier and gives no features"):
            engine.embed_file(clip)
        with pytest.raises(EngineError, match="is a classifier and gives no features"):
            engine.embed(np.zeros(16000, np.float32), 16000, np.zeros((8, 8, 3), np.uint8))


def test_reading_files_needs_pyav_and_says_how_to_get_it(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with (
        load_engine(tiny.make("onnx", ["audio", "image"])) as engine,
        pytest.raises(MissingDependencyError, match=r"kdcmae\[video\]"),
    ):
        engine.classify_file("clip.mp4")
