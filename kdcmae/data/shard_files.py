"""The clips of WebDataset shards, as they lie in tar files. Never imports torch; see :mod:`kdcmae.data.reading`.

The members of a clip stand next to each other in a shard and share their name up to the first dot: ``ID.mp4``, or
``ID.wav`` (or ``.flac``) with ``ID.0.jpg`` to ``ID.9.jpg`` (or a single ``ID.jpg``); and ``ID.json`` with ``labels``.
If a clip has no such member, a member that is neither text nor a picture is taken for the video.
"""

from __future__ import annotations

import itertools
import json
import os
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from tarfile import EOFHeaderError, HeaderError, ReadError  # type: ignore[attr-defined]
from typing import Literal

from kdcmae.config import Modality
from kdcmae.data.manifest import MANIFESTS, ClipRecord, frame_path, parse_labels, read_manifest
from kdcmae.errors import DataError

__all__ = [
    "ShardClip",
    "count_clips",
    "flaw_of",
    "index_shards",
    "list_clips",
    "named_clips",
    "read_shard",
    "read_whole_clips",
    "shard_paths",
    "spooled",
]

_VIDEOS = ("mp4", "mkv", "webm", "mov", "avi", "m4v", "ts", "mts", "m2ts", "3gp", "flv", "wmv", "mpg", "mpeg", "ogv")
_SOUNDS = ("wav", "flac", "mp3", "m4a", "ogg", "opus", "aac", "wma", "aiff", "aif", "caf", "mka")
_NO_MEDIA = ("", "jpg", "jpeg", "png", "webp", "json", "txt", "cls", "csv", "xml", "srt", "vtt", "npy", "npz", "pth")


@dataclass(frozen=True, kw_only=True)
class ShardClip(ClipRecord):
    """A clip of a shard.

    Args:
        members: content of each member, by the part of its name after the first dot.
        flaw: why the clip cannot be used, if known from the shard; also marks the unreadable rest of a damaged shard.
        shard: the file that contains the clip, if known.
    """

    members: Mapping[str, bytes]
    flaw: str | None = None
    shard: Path | None = None

    @property
    def modality(self) -> Modality:
        pictured = any(name.endswith("jpg") for name in self.members)
        return "audio" if _medium(self.members) in _SOUNDS and not pictured else "audiovisual"


class _Stored(Mapping[str, bytes]):
    """Members by their position in the shard, read on access."""

    def __init__(self, shard: Path, places: Mapping[str, tuple[int, int]]) -> None:
        self._shard, self._places = shard, places

    def __getitem__(self, extension: str) -> bytes:
        offset, size = self._places[extension]
        with self._shard.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) < size:
            raise DataError(
                f"{self._shard}: is truncated: {len(content)} of {size} bytes of its .{extension} are there"
            )
        return content

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def shard_paths(folder: str | os.PathLike[str]) -> list[Path]:
    """The shards of a folder, in the order of their names.

    Raises:
        DataError: it has none.
    """
    shards = sorted(Path(folder).glob("*.tar"))
    if not shards:
        raise DataError(f"{folder}: holds no .tar files; give a manifest, or a folder of shards")
    return shards


def list_clips(data: str | os.PathLike[str]) -> list[ClipRecord]:
    """The clips of a manifest, see :func:`~kdcmae.data.manifest.read_manifest`, of a shard or of a folder, one by one.

    A folder without shards: each file in it, at any depth, is a clip without labels.

    Raises:
        DataError: not a manifest, or a folder without files, or shards that hold no clips.
    """
    folder = Path(data)
    if folder.suffix.lower() == ".tar" and folder.is_file():
        return list(index_shards([folder]))
    if not folder.is_dir():
        return read_manifest(data)
    files = [] if any(folder.glob("*.tar")) else sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        return list(index_shards(shard_paths(folder)))
    return [_clip_of_file(path, path.relative_to(folder).as_posix()) for path in files]


