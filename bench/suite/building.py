"""Engines of the suite: compiled once, used again while they are built from the same model and options."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcmae.bench.report.records import NOT_HERE, Status
from kdcmae.bench.suite.plan import EnginePlan, ModelPlan
from kdcmae.compile.cache import cache_key
from kdcmae.doctor import require_target
from kdcmae.errors import BrokenDependencyError, DeviceError, MissingDependencyError
from kdcmae.runtime.schema import MANIFEST_FILE

__all__ = ["Built", "build_engine", "torch_source"]


@dataclass(frozen=True, kw_only=True)
class Built:
    """An engine folder, or why there is none.

    Args:
        plan: of the engine.
        folder: where it is, or would be.
        status: ``measured`` where it is there.
        reason: why it is not.
    """

    plan: EnginePlan
    folder: Path
    status: Status
    reason: str = ""


def build_engine(model: ModelPlan, plan: EnginePlan, folder: Path) -> Built:
    """Compile an engine, unless the folder already holds one built from identical inputs with identical versions."""
    options = ("--precision", plan.precision, *plan.options)
    weights = None if model.torch else Path(torch_source(model))
    key = cache_key(
        {"options": model.options, "weights": weights},
        {"target": plan.target, "options": (*options, *plan.fallback)},
    )
    stored = folder.with_name(f"{folder.name}.key")
    if (folder / MANIFEST_FILE).is_file() and stored.is_file() and stored.read_text() == key:
        return Built(plan=plan, folder=folder, status="measured")
    try:
        require_target(plan.target)
    except (BrokenDependencyError, DeviceError, MissingDependencyError) as error:  # sooner than the command says it
        return _missing_here(plan, folder, str(error))
    command = ["kdcmae-compile", "--target", plan.target, *model.options, *options, "--output", str(folder)]
    done = _run(command)
    if done.returncode != 0 and plan.fallback:
        command += plan.fallback
        done = _run(command)
    if done.returncode == 0:
        stored.write_text(key)
        return Built(plan=plan, folder=folder, status="measured")
    last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
    reason = last.removeprefix("error: ").removeprefix("Error: ")
    if done.returncode == DeviceError.exit_code:
        return _missing_here(plan, folder, reason)
    return Built(plan=plan, folder=folder, status="failed", reason=f"{' '.join(command)}: {reason}")


def _missing_here(plan: EnginePlan, folder: Path, reason: str) -> Built:
    return Built(plan=plan, folder=folder, status="not measured", reason=f"{NOT_HERE}{reason}")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command that is installed beside this interpreter, and capture its stderr."""
    name, *arguments = command
    return subprocess.run(
        [str(Path(sys.executable).with_name(name)), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def torch_source(model: ModelPlan) -> str:
    """Source of the PyTorch model: a preset, or the shipped checkpoint.

    Raises:
        CheckpointError: no checkpoint ships.
    """
    from kdcmae.assets import default_checkpoint

    return model.torch or str(default_checkpoint())
