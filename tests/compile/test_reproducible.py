"""The same command gives the same files."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)  # for seven builds, twice

ALWAYS_ANEW = {"manifest.json", "report.html"}  # they say when, and how long it took

BUILDS = [
    *(("openvino", "fp32"), ("openvino", "bf16"), ("onnx", "fp32"), ("onnx", "int8")),
    *(("trt", "fp32"), ("trt", "fp16"), ("trt", "int8")),
]

CODE = """
import json, sys
from kdcmae.compile import cases
from kdcmae.compile.cli import main

cases.PAIRED_CLIPS = 8  # to be proved on fewer takes less time
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, arguments
"""


def can_be_built(target: str) -> bool:
    return target != "trt" or find_spec("tensorrt_rtx_bindings") is not None


@pytest.fixture(scope="module")
def folders(
    checkpoint: Path, accepted: dict[str, tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """All engines, built by two processes, because OpenVINO numbers the layers that it adds by a counter of its own."""

    def arguments(folder: Path, target: str, precision: str) -> list[str]:
        options = accepted[precision] if target == "openvino" else ("--precision", precision)
        calibration = ("--calibration", "avsynth:4") if precision == "int8" else ()
        output = str(folder / f"{target}-{precision}")
        return ["--target", target, "--checkpoint", str(checkpoint), "--output", output, "--no-cache",
                *options, *calibration]  # fmt: skip

    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    processes = []
    for folder in (one, other):
        commands = json.dumps([arguments(folder, *build) for build in BUILDS if can_be_built(build[0])])
        command = [sys.executable, "-c", CODE, commands]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate()[1] for process in processes]
    for process, text in zip(processes, errors, strict=True):
        assert process.returncode == 0, text
    return one, other


@pytest.mark.parametrize(("target", "precision"), BUILDS)
def test_the_same_command_gives_the_same_files(target: str, precision: str, folders: tuple[Path, Path]) -> None:
    if not can_be_built(target):
        pytest.skip("TensorRT for RTX is not installed")
    one, other = (folder / f"{target}-{precision}" for folder in folders)
    names = {path.name for path in one.iterdir()} - ALWAYS_ANEW
    assert len(names) >= 3
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
