"""Lists of clips: what a manifest says about each clip, and the map from labels to classes.

Three formats are read: the published JSON over extracted sound and frames, and CSV or JSON lines over video files.
"""

from __future__ import annotations

import difflib
import json
import os
import reprlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.config import Modality
from kdcmae.errors import DataError
from kdcmae.files.disk import writing
from kdcmae.files.replacing import replacing
from kdcmae.files.text import read_json, read_json_lines, read_table, without_line_breaks
from kdcmae.labels import read_class_names
from kdcmae.media.frame_numbers import FRAMES_PER_CLIP

__all__ = ["MANIFESTS", "ClipRecord", "LabelMap", "frame_path", "parse_labels", "read_manifest", "write_manifest"]

MANIFESTS = (".json", ".csv", ".jsonl")
"""Suffixes of manifests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRecord:
    """One clip: a video to decode, or the sound and frames extracted from one.

    Args:
        id: unique in its manifest, and fit for a file name.
        labels: ids or names of its classes; empty for a clip without labels.
        video: the video file.
        wav: the extracted sound.
        frames_folder: of the extracted frames, ``frame_0/ID.jpg`` to ``frame_9/ID.jpg``.
        mask: a picture, white where the sounding object is in the middle frame; for localisation.
    """

    id: str
    labels: tuple[str, ...] = ()
    video: Path | None = None
    wav: Path | None = None
    frames_folder: Path | None = None
    mask: Path | None = None

    @property
    def frames(self) -> tuple[Path, ...]:
        """The extracted frame files, ten or none."""
        if self.frames_folder is None:
            return ()
        return tuple(frame_path(self.frames_folder, self.id, number) for number in range(FRAMES_PER_CLIP))

    @property
    def modality(self) -> Modality:
        """The clip's modalities; a manifest of extracted clips may have only sound or only frames."""
        if self.video is not None or (self.wav is not None and self.frames_folder is not None):
            return "audiovisual"
        return "audio" if self.wav is not None else "video"


def frame_path(folder: Path, clip_id: str, number: int) -> Path:
    """Where the published layout keeps frame ``number`` (0 to 9) of a clip."""
    return folder / f"frame_{number}" / f"{clip_id}.jpg"


