from __future__ import annotations

import json
import platform
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

from kdcmae.cli import doctor as cli
from kdcmae.cli import main
from kdcmae.doctor import Problem
from kdcmae.runtime.cpu import CAP_VARIABLE, describe_cpu, this_cpu
from kdcmae.runtime.targets import TARGETS


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments])


@pytest.fixture(autouse=True)
def bare(no_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_table_has_every_target_and_every_reason() -> None:
    result = run()
    assert result.exit_code == 0, result.output
    for target in TARGETS:
        assert target in result.stdout
    assert "trt cannot run: no CUDA device" in result.stdout
    assert "aoti has no int8 or fp8: quantised models are ONNX graphs" in result.stdout
    assert "onnx cannot run bf16: ONNX Runtime's CPU provider has no bfloat16 kernels" in result.stdout
    assert "nothing is broken" in result.stdout


def test_every_precision_has_its_cell_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    lines = run().stdout.splitlines()
    cells = {row[0]: row[2:] for row in (re.split(r"\s\s+", line) for line in lines)}
    half = "no" if platform.machine() in ("x86_64", "AMD64") else "yes"
    assert cells["onnx"] == ["yes", half, "build", "yes", "no"]
    assert cells["torch-trt"] == ["no"] * 5


def test_json_is_one_document() -> None:
    document = json.loads(run("--json").stdout)
    assert document["schema_version"] == 1
    assert {report["target"] for report in document["targets"]} == set(TARGETS)
    assert document["driver"] is None


@pytest.mark.parametrize("cap", ["", "AVX2"])
def test_json_describes_the_device_to_a_build_for_it(cap: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv(CAP_VARIABLE, cap)
    document = run("--json").stdout
    (tmp_path / "device.json").write_text(document)
    assert json.loads(document)["cpu_class"] == this_cpu().class_name
    assert describe_cpu(str(tmp_path / "device.json")) == this_cpu()


def test_something_broken_is_exit_code_1_with_its_fix(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "tensorrt.py").write_text("")
    result = run()
    assert result.exit_code == 1
    assert f"rename {tmp_path / 'tensorrt.py'}" in result.stdout.replace("\n", "")
    document = json.loads(run("--json").stdout)
    assert [Problem(**problem).fix for problem in document["problems"]] == [f"rename {tmp_path / 'tensorrt.py'}"]


@pytest.mark.parametrize(
    ("target", "modules"),
    [
        ("openvino", ("openvino",)),
        ("trt", ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")),
        ("torch-trt", ("torch_tensorrt",)),
        ("onnx", ("onnxruntime",)),
    ],
)
def test_a_target_asked_for_and_missing_is_exit_code_3(target: str, modules: tuple[str, ...]) -> None:
    code = (
        f"import sys\nfor name in {modules}: sys.modules[name] = None\n"
        f"from kdcmae.cli import main\nmain(['doctor', '--json', '--target', {target!r}])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert f"pip install 'kdcmae[compile-{target}]'" in result.stderr
    assert json.loads(result.stdout)["targets"]


def test_a_target_that_builds_here_is_exit_code_0() -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    assert run("--target", "openvino").exit_code == 0


def test_torch_is_not_imported() -> None:
    code = "import sys; from kdcmae.doctor import diagnose; diagnose(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_shown_features_are_known() -> None:
    from kdcmae import host

    assert set(cli._SHOWN) <= set(host._FEATURES)
