"""Facts about a build in a manifest, for the tools that show them.

No engine needs these facts to run, so an app loads an engine whatever they are. Releases may add or omit some, but
those with a known name must have the type that the tools expect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcmae.errors import ConfigError, EngineError
from kdcmae.runtime.manifest import Manifest, file_name
from kdcmae.runtime.schema import MANIFEST_FILE, require

__all__ = ["describe_parts", "read_with_facts", "require_one_piece"]


@dataclass(frozen=True)
class _Needed:
    """A fact that must be there if the object that it belongs to is."""

    kind: Any


_NUMBER = (int, float)
_MAYBE_NUMBER = (int, float, type(None))
_COUNTS = {"*": int}  # "*" stands for every other name

_PRECISION: Mapping[str, Any] = {
    **{"asked": str, "chosen": str, "read_from": str, "executed": {"*": _COUNTS}, "products": _COUNTS},
    "built_for": {"class": str, "name": str, "machine": str, "features": [str], "here": bool},
    "claims": [
        {"layers": _Needed(str), "claimed": _Needed(str), "besides": _Needed(_COUNTS), "executed": _Needed(_COUNTS)}
    ],
    "frontend": {"*": _COUNTS},
    "in_float32": {
        "limit": _Needed(_NUMBER),
        "parts": _Needed([{"name": _Needed(str), "largest": _MAYBE_NUMBER, "exceeds": _Needed(bool)}]),
        "speed": {"against": str, "*": _NUMBER},
    },
}
_PARITY: Any = [
    {
        **{"name": _Needed(str), "status": _Needed(str), "note": str, "seconds": _NUMBER},
        **{"errors": {"*": _MAYBE_NUMBER}, "cosines": {"*": _MAYBE_NUMBER}, "agreement": _MAYBE_NUMBER},
        **{"tolerance": _MAYBE_NUMBER, "gate": (dict, type(None)), "cases": [dict]},
    }
]
_BUILD: Mapping[str, Any] = {
    **{"seconds": {"*": _NUMBER}, "peak_rss_bytes": (int, type(None)), "latency": {"*": _NUMBER}},
    "host": {"*": (str, int, float, type(None))},
}
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "an object"}


def read_with_facts(folder: str | Path, variant: str = "") -> Manifest:
    """:meth:`Manifest.read` with a check of the facts about the build, for tools that show them.

    Args:
        variant: one of the folder's variants; empty for the engine itself.

    Raises:
        EngineError: the manifest cannot be read, or a fact about the build has another type than expected.
    """
    manifest = Manifest.read(folder, variant)
    for field, kind in (("precision", _PRECISION), ("parity", _PARITY), ("build", _BUILD)):
        try:
            _check(field, getattr(manifest, field), kind)
        except EngineError as error:
            raise EngineError(f"{Path(folder) / file_name(MANIFEST_FILE, variant)}: {error}") from None
    return manifest


def require_one_piece(folder: str | Path, manifest: Manifest) -> None:
    """Refuse an engine in parts, for tools that open the engine's file themselves.

    Raises:
        ConfigError: it is in parts.
    """
    if manifest.is_in_parts:
        files = ", ".join(manifest.graphs)
        raise ConfigError(f"{folder} is in parts ({files}); give an engine that was built without --split")


def describe_parts(engine: Mapping[str, Any]) -> dict[str, str]:
    """What each part of an engine takes and gives, and its file, by name; empty for an engine in one piece.

    Args:
        engine: the manifest's engine section.
    """

    def names(specs: list[Mapping[str, Any]]) -> str:
        return ", ".join(str(spec["name"]) for spec in specs)

    return {
        part["name"]: f"{names(part['inputs'])} -> {names(part['outputs'])}, {part['file']}"
        for part in engine.get("parts", ())
    }


def _check(field: str, value: Any, kind: Any) -> None:
    """Refuse a fact of another type.

    Args:
        field: path of the field in the manifest.
        kind: a type, a tuple of types, a list of one kind for lists of it, or a mapping of kinds by name for objects.
    """
    if isinstance(kind, _Needed):
        _check(field, value, kind.kind)
    elif isinstance(kind, Mapping):
        require(isinstance(value, Mapping), field, "an object", value)
        for name, of_item in kind.items():
            if isinstance(of_item, _Needed) and name not in value:
                raise EngineError(f"field {field}.{name} is missing; rebuild the engine with kdcmae-compile")
        for name, item in value.items():
            if (of_item := kind.get(name, kind.get("*"))) is not None:
                _check(f"{field}.{name}", item, of_item)
    elif isinstance(kind, list):
        require(isinstance(value, (list, tuple)), field, "a list", value)
        for index, item in enumerate(value):
            _check(f"{field}[{index}]", item, kind[0])
    else:
        kinds = kind if isinstance(kind, tuple) else (kind,)
        words = dict.fromkeys(_WORDS.get(item, "null") for item in kinds if item is not int or float not in kinds)
        require(type(value) in kinds, field, " or ".join(words), value)
