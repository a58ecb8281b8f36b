"""Options that cannot act are refused, and wrong use is said before anything slow is loaded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

FEATURES = ("--target", "openvino", "--task", "features")
INT8 = ("--target", "openvino", "--precision", "int8")
FP32 = ("--target", "openvino", "--precision", "fp32")


@pytest.mark.parametrize(
    ("arguments", "idle"),
    [
        ((*FP32, "--max-drop", "1"), "--max-drop"),
        (("--target", "openvino", "--max-drop", "1"), "--max-drop"),
        ((*FP32, "--calibration", "avsynth:4"), "--calibration"),
        ((*INT8, "--evaluation", "avsynth:4"), "--evaluation"),
        ((*FP32, "--execute-as", "bf16"), "--execute-as"),
        ((*INT8, "--execute-as", "bf16"), "--execute-as"),
        (("--target", "openvino", "--execute-as", "fp32"), "--execute-as"),
        (("--target", "trt", "--precision", "fp16", "--execute-as", "fp32"), "--execute-as fp32"),
        ((*FP32, "--keep-by", "merge"), "--keep-by"),
        ((*FP32, "--weights", "ema"), "--weights"),
        ((*FEATURES, "--labels", "names.txt"), "--labels"),
        ((*FEATURES, "--min-agreement", "0.99", "--multi-label"), "--multi-label and --min-agreement"),
        ((*FP32, "--random-weights"), "--random-weights"),
        ((*INT8, "--no-stored-clips"), "--no-stored-clips"),
        (("--budget-ms", "5", "--precision", "int8", "--for", "amx"), "--precision and --for"),
    ],
)
def test_an_option_that_cannot_act_is_refused(arguments, idle, run):
    result = run(*arguments)
    assert result.exit_code == 2
    assert f"{idle} cannot act" in result.stderr
    assert "load PyTorch" not in result.stderr


def test_wrong_use_is_said_without_loading_anything_slow(tmp_path):
    """In one process, which would keep PyTorch, OpenVINO or NNCF if any of the commands loaded it."""
    commands = {
        "fp8": ["--target", "openvino", "--precision", "fp8"],
        "device": ["--target", "openvino", "--device", "cuda"],
        "for": ["--target", "aoti", "--for", "amx"],
        "no such class": ["--target", "openvino", "--for", "pentium"],
        "budget": ["--budget-ms", "0"],
        "search for a GPU": ["--target", "trt", "--budget-ms", "5"],
        "drop": ["--budget-ms", "5", "--max-drop", "101"],
        "limit": ["--target", "onnx", "--max-error", "1"],
        "modalities": ["--target", "onnx", "--modalities", "audio"],
        "checkpoint": ["--target", "onnx", "--checkpoint", "absent.pth"],
        "labels": ["--target", "onnx", "--labels", "absent.txt"],
        "clips": ["--target", "onnx", "--clips", "absent.mp4"],
        "calibration": ["--target", "onnx", "--precision", "int8", "--calibration", "absent.jsonl"],
        "calibration of none": ["--target", "onnx", "--precision", "int8", "--calibration", "avsynth:0"],
        "evaluation": ["--budget-ms", "5", "--evaluation", "absent.jsonl"],
        "output": ["--target", "onnx", "--output", "taken"],
        "diagnose": ["diagnose", "--target", "onnx", "--checkpoint", "absent.pth"],
    }
    (tmp_path / "taken").write_text("a file")
    code = (
        "import json, sys\n"
        "from kdcmae.compile.cli import main\n"
        "codes = {}\n"
        f"for name, arguments in {commands!r}.items():\n"
        "    try:\n"
        "        main(arguments)\n"
        "    except SystemExit as end:\n"
        "        codes[name] = end.code\n"
        "slow = [name for name in ('torch', 'openvino', 'nncf', 'onnxruntime') if sys.modules.get(name)]\n"
        "print(json.dumps([codes, slow]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    codes, slow = json.loads(done.stdout)
    assert codes == dict.fromkeys(commands, 2), done.stderr
    assert slow == []
    assert "Traceback" not in done.stderr
