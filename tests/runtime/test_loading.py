"""Loading engines of both targets that run on a CPU: what is checked, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcmae.errors import (
    ConfigError,
    DeviceError,
    EngineError,
    EngineIntegrityError,
    EngineVersionError,
    MissingDependencyError,
)
from kdcmae.runtime import load_engine
from kdcmae.runtime.manifest import BatchRange, Manifest, TensorSpec

LIBRARIES = {"onnx": "onnxruntime", "openvino": "openvino", "trt": "tensorrt_rtx"}


def test_files_are_verified_before_any_library_sees_them(engine_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("onnx", "openvino"):
        monkeypatch.setitem(sys.modules, f"kdcmae.runtime.{module}", None)
    name = Manifest.read(engine_folder).engine["file"]
    content = bytearray((engine_folder / name).read_bytes())
    content[-1] ^= 1
    (engine_folder / name).write_bytes(content)
    with pytest.raises(EngineIntegrityError, match=f"{name} has changed"):
        load_engine(engine_folder)


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_newer_libraries_load_what_older_ones_built(tiny: Any, target: str) -> None:
    library = LIBRARIES[target]
    engine = load_engine(tiny.make(target, libraries={library: "1.2.3-99-abc"}))
    assert engine.self_test().passed


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_older_libraries_refuse_what_newer_ones_built(tiny: Any, target: str) -> None:
    library = LIBRARIES[target]
    installed = tiny.manifest(target).libraries[library]
    folder = tiny.make(target, libraries={library: "9999.1"})
    message = f"built with {library} 9999.1, installed is the older {installed}.*pip install '{library}>=9999.1.0'"
    with pytest.raises(EngineVersionError, match=message):
        load_engine(folder)


def test_a_manifest_without_a_usable_version_is_refused(engine_folder: Path, tiny: Any) -> None:
    [library] = Manifest.read(engine_folder).libraries
    tiny.edit(engine_folder, lambda m: m.update(libraries={library: "newest"}))
    with pytest.raises(EngineError, match="'newest' is not a library version"):
        load_engine(engine_folder)
    tiny.edit(engine_folder, lambda m: m.update(libraries={}))
    with pytest.raises(EngineError, match=rf"libraries\.{library} is missing"):
        load_engine(engine_folder)


@pytest.mark.parametrize("target", ["onnx", "openvino", "trt"])
def test_a_missing_library_names_its_install_line(tiny: Any, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.make(target)
    library = LIBRARIES[target]
    for module in (library, f"{library}_bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'kdcmae\[\w+\]'") as caught:
        load_engine(folder)
    assert caught.value.exit_code == 3
    assert caught.value.library.startswith(library)


def test_a_device_that_is_not_here_is_said(engine_folder: Path) -> None:
    with pytest.raises(DeviceError, match=r"no device 'NPU7' here, only .*CPU"):
        load_engine(engine_folder, device="NPU7")


@pytest.mark.parametrize("threads", [0, -1, True, 1.5])
def test_threads_are_a_positive_number(engine_folder: Path, threads: Any) -> None:
    with pytest.raises(ConfigError, match="must be a positive whole number"):
        load_engine(engine_folder, threads=threads)


def test_threads_may_be_chosen(engine_folder: Path) -> None:
    assert load_engine(engine_folder, device="CPU", threads=np.int64(1)).self_test().passed


def test_devices_may_be_written_large_or_small(engine_folder: Path) -> None:
    assert load_engine(engine_folder, device="cpu").self_test().passed
    assert load_engine(engine_folder, device=" Cpu ").self_test().passed


@pytest.mark.parametrize("device", ["", " ", 5, b"CPU"])
def test_a_device_has_a_name(engine_folder: Path, device: Any) -> None:
    with pytest.raises(ConfigError, match="names no device; leave it out"):
        load_engine(engine_folder, device=device)


@pytest.mark.parametrize("folder", [None, 5])
def test_a_folder_is_a_path(folder: Any) -> None:
    with pytest.raises(EngineError, match=f"folder={folder} is not a path"):
        load_engine(folder)


def test_a_file_that_is_no_model_is_said(engine_folder: Path) -> None:
    name = Manifest.read(engine_folder).engine["file"]
    (engine_folder / name).write_bytes(b"not a model")
    Manifest.read(engine_folder).write(engine_folder)
    with pytest.raises(EngineError, match=f"cannot load .*{name}"):
        load_engine(engine_folder)


@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": (TensorSpec("y", ("batch", 5, 4), "float32", ""),)}, "has the inputs x, but the manifest says y"),
        ({"inputs": (TensorSpec("x", ("batch", 5, 4), "float16", ""),)}, "input x of .* is float32"),
        ({"inputs": (TensorSpec("x", ("batch", 5, 9), "float32", ""),)}, r"input x of .* is float32 \(None, 5, 4\)"),
        ({"outputs": (TensorSpec("scores", ("batch", 3), "float32", ""),)}, "has the outputs logits"),
        ({"outputs": (TensorSpec("logits", (3,), "float32", ""),)}, "output logits of .* is float32"),
    ],
)
def test_an_engine_that_is_not_what_its_manifest_says_is_refused(
    tiny: Any, target: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        load_engine(tiny.make(target, **changes))


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_baked_in_batch_is_found_at_load_time(tiny: Any, target: str) -> None:
    folder = tiny.make(target, batch=BatchRange(2, 2, 2))
    tiny.edit(folder, lambda m: m.update(batch={"min": 1, "opt": 1, "max": 8}))
    with pytest.raises(EngineError, match=r"is float32 \(2, 5, 4\), but the manifest says .* batch 1 to 8"):
        load_engine(folder)


def test_preprocessing_that_cannot_be_honoured_is_refused(engine_folder: Path, tiny: Any) -> None:
    tiny.edit(engine_folder, lambda m: m["preprocessing"].update(interpolation="nearest"))
    with pytest.raises(EngineError, match="preprocessing interpolation='nearest' is not supported"):
        load_engine(engine_folder)


@pytest.mark.parametrize(("name", "fact", "axis"), [("image", "image_size", 2), ("audio", "audio_frames", 1)])
@pytest.mark.parametrize("size", [10**9, 10**30, 16])
def test_preprocessing_that_contradicts_the_inputs_is_refused(
    tiny: Any, name: str, fact: str, axis: int, size: int
) -> None:
    folder = tiny.make("onnx", [name])
    tiny.edit(folder, lambda m: m["preprocessing"].update({fact: size}))
    message = f"preprocessing {fact}={size} makes axis {axis} of input {name} {size} long, the engine takes"
    with pytest.raises(EngineError, match=message):
        load_engine(folder)


def test_the_runtime_needs_numpy_and_the_engine_library_only(tiny: Any) -> None:
    """In a fresh process: no torch, no other engine library, and no import of any of them before an engine asks."""
    folders = [tiny.make("onnx"), tiny.make("openvino")]
    script = """
import sys
import kdcmae.runtime as runtime
def loaded(*names): return [name for name in names if sys.modules.get(name) is not None]
assert loaded("torch", "openvino", "onnxruntime", "tensorrt_rtx_bindings", "click", "rich", "av") == []
assert runtime.load_engine(sys.argv[1]).self_test().passed
assert loaded("torch", "openvino", "onnx") == []
assert runtime.load_engine(sys.argv[2]).self_test().passed
assert loaded("torch", "openvino_telemetry", "onnx") == []
"""
    finished = subprocess.run([sys.executable, "-c", script, *folders], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == finished.stderr == ""


def test_products_that_are_no_counts_are_refused_in_one_line(tiny: Any) -> None:
    folder = tiny.make("onnx")
    tiny.edit(folder, lambda manifest: manifest["precision"].update(products=["bf16"]))
    with (
        load_engine(folder) as engine,
        pytest.raises(EngineError, match=r"field precision\.products must be an object"),
    ):
        engine.products()
