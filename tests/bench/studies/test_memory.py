"""What builds take of memory, seen from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdcmae.bench.cli import main
from kdcmae.bench.report.rendering import render_markdown
from kdcmae.bench.studies import memory
from kdcmae.bench.studies.memory import BUILDS, SECTION, Usage, run_memory_benchmark, usage_of
from kdcmae.errors import ConfigError
from kdcmae.runtime.targets import TARGETS

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux has /proc")

MEGABYTES = 1_000_000
HOLDS = "data = bytearray(200_000_000); data[::4096] = b'x' * len(data[::4096]); print('ready', flush=True); input()"
FORKS = f"import os; {HOLDS}".replace("print(", "os.fork() and print(")
STARTS = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLDS!r}])"


@pytest.mark.parametrize("code", [HOLDS, STARTS], ids=["its own", "a child's"])
def test_memory_that_a_process_holds_is_seen(code):
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        usage = usage_of(process.pid)
        process.communicate("\n")
    assert 200 * MEGABYTES < usage["anonymous"] < usage["resident"] < 300 * MEGABYTES


def test_a_child_that_has_not_started_its_program_is_not_counted_twice():
    """Such a child has the command and the pages of its parent."""
    command = [sys.executable, "-c", FORKS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        usage = usage_of(process.pid)
        process.communicate("\n\n")
    assert 200 * MEGABYTES < usage["anonymous"] < 300 * MEGABYTES


def test_what_has_ended_takes_nothing():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert usage_of(process.pid) == Usage()


def test_builds_are_watched_step_by_step(monkeypatch, tmp_path):
    """And one that fails is a row that says why."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    few = ("--proof-clips", "8")
    builds = [("--target", "onnx", "--precision", precision, *few) for precision in ("fp32", "int4")]
    monkeypatch.setattr(memory, "BUILDS", builds)
    monkeypatch.setenv("FORCE_COLOR", "1")
    readme, output = tmp_path / "README.md", tmp_path / "memory.json"
    readme.write_text(f"{SECTION.begin}\n{SECTION.end}\n")
    result = CliRunner().invoke(
        main, ["memory", "--preset", "tiny", "--readme", str(readme), "--output", str(output), "--json"]
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report == json.loads(output.read_text())
    watched, failed = report["rows"]
    assert {"load PyTorch", "load model", "export to ONNX", "verify artifact"} <= watched["steps"].keys()
    assert watched["resident"] == max(usage["resident"] for usage in watched["steps"].values())
    assert min(usage["anonymous"] for usage in watched["steps"].values()) > 10 * MEGABYTES
    assert watched["resident"] > report["pytorch"]["resident"] > report["pytorch"]["anonymous"] > 50 * MEGABYTES
    assert report["weights_bytes"] > MEGABYTES
    assert "'int4' is not one of" in failed["failed"]
    assert render_markdown(SECTION.render(report)) in readme.read_text()


def test_a_build_that_is_killed_is_said_to_be(monkeypatch):
    monkeypatch.setattr(memory, "_COMMAND", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert memory._build(("--target", "onnx"), "tiny") == {"steps": {}, "failed": "SIGKILL"}


def test_only_linux_tells(monkeypatch):
    monkeypatch.setattr(memory.psutil, "LINUX", False)
    with pytest.raises(ConfigError, match="only Linux"):
        run_memory_benchmark("tiny", step=nullcontext)


def test_every_target_that_a_cpu_builds_is_watched():
    assert {options[1] for options in BUILDS} == set(TARGETS) - {"torch-trt"}


def test_the_table_is_in_times_of_the_weights():
    report = {
        "preset": "base",
        "weights_bytes": 100 * MEGABYTES,
        "pytorch": {"resident": 400 * MEGABYTES, "anonymous": 200 * MEGABYTES},
        "rows": [
            {"build": "trt fp32", "resident": 650 * MEGABYTES, "anonymous": 350 * MEGABYTES, "step": "build"},
            {"build": "trt fp16", "failed": "SIGKILL"},
        ],
    }
    lines = render_markdown(SECTION.render(report)).splitlines()
    assert lines[0].startswith(
        "Preset base, 100 MB of weights; in times these, above PyTorch itself, which takes 400 MB"
    )
    assert lines[-2:] == ["| trt fp32 | 2.5 | 1.5 | 650 | build |", "| trt fp16 | - | - | - | failed: SIGKILL |"]
