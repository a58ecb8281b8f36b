"""The envelope of every JSON document that a benchmark writes: what measured, on which machine, when, in which form.

Documents become the frozen dataclasses of reports, and device cards theirs, by :func:`from_plain`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import kdcmae
from kdcmae.bench.machine.environment import describe_environment
from kdcmae.errors import DataError
from kdcmae.files.text import read_json

__all__ = ["SCHEMA_VERSION", "Envelope", "Kind", "from_plain", "machine", "read_document", "stamp"]

SCHEMA_VERSION = 5

Kind = Literal[
    "benchmark", "kernels", "ablation", "accuracy", "keep", "memory", "profile", "residual", "fleet", "throughput"
]  # fmt: skip
"""Subject of a document; ``benchmark`` is a run of the suite or of ``kdcmae-bench SUBJECT...``."""


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """Fields that every document begins with.

    Args:
        kind: subject of the document.
        kdcmae_version: that measured.
        created: when it started, ISO 8601 in UTC.
        environment: the machine, its load, library versions, commit.
        schema_version: of the form of all documents.
    """

    kind: Kind
    kdcmae_version: str
    created: str
    environment: dict[str, Any]
    schema_version: int = SCHEMA_VERSION


def stamp(kind: Kind, *, measures: bool = True) -> dict[str, Any]:
    """The fields of an :class:`Envelope` that starts now. Call it before measuring, while the machine is at rest.

    Args:
        kind: of the document.
        measures: see :func:`kdcmae.bench.machine.environment.describe_environment`.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "kdcmae_version": kdcmae.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": describe_environment(measures=measures),
    }


def read_document(path: Path, *kinds: Kind) -> dict[str, Any]:
    """Read a document that a benchmark wrote.

    Args:
        path: of the file.
        kinds: accepted ones; any kind if none is named.

    Raises:
        DataError: no such file, no document of a benchmark, or of another kind or schema version.
    """
    content = read_json(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(f"{path} has schema version {version!r}, not {SCHEMA_VERSION}; measure again with kdcmae-bench")
    envelope = {name: value for name, value in content.items() if name in Envelope.__dataclass_fields__}
    try:
        from_plain(Envelope, envelope)
    except TypeError as error:
        raise DataError(f"{path} is not a report of kdcmae-bench: {error}") from error
    if content["kind"] not in (kinds or get_args(Kind)):
        raise DataError(f"{path} is a report of kind {content['kind']!r}, not {' or '.join(map(repr, kinds))}")
    document: dict[str, Any] = content
    return document


def machine(document: Mapping[str, Any]) -> str:
    """The processor that a document was measured on."""
    host = document["environment"]["host"]
    return str(host["cpu"] or host["machine"])


def from_plain(kind: Any, value: Any, place: str = "") -> Any:
    """Convert a value to the type of a field, and refuse any other.

    Args:
        kind: a dataclass, or the annotation of one of its fields.
        value: from JSON.
        place: path of the value in the document, for messages.

    Raises:
        TypeError: the value is of another type, or a field of a dataclass is unknown or missing.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _of_union(arguments, value, place)
    if dataclasses.is_dataclass(kind):
        return _of_dataclass(kind, value, place)
    if origin is Literal:
        return _required(value in arguments, value, place, f"one of {', '.join(map(repr, arguments))}")
    if origin is tuple:
        _required(isinstance(value, (list, tuple)), value, place, "a list")
        return tuple(from_plain(arguments[0], item, f"{place}[{index}]") for index, item in enumerate(value))
    if origin in (dict, Mapping):
        _required(isinstance(value, Mapping), value, place, "an object")
        return {name: from_plain(arguments[1], item, f"{place}.{name}") for name, item in value.items()}
    if kind is float:  # JSON writes whole ones without a point
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return _required(is_number, value, place, "a number")
    return _required(type(value) is kind, value, place, _WORDS[kind])


_WORDS = {str: "text", int: "a whole number", bool: "true or false"}


def _of_union(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return from_plain(kind, value, place)
            except TypeError as error:
                errors.append(error)
    raise errors[0]


def _of_dataclass(kind: Any, value: Any, place: str) -> Any:
    _required(isinstance(value, Mapping), value, place, "an object")
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(value) - set(hints)):
        raise TypeError(f"{place or 'the file'} has an unknown field {unknown[0]!r}")
    return kind(**{name: from_plain(hints[name], item, f"{place}.{name}".lstrip(".")) for name, item in value.items()})


def _required(condition: bool, value: Any, place: str, wanted: str) -> Any:
    if not condition:
        raise TypeError(f"{place or 'the file'} is {str(value)[:40]!r}, not {wanted}")
    return value
