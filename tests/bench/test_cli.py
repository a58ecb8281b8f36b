"""The command line, end to end with a real checkpoint and its engine."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from kdcmae.bench.cli import main

QUICK = ["--seconds", "0.02", "--warm-up", "0", "--threads", "1", "--self-check", "skip"]


@pytest.fixture
def invoke():
    """Runs the command line in this process."""

    def invoke(*arguments: object):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return invoke


def test_an_engine_beside_its_checkpoint(invoke, checkpoint, engine_folder, tmp_path):
    output = tmp_path / "results" / "bench.json"
    result = invoke(*QUICK, engine_folder, checkpoint, "--json", "--output", output)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content == json.loads(output.read_text())
    assert [path.name for path in output.parent.iterdir()] == ["bench.json"]
    engine, model = content["rows"]
    assert (engine["case"]["subject"], model["case"]["subject"]) == (str(engine_folder), str(checkpoint))
    assert (engine["is_reference"], model["is_reference"]) == (False, True)
    assert content["self_check"] is None
    assert engine["self_test"]["passed"]
    assert engine["parity"]["passed"]
    assert engine["parity"]["error"] <= 1e-4
    for row in content["rows"]:
        assert row["status"] in {"measured", "unstable"}
        assert row["latency"]["count"] >= 5  # half of the ten rounds count, however the machine changes meanwhile
    # PyTorch alone takes more than the whole engine process: each process shows its own memory.
    assert engine["peak_rss_bytes"] < model["peak_rss_bytes"]


def test_a_damaged_engine_fails_and_the_other_is_measured(invoke, compiled, engine_folder):
    """Its table goes to stdout, and progress to stderr."""
    with (engine_folder / "model.onnx").open("ab") as file:
        file.write(b"x")
    result = invoke(engine_folder, compiled, *QUICK)
    assert result.exit_code == 1
    latencies = result.stdout.partition("latency in ms")[2].partition("\n\n")[0]
    damaged, whole = (
        next(line for line in latencies.splitlines() if line.startswith(str(folder)))
        for folder in (engine_folder, compiled)
    )
    assert "reference" in whole
    assert "reference" not in damaged
    assert "model.onnx has changed" in result.stdout
    assert "load " in result.stderr
    assert "latency" not in result.stderr


def test_a_missing_file_is_one_line_and_exit_code_2(invoke, tmp_path):
    result = invoke(tmp_path / "nothing.pth")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path}/nothing.pth does not exist")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--batch", "0", "x"], ["--seconds", "0", "x"], ["--sec-onds", "x"]])
def test_wrong_use_is_exit_code_2(invoke, arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_that_of_the_benchmark(invoke, option):
    text = invoke(option).stdout
    assert text.startswith("Usage: main [OPTIONS] SUBJECT...")
    assert "--seconds" in text
    assert "Commands:" in text
    for command in ("compare", "kernels", "readme", "report", "suite"):
        assert f"\n  {command} " in text


def test_help_loads_neither_torch_nor_an_engine_library():
    code = (
        "import sys; from kdcmae.bench.cli import main; main(['--help'], standalone_mode=False); "
        "sys.exit(bool({'torch', 'openvino', 'onnxruntime', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_without_its_libraries_the_extra_is_named():
    code = (
        "import sys; sys.modules['psutil'] = None; sys.argv = ['kdcmae-bench', 'preset:tiny']; "
        "from kdcmae.bench.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 3
    assert "psutil is not installed; install it with: pip install 'kdcmae[bench]'" in result.stderr
