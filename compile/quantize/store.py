"""Quantised graphs made before, by everything that decides what they are."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kdcmae.compile import package
from kdcmae.compile.cache import Cache
from kdcmae.compile.quantize.calibration import Clips
from kdcmae.errors import EngineError
from kdcmae.runtime.manifest import digest

__all__ = ["fetch", "keep", "key_of"]

_FORMAT = 3  # of what :mod:`openvino` and :mod:`qdq` make; to be raised when they make something else
_COMPANIONS = {".xml": ".bin", ".onnx": ".onnx.data"}


def key_of(graph: Path, clips: Clips, precision: str, target: str, layers: Sequence[str]) -> str:
    """A name for a quantised graph.

    Args:
        graph: the float graph, weights beside it.
        clips: as prepared: they stand for the data and the preprocessing.
        precision, target, layers: what is made of it.
    """
    sha256 = hashlib.sha256()
    for path in (graph, _companion(graph)):
        sha256.update((digest(path) if path.is_file() else "").encode())
    for batch in clips.batches:
        for name, array in batch.items():
            sha256.update(f"{name} {array.dtype} {array.shape}".encode())
            sha256.update(array.tobytes())
    versions = [_version(library) for library in ("nncf", "openvino", "onnx", "onnxruntime")]
    sha256.update(json.dumps([_FORMAT, precision, target, list(layers), versions]).encode())
    return f"quantized-{sha256.hexdigest()}"


def fetch(key: str, path: Path) -> bool:
    """Put a stored graph into place; False where there is none, or where it is damaged."""
    entry = Cache.of_user().folder / key
    try:
        expected = json.loads((entry / "sha256.json").read_text(encoding="utf-8"))
        for target in (path, _companion(path)):
            shutil.copyfile(entry / target.name, target)
            if digest(target) != expected[target.name]:
                return False
    except (OSError, ValueError, KeyError):
        return False
    return True


def keep(key: str, path: Path) -> None:
    """Store a graph beside the engines of the cache; one that cannot be stored is none the worse."""
    entry = Cache.of_user().folder / key
    files = (path, _companion(path))
    try:
        with package.staging(entry) as partial:
            for file in files:
                shutil.copyfile(file, partial / file.name)
            digests = {file.name: digest(file) for file in files}
            (partial / "sha256.json").write_text(json.dumps(digests), encoding="utf-8")
            package.publish(partial, entry)
    except (EngineError, OSError):
        return


def _companion(path: Path) -> Path:
    """The file that holds a graph's weights."""
    return path.with_name(path.stem + _COMPANIONS[path.suffix])


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
