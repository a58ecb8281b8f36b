"""Memory that a build of an engine needs, watched from outside while ``kdcmae-compile`` runs.

Resident memory includes the pages of mapped files, which the system drops where memory is short because it can read
them again. A build cannot do without its anonymous memory.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from kdcmae.bench.report.envelope import stamp
from kdcmae.bench.report.publishing import Document, Section
from kdcmae.bench.report.table import Block, Column, fixed, megabytes, table
from kdcmae.compile.untrained import untrained_classifier
from kdcmae.errors import ConfigError
from kdcmae.progress import Step

__all__ = ["BUILDS", "SECTION", "Usage", "run_memory_benchmark", "usage_of"]

# As options of kdcmae-compile.
BUILDS: tuple[tuple[str, ...], ...] = (
    *(("--target", "onnx", "--precision", precision) for precision in ("fp32", "int8")),
    *(("--target", "openvino", "--precision", precision) for precision in ("fp32", "bf16", "int8")),
    ("--target", "openvino", "--precision", "int8", "--modalities", "audiovisual,audio,video"),
    *(("--target", "trt", "--precision", precision) for precision in ("fp32", "fp16", "bf16", "int8", "fp8")),
    *(("--target", "aoti", "--precision", precision) for precision in ("fp32", "bf16")),
)

_INTERVAL_S = 0.05
# Writes a line of JSON to the file named first whenever a step begins or ends.
_COMMAND = """
import pathlib, sys
from kdcmae.compile.cli import main
from kdcmae.progress import observed, write_lines
with observed(write_lines(pathlib.Path(sys.argv.pop(1)))):
    main()
"""
_BASELINE = "load PyTorch"


Usage = Counter[str]
"""Memory of processes in bytes: all that is ``resident``, and of it what is ``anonymous``, no page of a mapped file."""

_KINDS = ("resident", "anonymous")


def run_memory_benchmark(preset: str, *, step: Step) -> dict[str, Any]:
    """Build engines one after the other and watch each.

    Args:
        preset: of the model, with random weights.
        step: shows progress; a context manager per named step.

    Returns:
        As plain data: ``pytorch`` is what its import takes, ``rows`` have the peaks, or why a build failed.

    Raises:
        ConfigError: on another system than Linux.
    """
    if not psutil.LINUX:
        raise ConfigError("the memory of a build is read from /proc, which only Linux has")
    envelope = stamp("memory")
    rows = []
    for options in BUILDS:
        with step(_name(options)):
            rows.append({"build": _name(options), **_build(options, preset)})
    baselines = [row["steps"][_BASELINE] for row in rows if _BASELINE in row["steps"]]
    return {
        **envelope,
        "preset": preset,
        "weights_bytes": sum(parameter.nbytes for parameter in untrained_classifier(preset).parameters()),
        "pytorch": {kind: min((steps[kind] for steps in baselines), default=0) for kind in _KINDS},
        "rows": rows,
    }


def _blocks(documents: Sequence[Document]) -> Iterator[Block]:
    report = documents[-1]
    weights, pytorch = report["weights_bytes"], report["pytorch"]
    size = megabytes()
    yield (
        f"Preset {report['preset']}, {size(weights)} MB of weights; in times these, above PyTorch itself, which takes "
        f"{size(pytorch['resident'])} MB, {size(pytorch['anonymous'])} MB without mapped files:"
    )

    def times(kind: str) -> Callable[[Document], float | None]:
        return lambda row: (row[kind] - pytorch[kind]) / weights if kind in row else None

    columns = (
        Column(title="build", value=lambda row: row["build"], align="left"),
        Column(title="at once", value=times("resident"), text=fixed(1)),
        Column(title="without mapped files", value=times("anonymous"), text=fixed(1)),
        Column(title="resident in all", unit="MB", value=lambda row: row.get("resident"), text=size),
        Column(title="most in", value=lambda row: row.get("step", f"failed: {row.get('failed')}"), align="left"),
    )
    yield table("", columns, report["rows"])


SECTION = Section(name="memory", command="memory", kind="memory", blocks=_blocks)


def usage_of(number: int) -> Usage:
    """Memory of a process and of the programs that it started, in bytes; nothing if it has ended."""
    usage = Usage()
    with suppress(psutil.Error):  # a process can end at any time
        root = psutil.Process(number)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                # Until a child starts its own program it has its parent's memory, not memory of its own.
                if process == root or process.cmdline() != psutil.Process(process.ppid()).cmdline():
                    memory = process.memory_info()
                    usage += Usage({"resident": memory.rss, "anonymous": memory.rss - memory.shared})
    return usage


def _build(options: Sequence[str], preset: str) -> dict[str, Any]:
    """Run ``kdcmae-compile`` and give the peaks of its steps, and the largest; or the last words of one that failed."""
    with tempfile.TemporaryDirectory() as scratch:
        model = ("--preset", preset, "--random-weights")
        progress, errors = Path(scratch) / "progress", Path(scratch) / "errors"
        progress.touch()
        options = (*options, *model, "--output", f"{scratch}/engine", "--no-cache")
        # Where colours are forced, the error would not be plain text.
        environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
        with (
            errors.open("wb") as stream,
            subprocess.Popen(
                (sys.executable, "-c", _COMMAND, str(progress), *options),
                stdout=subprocess.DEVNULL,
                stderr=stream,
                env=environment,
            ) as process,
        ):
            try:
                steps = _watch(process, progress)
            finally:
                process.kill()
        words = errors.read_text().strip() or f"exit code {process.returncode}"
    facts: dict[str, Any] = {"steps": {name: {kind: usage[kind] for kind in _KINDS} for name, usage in steps.items()}}
    if process.returncode < 0:
        return {**facts, "failed": signal.Signals(-process.returncode).name}
    if process.returncode:
        return {**facts, "failed": words.splitlines()[-1].removeprefix("error: ")}
    largest = max(steps, key=lambda name: steps[name]["resident"])
    anonymous = max(usage["anonymous"] for usage in steps.values())
    return {**facts, "resident": steps[largest]["resident"], "anonymous": anonymous, "step": largest}


def _watch(process: subprocess.Popen[bytes], progress: Path) -> dict[str, Usage]:
    """The peak of every step until the process ends.

    Args:
        process: writes its progress.
        progress: the file that it writes, a line when a step begins and one when it ends.
    """
    steps: dict[str, Usage] = {}
    peak, rest = Usage(), ""
    with progress.open(encoding="utf-8") as stream:
        while True:
            ended = process.poll() is not None
            peak |= usage_of(process.pid)  # the larger of each kind
            *lines, rest = (rest + stream.read()).split("\n")
            done = [step["name"] for step in map(json.loads, lines) if step["state"] == "done"]
            for name in done:
                steps[name] = peak | steps.get(name, Usage())
            if ended:
                return steps
            if done:
                peak = Usage()
            time.sleep(_INTERVAL_S)


def _name(options: Sequence[str]) -> str:
    """``--target trt --precision fp32`` as ``trt fp32``, and what else is asked for as it is."""
    named = dict(zip(options[::2], options[1::2], strict=True))
    rest = [f"{name} {value}" for name, value in named.items() if name not in ("--target", "--precision")]
    return " ".join((named["--target"], named["--precision"], *rest))
