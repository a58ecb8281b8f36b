from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdcmae import doctor
from kdcmae.doctor import Problem, diagnose, require_target
from kdcmae.errors import BrokenDependencyError, DeviceError, MissingDependencyError
from kdcmae.runtime.cpu import CAP_VARIABLE
from kdcmae.runtime.cuda import Driver
from kdcmae.runtime.targets import TARGETS


@pytest.fixture(autouse=True)
def bare(no_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)


def report(target: str) -> Any:
    return next(report for report in diagnose().targets if report.target == target)


def packages(monkeypatch: pytest.MonkeyPatch, folder: Path, **versions: str) -> None:
    """Install these distributions in the place of others of their names; each holds the module that it is named by."""
    site = folder / "-".join(versions.values())
    for name, version in versions.items():
        facts = site / f"{name}-{version}.dist-info"
        facts.mkdir(parents=True)
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
        (facts / "top_level.txt").write_text(f"{name.partition('_')[0]}\n")
    monkeypatch.syspath_prepend(site)


def test_this_machine_is_described() -> None:
    found = diagnose()
    assert [report.target for report in found.targets] == list(TARGETS)
    assert found.libraries["torch"]
    assert not {"pytest", "ruff", "mypy", "hypothesis"} & found.libraries.keys()
    assert found.driver is None
    assert found.problems == ()


