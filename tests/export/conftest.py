"""A page of a very small engine, clips for it, and a browser to look with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import chromium
import numpy as np
import pytest

from kdcmae.export.onnxruntime_web import FILES, PACKAGE, VERSION

sys.path.insert(0, str(Path(__file__).parent))

from loudness_engine import write_engine

ROOT = Path(__file__).resolve().parents[2]
FETCHED = ROOT / "build" / "cache" / f"onnxruntime-web-{VERSION}"  # `make test` fetches it


@pytest.fixture(scope="session")
def raw_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return write_engine(tmp_path_factory.mktemp("raw") / "engine")


@pytest.fixture(scope="session")
def fetched() -> Path:
    """ONNX Runtime for browsers, or the test is skipped."""
    if not all((FETCHED / name).is_file() for name in FILES):
        pytest.skip(f"no {PACKAGE}: THE PAGE OF AN ENGINE WAS NOT TESTED; make test fetches it with npm")
    return FETCHED


@pytest.fixture
def write_clip(tmp_path: Path) -> Callable[..., Path]:
    """Writes clips of one colour with noise: MP4 with H.264 and AAC, or WebM with VP9 and Opus.

    ``codec`` is another one for the picture.
    """

    def write(
        name: str,
        *,
        seconds: float = 1.0,
        sound: bool = True,
        colour: tuple[int, int, int] = (0, 200, 0),
        codec: str = "",
    ) -> Path:
        path, codecs = tmp_path / name, {".mp4": ("libx264", "aac"), ".webm": ("libvpx-vp9", "libopus")}
        video, audio = codecs[path.suffix]
        with av.open(str(path), "w") as container:
            picture = container.add_stream(codec or video, rate=10, width=64, height=48, pix_fmt="yuv420p")
            tones = container.add_stream(audio, rate=48000, layout="stereo") if sound else None
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), colour, np.uint8))
            for number in range(round(10 * seconds)):
                frame.pts = number
                container.mux(picture.encode(frame))
            if tones is not None:
                samples = np.random.default_rng(0).normal(0, 0.05, (2, round(48000 * seconds))).astype(np.float32)
                block = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
                block.sample_rate = 48000
                resampler = av.AudioResampler(format=tones.format, layout="stereo", rate=48000)
                for piece in resampler.resample(block):
                    container.mux(tones.encode(piece))
                container.mux(tones.encode(None))
            container.mux(picture.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def chrome(browser: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    """One page of one browser for all tests of a process."""
    with chromium.opened(browser, tmp_path_factory.mktemp("profile")) as page:
        yield page
