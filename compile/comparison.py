"""What differs between two engines: their settings, and what they compute from the same inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile.parity import finite
from kdcmae.errors import KdcmaeError
from kdcmae.runtime.facts import read_with_facts
from kdcmae.runtime.folders import file_sizes
from kdcmae.runtime.golden import GOLDEN_FILE
from kdcmae.runtime.loading import load_engine
from kdcmae.runtime.metrics import compare
from kdcmae.runtime.selftest import kind_of

__all__ = ["compare_outputs", "differences"]

# Fields that differ between any two builds.
_INCIDENTAL = ("created", "build.seconds", "build.peak_rss_bytes", "files.manifest.json")


def differences(one: Path, other: Path) -> list[dict[str, Any]]:
    """The facts in which two engines differ, sizes of their files included.

    Returns:
        Rows of ``field``, ``one`` and ``other``; None where an engine lacks the field. Build times are left out.

    Raises:
        EngineError: one of them is not an engine folder.
    """
    left, right = (dict(_flat("", _facts(folder))) for folder in (one, other))
    return [
        {"field": field, "one": left.get(field), "other": right.get(field)}
        for field in sorted(left.keys() | right.keys())
        if left.get(field) != right.get(field) and not field.startswith(_INCIDENTAL)
    ]


def compare_outputs(one: Path, other: Path) -> dict[str, Any]:
    """Run both engines on the first one's golden inputs.

    Returns:
        ``outputs``: error and cosine per output, of the second against the first, logits around their mean; ``note``
        says why there are none.
    """
    try:
        with load_engine(one) as first, load_engine(other) as second:
            golden = _golden_inputs(one)
            expected, actual = first.infer(golden), second.infer(golden)
            kinds = {name: kind_of(first.manifest, name) for name in expected}
    except (KdcmaeError, OSError) as error:
        return {"outputs": {}, "note": f"outputs not compared: {error}"}
    shared = [name for name in expected if name in actual]
    compared = {name: compare(actual[name], expected[name], kind=kinds[name], tie=0.0) for name in shared}
    return {
        "outputs": {
            name: {"error": finite(comparison.error), "cosine": comparison.cosine}
            for name, comparison in compared.items()
        },
        "note": "" if shared else "outputs not compared: the engines have none in common",
    }


def _golden_inputs(folder: Path) -> dict[str, NDArray[Any]]:
    with np.load(folder / GOLDEN_FILE, allow_pickle=False) as arrays:
        return {name.removeprefix("input."): arrays[name] for name in arrays.files if name.startswith("input.")}


def _facts(folder: Path) -> dict[str, Any]:
    manifest = dataclasses.asdict(read_with_facts(folder))
    rungs = {rung["name"]: {key: rung.get(key) for key in ("status", "errors", "gate")} for rung in manifest["parity"]}
    return {**manifest, "parity": rungs, "sizes": file_sizes(folder)}


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
        for index, inner in enumerate(value):
            yield from _flat(f"{prefix}[{inner.get('name', inner.get('layers', index))}]", inner)
    else:
        yield prefix, list(value) if isinstance(value, tuple) else value