@pytest.mark.parametrize(("target", "module"), [("openvino", "openvino"), ("onnx", "onnxruntime")])
def test_a_missing_library_is_no_problem_but_has_a_fix(
    target: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    found = report(target)
    assert (found.library, found.builds, found.broken) == ("", f"{module} is not installed", False)
    assert f"pip install '{TARGETS[target].install}'" in found.fix
    assert diagnose().problems == ()
    with pytest.raises(MissingDependencyError, match=rf"{module} is not installed.*pip install") as error:
        require_target(target)
    assert error.value.exit_code == 3


@pytest.mark.parametrize(("target", "module"), [("onnx", "onnxscript"), ("openvino", "onnxruntime")])
def test_engines_run_where_only_what_builds_them_is_missing(
    target: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    found = report(target)
    assert found.builds == f"{module} is not installed"
    assert found.runs == ""
    assert f"pip install 'kdcmae[compile-{target}]'" in found.fix


def test_without_a_compiler_aoti_engines_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    found = report("aoti")
    assert "no C++ compiler" in found.builds
    assert found.runs == ""
    assert "apt-get install g++" in found.fix
    assert diagnose().problems == ()


def test_a_library_that_does_not_load_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site"
    (folder / "torch_tensorrt.dist-info").mkdir(parents=True)
    (folder / "torch_tensorrt.py").write_text("raise Exception('libnvinfer.so.11: cannot open')")
    monkeypatch.syspath_prepend(folder)
    (problem,) = diagnose().problems
    assert problem.what.startswith(
        "target torch-trt: torch_tensorrt is installed but does not import: libnvinfer.so.11"
    )
    assert "pip install 'kdcmae[torch-trt]'" in problem.fix
    with pytest.raises(BrokenDependencyError):
        require_target("torch-trt")


def test_a_target_that_needs_its_device_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_tensorrt", SimpleNamespace(__version__="2.13.0"))
    assert "no CUDA device, and Torch-TensorRT builds for the GPU at hand" in report("torch-trt").builds
    with pytest.raises(DeviceError, match="--target torch-trt cannot build here: no CUDA device"):
        require_target("torch-trt")


def test_full_tensorrt_builds_only_where_a_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.4.0", Runtime=object))
    assert "no CUDA device, and full TensorRT builds for the GPU at hand" in report("trt").builds
    with pytest.raises(DeviceError, match="--target trt cannot build here: no CUDA device"):
        require_target("trt")


def test_int8_for_openvino_needs_nncf(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    monkeypatch.setitem(sys.modules, "nncf", None)
    found = report("openvino")
    assert found.precisions["int8"] == "nncf is not installed; install it with: pip install 'kdcmae[compile-openvino]'"
    assert found.executes["int8"] == ""
    assert found.precisions["fp32"] == found.builds == ""


@pytest.mark.parametrize(
    ("features", "executed"),
    [
        (["avx512_bf16", "avx512_fp16"], {"fp16": "fp16", "bf16": "bf16"}),
        (["avx512_bf16"], {"fp16": "bf16", "bf16": "bf16"}),
        (["avx2"], {"fp16": "fp32", "bf16": "fp32"}),
    ],
)
def test_what_openvino_executes_is_what_this_processor_multiplies(
    features: list[str], executed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    monkeypatch.delenv(CAP_VARIABLE, raising=False)
    monkeypatch.setattr("kdcmae.host.cpu_features", lambda: frozenset(features))
    found = report("openvino")
    for precision, other in executed.items():
        reason = "" if other == precision else f"it executes as {other} on this processor"
        assert found.executes[precision] == reason
        advice = f"; use --precision {other}, or accept it with --execute-as {other}"
        assert found.precisions[precision] == (reason and reason + advice)


def test_bfloat16_for_onnx_runtime_is_built_and_not_run() -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    found = report("onnx")
    assert found.precisions["bf16"] == ""
    assert found.executes["bf16"] == "ONNX Runtime's CPU provider has no bfloat16 kernels"


def test_what_needs_a_gpu_runs_in_no_precision_without() -> None:
    assert set(report("trt").executes.values()) == {report("trt").runs}


@pytest.mark.parametrize("place", ["cwd", "PYTHONPATH"])
@pytest.mark.parametrize("file", ["tensorrt.py", "openvino/__init__.py"])
def test_a_file_in_the_place_of_a_library(
    place: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path if place == "cwd" else tmp_path / "elsewhere"
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    if place == "PYTHONPATH":
        monkeypatch.setenv("PYTHONPATH", str(folder))
    shown = folder / file.partition("/")[0]
    module = shown.name.removesuffix(".py")
    assert list(doctor._shadowed()) == [
        Problem(what=f"{shown} takes the place of the library {module}", fix=f"rename {shown}")
    ]


def test_the_libraries_own_folder_is_no_stray_file(tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("")
    (tmp_path / "tensorrt-11.0.0.dist-info").mkdir()
    assert list(doctor._shadowed()) == []


def test_two_flavours_of_a_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packages(monkeypatch, tmp_path, onnxruntime_gpu="1.0", onnxruntime="1.0")
    (problem,) = doctor._overwritten()
    assert problem.what == "onnxruntime and onnxruntime-gpu both hold the module onnxruntime"
    assert problem.fix.startswith("pip uninstall onnxruntime onnxruntime-gpu")


def test_bindings_beside_other_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packages(monkeypatch, tmp_path, tensorrt_cu13_bindings="11.4.0", tensorrt_cu13_libs="11.0.0", av="1.0")
    (problem,) = doctor._unpaired()
    assert problem.what == "tensorrt-cu13-bindings 11.4.0 beside libraries 11.0.0"
    assert problem.fix == "pip install tensorrt-cu13-libs==11.4.0"
    packages(monkeypatch, tmp_path, tensorrt_cu13_bindings="11.4.0", tensorrt_cu13_libs="11.4.0")
    assert list(doctor._unpaired()) == []


def test_a_library_older_than_supported() -> None:
    installed = {"torch": "2.9.1+cpu", "numpy": "2.10.0", "onnx": ""}
    (problem,) = doctor._too_old(installed, {"torch": "2.11", "numpy": "2.9", "onnx": "1.18"})
    assert problem == Problem(what="torch 2.9.1+cpu is older than 2.11", fix="pip install 'torch>=2.11'")


def test_the_requirements_are_those_of_the_package() -> None:
    requirements = doctor._requirements()
    assert requirements["openvino"] == "2026.0"
    assert {"torch", "onnxruntime", "torch-tensorrt"} <= requirements.keys()
    assert "kdcmae" not in requirements


@pytest.mark.parametrize(("cuda", "problems"), [((12, 8), 1), ((13, 0), 0), ((14, 1), 0)])
def test_a_driver_too_old(
    cuda: tuple[int, int], problems: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packages(monkeypatch, tmp_path, tensorrt_rtx_cu13_libs="1.7.1")
    found = list(doctor._driver_too_old(Driver(cuda=cuda, gpus=())))
    assert len(found) == problems
    if found:
        assert found[0].what == "tensorrt-rtx-cu13-libs needs CUDA 13, the driver runs 12.8"
        assert found[0].fix == "update the NVIDIA driver"
