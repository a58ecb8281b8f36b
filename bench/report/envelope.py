"""The envelope of every JSON document that a benchmark writes: what measured, on which machine, when, in which form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import kdcmae
from kdcmae.bench.machine.environment import describe_environment
from kdcmae.bench.report.plain import from_plain
from kdcmae.errors import DataError
from kdcmae.files.text import read_json

__all__ = ["SCHEMA_VERSION", "Envelope", "Kind", "machine", "read_document", "stamp"]

SCHEMA_VERSION = 5

Kind = Literal[
    "benchmark", "kernels", "ablation", "accuracy", "keep", "memory", "profile", "residual", "fleet"
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
