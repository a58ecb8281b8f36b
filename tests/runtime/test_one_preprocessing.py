"""What training hears of a file is what an app hears that passes the file's samples at their own rate."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kdcmae.media.resampling import resample
from kdcmae.runtime import load_engine

av = pytest.importorskip("av")  # machines that only run engines have neither
pytest.importorskip("torch")

if TYPE_CHECKING:
    from conftest import TinyEngines

LAYOUTS = {"mono": 1, "stereo": 2}


def at_rate(source: Path, path: Path, rate: int, layout: str) -> Path:
    """The first three seconds of a real clip's sound, at another rate, with timestamps that start at 7 s."""
    converter = av.AudioResampler(format="s16", layout=layout, rate=rate)
    with av.open(source) as reader:
        frames = [part for frame in reader.decode(audio=0) if frame.time < 3 for part in converter.resample(frame)]
    with av.open(path, "w") as writer:
        stream = writer.add_stream("pcm_s16le", rate=rate)
        stream.layout = layout
        place = 7 * rate
        for frame in frames:
            frame.pts, frame.time_base = place, Fraction(1, rate)
            place += frame.samples
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode(None))
    return path


def native(path: Path, channels: int) -> np.ndarray:
    """What an app's own decoder gives: (channels, S) int16."""
    with av.open(path) as container:
        return np.concatenate([frame.to_ndarray().reshape(-1, channels).T for frame in container.decode(audio=0)], 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
def test_training_and_the_app_hear_the_same(
    clips: Path, tiny: TinyEngines, tmp_path: Path, rate: int, layout: str
) -> None:
    from kdcmae.data.clip import read_waveform
    from kdcmae.data.dataset import ClipDataset, DatasetSettings
    from kdcmae.data.manifest import ClipRecord

    path = at_rate(clips / "00W1lcxW-WU_40.000.mp4", tmp_path / "clip.mkv", rate, layout)
    waveform = native(path, LAYOUTS[layout])
    np.testing.assert_array_equal(read_waveform(path), resample(waveform, rate))

    trained_on = ClipDataset([ClipRecord(id="a", video=path)], None, DatasetSettings(modality="audio"))[0]["audio"]
    with load_engine(tiny.make("onnx", names=("audio",))) as engine:
        heard = engine.prepare(waveform, rate, None)["audio"]
    difference = np.abs(trained_on.numpy() - heard[0])
    assert difference.max() < 5e-4  # training computes the filterbank in float32, apps in float64
    assert difference.mean() < 1e-6
