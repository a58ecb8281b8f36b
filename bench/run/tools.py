"""Peers that are commands: an engine is timed by its library's own tool, in a process per window."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcmae.bench.run.subjects import Arrays, Subject, engine_facts
from kdcmae.errors import ConfigError, DeviceError, EngineError
from kdcmae.runtime.manifest import Manifest, TensorSpec

__all__ = ["ToolSubject", "find_tool", "require_single_ir", "sizes"]

_TIMEOUT_S = 300


class ToolSubject(Subject):
    """An engine that a command times. Its outputs are out of reach; they are those of the engine.

    Args:
        folder: of the engine.
        facts: in which the tool differs from the engine, ``boundary`` among them.
    """

    def __init__(self, folder: Path, **facts: Any) -> None:
        self.facts = replace(engine_facts(folder, Manifest.read(folder)), preprocessing=None, **facts)

    def run(self, inputs: Arrays) -> Arrays:
        """No outputs: the tool does not hand them out."""
        return {}

    @staticmethod
    def whole_seconds(seconds: float) -> str:
        """The length of a window as the tools take it."""
        return str(max(1, round(seconds)))

    @staticmethod
    def ask(command: list[str]) -> str:
        """Run a command and return what it printed.

        Raises:
            EngineError: it failed.
        """
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        if done.returncode:
            message = (done.stderr.strip() or done.stdout.strip())[-500:]
            raise EngineError(f"{Path(command[0]).name} ended with exit code {done.returncode}: {message}")
        return done.stdout


def find_tool(name: str, fix: str) -> str:
    """The command beside this interpreter or on the path.

    Raises:
        DeviceError: it is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    path = str(beside) if beside.is_file() else shutil.which(name)
    if path is None:
        raise DeviceError(f"{name} is not on the PATH; {fix}")
    return path


def require_single_ir(folder: Path) -> Manifest:
    """The manifest of an OpenVINO engine that is a single IR with its own weights, which a tool can run.

    Raises:
        ConfigError: it has more files.
    """
    manifest = Manifest.read(folder)
    if extra := [manifest.engine[role] for role in ("frontend", "weights") if role in manifest.engine]:
        raise ConfigError(
            f"{folder} is more than one IR: it has {' and '.join(extra)} too; give an engine that was built without "
            "--inputs raw and --modalities"
        )
    return manifest


def sizes(spec: TensorSpec) -> list[str]:
    """The shape of an input at batch 1, as words of a command."""
    return [str(size) for size in spec.sizes(1)]
