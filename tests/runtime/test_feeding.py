"""Raw inputs: what is filled in, what is refused, and what a clip becomes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kdcmae.errors import DataError, EngineInputError
from kdcmae.runtime import feeding
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.manifest import BatchRange, TensorSpec
from kdcmae.runtime.preprocessing import Preprocessing

ROOM = 2000
RAW = (
    TensorSpec("waveform", ("batch", ROOM), "float32", ""),
    TensorSpec("samples", ("batch",), "int32", ""),
    TensorSpec("frame", ("batch", "height", "width", 3), "uint8", ""),
)
FACTS = Preprocessing(audio_frames=11)  # sees 2000 samples


def frames(*shape: int) -> np.ndarray:
    return np.zeros((*shape, 3), dtype=np.uint8)


def test_a_shorter_waveform_is_filled_up_and_counted() -> None:
    waveform = np.ones((2, 1500), dtype=np.float32)
    feed = feeding.completed({"waveform": waveform, "frame": frames(2, 20, 30)}, RAW)
    np.testing.assert_array_equal(feed["waveform"], np.pad(waveform, ((0, 0), (0, 500))))
    np.testing.assert_array_equal(feed["samples"], np.int32([1500, 1500]))
    assert feed["samples"].dtype == np.int32


def test_given_samples_are_kept() -> None:
    feed = feeding.completed({"waveform": np.ones((1, ROOM), np.float32), "samples": np.int32([700])}, RAW)
    assert feed["samples"] == 700


def test_prepared_feeds_are_left_alone() -> None:
    feed = {"audio": np.zeros(1)}
    assert feeding.completed(feed, (TensorSpec("audio", ("batch", 5), "float32", ""),)) is feed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": np.int32([399])}, "input samples must be 400 to 2000.*got 399 to 399"),
        ({"samples": np.int32([2001])}, "input samples must be 400 to 2000"),
        ({"samples": np.int64([700])}, "input samples must be int32, got int64"),
        ({"waveform": np.zeros((1, 2001), np.float32)}, "axis 1 of input waveform must be 2000, got 2001"),
        (
            {"frame": frames(1, 15, 20)},
            r"axis 1 of input frame \(height\) must be 16 to 1920, got 15; resize the frame",
        ),
        ({"frame": frames(1, 20, 1921)}, r"axis 2 of input frame \(width\) must be 16 to 1920, got 1921"),
        ({"frame": frames(1, 20, 30)[..., :2]}, "axis 3 of input frame must be 3, got 2"),
        ({"frame": frames(2, 20, 30)}, "one batch size, got waveform 1, samples 1, frame 2"),
    ],
)
def test_what_the_engine_cannot_take_is_said(tiny: Any, change: dict[str, np.ndarray], message: str) -> None:
    manifest = tiny.manifest("onnx", inputs=RAW)
    good = {"waveform": np.zeros((1, ROOM), np.float32), "samples": np.int32([700]), "frame": frames(1, 20, 30)}
    assert feeding.checked(good, manifest).keys() == good.keys()
    with pytest.raises(EngineInputError, match=message):
        feeding.checked(good | change, manifest)


def test_a_clip_becomes_raw_inputs() -> None:
    sound = np.linspace(-1, 1, 1200, dtype=np.float32)
    pictures = [frames(20, 30), frames(20, 30) + 1]
    feed = feeding.from_clip(("waveform", "samples", "frame"), FACTS, sound, 16000, pictures)
    np.testing.assert_array_equal(feed["waveform"], np.pad(sound, (0, 800))[None].repeat(2, axis=0))
    np.testing.assert_array_equal(feed["samples"], np.int32([1200, 1200]))
    np.testing.assert_array_equal(feed["frame"], np.stack(pictures))
    longer = feeding.from_clip(("waveform", "samples"), FACTS, np.tile(sound, 3), 16000, None)
    assert longer["waveform"].shape == (1, ROOM)
    assert longer["samples"] == ROOM


def test_a_clip_that_cannot_become_them_is_refused() -> None:
    sound = np.zeros(1200, dtype=np.float32)
    with pytest.raises(DataError, match="too short"):
        feeding.from_clip(("waveform", "samples"), FACTS, sound[:399], 16000, None)
    with pytest.raises(DataError, match="must have one size"):
        feeding.from_clip(("frame",), FACTS, None, 16000, [frames(20, 30), frames(30, 20)])
    with pytest.raises(EngineInputError, match="takes x, which no clip becomes"):
        feeding.from_clip(("x",), FACTS, sound, 16000, None)
    with pytest.raises(EngineInputError, match="input frame needs a frame"):
        feeding.from_clip(("frame",), FACTS, sound, 16000, None)


def test_made_up_raw_inputs_are_valid(tiny: Any) -> None:
    manifest = tiny.manifest("onnx", inputs=RAW, batch=BatchRange(1, 2, 4))
    inputs = example_inputs(RAW, 2)
    assert feeding.checked(inputs, manifest).keys() == inputs.keys()
    assert np.abs(inputs["waveform"]).max() <= 1
