from __future__ import annotations

import numpy as np

from kdcmae.bench.run.inputs import made_inputs
from kdcmae.bench.run.subjects import Facts
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.manifest import TensorSpec
from kdcmae.runtime.preprocessing import Preprocessing

AUDIO = TensorSpec("audio", ("batch", 64, 128), "float32", "")
IMAGE = TensorSpec("image", ("batch", 3, 32, 32), "float32", "")


def facts(*inputs: TensorSpec, preprocessing: Preprocessing | None) -> Facts:
    return Facts(kind="onnx", computes_in="fp32", inputs=inputs, batch=None, preprocessing=preprocessing)


def test_clips_go_through_the_preprocessing():
    known = facts(AUDIO, IMAGE, preprocessing=Preprocessing(audio_frames=64, image_size=32))
    inputs = made_inputs(known, 3, seed=0)
    assert {name: array.shape for name, array in inputs.items()} == {"audio": (3, 64, 128), "image": (3, 3, 32, 32)}
    again, other = made_inputs(known, 3, seed=0), made_inputs(known, 3, seed=1)
    alone = made_inputs(facts(IMAGE, preprocessing=known.preprocessing), 3, seed=0)
    np.testing.assert_array_equal(inputs["image"], again["image"])
    np.testing.assert_array_equal(inputs["image"], alone["image"])
    assert not np.array_equal(inputs["image"], other["image"])


def test_noise_where_clips_say_nothing():
    unknown = facts(AUDIO, preprocessing=None)
    np.testing.assert_array_equal(
        made_inputs(unknown, 2, seed=3)["audio"], example_inputs((AUDIO,), 2, seed=3)["audio"]
    )
