from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcmae.data.augment import Augmentation
from kdcmae.data.broken import BrokenClipError
from kdcmae.data.dataset import ClipDataset, DatasetSettings
from kdcmae.data.manifest import ClipRecord, LabelMap
from kdcmae.data.reading import read_record
from kdcmae.data.sampling import Draw
from kdcmae.data.synthetic import demo_clip
from kdcmae.errors import ConfigError, DataError
from kdcmae.runtime.preprocessing import Preprocessing, prepare_audio, prepare_image

SMALL = Preprocessing(audio_frames=64, image_size=32)
TRAINING = DatasetSettings(
    preprocessing=SMALL,
    frames="random",
    augmentation=Augmentation(frequency_mask=48, time_mask=20, mixup_rate=0.5),
    seed=4,
)
EVALUATION = DatasetSettings(preprocessing=SMALL)


@pytest.fixture(scope="module")
def records(extracted) -> list[ClipRecord]:  # type: ignore[no-untyped-def]
    return extracted(6)


@pytest.fixture(scope="module")
def labels(records: list[ClipRecord]) -> LabelMap:
    return LabelMap.of_records(records)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def grey_level(image: torch.Tensor) -> int:
    """Which frame of a clip of the fixture this is."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (SMALL.image_mean, SMALL.image_std))
    return round(float((image * std + mean).mean()) * 255 / 20)


def test_evaluation_sees_what_an_app_computes(records: list[ClipRecord], labels: LabelMap) -> None:
    sample = ClipDataset(records, labels, EVALUATION)[4]
    clip = read_record(records[4], "audiovisual", [5])
    assert clip.waveform is not None
    np.testing.assert_allclose(sample["audio"], prepare_audio(clip.waveform, 16000, SMALL)[0], atol=1e-4)
    np.testing.assert_allclose(sample["image"], prepare_image(clip.frames[0], SMALL)[0], atol=1e-5)
    assert grey_level(sample["image"]) == 5
    assert sample["target"].tolist() == [0, 1, 0]  # clip 4 is labelled "singing"
    assert sample["index"].item() == 4
    assert {name: value.dtype for name, value in sample.items()} == {
        "audio": torch.float32,
        "image": torch.float32,
        "target": torch.float32,
        "index": torch.int64,
    }


def test_all_frames(records: list[ClipRecord]) -> None:
    image = ClipDataset(records, None, dataclasses.replace(EVALUATION, frames="all"))[0]["image"]
    assert image.shape == (10, 3, 32, 32)
    assert [grey_level(frame) for frame in image] == list(range(10))


@pytest.mark.parametrize(("modality", "names"), [("audio", {"audio", "index"}), ("video", {"image", "index"})])
def test_one_modality_reads_only_its_files(modality: str, names: set[str], records: list[ClipRecord]) -> None:
    half = dataclasses.replace(records[0], **({"frames_folder": None} if modality == "audio" else {"wav": None}))
    settings = dataclasses.replace(EVALUATION, modality=modality)  # type: ignore[arg-type]
    assert ClipDataset([half], None, settings)[0].keys() == names
    with pytest.raises(BrokenClipError, match="names no"):
        ClipDataset([half], None, EVALUATION)[0]


def test_a_sample_depends_on_seed_epoch_and_position_alone(records: list[ClipRecord], labels: LabelMap) -> None:
    dataset = ClipDataset(records, labels, TRAINING)
    draws = [Draw(clip, epoch, position) for clip in (0, 1) for epoch in (0, 1) for position in (0, 1, 2)]
    forwards = [dataset[draw] for draw in draws]
    np.random.default_rng().random()  # numpy's and torch's global states play no part
    torch.rand(1)
    backwards = [ClipDataset(records, labels, TRAINING)[draw] for draw in reversed(draws)][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    other_seed = ClipDataset(records, labels, dataclasses.replace(TRAINING, seed=5))
    assert not same(other_seed[draws[0]], forwards[0])
    assert not same(forwards[0], forwards[1])  # another position
    assert not same(forwards[0], forwards[3])  # another epoch


def test_training_draws_every_frame(records: list[ClipRecord]) -> None:
    dataset = ClipDataset(records, None, DatasetSettings(preprocessing=SMALL, frames="random", modality="video"))
    levels = {grey_level(dataset[Draw(0, 0, position)]["image"]) for position in range(80)}
    assert levels == set(range(10))


def test_mixup_mixes_sound_picture_and_target(records: list[ClipRecord], labels: LabelMap) -> None:
    settings = DatasetSettings(preprocessing=SMALL, augmentation=Augmentation(noise=0, roll=0, mixup_rate=1))
    dataset = ClipDataset(records, labels, settings)
    for position in range(50):
        sample = dataset[Draw(0, 0, position)]
        weight = sample["target"][0].item()
        if weight < 1:
            break
    assert 0.05 < weight < 0.95
    assert sample["target"].sum().item() == pytest.approx(1)
    other = int(sample["target"][1:].argmax()) + 1
    waveforms = {i: read_record(records[i], "audio", ()).waveform for i in (0, other, other + 3)}
    candidates = [
        prepare_audio(np.float32(weight) * waveforms[0] + np.float32(1 - weight) * waveforms[i], 16000, SMALL)[0]
        for i in (other, other + 3)
    ]
    assert min(np.abs(sample["audio"].numpy() - candidate).max() for candidate in candidates) < 1e-4
    assert grey_level(sample["image"]) == 5  # both are the fifth frame


def test_masked_features_have_the_value_of_padding(records: list[ClipRecord]) -> None:
    augmentation = Augmentation(noise=0, roll=0, time_mask=60)
    long = dataclasses.replace(SMALL, audio_frames=128)  # half of it is padding
    plain, masked = (
        torch.stack([dataset[Draw(3, 0, position)]["audio"] for position in range(8)])
        for part in (None, augmentation)
        for dataset in [ClipDataset(records, None, DatasetSettings(preprocessing=long, augmentation=part))]
    )
    changed = (plain != masked).any(dim=2)
    assert changed.any()
    assert torch.equal(masked[changed], plain[0, -1:].expand(int(changed.sum()), -1))


def test_videos_are_decoded(tmp_path: Path) -> None:
    demo_clip(tmp_path / "a.mp4", seconds=1)
    record = ClipRecord(id="a", video=tmp_path / "a.mp4")
    whole, heard, seen = (read_record(record, modality, [2, 7]) for modality in ("audiovisual", "audio", "video"))
    assert heard.waveform is not None
    np.testing.assert_array_equal(whole.waveform, heard.waveform)
    assert seen.waveform is None
    assert not heard.frames
    for ours, theirs in zip(whole.frames, seen.frames, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    sample = ClipDataset([record], None, EVALUATION)[0]
    assert sample["audio"].shape == (64, 128)
    assert sample["image"].shape == (3, 32, 32)


def test_sound_in_other_formats_goes_through_ffmpeg(records: list[ClipRecord], tmp_path: Path) -> None:
    import av

    expected = read_record(records[0], "audio", ()).waveform
    assert expected is not None
    for name, codec in (("a.flac", "flac"), ("b.wav", "pcm_f32le")):
        with av.open(tmp_path / name, "w") as container:
            stream = container.add_stream(codec, rate=16000, layout="mono")
            kind, scaled = ("s16", expected * 32768) if codec == "flac" else ("flt", expected)
            frame = av.AudioFrame.from_ndarray(
                scaled[None].astype(np.int16 if codec == "flac" else np.float32), format=kind, layout="mono"
            )
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        record = ClipRecord(id="x", wav=tmp_path / name)
        np.testing.assert_array_equal(read_record(record, "audio", ()).waveform, expected)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda record: record.wav.unlink(), "no such file"),
        (lambda record: record.wav.write_bytes(record.wav.read_bytes()[:-100]), "is truncated"),
        (lambda record: record.wav.write_bytes(record.wav.read_bytes()[:300]), "is truncated"),
        (lambda record: record.wav.write_bytes(b"no sound"), "not a media file"),
        (lambda record: record.frames[5].unlink(), "no such file"),
        (lambda record: record.frames[5].write_bytes(b"no picture"), "neither a JPEG nor a PNG"),
    ],
)
def test_a_broken_clip_raises(damage, message, extracted, labels) -> None:  # type: ignore[no-untyped-def]
    records = extracted(2)
    damage(records[1])
    dataset = ClipDataset(records, labels, EVALUATION)
    assert dataset[0]["audio"].isfinite().all()
    with pytest.raises(BrokenClipError, match=message) as caught:
        dataset[1]
    assert caught.value.clip_id == "clip1"
    assert "clip1" in caught.value.reason


def test_sound_shorter_than_a_frame_is_broken(extracted) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BrokenClipError, match=r"clip 'clip0'.*too short"):
        ClipDataset(extracted(1, seconds=0.02), None, EVALUATION)[0]


def test_a_broken_partner_is_named(extracted) -> None:  # type: ignore[no-untyped-def]
    records = extracted(2)
    records[1].wav.unlink()
    settings = dataclasses.replace(TRAINING, augmentation=Augmentation(mixup_rate=1))
    dataset = ClipDataset(records, None, settings)
    with pytest.raises(BrokenClipError, match="clip 'clip1'"):
        [dataset[Draw(0, 0, position)] for position in range(20)]


def test_labels_are_checked_before_a_run(records: list[ClipRecord], labels: LabelMap) -> None:
    with pytest.raises(DataError, match="at least one clip"):
        ClipDataset([], labels, EVALUATION)
    with pytest.raises(DataError, match=r"clip 'a': has no labels, .*; add them, or leave the clip out"):
        ClipDataset([ClipRecord(id="a")], labels, EVALUATION)
    with pytest.raises(DataError, match="clip 'a': unknown label 'moo'"):
        ClipDataset([ClipRecord(id="a", labels=("moo",))], labels, EVALUATION)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="frames='first'"):
        DatasetSettings(frames="first")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="modality='both'"):
        DatasetSettings(modality="both")  # type: ignore[arg-type]
