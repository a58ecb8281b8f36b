"""The clips of WebDataset shards, as they lie in tar files. Never imports torch; see :mod:`kdcmae.data.reading`.

The members of a clip stand next to each other in a shard and share their name up to the first dot: ``ID.mp4``, or
``ID.wav`` (or ``.flac``) with ``ID.0.jpg`` to ``ID.9.jpg`` (or a single ``ID.jpg``); and ``ID.json`` with ``labels``.
"""

from __future__ import annotations

import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from kdcmae.config import Modality
from kdcmae.data.manifest import ClipRecord, frame_path, parse_labels, read_manifest
from kdcmae.errors import DataError

__all__ = ["ShardClip", "count_clips", "index_shards", "list_clips", "read_shard", "shard_paths", "spooled"]

_VIDEOS = ("mp4", "mkv", "webm", "mov", "avi")
_SOUNDS = ("wav", "flac", "mp3", "m4a", "ogg")


@dataclass(frozen=True, kw_only=True)
class ShardClip(ClipRecord):
    """A clip of a shard: the content of its members by what follows the first dot of their names."""

    members: Mapping[str, bytes]

    @property
    def modality(self) -> Modality:
        return "audio" if not any(name in _VIDEOS or name.endswith("jpg") for name in self.members) else "audiovisual"


class _Stored(Mapping[str, bytes]):
    """Members that are read from the shard when they are asked for; it knows where they lie."""

    def __init__(self, shard: Path, places: Mapping[str, tuple[int, int]]) -> None:
        self._shard, self._places = shard, places

    def __getitem__(self, extension: str) -> bytes:
        offset, size = self._places[extension]
        with self._shard.open("rb") as file:
            file.seek(offset)
            return file.read(size)

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
    """The clips of a manifest, see :func:`~kdcmae.data.manifest.read_manifest`, or of a folder of shards, one by one.

    Raises:
        DataError: not a manifest, a folder without shards, or a shard that cannot be read.
    """
    return list(index_shards(shard_paths(data))) if Path(data).is_dir() else read_manifest(data)


def index_shards(shards: Sequence[Path]) -> list[ShardClip]:
    """The clips of shards to read in any order: only headers and labels are read now, the rest when it is asked for.

    Raises:
        DataError: a shard that is compressed or cannot be read, two clips of one id, or no clips.
    """
    clips: dict[str, ShardClip] = {}
    for path in shards:
        for prefix, group in itertools.groupby(_members(path, "r:"), key=lambda member: member[0]):
            clip_id = PurePosixPath(prefix).name
            if clip_id in clips:
                raise DataError(f"{path}: id {clip_id!r} was used before; name the members of each clip differently")
            members = _Stored(path, {extension: (info.offset_data, info.size) for _, extension, info, _ in group})
            labels = _labels(path, clip_id, members.get("json"))
            clips[clip_id] = ShardClip(id=clip_id, labels=labels, members=members)
    if not clips:
        raise DataError(f"no clips in {', '.join(map(str, shards))}")
    return list(clips.values())


def count_clips(shards: Sequence[Path]) -> int:
    """How many clips shards hold, from the headers of their members alone.

    Raises:
        DataError: a shard that cannot be read.
    """
    return sum(1 for shard in shards for _ in itertools.groupby(_members(shard), key=lambda member: member[0]))


def read_shard(path: Path) -> Iterator[ShardClip]:
    """The clips of a shard in order, from one sequential read.

    Raises:
        DataError: not a tar file, or truncated.
    """
    for prefix, group in itertools.groupby(_members(path), key=lambda member: member[0]):
        members = {extension: content() for _, extension, _, content in group}
        clip_id = PurePosixPath(prefix).name
        yield ShardClip(id=clip_id, labels=_labels(path, clip_id, members.get("json")), members=members)


def _members(
    path: Path, mode: Literal["r", "r:"] = "r"
) -> Iterator[tuple[str, str, tarfile.TarInfo, Callable[[], bytes]]]:
    """The files of a shard: what they share with the others of their clip, their extension, header and content."""
    try:
        with tarfile.open(path, mode) as shard:
            for member in shard:
                folder, name = str(PurePosixPath(member.name).parent), PurePosixPath(member.name).name
                stem, _, extension = name.partition(".")
                if member.isfile() and stem:
                    yield f"{folder}/{stem}", extension.lower(), member, partial(_content, shard, member)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path}: is no tar file, or truncated: {error}") from error


def _content(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
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
    except ValueError as error:
        raise DataError(f"{place}: is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{place}: is {fields!r} instead of an object with fields")
    return parse_labels(fields, place=place)


def spooled(clip: ShardClip, folder: Path, frame_numbers: Sequence[int]) -> ClipRecord:
    """The clip with files of its own in a folder: only those that reading these frames needs are written.

    Raises:
        DataError: it has neither video nor sound, or lacks a frame.
    """
    for extension in (*_VIDEOS, *_SOUNDS):
        if extension in clip.members:
            media = folder / f"{clip.id}.{extension}"
            media.write_bytes(clip.members[extension])
            if extension in _VIDEOS:
                return ClipRecord(id=clip.id, video=media)
            break
    else:
        raise DataError(f"has neither video nor sound, only {', '.join(clip.members)}; no name may have an early dot")
    for number in frame_numbers:
        content = clip.members.get(f"{number}.jpg", clip.members.get("jpg"))
        if content is None:
            raise DataError(f"has no member {number}.jpg")
        path = frame_path(folder, clip.id, number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return ClipRecord(id=clip.id, wav=media, frames_folder=folder)
