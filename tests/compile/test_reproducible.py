from __future__ import annotations

import subprocess
import sys

import pytest

ALWAYS_ANEW = {"manifest.json", "report.html"}  # they say when, and how long it took


@pytest.mark.parametrize(
    ("target", "precision"),
    [
        *(("openvino", "fp32"), ("openvino", "bf16"), ("onnx", "fp32"), ("onnx", "int8")),
        *(("trt", "fp32"), ("trt", "fp16"), ("trt", "int8")),
    ],
)
def test_the_same_command_gives_the_same_files(target, precision, checkpoint, accepted, tmp_path):
    """In processes of their own: OpenVINO numbers the layers it adds by a counter of the process."""
    if target == "trt":
        pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    folders = [tmp_path / "one", tmp_path / "other"]
    code = "import sys; from kdcmae.compile.cli import main; main(sys.argv[1:])"
    options = [*(accepted[precision] if target == "openvino" else ("--precision", precision)), "--no-cache"]
    if precision == "int8":
        options += ["--calibration", "avsynth:4"]
    for folder in folders:
        arguments = ["--target", target, "--checkpoint", str(checkpoint), "--output", str(folder), *options]
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
    names = {path.name for path in folders[0].iterdir()} - ALWAYS_ANEW
    assert len(names) >= 3
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
