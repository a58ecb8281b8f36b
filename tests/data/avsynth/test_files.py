from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kdcmae.data.avsynth.classes import LABELS
from kdcmae.data.avsynth.files import generate
from kdcmae.data.avsynth.memory import AVSynth
from kdcmae.data.avsynth.scene import AVSYNTH_VERSION, draw_scene, frame, sound
from kdcmae.data.clip import read_clip
from kdcmae.data.dataset import ClipDataset, DatasetSettings
from kdcmae.data.images import read_image
from kdcmae.data.manifest import LabelMap, read_manifest
from kdcmae.runtime.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("avsynth")
    generate(made, clips=4, seed=1, split="valid")
    return made


def test_files_are_what_a_manifest_needs(folder: Path) -> None:
    records = read_manifest(folder / "valid.jsonl")
    assert [record.labels for record in records] == [(name,) for name in LABELS.names[:4]]
    assert LabelMap.read(folder / "labels.csv") == LABELS
    for record in records:
        assert record.video is not None
        assert record.video.exists()
    line = json.loads((folder / "valid.jsonl").read_text().splitlines()[0])
    assert (line["avsynth_version"], line["seed"]) == (AVSYNTH_VERSION, 1)


def test_clips_survive_their_encoding(folder: Path) -> None:
    record = read_manifest(folder / "valid.jsonl")[2]
    scene = draw_scene("valid", 2, seed=1)
    assert record.video is not None
    clip = read_clip(record.video)
    made = sound(scene)
    spectra = [np.fft.rfft(part, 65536) for part in (made, clip.waveform)]
    products = np.fft.irfft(spectra[0].conj() * spectra[1])
    assert products.max() > 0.99 * np.linalg.norm(made) * np.linalg.norm(clip.waveform)
    assert int(products.argmax()) == 0
    for number in range(10):
        assert np.abs(clip.frames[number].astype(int) - frame(scene, 2 * number)).mean() < 8


def test_in_memory_clips_are_those_of_the_files(folder: Path) -> None:
    data = AVSynth("valid", clips=4, seed=1)
    records = read_manifest(folder / "valid.jsonl")
    assert [(ours.id, ours.labels) for ours in data.records] == [(theirs.id, theirs.labels) for theirs in records]
    for ours, theirs in zip(data.records, records, strict=True):
        assert theirs.mask is not None
        np.testing.assert_array_equal(data.read_mask(ours), read_image(theirs.mask)[..., 0] == 255)


@pytest.mark.parametrize("modality", ["audiovisual", "audio", "video"])
def test_in_memory_samples(modality: str) -> None:
    data = AVSynth("train", clips=3)
    settings = DatasetSettings(
        preprocessing=Preprocessing(audio_frames=192, image_size=96),
        modality=modality,  # type: ignore[arg-type]
        frames="all",
    )
    sample = ClipDataset(data.records, data.labels, settings, data.read)[1]
    shapes = {name: tuple(value.shape) for name, value in sample.items()}
    expected = {"audio": (192, 128), "image": (10, 3, 96, 96), "target": (12,), "index": ()}
    missing = {"audiovisual": None, "audio": "image", "video": "audio"}[modality]
    assert shapes == {name: shape for name, shape in expected.items() if name != missing}
    assert sample["target"].argmax() == 1


def test_processes_and_more_clips_change_nothing(folder: Path, tmp_path: Path) -> None:
    done = []
    generate(tmp_path, clips=5, seed=1, split="valid", processes=2, on_clip=lambda: done.append(1))
    assert len(done) == 5
    ours, theirs = (read_manifest(made / "valid.jsonl")[3] for made in (tmp_path, folder))
    assert ours.mask is not None
    assert theirs.mask is not None
    assert ours.mask.read_bytes() == theirs.mask.read_bytes()
    assert ours.video is not None
    assert theirs.video is not None
    one, other = read_clip(ours.video), read_clip(theirs.video)
    np.testing.assert_array_equal(one.waveform, other.waveform)
    assert np.abs(one.frames.astype(int) - other.frames).mean() < 5  # an encoder with threads differs from run to run
