"""The genuine bindings of TensorRT 10 and 11, over stand-ins for its libraries, have all that the code uses.

Deserialising and running a plan need the libraries and a GPU: here every class, method, enum member, argument and
keyword is checked, not what it does.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdcmae.compile.targets import trt as target
from kdcmae.runtime import tensorrt as backend

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / "compile" / "targets" / "trt.py", ROOT / "kdcmae" / "runtime" / "tensorrt.py"]
# Only TensorRT for RTX builds for several compute capabilities.
RTX_ONLY = ["_target_all_capabilities"]
# All that the bindings import from TensorRT's libraries.
LIBRARIES = {
    "libnvinfer": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "libnvonnxparser": ("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getNvOnnxParserVersion"),
    "libnvinfer_plugin": ("initLibNvInferPlugins",),
}


def load_surface() -> Any:
    spec = importlib.util.spec_from_file_location("surface", Path(__file__).with_name("surface.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stubs(folder: Path, major: int) -> list[str]:
    """Libraries with TensorRT's names whose functions do nothing."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build stand-ins for TensorRT's libraries with")
    built = []
    for library, functions in LIBRARIES.items():
        path = folder / f"{library}.so.{major}"
        source = "".join(f"void* {function}(void) {{ return 0; }}\n" for function in functions)
        arguments = [compiler, "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{path.name}", "-o", str(path)]
        subprocess.run(arguments, input=source, text=True, check=True)
        built.append(str(path))
    return built


def inspect(module: str, *, path: list[str], libraries: list[str], leave_out: list[str], sources: Any = None) -> Any:
    case = {"module": module, "path": path, "libraries": libraries, "leave_out": leave_out}
    case["sources"] = [str(source) for source in sources or SOURCES]
    command = [sys.executable, str(Path(__file__).with_name("surface.py")), json.dumps(case)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def require_members(found: Any) -> None:
    assert target._PRECISIONS.keys() | backend._DTYPES.keys() <= set(found["members"]["DataType"])
    assert {"MATRIX_MULTIPLY", "NORMALIZATION", "SOFTMAX"} <= set(found["members"]["LayerType"])


@pytest.mark.parametrize("version", ["10.16", "11.4"])
def test_full_tensorrt_has_what_is_used(version: str, wheel: Callable[[str], Path], tmp_path: Path) -> None:
    folder = wheel(f"tensorrt_cu13_bindings-{version}")
    libraries = stubs(tmp_path, int(version.partition(".")[0]))
    found = inspect("tensorrt_bindings", path=[str(folder)], libraries=libraries, leave_out=RTX_ONLY)
    assert found["version"].startswith(f"{version}.")
    assert found["problems"] == []
    require_members(found)
    # Types were followed to the far end of both files.
    far = {
        "Builder.build_serialized_network_to_stream",
        "ParserError.desc",
        "IOptimizationProfile.set_shape",
        "ILayer.type",
    }
    far |= {
        "EngineInspector.get_engine_information",
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.get_tensor_mode",
        "IExecutionContext.execute_async_v3",
    }
    assert far <= set(found["used"])


def test_tensorrt_for_rtx_has_what_is_used() -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    found = inspect("tensorrt_rtx_bindings", path=[], libraries=[], leave_out=[])
    assert found["problems"] == []
    assert "IBuilderConfig.set_compute_capability" in found["used"]
    require_members(found)


def test_what_is_not_there_is_found(tmp_path: Path) -> None:
    """Each line has one mistake: a class, a method, an enum member, an argument too many, a keyword."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    source = tmp_path / "wrong.py"
    source.write_text(
        "def build(trt):\n"
        "    builder = trt.Builder(logger)\n"
        "    trt.Bilder(logger)\n"
        "    builder.make_network()\n"
        "    trt.BuilderFlag.TF31\n"
        "    builder.create_network(1, 2, 3, 4)\n"
        "    helper(builder.create_builder_config())\n"
        "def helper(anything):\n"
        "    anything.clear_flag(value=1)\n"
    )
    found = inspect("tensorrt_rtx_bindings", path=[], libraries=[], leave_out=[], sources=[source])
    problems = [problem.removeprefix("wrong.py: ") for problem in found["problems"]]
    assert [problem for problem in problems if problem.endswith("does not exist")] == [
        "Bilder does not exist",
        "Builder.make_network does not exist",
        "BuilderFlag.TF31 does not exist",
    ]
    misfits = [problem for problem in problems if "does not fit" in problem]
    assert [problem.partition(" does not fit")[0] for problem in misfits] == [
        "anything.clear_flag(value=1)",
        "builder.create_network(1, 2, 3, 4)",
    ]


def test_overloads_and_defaults_are_read_from_docstrings() -> None:
    surface = load_surface()
    doc = (
        "\n1. f(self: m.A, a: int, b: Tuple[int, int] = (1, 2)) -> None\n"
        "Text.\n2. f(self: m.A, c: Dict[str, int]) -> m.B\n"
    )
    first, second = surface._signatures(doc)
    assert first == [("self", False), ("a", False), ("b", True)]
    assert second == [("self", False), ("c", False)]
    call = ast.parse("x.f(1, b=2)", mode="eval").body
    assert surface._accepts(first, call, bound=True)
    assert not surface._accepts(second, call, bound=True)
