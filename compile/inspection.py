"""Look into an engine folder without running it: no device is needed, and no library deserialises anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdcmae.compile.targets import load_target
from kdcmae.errors import EngineError
from kdcmae.runtime.facts import read_with_facts
from kdcmae.runtime.folders import file_sizes

__all__ = ["inspect_engine"]


def inspect_engine(folder: Path) -> dict[str, Any]:
    """What an engine is, from its manifest and the bytes of its file.

    Returns:
        ``manifest`` (as stored), ``sizes`` (bytes per file) and ``graph``: the format, and operations by type and
        precision where the format can be read; ``frontend`` likewise where that is a file of its own. Of an engine in
        parts these are of the last one, and ``parts`` has them by name.

    Raises:
        EngineError: no engine folder, or an engine file of another format than its manifest says.
    """
    manifest = read_with_facts(folder)
    return {
        "engine": str(folder),
        "target": manifest.target,
        "model": manifest.model,
        "labels": len(manifest.labels),
        "inputs": [vars(spec) for spec in manifest.inputs],
        "outputs": [vars(spec) for spec in manifest.outputs],
        "batch": vars(manifest.batch),
        "precision": manifest.precision,
        "libraries": manifest.libraries,
        "options": manifest.engine,
        "created": manifest.created,
        "kdcmae": manifest.kdcmae_version,
        "parity": [{"name": rung["name"], "status": rung["status"]} for rung in manifest.parity],
        "sizes": file_sizes(folder),
        **_graphs(folder, manifest.engine, manifest.target),
        **(
            {"parts": {part["name"]: _graphs(folder, part, manifest.target) for part in manifest.engine["parts"]}}
            if manifest.is_in_parts
            else {}
        ),
    }


def _graphs(folder: Path, section: Mapping[str, Any], target: str) -> dict[str, Any]:
    roles = (("graph", "file"), ("frontend", "frontend"))
    return {name: _graph(folder / section[role], target) for name, role in roles if role in section}


def _graph(path: Path, target: str) -> dict[str, Any]:
    if not path.is_file():
        raise EngineError(f"{path} is missing; copy the engine folder again or rebuild it with kdcmae-compile")
    return asdict(load_target(target).inspect(path))
