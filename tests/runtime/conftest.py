"""Tiny engine folders, real ones, whose logits numpy can compute.

Tests get at everything through the fixture ``tiny``, an instance of :class:`TinyEngines`.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdcmae.runtime.manifest import BatchRange, Manifest, TensorSpec
from kdcmae.runtime.openvino_library import import_openvino, openvino_core
from kdcmae.runtime.preprocessing import Preprocessing

LABELS = ("barking", "singing", "engine, idling")
SHAPES = {"x": (5, 4), "audio": (1024, 128), "image": (3, 224, 224)}
BATCH = BatchRange(1, 2, 4)


class TinyEngines:
    """Engines over any of the inputs ``x`` (batch, 5, 4), ``audio`` and ``image``, with three classes.

    The logits are each input's mean over its middle axes, times that input's weight, summed over the inputs.
    """

    labels = LABELS

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(
        self, target: str, names: Iterable[str] = ("x",), batch: BatchRange = BATCH, **manifest_changes: Any
    ) -> Path:
        """Write an engine folder; ``onnx`` and ``openvino`` run, ``trt`` holds the bytes ``plan`` as its engine."""
        folder = self._folder / f"{target}-engine"
        folder.mkdir()
        model = self.onnx_model(names, batch)
        if target == "onnx":
            onnx.save(model, folder / "model.onnx")
        elif target == "openvino":
            ov = import_openvino()
            ir = openvino_core().read_model(model.SerializeToString())
            ov.save_model(ir, folder / "model.xml", compress_to_fp16=False)
        else:
            (folder / "engine.plan").write_bytes(b"plan")
        feed = self.feed(names, batch.opt)
        golden = {f"input.{name}": array for name, array in feed.items()}
        np.savez(folder / "golden.npz", **golden, **{"output.logits": self.logits(feed), "tolerance.logits": 1e-5})
        self.manifest(target, names, batch, **manifest_changes).write(folder)
        return folder

    def feed(self, names: Iterable[str], batch: int, seed: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {name: rng.standard_normal((batch, *SHAPES[name])).astype(np.float32) for name in names}

    def logits(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        means = {name: array.mean(axis=tuple(range(1, array.ndim - 1))) for name, array in feed.items()}
        return sum(mean @ _weight(name) for name, mean in means.items())

    def edit(self, folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
        """Apply ``change`` to the content of ``manifest.json``."""
        path = folder / "manifest.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    def onnx_model(self, names: Iterable[str], batch: BatchRange) -> onnx.ModelProto:
        size = batch.min if batch.min == batch.max else "batch"
        nodes, constants, inputs, terms = [], [], [], []
        for name in names:
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, *SHAPES[name]]))
            middle = np.arange(1, len(SHAPES[name]), dtype=np.int64)
            constants.append(numpy_helper.from_array(middle, f"{name}.axes"))
            constants.append(numpy_helper.from_array(_weight(name), f"{name}.weight"))
            nodes.append(helper.make_node("ReduceMean", [name, f"{name}.axes"], [f"{name}.mean"], keepdims=0))
            nodes.append(helper.make_node("MatMul", [f"{name}.mean", f"{name}.weight"], [f"{name}.term"]))
            terms.append(f"{name}.term")
        nodes.append(helper.make_node("Sum", terms, ["logits"]))
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [size, len(LABELS)])
        graph = helper.make_graph(nodes, "tiny", inputs, [output], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    def manifest(
        self, target: str, names: Iterable[str] = ("x",), batch: BatchRange = BATCH, **changes: Any
    ) -> Manifest:
        facts: dict[str, Any] = {
            "kdcmae_version": "0.1.0",
            "created": "2026-07-01T12:00:00+00:00",
            "model": {
                "name": "tiny",
                "parameters": 12,
                "modality": "audiovisual",
                "config": {"embed_dim": 4},
                "source": "a test",
                "random_weights": True,
            },
            "labels": LABELS,
            "scores": "softmax",
            "inputs": tuple(TensorSpec(name, ("batch", *SHAPES[name]), "float32", "noise") for name in names),
            "outputs": (TensorSpec("logits", ("batch", len(LABELS)), "float32", "one per label"),),
            "batch": batch,
            "preprocessing": Preprocessing().to_dict(),
            "target": target,
            "libraries": _libraries(target),
            "engine": _ENGINES.get(target, {}),
            "precision": {"asked": "fp32", "executed": {}, "notes": ""},
            "parity": [{"name": "onnx", "status": "passed"}],
            "build": {"seconds": 1.5},
        }
        return Manifest(**(facts | changes))


_ENGINES = {
    "onnx": {"file": "model.onnx", "device": "CPU"},
    "openvino": {"file": "model.xml", "device": "CPU", "inference_precision": "f32"},
    "trt": {"file": "engine.plan", "flavour": "tensorrt_rtx"},
    "torch-trt": {"file": "engine.plan", "device": "cuda:0"},
}


def _libraries(target: str) -> dict[str, str]:
    if target == "onnx":
        return {"onnxruntime": onnxruntime.__version__}
    if target == "openvino":
        return {"openvino": import_openvino().__version__}
    return {"tensorrt_rtx": "1.7.1.116"}


def _weight(name: str) -> np.ndarray:
    rng = np.random.default_rng(list(SHAPES).index(name))
    return rng.standard_normal((SHAPES[name][-1], len(LABELS))).astype(np.float32)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyEngines:
    """Maker of tiny engine folders in this test's own folder."""
    return TinyEngines(tmp_path)


@pytest.fixture(params=["onnx", "openvino"])
def engine_folder(request: pytest.FixtureRequest, tiny: TinyEngines) -> Path:
    """A folder of each target that runs on a CPU: input ``x`` (batch, 5, 4), batch 1 to 4."""
    return tiny.make(request.param)


@pytest.fixture(scope="session")
def stub_cuda_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CUDA driver library whose device memory is host memory, built from ``stub_cuda.c``."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in for the CUDA driver with")
    library = tmp_path_factory.mktemp("cuda") / "libcuda-stub.so"
    source = Path(__file__).with_name("stub_cuda.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source], check=True)
    return library


@pytest.fixture
def quota(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Limits this process to so many of eight CPUs, as the quota of a container does."""

    def limit(cpus: int) -> None:
        monkeypatch.setattr("kdcmae.host.usable_cpus", lambda: cpus)
        monkeypatch.setattr("os.cpu_count", lambda: 8)

    return limit


@pytest.fixture
def stub_cuda(stub_cuda_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    """The stand-in put in the driver's place, with counters of its own for this test."""
    copy = shutil.copy(stub_cuda_path, tmp_path / "libcuda-stub.so")
    monkeypatch.setattr("kdcmae.runtime.cuda.LIBRARY", str(copy))
    return ctypes.CDLL(str(copy))
