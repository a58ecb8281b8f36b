"""Cache of engines, quantised graphs and measured choices, by everything that went into them.

The files of an entry are copied out, never linked, so that editing them cannot change the cache; and the copies are
checked against the digests they were stored with, so that a damaged entry is dropped and made again. A failure of the
cache never fails a build: see :class:`BuildCache`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from kdcmae import host
from kdcmae.compile.targets import load_target, version_of
from kdcmae.errors import ConfigError, EngineError, KdcmaeError, one_line
from kdcmae.files import publishing
from kdcmae.files.disk import disk_is_full
from kdcmae.files.user_cache import user_cache
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.manifest import Manifest, digest, verify_files
from kdcmae.runtime.schema import MANIFEST_FILE

__all__ = ["BuildCache", "Cache", "cache_key"]

Result = TypeVar("Result")

_LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch")  # of every build; each target adds its own
_SOURCES = ("kdcmae", "kdcmae.compile", "kdcmae.kernels")
_SUFFIXES = (".py", ".json", ".csv", ".txt")  # weights count with the model that they are of
_FILES, _DIGESTS = "files", "sha256.json"  # of an entry
_KEY = re.compile(r"(quantized-|tuned-)?[0-9a-f]{64}")
_NO_FAST_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def cache_key(model: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The cache key of a build: a digest of everything that decides its result.

    Args:
        model: the options that choose the model; a path counts by its file's name and content.
        settings: of the build, likewise; the ``target`` adds what decides what it builds.

    Returns:
        64 hexadecimal digits, from these, the versions of the libraries, this package's own files, and the machine.

    Raises:
        OSError: a file that cannot be read.
    """
    facts = {
        "model": _described(model),
        "settings": _described(settings),
        "versions": {name: version_of(name) for name in _LIBRARIES},
        "target": load_target(settings["target"]).identity(),
        "sources": _sources(),
        "host": host.describe_host(),
        # Differ on one machine, by the cap on its instructions.
        "cpu_features": sorted(this_cpu().features),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Cache:
    """Files by :func:`cache_key`. The least recently used entries are dropped when the limit is reached.

    Args:
        folder: of the entries; made when the first one is stored.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    @classmethod
    def of_user(cls) -> Cache:
        """``$KDCMAE_CACHE`` or ``~/.cache/kdcmae``, of ``$KDCMAE_CACHE_GB`` or 10 gigabytes.

        Raises:
            ConfigError: ``$KDCMAE_CACHE_GB`` is not a number of gigabytes, or this user has no home folder.
        """
        limit = os.environ.get("KDCMAE_CACHE_GB") or "10"
        try:
            gigabytes = float(limit)
        except ValueError:
            gigabytes = math.nan
        if not 0 <= gigabytes < math.inf:
            raise ConfigError(f"KDCMAE_CACHE_GB={limit!r} is not a number of gigabytes")
        return cls(user_cache(), int(gigabytes * 1e9))

    def fetch(self, key: str, folder: Path) -> Manifest | None:
        """Put a stored engine into its place; an engine there is replaced.

        Returns:
            Its manifest; None where there is none, or where it was damaged and is dropped.

        Raises:
            EngineError: the destination cannot be written to.
            OSError: likewise, such as for a full disk.
        """
        if not os.path.lexists(self.folder / key):
            return None
        publishing.check_destination(folder)
        with publishing.staging(folder) as partial:
            if not self.fetch_files(key, partial):
                return None
            manifest = _whole_engine(partial)
            if manifest is None:
                _drop(self.folder / key)
                return None
            publishing.publish(partial, folder)
        return manifest

    def store(self, key: str, folder: Path, manifest: Manifest | None = None) -> None:
        """Keep a copy of an engine folder, and drop the least recently used entries that leave it no room.

        Args:
            manifest: of that engine: where another build has replaced it since, nothing is kept.

        Raises:
            EngineError: the cache's folder cannot be written to. A caching failure does not affect the engine.
            OSError: likewise, such as for a full disk.
        """
        self.store_files(key, tuple(folder.iterdir()), keep=lambda copy: manifest in (None, _whole_engine(copy)))

    def fetch_files(self, key: str, folder: Path) -> bool:
        """Copy the files of an entry into a folder.

        Args:
            folder: where they go; holds none of them afterwards where the entry was damaged.

        Returns:
            Whether they are all there as they were stored; a damaged entry is dropped.

        Raises:
            OSError: the folder cannot be written to.
        """
        entry = self.folder / key
        if not os.path.lexists(entry):
            return False
        copied: list[Path] = []
        try:
            for name, expected in _digests(entry).items():
                copied.append(folder / name)
                _copy(entry / _FILES / name, folder / name)
                if digest(folder / name) != expected:
                    raise ValueError(f"{name} has changed")
        except (OSError, ValueError) as error:
            for path in copied:
                path.unlink(missing_ok=True)
            if disk_is_full(error):  # the disk that the copy goes to is full: the entry is intact
                raise
            _drop(entry)
            return False
        with suppress(OSError):  # of another user, or on a disk that is read-only
            os.utime(entry)  # the least recently used go first
        return True

    def store_files(self, key: str, files: Sequence[Path], keep: Callable[[Path], bool] = lambda copy: True) -> None:
        """Keep copies of files, and drop the least recently used entries that leave them no room.

        Args:
            files: of different names; what is larger than the whole cache is not kept.
            keep: whether the folder of the copies, once they are there, is worth keeping.

        Raises:
            EngineError: the cache's folder cannot be written to.
            OSError: likewise, such as for a full disk.
        """
        if sum(path.stat().st_size for path in files) > self.limit_bytes:
            return
        entry = self.folder / key
        with publishing.staging(entry, fix="set KDCMAE_CACHE to a folder that can be") as partial:
            (partial / _FILES).mkdir()
            for path in files:
                _copy(path, partial / _FILES / path.name)
            if not keep(partial / _FILES):
                return
            digests = {path.name: digest(partial / _FILES / path.name) for path in files}
            (partial / _DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
            if entry.is_symlink() or entry.is_file():
                _drop(entry)
            publishing.publish(partial, entry)
        publishing.remove_abandoned(self.folder)
        self._make_room(entry)

    def _make_room(self, newest: Path) -> None:
        """Drop entries and nothing else: the folder may hold other files of the user."""
        entries = [path for path in self.folder.iterdir() if path != newest and _is_entry(path)]
        sizes = {path: _size_bytes(path) for path in (*entries, newest)}
        total = sum(sizes.values())
        for path in sorted(entries, key=_last_use):
            if total <= self.limit_bytes:
                return
            _drop(path)
            total -= sizes[path]


class BuildCache:
    """The user's cache for builds: any failure of it becomes one note, and the build goes on without a cache.

    Args:
        note: shows a line to the user.
    """

    def __init__(self, note: Callable[[str], None] = lambda line: None) -> None:
        self._note = note
        self._failed = False

    def key(self, model: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
        """:func:`cache_key`; empty where there is none: a file that cannot be read is for the build to report."""

        def key(_: Cache) -> str:
            try:
                return cache_key(model, settings)
            except OSError:
                return ""

        return self._attempt("the cache is not used", key, "")

    def fetch(self, key: str, folder: Path) -> Manifest | None:
        """Put a stored engine into its place, as :meth:`Cache.fetch` does; None where it cannot be done."""
        return self._attempt("the cache is not used", lambda cache: cache.fetch(key, folder), None)

    def store(self, key: str, folder: Path, manifest: Manifest) -> None:
        """Keep a copy of an engine folder, as :meth:`Cache.store` does, where it can be done."""
        self._attempt("no copy was kept in the cache", lambda cache: cache.store(key, folder, manifest), None)

    def fetch_files(self, key: str, folder: Path) -> bool:
        """Copy the files of an entry, as :meth:`Cache.fetch_files` does; False where it cannot be done."""
        return self._attempt("the cache is not used", lambda cache: cache.fetch_files(key, folder), False)

    def store_files(self, key: str, files: Sequence[Path]) -> None:
        """Keep copies of files, as :meth:`Cache.store_files` does, where it can be done."""
        self._attempt("no copy was kept in the cache", lambda cache: cache.store_files(key, files), None)

    def _attempt(self, consequence: str, action: Callable[[Cache], Result], without: Result) -> Result:
        if self._failed:
            return without
        try:
            return action(Cache.of_user())
        except Exception as error:  # noqa: BLE001 - whatever it is, the build needs no cache
            self._failed = True
            kind = "" if isinstance(error, (KdcmaeError, OSError)) else f"{type(error).__name__}: "
            self._note(f"{consequence}: {kind}{one_line(str(error))}")
            return without


def _digests(entry: Path) -> dict[str, str]:
    """The digests of an entry's files by name.

    Raises:
        OSError: they cannot be read.
        ValueError: they are not what was stored, or files are missing or too many.
    """
    path = entry / _DIGESTS
    if not path.is_file():  # reading from a pipe, say, would never end
        raise ValueError(f"{path} is not a file")
    digests = json.loads(path.read_text(encoding="utf-8"))
    names = {path.name for path in (entry / _FILES).iterdir() if path.is_file()}
    if not isinstance(digests, dict) or not digests or digests.keys() != names:
        raise ValueError(f"{path} does not list the files of the entry")
    return digests


def _whole_engine(folder: Path) -> Manifest | None:
    """The manifest of a folder that holds all files of an engine as they were built, and no others; else None."""
    try:
        manifest = Manifest.read(folder)
        for part in (manifest, *(Manifest.read(folder, variant) for variant in manifest.variants)):
            verify_files(folder, part)
    except (EngineError, OSError):
        return None
    listed = {*manifest.files, MANIFEST_FILE}
    return manifest if {path.name for path in folder.iterdir()} == listed else None


def _is_entry(path: Path) -> bool:
    return bool(_KEY.fullmatch(path.name)) or (not path.name.startswith(".") and (path / _DIGESTS).exists())


def _last_use(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:
        return 0.0


def _drop(entry: Path) -> None:
    """Remove an entry, or what is in its place, where this user may."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        with suppress(OSError):
            entry.unlink()


def _described(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _identity(value) for name, value in options.items()}


def _identity(value: Any) -> Any:
    if isinstance(value, Path):
        return {"name": value.name, "sha256": _state(value) if value.is_dir() else digest(value)}
    if isinstance(value, Mapping):
        return _described(value)
    if isinstance(value, (list, tuple)):
        return [_identity(item) for item in value]
    if isinstance(value, frozenset):
        return sorted(value)
    return value


def _state(folder: Path) -> str:
    """A digest of the names, sizes and times of a folder's files: data sets are too large to be read for this."""
    sha256 = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        facts = path.stat()
        sha256.update(os.fsencode(path.relative_to(folder)) + f" {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return sha256.hexdigest()


def _sources() -> str:
    """One digest of this package's own files: engines of another state of them are other engines."""
    sha256 = hashlib.sha256()
    for name in _SOURCES:
        (root,) = import_module(name).__path__
        for path in sorted(Path(root).rglob("*")):
            if path.suffix in _SUFFIXES and path.is_file():
                sha256.update(f"{name}/{path.relative_to(root)} {digest(path)}\n".encode())
    return sha256.hexdigest()


def _copy(source: Path, target: Path) -> None:
    """Copy a file inside the kernel, where file systems that can do so share its blocks until one is written to."""
    with source.open("rb") as reader, target.open("wb") as writer:
        size = os.fstat(reader.fileno()).st_size
        try:
            while writer.tell() < size and os.copy_file_range(reader.fileno(), writer.fileno(), size - writer.tell()):
                writer.seek(0, os.SEEK_END)
        except (AttributeError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_FAST_COPY:
                raise OSError(error.errno, error.strerror, str(target)) from error
            writer.seek(0)
            shutil.copyfileobj(reader, writer, 1 << 20)


def _size_bytes(entry: Path) -> int:
    total = 0
    for folder, _, names in os.walk(entry):
        for name in names:
            with suppress(OSError):  # another build may drop it at the same time
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
