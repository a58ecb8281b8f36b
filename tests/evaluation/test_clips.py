from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcmae.data.dataset import DatasetSettings
from kdcmae.data.images import write_image
from kdcmae.data.manifest import LabelMap
from kdcmae.data.synthetic import write_clip
from kdcmae.errors import DataError
from kdcmae.evaluation.clips import EvaluationClips, LoaderSettings, label_map, read_mask
from kdcmae.runtime.preprocessing import Preprocessing

CLIPS = 5


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide frames with a white square that is the mask, at another place in each clip."""
    folder = tmp_path_factory.mktemp("clips")
    lines = []
    for number in range(CLIPS):
        mask = np.zeros((64, 96), dtype=np.uint8)
        mask[16:48, 16 + 8 * number : 48 + 8 * number] = 255
        frame = mask[:, :, None].repeat(3, axis=2)
        sound = 0.1 * np.random.default_rng(number).standard_normal(16000)
        write_clip(folder / f"{number}.mp4", sound.astype(np.float32), 16000, [frame] * 10, 10)
        write_image(folder / f"{number}.png", mask)
        lines.append({"path": f"{number}.mp4", "mask": f"{number}.png", "labels": "ab"[number % 2]})
    path = folder / "clips.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def clips(manifest: Path, *, batch_size: int = 2, **settings: object) -> EvaluationClips:
    preprocessing = Preprocessing(audio_frames=64, image_size=32)
    dataset = DatasetSettings(preprocessing=preprocessing, **settings)  # type: ignore[arg-type]
    return EvaluationClips(manifest, LabelMap(("a", "b"), ("a", "b")), dataset, LoaderSettings(batch_size=batch_size))


def test_every_clip_comes_once_and_in_order(manifest: Path) -> None:
    data = clips(manifest)
    batches = list(data)
    assert len(data) == len(batches) == 3
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(CLIPS))
    assert torch.cat([batch["target"] for batch in batches]).argmax(dim=1).tolist() == [0, 1, 0, 1, 0]
    assert batches[0]["audio"].shape == (2, 64, 128)
    assert data.skipped == {}


def test_shards_give_what_their_manifest_gives(manifest: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as shard:
        for number in range(CLIPS):
            (tmp_path / f"{number}.json").write_text(json.dumps({"labels": "ab"[number % 2]}))
            shard.add(manifest.parent / f"{number}.mp4", f"{number}.mp4")
            shard.add(tmp_path / f"{number}.json", f"{number}.json")
    for ours, theirs in zip(clips(tmp_path), clips(manifest), strict=True):
        for name, tensor in theirs.items():
            assert torch.equal(ours[name], tensor)
    assert not clips(tmp_path).has_masks


def test_a_mask_lies_on_its_object_as_the_model_sees_it(manifest: Path) -> None:
    data = clips(manifest)
    assert data.has_masks
    for batch in data.masked(data):
        bright = batch["image"].mean(dim=1) > 0.2  # black is at -2, white at 2.4
        mask = batch["mask"]
        assert mask.dtype == torch.bool
        assert (bright & mask).sum() / (bright | mask).sum() > 0.85
        assert mask.any(dim=2).any(dim=1).all()


def test_frames_and_modalities(manifest: Path) -> None:
    assert next(iter(clips(manifest, frames="all")))["image"].shape == (2, 10, 3, 32, 32)
    assert set(next(iter(clips(manifest, modality="audio")))) == {"audio", "target", "index"}


def test_a_clip_without_a_mask(manifest: Path) -> None:
    lines = manifest.read_text().splitlines()
    first = json.loads(lines[0])
    del first["mask"]
    partial = manifest.with_name("partial.jsonl")
    partial.write_text("\n".join([json.dumps(first), *lines[1:]]))
    data = clips(partial)
    assert not data.has_masks
    with pytest.raises(DataError, match="clip '0': its manifest names no mask"):
        next(data.masked(data))


def test_half_a_pixel_is_enough(tmp_path: Path) -> None:
    picture = np.zeros((8, 8), dtype=np.uint8)
    picture[2:6, 2:6] = 255
    write_image(tmp_path / "mask.png", picture)
    expected = np.zeros((8, 8), dtype=bool)
    expected[2:6, 2:6] = True
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", 8), expected)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", 4), expected[::2, ::2])
    with pytest.raises(DataError, match="no such file"):
        read_mask(tmp_path / "missing.png", 8)


def test_label_maps(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("rain\nspeech\n")
    assert label_map(("rain", "speech"), None) == LabelMap(("rain", "speech"), ("rain", "speech"))
    assert label_map(("rain", "speech"), path).names == ("rain", "speech")
    assert label_map(("class_0", "class_1"), path).names == ("rain", "speech")
    with pytest.raises(DataError, match="class 0 is 'rain', and the model calls it 'speech'"):
        label_map(("speech", "rain"), path)
    with pytest.raises(DataError, match="names 2 classes and the model has 3"):
        label_map(("a", "b", "c"), path)
