"""Clips on disk in the published layout, small and quick to make."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdcmae.data.images import write_image
from kdcmae.data.manifest import ClipRecord, frame_path

LABELS = ("barking", "singing", "typing")

Extracted = Callable[..., list[ClipRecord]]


def write_wav(path: Path, waveform: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.round(waveform * 32767).astype("<i2").tobytes())


@pytest.fixture(scope="session")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Extracted:
    """Makes clips whose frame n is one grey level, 20 * n, and whose sound is noise of their own."""

    def make(count: int, seconds: float = 0.5) -> list[ClipRecord]:
        folder = tmp_path_factory.mktemp("extracted")
        (folder / "audio").mkdir()
        for number in range(10):
            (folder / "frames" / f"frame_{number}").mkdir(parents=True)
        records = []
        for index in range(count):
            record = ClipRecord(
                id=f"clip{index}",
                labels=(LABELS[index % 3],),
                wav=folder / "audio" / f"clip{index}.wav",
                frames_folder=folder / "frames",
            )
            sound = np.random.default_rng(index).uniform(-0.5, 0.5, round(16000 * seconds))
            assert record.wav is not None
            write_wav(record.wav, sound)
            for number in range(10):
                write_image(
                    frame_path(folder / "frames", record.id, number), np.full((40, 48, 3), 20 * number, np.uint8)
                )
            records.append(record)
        return records

    return make
