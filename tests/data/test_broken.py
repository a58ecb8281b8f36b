from __future__ import annotations

import errno
import pickle
from pathlib import Path

import pytest

from kdcmae.data.broken import BrokenClipError, clip_boundary
from kdcmae.data.check import check_clips
from kdcmae.data.dataset import ClipDataset, DatasetSettings
from kdcmae.data.extract import extract
from kdcmae.data.loader import ClipLoader, evaluation_loader, training_loader
from kdcmae.data.manifest import ClipRecord
from kdcmae.data.reading import RawClip, read_record
from kdcmae.data.sampling import BatchSampler, InOrder
from kdcmae.data.stats import spectrogram_stats
from kdcmae.data.synthetic import demo_clip
from kdcmae.errors import ConfigError, DataError, DiskFullError
from kdcmae.runtime.preprocessing import Preprocessing

SETTINGS = DatasetSettings(preprocessing=Preprocessing(audio_frames=32, image_size=16))
UNFORESEEN = [
    (ValueError("buffer size\nis odd"), "ValueError: buffer size is odd"),
    (OSError(errno.EACCES, "Permission denied", "a.wav"), "PermissionError: .*Permission denied: 'a.wav'"),
    (OSError(errno.ENAMETOOLONG, "File name too long"), "OSError: .*File name too long"),
    (RecursionError("too deep"), "RecursionError: too deep"),
    (KeyError("sound"), "KeyError: 'sound'"),
    (ConfigError("side=0"), "ConfigError: side=0"),
    (DataError("a.mp4: is empty"), "a.mp4: is empty"),
]
FULL = [errno.ENOSPC, errno.EDQUOT]


@pytest.mark.parametrize(("error", "reason"), UNFORESEEN, ids=lambda value: type(value).__name__)
def test_any_error_is_a_broken_clip_with_its_type(error: Exception, reason: str) -> None:
    with pytest.raises(BrokenClipError, match=f"^clip 'a': {reason}$") as caught, clip_boundary("a"):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", FULL)
def test_a_full_disk_stops_the_run(code: int) -> None:
    with pytest.raises(DiskFullError, match=r"^/tmp/x: no space left on the device"), clip_boundary("a"):
        raise OSError(code, "full", "/tmp/x")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
def test_what_is_not_the_clips_fault_passes(error: type[BaseException]) -> None:
    with pytest.raises(error), clip_boundary("a"):
        raise error


def test_the_inner_clip_is_blamed_and_passes_between_processes() -> None:
    with pytest.raises(BrokenClipError) as caught, clip_boundary("outer"), clip_boundary("inner"):
        raise ValueError("x")
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (copy.clip_id, copy.reason, str(copy)) == ("inner", "ValueError: x", str(caught.value))


class Failing:
    """Reads clips from their files, but for one that raises; sent to worker processes."""

    def __init__(self, clip_id: str, error: BaseException) -> None:
        self.clip_id, self.error = clip_id, error

    def __call__(self, record: ClipRecord, modality: object, frame_numbers: object) -> RawClip:
        if record.id == self.clip_id:
            raise self.error
        return read_record(record, modality, frame_numbers)  # type: ignore[arg-type]


def batches(records: list[ClipRecord], error: BaseException, workers: int, *, training: bool) -> ClipLoader:
    dataset = ClipDataset(records, None, SETTINGS, Failing("clip3", error))
    make = training_loader if training else evaluation_loader
    return make(
        dataset,
        BatchSampler(InOrder(len(records)), batch_size=4, drop_last=training),
        workers=workers,
        broken_limit=0.1,
    )


@pytest.mark.parametrize("training", [True, False])
def test_loaders_go_on_behind_any_error(records: list[ClipRecord], training: bool) -> None:
    loader = batches(records, ValueError("odd"), 0, training=training)
    assert sum(len(batch["index"]) for batch in loader.batches(0)) == (12 if training else 11)
    assert loader.broken.reasons == {"clip3": "ValueError: odd"}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full", "/tmp/x"), MemoryError("40 GiB")])
def test_workers_stop_the_run_in_one_line(records: list[ClipRecord], error: Exception, workers: int) -> None:
    loader = batches(records, error, workers, training=True)
    expected = MemoryError if isinstance(error, MemoryError) else DiskFullError
    with pytest.raises(expected) as caught:
        list(loader.batches(0))
    assert "\n" not in str(caught.value)


def test_a_batch_without_a_whole_clip_is_left_out(records: list[ClipRecord]) -> None:
    dataset = ClipDataset(records[3:4], None, SETTINGS, Failing("clip3", ValueError("odd")))
    loader = training_loader(dataset, BatchSampler(InOrder(1), batch_size=1), broken_limit=1)
    assert list(loader.batches(0)) == []
    assert list(loader.broken.reasons) == ["clip3"]


def odd_clips(folder: Path, good: ClipRecord) -> list[ClipRecord]:
    """Files that raised what nobody foresaw, and one that is whole."""
    assert good.wav is not None
    content = good.wav.read_bytes()
    (folder / "odd.wav").write_bytes(content[:10001])
    long_name = folder / f"{'x' * 300}.wav"
    paths = {"odd": folder / "odd.wav", "long": long_name, "loop": folder / "loop.wav", "zero": folder / "a\0b.wav"}
    (folder / "loop.wav").symlink_to(folder / "loop.wav")
    return [good, *(ClipRecord(id=name, wav=path) for name, path in paths.items())]


@pytest.mark.parametrize("processes", [1, 2])
def test_check_and_stats_go_on(records: list[ClipRecord], tmp_path: Path, processes: int) -> None:
    clips = odd_clips(tmp_path, ClipRecord(id="good", wav=records[0].wav))
    problems = check_clips(clips, None, shortest_s=0.1, processes=processes)
    assert {problem.clip_id for problem in problems} == {"odd", "long", "loop", "zero"}
    assert all("\n" not in problem.detail for problem in problems)
    with pytest.raises(DataError, match=r"\d of 5 clips cannot be used"):
        spectrogram_stats(clips, audio_frames=32, processes=processes)


def test_extract_goes_on_behind_names_that_are_too_long(tmp_path: Path) -> None:
    demo_clip(tmp_path / "a.mp4", seconds=1)
    names = {"a": "a.mp4", "x" * 245: "a.mp4", "y" * 253: "a.mp4", "z": "z" * 300}
    videos = [ClipRecord(id=name, video=tmp_path / path) for name, path in names.items()]
    outcome = extract(videos, tmp_path / "out", image_size=32)
    assert outcome.extracted == 2
    assert sorted(name[0] for name in outcome.failed) == ["y", "z"]
    assert all("File name too long" in reason for reason in outcome.failed.values())