@dataclass(frozen=True)
class LabelMap:
    """Classes in the order of a model's outputs.

    Args:
        names: one per class, for people.
        ids: alternatives to the names that manifests may use, one per class, such as AudioSet's ``/m/09x0r``.
    """

    names: tuple[str, ...]
    ids: tuple[str, ...]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> LabelMap:
        """Read the published CSV (``index,mid,display_name``), or a text file with one name per line.

        Raises:
            DataError: not such a file; see :func:`~kdcmae.labels.read_class_names`.
        """
        classes = read_class_names(path)
        return cls(classes.names, classes.ids)

    @classmethod
    def of_records(cls, records: Iterable[ClipRecord]) -> LabelMap:
        """The labels of a manifest, in alphabetical order.

        Raises:
            DataError: no clip has a label.
        """
        names = tuple(sorted({label for record in records for label in record.labels}))
        if not names:
            raise DataError("no clip has a label: fill the field labels of the manifest, or name the classes in a file")
        return cls(names, names)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {label: index for labels in (self.names, self.ids) for index, label in enumerate(labels)}

    def __contains__(self, label: str) -> bool:
        """Whether a class has this id or name."""
        return label in self._index

    def index(self, label: str) -> int:
        """The class of an id or name.

        Raises:
            DataError: no class has it.
        """
        if label not in self._index:
            raise DataError(self.unknown(label))
        return self._index[label]

    def unknown(self, label: str) -> str:
        """Error text for a label that is not a class."""
        near = difflib.get_close_matches(label, self._index, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else " (several labels are separated by ';')"
        return f"unknown label {label!r}{hint}"

    def multi_hot(self, labels: Iterable[str]) -> NDArray[np.float32]:
        """(classes,) float32: 1 for the classes of the labels, 0 elsewhere."""
        target = np.zeros(len(self), dtype=np.float32)
        target[[self.index(label) for label in labels]] = 1
        return target


def read_manifest(path: str | os.PathLike[str]) -> list[ClipRecord]:
    """Read a list of clips. Paths in it are relative to its folder; files need not exist.

    Args:
        path: ``.json``: ``{"data": [{"video_id", "wav", "video_path", "labels": "id,id"}]}``, as published, with
            frames at ``video_path/frame_{0..9}/video_id.jpg``. ``.csv`` with a header, or ``.jsonl``: the fields
            ``path`` of a video, and optionally ``labels`` (or ``label``) separated by ``;``, ``id`` (otherwise the
            file's name without its suffix) and ``mask``. In JSON, labels may also be a list. Other fields are ignored.

    Raises:
        DataError: cannot be read, a field is missing or has the wrong type, or two clips have one id.
    """
    path = Path(path)
    readers = dict(zip(MANIFESTS, (_published, _csv, _json_lines), strict=True))
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: a manifest is a .json, .csv or .jsonl file")
    ids: dict[str, int] = {}
    records: list[ClipRecord] = []
    for place, record in readers[path.suffix.lower()](path):
        first = ids.setdefault(record.id, len(records))
        if first != len(records):
            raise DataError(f"{place}: id {record.id!r} was used before, by clip {first + 1} of {len(records) + 1}")
        records.append(record)
    if not records:
        raise DataError(f"{path}: lists no clips")
    return records


def write_manifest(path: Path, records: Sequence[ClipRecord], **facts: Any) -> None:
    """Write ``.json`` (extracted clips) or ``.jsonl`` (videos), as :func:`read_manifest` reads it, in one step.

    Args:
        path: of the file; clips' paths are written relative to its folder.
        records: at least one.
        facts: more fields for every clip.

    Raises:
        DiskFullError: no space is left for it.
    """
    if path.suffix == ".json":
        entries = [{**_published_entry(record, path.parent), **facts} for record in records]
        text = json.dumps({"data": entries}, indent=1) + "\n"
    else:
        text = "".join(json.dumps({**_video_entry(record, path.parent), **facts}) + "\n" for record in records)
    with writing(path), replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def parse_labels(fields: Mapping[str, Any], *, place: str, separator: str = ";") -> tuple[str, ...]:
    """The labels of a clip: its field ``labels`` or ``label``, a list of texts or one text with separators.

    Returns:
        One line each; none if the field is missing or empty.

    Raises:
        DataError: neither a list nor text, or both fields; says where, which is ``place``.
    """
    if fields.get("labels") and fields.get("label"):
        raise DataError(f"{place}: has both a field label and a field labels; keep one of them")
    value = fields.get("labels") or fields.get("label")
    if isinstance(value, list) and all(isinstance(label, str) and label.strip() for label in value):
        parts: list[str] = value
    elif isinstance(value, str) or value is None:
        parts = (value or "").split(separator)
    else:
        raise DataError(f"{place}: field labels={reprlib.repr(value)} must be text or a list of texts")
    if any("\0" in part for part in parts):
        raise DataError(f"{place}: field labels={reprlib.repr(value)} holds a NUL character")
    return tuple(sys.intern(label) for label in map(without_line_breaks, parts) if label)


@lru_cache(maxsize=64)  # millions of clips share their folder of frames
def _joined(folder: Path, value: str) -> Path:
    return folder / value


class _Entry:
    """The fields of one clip, and their place in the file."""

    def __init__(self, place: str, fields: Any, folder: Path) -> None:
        if not isinstance(fields, dict):
            raise DataError(f"{place}: is {reprlib.repr(fields)} instead of an object with fields")
        self.place, self.fields, self.folder = place, fields, folder

    def text(self, name: str) -> str | None:
        value = self.fields.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise DataError(f"{self.place}: field {name}={reprlib.repr(value)} must be text")
        if not _fit_for_the_system(value):
            raise DataError(
                f"{self.place}: field {name}={reprlib.repr(value)} holds a character that no file name can have"
            )
        return value

    def required(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise DataError(f"{self.place}: field {name} is missing or empty")
        return value

    def path(self, name: str) -> Path | None:
        value = self.text(name)
        return None if value is None else _joined(self.folder, value)

    def id(self, name: str, default: str | None = None) -> str:
        value = default if default and self.text(name) is None else self.required(name)
        if "/" in value or "\\" in value or value in (".", ".."):
            raise DataError(f"{self.place}: field {name}={reprlib.repr(value)} must be fit for a file name")
        return value

    def labels(self, separator: str) -> tuple[str, ...]:
        return parse_labels(self.fields, place=self.place, separator=separator)


def _fit_for_the_system(text: str) -> bool:
    r"""Whether a text can be a file's name: JSON can spell NUL and half a surrogate pair as ``\u....``."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


_Records = Iterator[tuple[str, ClipRecord]]  # each with the place in the file it comes from


def _published(path: Path) -> _Records:
    document = read_json(path)
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        raise DataError(f'{path}: field data is missing: a JSON manifest is {{"data": [...]}}')
    for number, fields in enumerate(document["data"]):
        entry = _Entry(f"{path}: data[{number}]", fields, path.parent)
        record = ClipRecord(
            id=entry.id("video_id"),
            labels=entry.labels(","),
            wav=entry.path("wav"),
            frames_folder=entry.path("video_path"),
        )
        if record.wav is None and record.frames_folder is None:
            raise DataError(f"{entry.place}: fields wav and video_path are both missing or empty")
        yield entry.place, record


def _csv(path: Path) -> _Records:
    table = read_table(path)
    if "path" not in table.columns:
        raise DataError(
            f"{path}: line 1: column path is missing; the columns are path,labels and optionally id and mask, "
            f"and the file has {','.join(table.columns)}"
        )
    for place, fields in table.rows:
        yield place, _video(_Entry(place, dict(fields), path.parent))


def _json_lines(path: Path) -> _Records:
    for place, fields in read_json_lines(path):
        yield place, _video(_Entry(place, fields, path.parent))


def _video(entry: _Entry) -> ClipRecord:
    video = entry.required("path")
    return ClipRecord(
        id=entry.id("id", default=Path(video).stem),
        labels=entry.labels(";"),
        video=entry.folder / video,
        mask=entry.path("mask"),
    )


def _published_entry(record: ClipRecord, folder: Path) -> dict[str, Any]:
    # Unlike ids, names may contain commas, which the published code cannot read; it needs ids.
    separable = not any("," in label for label in record.labels)
    return {
        "video_id": record.id,
        "wav": _relative(record.wav, folder),
        "video_path": _relative(record.frames_folder, folder),
        "labels": ",".join(record.labels) if separable else list(record.labels),
    }


def _video_entry(record: ClipRecord, folder: Path) -> dict[str, Any]:
    entry = {"id": record.id, "path": _relative(record.video, folder), "labels": list(record.labels)}
    return entry if record.mask is None else {**entry, "mask": _relative(record.mask, folder)}


def _relative(path: Path | None, folder: Path) -> str | None:
    return None if path is None else Path(os.path.relpath(path, folder)).as_posix()
