"""Normalisation statistics stored beside a data set, where training reads them.

A published JSON manifest may have them beside its field ``data``. For every kind of data set, a separate file may hold
them: ``stats.json`` in a folder of shards, ``NAME.stats.json`` beside a manifest or a single shard ``NAME``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcmae.errors import ConfigError, DataError
from kdcmae.files.disk import writing
from kdcmae.files.replacing import replacing
from kdcmae.files.text import read_json
from kdcmae.runtime.preprocessing import Preprocessing

__all__ = ["KeptStatistics", "read_statistics", "statistics_path", "write_statistics"]

_NAMES = ("fbank_mean", "fbank_std", "image_mean", "image_std", "mono")


@dataclass(frozen=True, kw_only=True)
class KeptStatistics:
    """Statistics stored beside clips.

    Args:
        path: of the file.
        values: some of ``fbank_mean``, ``fbank_std``, ``image_mean``, ``image_std`` and ``mono``.
        audio_frames: that the sound was padded with zeros or cut to; None if the file does not say.
    """

    path: Path
    values: Mapping[str, Any]
    audio_frames: int | None = None

    def require_frames(self, audio_length: int) -> None:
        """Refuse statistics of spectrograms of another length, because they include padding.

        Raises:
            ConfigError: they were measured over another number of frames.
        """
        if self.audio_frames not in (None, audio_length):
            raise ConfigError(
                f"{self.path} was measured over {self.audio_frames} frames and the model takes {audio_length}; measure "
                f"again with kdcmae data stats --audio-frames {audio_length} --write, or --set fbank_mean and fbank_std"
            )


def read_statistics(data: str | os.PathLike[str]) -> KeptStatistics | None:
    """The statistics stored with a manifest, a shard or a folder of shards; None if there are none.

    Raises:
        DataError: the file cannot be read, a value is out of range, or two files have them.
    """
    own, beside = _of_manifest(Path(data)), _path_of(Path(data))
    if not beside.is_file():
        return own
    if own is not None:
        raise DataError(f"both {data} and {beside} hold statistics; remove them from one")
    document = read_json(beside)
    if not isinstance(document, dict) or not document.keys() & set(_NAMES):
        raise DataError(f"{beside}: holds none of {', '.join(_NAMES)}; write it with kdcmae data stats --write")
    return _checked(beside, document)


def statistics_path(data: str | os.PathLike[str]) -> Path:
    """The file in which :func:`write_statistics` stores those of a manifest, a shard or a folder of shards.

    Raises:
        DataError: the manifest holds statistics itself, or the folder no shards.
    """
    if _of_manifest(Path(data)) is not None:
        raise DataError(f"{data} holds statistics itself; change them there, or remove them and run again")
    path = _path_of(Path(data))
    if path.parent == Path(data) and not any(path.parent.glob("*.tar")):
        raise DataError(f"{data} holds no shards, and training takes no folder of clips; give a manifest")
    return path


def write_statistics(data: str | os.PathLike[str], values: Mapping[str, Any], **facts: Any) -> Path:
    """Store statistics beside a manifest or a shard, or in a folder of shards.

    Args:
        data: the manifest, the shard or the folder.
        values: as of :class:`KeptStatistics`.
        facts: further fields of the file.

    Returns:
        The file.

    Raises:
        DataError: as of :func:`statistics_path`, or the values are out of range.
        DiskFullError: no space is left for it.
    """
    path = statistics_path(data)
    document = {**values, **facts}
    _checked(path, document)
    with writing(path), replacing(path) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def _path_of(data: Path) -> Path:
    return data / "stats.json" if data.is_dir() else data.with_name(f"{data.name}.stats.json")


def _of_manifest(path: Path) -> KeptStatistics | None:
    """Statistics in a published manifest; it is parsed only if it names one."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return None
    content = path.read_bytes()
    if not any(f'"{name}"'.encode() in content for name in _NAMES):
        return None
    document = read_json(path)
    return _checked(path, document) if isinstance(document, dict) and document.keys() & set(_NAMES) else None


def _checked(path: Path, document: Mapping[str, Any]) -> KeptStatistics:
    facts = {name: document[name] for name in (*_NAMES, "audio_frames") if name in document}
    try:
        checked = Preprocessing.from_dict(facts)
    except ConfigError as error:
        raise DataError(f"{path}: {error}") from error
    values = {name: getattr(checked, name) for name in _NAMES if name in facts}
    return KeptStatistics(path=path, values=values, audio_frames=facts.get("audio_frames"))