def named_clips(path: str | os.PathLike[str]) -> list[ClipRecord]:
    """The clips that a path names: all of a manifest, of shards or of a folder, as :func:`list_clips`, or one file.

    Raises:
        DataError: as of :func:`list_clips`; other files are not checked.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() in (*MANIFESTS, ".tar"):
        return list_clips(path)
    return [_clip_of_file(path, path.name)]


def _clip_of_file(path: Path, clip_id: str) -> ClipRecord:
    if path.suffix.lower().removeprefix(".") in _SOUNDS:
        return ClipRecord(id=clip_id, wav=path)
    return ClipRecord(id=clip_id, video=path)


def flaw_of(record: ClipRecord) -> str | None:
    """Why a clip cannot be used, as far as its shard shows; None otherwise."""
    return record.flaw if isinstance(record, ShardClip) else None


def index_shards(shards: Sequence[Path]) -> list[ShardClip]:
    """The clips of shards to read in any order: only headers and labels are read now, the content on access.

    A further clip with a flaw represents the unreadable rest of a damaged shard.

    Raises:
        DataError: two clips of one id, or no clips.
    """
    clips: dict[str, ShardClip] = {}
    for path in shards:
        for clip in _until_damage(path, _index_shard(path)):
            if clip.id in clips:
                raise DataError(f"{path}: id {clip.id!r} was used before; name the members of each clip differently")
            clips[clip.id] = clip
    _require_clips(shards, clips.values())
    return list(clips.values())


def count_clips(shards: Sequence[Path]) -> int:
    """Number of clips in shards, from the headers of their members; a damaged shard is counted up to the damage.

    Raises:
        DataError: none.
    """
    clips = [clip for path in shards for clip in _until_damage(path, _names_only(path))]
    _require_clips(shards, clips)
    return sum(clip.flaw is None for clip in clips)


def read_shard(path: Path) -> Iterator[ShardClip]:
    """The clips of a shard in order, from one sequential read.

    Raises:
        DataError: not a tar file, truncated or damaged; clips before the damage were yielded.
    """
    for clip_id, group in _groups(path, "r"):
        yield _shard_clip(path, clip_id, {extension: content() for _, extension, _, content in group})


def read_whole_clips(path: Path) -> Iterator[ShardClip]:
    """The clips of a shard in order, as :func:`read_shard`; a further clip with a flaw represents a damaged rest."""
    return _until_damage(path, read_shard(path))


def _until_damage(path: Path, clips: Iterator[ShardClip]) -> Iterator[ShardClip]:
    try:
        yield from clips
    except DataError as error:
        yield ShardClip(id=path.name, members={}, flaw=str(error), shard=path)


def _require_clips(shards: Sequence[Path], clips: Collection[ShardClip]) -> None:
    if all(clip.flaw is not None and not clip.members for clip in clips):
        reason = next((f": {clip.flaw}" for clip in clips), "")
        raise DataError(f"no clips in {', '.join(map(str, shards))}{reason}")


def _index_shard(path: Path) -> Iterator[ShardClip]:
    for clip_id, group in _groups(path, "r:"):
        places = {extension: (info.offset_data, info.size) for _, extension, info, _ in group}
        yield _shard_clip(path, clip_id, _Stored(path, places))


def _names_only(path: Path) -> Iterator[ShardClip]:
    for clip_id, group in _groups(path, "r"):
        yield ShardClip(id=clip_id, members={extension: b"" for _, extension, _, _ in group})


def _shard_clip(path: Path, clip_id: str, members: Mapping[str, bytes]) -> ShardClip:
    try:
        labels, flaw = _labels(path, clip_id, members.get("json")), None
    except DataError as error:
        labels, flaw = (), str(error)
    return ShardClip(id=clip_id, labels=labels, members=members, flaw=flaw, shard=path)


_Member = tuple[str, str, tarfile.TarInfo, Callable[[], bytes]]


def _groups(path: Path, mode: Literal["r", "r:"]) -> Iterator[tuple[str, Iterator[_Member]]]:
    """The id of each clip of a shard, and its members."""
    for prefix, group in itertools.groupby(_members(path, mode), key=lambda member: member[0]):
        yield PurePosixPath(prefix).name, group


def _members(path: Path, mode: Literal["r", "r:"]) -> Iterator[_Member]:
    """The files of a shard: id of the clip, extension, header and content."""
    with _whole(path), tarfile.open(path, mode, tarinfo=_StrictInfo) as shard:
        for member in shard:
            folder, name = str(PurePosixPath(member.name).parent), PurePosixPath(member.name).name
            stem, _, extension = name.partition(".")
            if member.isfile() and stem:
                yield f"{folder}/{stem}", extension.lower(), member, partial(_content, path, shard, member)
        _require_nothing_behind(shard)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Report errors of a tar file or of its decompressor in one line."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # each decompressor has its own exception
        strerror = error.strerror if isinstance(error, OSError) else None
        reason = strerror or str(error).partition(":\n")[0]
        raise DataError(f"{path}: is no tar file, or truncated or damaged: {reason}") from error


class _StrictInfo(tarfile.TarInfo):
    """Headers that raise an error where :mod:`tarfile` would take a damaged header for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> _StrictInfo:
        assert tarfile.fileobj is not None
        place = tarfile.fileobj.tell()
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:  # the blocks of zeros at the end
            raise
        except HeaderError as error:
            raise ReadError(f"no whole header at byte {place}: {error}") from error


def _require_nothing_behind(shard: tarfile.TarFile) -> None:
    """Check that the end of the archive is not a header that was overwritten with zeros."""
    file = shard.fileobj
    assert file is not None
    place = file.tell()
    while chunk := file.read(1 << 20):
        if any(chunk):
            raise ReadError(f"more follows its end marker at byte {place}")


def _content(path: Path, shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with _whole(path):
        file = shard.extractfile(member)
        assert file is not None
        with file:
            return file.read()


def _labels(shard: Path, clip_id: str, content: bytes | None) -> tuple[str, ...]:
    if content is None:
        return ()
    place = f"{shard}: {clip_id}.json"
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{place}: is {fields!r} instead of an object with fields")
    return parse_labels(fields, place=place)


def spooled(clip: ShardClip, folder: Path, frame_numbers: Sequence[int]) -> ClipRecord:
    """Write the members of a clip that reading these frames needs into a folder, and return a record of those files.

    Raises:
        DataError: it has neither video nor sound, or lacks a frame.
    """
    medium = _medium(clip.members)
    if medium is None:
        raise DataError(f"has neither video nor sound, only {', '.join(clip.members)}; no name may have an early dot")
    media = folder / f"{clip.id}.{medium}"
    media.write_bytes(clip.members[medium])
    if medium not in _SOUNDS:
        return ClipRecord(id=clip.id, video=media)
    for number in frame_numbers:
        content = clip.members.get(f"{number}.jpg", clip.members.get("jpg"))
        if content is None:
            raise DataError(f"has no member {number}.jpg")
        path = frame_path(folder, clip.id, number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return ClipRecord(id=clip.id, wav=media, frames_folder=folder)


def _medium(members: Collection[str]) -> str | None:
    """The member with the video, else with the sound, else one of an unknown name."""
    known = next((name for name in (*_VIDEOS, *_SOUNDS) if name in members), None)
    return known or next((name for name in members if "." not in name and name not in _NO_MEDIA), None)
