"""Engines and quantised graphs made before, found again by everything that went into them.

The files of an entry are copied out, never linked, so that editing them cannot change the cache; and the copies are
checked against the digests they were stored with, so that a damaged entry is dropped and made again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kdcmae import host
from kdcmae.compile import package
from kdcmae.errors import ConfigError
from kdcmae.runtime.manifest import Manifest, digest

__all__ = ["Cache", "cache_key"]

_LIBRARIES = (
    "numpy", "nncf", "onnx", "onnxruntime", "onnxscript", "openvino", "tensorrt", "tensorrt-cu13-bindings",
    "tensorrt-rtx-cu13-bindings", "torch", "torch-tensorrt",
)  # fmt: skip
_SOURCES = ("kdcmae", "kdcmae.compile", "kdcmae.kernels")
_SUFFIXES = (".py", ".json", ".csv", ".txt")  # weights count with the model that they are of
_FILES, _DIGESTS = "files", "sha256.json"  # of an entry
_NO_FAST_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def cache_key(model: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """A name for everything that decides what comes out of a build.

    Args:
        model: the options that choose the model; a path counts by its file's name and content.
        settings: of the build, likewise.

    Returns:
        64 hexadecimal digits, from these, the versions of the libraries, this package's own files, and the machine.

    Raises:
        OSError: a file that cannot be read.
    """
    facts = {
        "model": _described(model),
        "settings": _described(settings),
        "versions": _versions(),
        "sources": _sources(),
        "host": host.describe_host(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Cache:
    """Files by :func:`cache_key`, the least recently used entries dropped where they get too many.

    Args:
        folder: where they are; made when the first is stored.
        limit_bytes: what all of them may take.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    @classmethod
    def of_user(cls) -> Cache:
        """``$KDCMAE_CACHE`` or ``~/.cache/kdcmae``, of ``$KDCMAE_CACHE_GB`` or 10 gigabytes.

        Raises:
            ConfigError: ``$KDCMAE_CACHE_GB`` is not a number.
        """
        limit = os.environ.get("KDCMAE_CACHE_GB") or "10"
        try:
            limit_bytes = int(float(limit) * 1e9)
        except ValueError:
            raise ConfigError(f"KDCMAE_CACHE_GB={limit!r} is not a number of gigabytes") from None
        folder = os.environ.get("KDCMAE_CACHE")
        return cls(Path(folder) if folder else Path.home() / ".cache" / "kdcmae", limit_bytes)

    def fetch(self, key: str, folder: Path) -> Manifest | None:
        """Put a stored engine into its place; an engine there is replaced.

        Args:
            key: of the engine.
            folder: where it goes.

        Returns:
            Its manifest; None where there is none, or where it was damaged and is dropped.

        Raises:
            EngineError: the destination cannot be written to.
            OSError: likewise, such as for a full disk.
        """
        if not (self.folder / key).is_dir():
            return None
        package.check_destination(folder)
        with package.staging(folder) as partial:
            if not self.fetch_files(key, partial):
                return None
            manifest = Manifest.read(partial)
            package.publish(partial, folder)
        return manifest

    def store(self, key: str, folder: Path) -> None:
        """Keep a copy of an engine folder, and drop the least recently used entries that leave it no room.

        Args:
            key: of the engine.
            folder: a published engine folder.

        Raises:
            EngineError: the cache's folder cannot be written to; the engine itself is none the worse.
            OSError: likewise, such as for a full disk.
        """
        self.store_files(key, tuple(folder.iterdir()))

    def fetch_files(self, key: str, folder: Path) -> bool:
        """Copy the files of an entry into a folder.

        Args:
            key: of the entry.
            folder: where they go; it may hold some of them afterwards where the entry was damaged.

        Returns:
            Whether they are all there as they were stored; a damaged entry is dropped.

        Raises:
            OSError: the folder cannot be written to.
        """
        entry = self.folder / key
        try:
            digests = json.loads((entry / _DIGESTS).read_text(encoding="utf-8"))
            for name, expected in digests.items():
                _copy(entry / _FILES / name, folder / name)
                if digest(folder / name) != expected:
                    raise ValueError(f"{name} has changed")
        except (FileNotFoundError, ValueError):
            shutil.rmtree(entry, ignore_errors=True)
            return False
        os.utime(entry)  # the least recently used go first
        return True

    def store_files(self, key: str, files: Sequence[Path]) -> None:
        """Keep copies of files, and drop the least recently used entries that leave them no room.

        Args:
            key: of the entry.
            files: of different names; what is larger than the whole cache is not kept.

        Raises:
            EngineError: the cache's folder cannot be written to.
            OSError: likewise, such as for a full disk.
        """
        if sum(path.stat().st_size for path in files) > self.limit_bytes:
            return
        entry = self.folder / key
        with package.staging(entry) as partial:
            (partial / _FILES).mkdir()
            for path in files:
                _copy(path, partial / _FILES / path.name)
            digests = {path.name: digest(partial / _FILES / path.name) for path in files}
            (partial / _DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
            package.publish(partial, entry)
        self._make_room(entry)

    def _make_room(self, newest: Path) -> None:
        others = sorted(
            (path for path in self.folder.iterdir() if path != newest), key=lambda path: path.stat().st_mtime
        )
        sizes = {path: _size_bytes(path) for path in (*others, newest)}
        total = sum(sizes.values())
        for path in others:
            if total <= self.limit_bytes:
                return
            shutil.rmtree(path, ignore_errors=True)
            total -= sizes[path]


def _described(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _identity(value) for name, value in options.items()}


def _identity(value: Any) -> Any:
    if isinstance(value, Path):
        return {"name": value.name, "sha256": digest(value)}
    if isinstance(value, Mapping):
        return _described(value)
    if isinstance(value, (list, tuple)):
        return [_identity(item) for item in value]
    return value


def _versions() -> dict[str, str]:
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = ""
    return found


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


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
