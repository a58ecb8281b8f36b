"""Quantised graphs made before, in the cache of the engines, by everything that decides what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdcmae.compile.cache import BuildCache
from kdcmae.compile.quantize.calibration import Clips
from kdcmae.runtime.metrics import Kind

__all__ = ["fetch", "keep", "key_of"]


def key_of(
    graph: Path, clips: Clips, method: str, target: str, layers: Sequence[str], kinds: Mapping[str, Kind]
) -> str:
    """A name for a quantised graph.

    Args:
        graph: the float graph, weights beside it.
        clips: as prepared: they stand for the data and the preprocessing.
        method, target, layers: what is made of it, and how.
        kinds: what each output is for, which decides between two ways.

    Returns:
        The name; empty where the cache cannot be used.
    """
    made = {"clips": _digest(clips), "method": method, "target": target, "layers": layers, "kinds": dict(kinds)}
    key = BuildCache().key({"files": _with_weights(graph)}, made)
    return f"quantized-{key}" if key else ""


def fetch(key: str, path: Path) -> bool:
    """Put a stored graph into place; False where there is none, where it is damaged, or where the cache fails."""
    return BuildCache().fetch_files(key, path.parent) and path.is_file()


def keep(key: str, path: Path) -> None:
    """Store a graph beside the engines of the cache; a caching failure does not affect it."""
    BuildCache().store_files(key, _with_weights(path))


def _with_weights(path: Path) -> list[Path]:
    """A graph and what lies beside it under the same name: the file that holds its weights, if there is one."""
    return sorted(path.parent.glob(f"{path.stem}.*"))


def _digest(clips: Clips) -> str:
    sha256 = hashlib.sha256()
    for batch in clips.batches:
        for name, array in batch.items():
            sha256.update(f"{name} {array.dtype} {array.shape}".encode())
            sha256.update(array.tobytes())
    return sha256.hexdigest()
