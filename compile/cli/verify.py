"""``kdcmae-compile verify``: is this engine folder whole, and does it still compute what it was built to?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from kdcmae.cli.common import KdcmaeCommand, json_option, print_json
from kdcmae.errors import (
    BrokenDependencyError,
    DeviceError,
    EngineError,
    EngineIntegrityError,
    EngineVersionError,
    GateError,
    MissingDependencyError,
)
from kdcmae.runtime.facts import read_with_facts
from kdcmae.runtime.folders import file_sizes
from kdcmae.runtime.loading import load_engine
from kdcmae.runtime.manifest import Manifest, verify_files
from kdcmae.terminal import say, table

__all__ = ["command"]


@click.command(cls=KdcmaeCommand)
@click.argument("engine", type=click.Path(path_type=Path))
@json_option
def command(engine: Path, as_json: bool) -> None:
    """Check the digests of an ENGINE folder, and run its self-test where this machine can run it.

    Exits with 1 where a check fails; 2 where this is no engine folder.
    """
    manifest = read_with_facts(engine)
    checks = _checks(engine, manifest)
    if as_json:
        print_json({"engine": str(engine), "passed": not _failed(checks), "checks": checks})
    else:
        _print(engine, checks)
    if failed := _failed(checks):
        raise GateError(f"{engine}: {failed[0]['check']} failed: {failed[0]['found']}")


def _checks(engine: Path, manifest: Manifest) -> list[dict[str, Any]]:
    try:
        verify_files(engine, manifest)
    except EngineIntegrityError as error:
        return [_check("digests", "failed", str(error))]
    checks = [_check("digests", "passed", f"{len(manifest.files)} files are what was built")]
    unlisted = sorted(file_sizes(engine).keys() - {*manifest.files, "manifest.json"})
    if unlisted:
        checks.append(_check("other files", "failed", f"not of this engine: {', '.join(unlisted)}"))
    failed = [rung["name"] for rung in manifest.parity if rung.get("status") == "failed"]
    checks.append(_check("ladder", "failed" if failed else "passed", ", ".join(failed) or "as the build left it"))
    checks += _precision(manifest.precision.get("claims", ()))
    try:
        with load_engine(engine) as loaded:
            result = loaded.self_test()
        return [*checks, _check("self-test", "passed" if result.passed else "failed", str(result))]
    except (BrokenDependencyError, DeviceError, EngineVersionError, MissingDependencyError) as error:
        return [*checks, _check("self-test", "skipped", str(error))]
    except EngineError as error:
        return [*checks, _check("self-test", "failed", str(error))]


def _precision(claims: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What the build found of its claims; one that it could not check has not passed."""
    claims = list(claims)
    failed, unchecked, held = (
        ", ".join(claim["layers"] for claim in claims if claim["holds"] is holds) for holds in (False, None, True)
    )
    if failed:
        yield _check("precision", "failed", failed)
    elif held or not unchecked:
        yield _check("precision", "passed", f"{held}: as the build left it" if unchecked else "as the build left it")
    if unchecked:
        yield _check("precision", "skipped", f"{unchecked}: not checked where it was built")


def _check(name: str, status: str, found: str) -> dict[str, Any]:
    return {"check": name, "status": status, "found": found}


def _failed(checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [check for check in checks if check["status"] == "failed"]


def _print(engine: Path, checks: list[dict[str, Any]]) -> None:
    rows = ((check["check"], check["status"], check["found"]) for check in checks)
    say(table(("check", "result", "found"), rows, title=str(engine)))
