"""The TensorRT backend over a stand-in for the driver, and over a stand-in for TensorRT or the real bindings.

Here the real ones build plans but cannot run them; ``make test-gpu`` runs a real plan on a real device.
"""

from __future__ import annotations

import ctypes
import enum
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kdcmae.errors import (
    BrokenDependencyError,
    ConfigError,
    DeviceError,
    EngineError,
    EngineIntegrityError,
    EngineVersionError,
)
from kdcmae.runtime import load_engine
from kdcmae.runtime.manifest import BatchRange, Manifest, TensorSpec, verify_files
from kdcmae.runtime.tensorrt import import_tensorrt

OFFSET = 1 << 60  # of device addresses, see stub_cuda.c
STORAGE = {"FLOAT": np.float32, "HALF": np.float16, "BF16": np.uint16}


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    BF16 = 2


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class ILogger:
    ERROR, INTERNAL_ERROR, WARNING = range(3)


class FakeContext:
    """Computes the tiny model in "device" memory, at the addresses and shapes it was given."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return self._engine.fake.accepts_shapes

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self._shapes["x"][0], 3) if name == "logits" else self._shapes[name]

    def execute_async_v3(self, stream: int) -> bool:
        assert stream
        logits = self._engine.fake.tiny.logits({"x": self._memory("x")}).astype(np.float32)
        output = self._memory("logits")
        output[:] = logits.view(np.uint32) >> 16 if output.dtype == np.uint16 else logits
        return self._engine.fake.executes

    def _memory(self, name: str) -> np.ndarray:
        shape, dtype = self.get_tensor_shape(name), np.dtype(STORAGE[self._engine.get_tensor_dtype(name).name])
        size = int(np.prod(shape)) * dtype.itemsize
        raw = (ctypes.c_uint8 * size).from_address(self._addresses[name] - OFFSET)
        return np.ctypeslib.as_array(raw).view(dtype).reshape(shape)


class FakeEngine:
    num_io_tensors = 2

    def __init__(self, fake: FakeTensorRT) -> None:
        self.fake = fake

    def get_tensor_name(self, index: int) -> str:
        return ("x", "logits")[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "x" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.FLOAT if name == "x" else self.fake.output_type

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 5, 4) if name == "x" else (-1, 3)

    def create_execution_context(self) -> FakeContext | None:
        return FakeContext(self) if self.fake.creates_contexts else None


class FakeRuntime:
    def __init__(self, fake: FakeTensorRT, logger: Any) -> None:
        self._fake = fake
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
        self._fake.deserialised.append(plan)
        if plan == b"plan":
            return FakeEngine(self._fake)
        self._logger.log(ILogger.WARNING, "a warning")
        self._logger.log(ILogger.ERROR, "magic tag does not match")
        return None


class FakeTensorRT:
    """What the backend uses of TensorRT, and knobs to make it fail."""

    __version__ = "1.7.1.116"
    ILogger = ILogger
    TensorIOMode = TensorIOMode
    accepts_shapes = executes = creates_contexts = True
    output_type = DataType.FLOAT

    def __init__(self, tiny: Any) -> None:
        self.tiny = tiny
        self.deserialised: list[bytes] = []

    def Runtime(self, logger: Any) -> FakeRuntime:  # noqa: N802
        return FakeRuntime(self, logger)


@pytest.fixture
def fake_trt(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    fake = FakeTensorRT(tiny)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake)
    return fake


@pytest.fixture
def fake_gpu(fake_trt: FakeTensorRT, stub_cuda: ctypes.CDLL) -> SimpleNamespace:
    return SimpleNamespace(trt=fake_trt, held=ctypes.c_int.in_dll(stub_cuda, "stub_held"))


@pytest.mark.parametrize("batch", [1, 4])
def test_infer_moves_the_right_bytes(tiny: Any, fake_gpu: SimpleNamespace, batch: int) -> None:
    feed = tiny.feed(["x"], batch)
    with load_engine(tiny.make("trt")) as engine:
        np.testing.assert_allclose(engine.infer(feed)["logits"], tiny.logits(feed), rtol=1e-6)
        assert engine.self_test().passed
        assert fake_gpu.held.value == 6
    assert fake_gpu.held.value == 0


def test_threads_may_share_an_engine(tiny: Any, fake_gpu: SimpleNamespace) -> None:
    feeds = [tiny.feed(["x"], 1 + seed % 4, seed) for seed in range(50)]
    with load_engine(tiny.make("trt")) as engine, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(engine.infer, feeds))
    for feed, result in zip(feeds, results, strict=True):
        np.testing.assert_allclose(result["logits"], tiny.logits(feed), rtol=1e-6)


@pytest.mark.parametrize(("kind", "dtype", "error"), [("HALF", "float16", 1e-3), ("BF16", "bfloat16", 8e-3)])
def test_narrow_outputs_come_back_as_float32(
    tiny: Any, fake_gpu: SimpleNamespace, kind: str, dtype: str, error: float
) -> None:
    fake_gpu.trt.output_type = DataType[kind]
    feed = tiny.feed(["x"], 3)
    with load_engine(tiny.make("trt", outputs=(TensorSpec("logits", ("batch", 3), dtype, ""),))) as engine:
        logits = engine.infer(feed)["logits"]
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, tiny.logits(feed), rtol=error)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"creates_contexts": False}, r"cannot run .*engine\.plan: TensorRT gave no reason"),
        ({"output_type": DataType.HALF}, "output logits of engine.plan is float16"),
    ],
)
def test_a_failed_load_gives_everything_back(
    tiny: Any, fake_gpu: SimpleNamespace, knobs: dict[str, Any], message: str
) -> None:
    vars(fake_gpu.trt).update(knobs)
    with pytest.raises(EngineError, match=message):
        load_engine(tiny.make("trt"))
    assert fake_gpu.held.value == 0


def test_a_plan_that_does_not_load_says_why(tiny: Any, fake_gpu: SimpleNamespace) -> None:
    folder = tiny.make("trt")
    (folder / "engine.plan").write_bytes(b"not a plan")
    Manifest.read(folder).write(folder)
    with pytest.raises(EngineError, match=r"cannot load .*engine\.plan: magic tag does not match$"):
        load_engine(folder)
    assert fake_gpu.held.value == 0


@pytest.mark.parametrize(("knob", "message"), [("accepts_shapes", "refuses shape"), ("executes", "failed to run")])
def test_a_failed_run_is_an_error(tiny: Any, fake_gpu: SimpleNamespace, knob: str, message: str) -> None:
    with load_engine(tiny.make("trt")) as engine:
        setattr(fake_gpu.trt, knob, False)
        with pytest.raises(EngineError, match=message):
            engine.infer(tiny.feed(["x"], 1))
    assert fake_gpu.held.value == 0


def test_digests_then_the_device_then_the_plan(tiny: Any, fake_trt: FakeTensorRT, no_gpu: None) -> None:
    folder = tiny.make("trt")
    with pytest.raises(DeviceError, match="need a CUDA device; none found"):
        load_engine(folder)
    (folder / "engine.plan").write_bytes(b"plam")
    with pytest.raises(EngineIntegrityError, match=r"engine\.plan has changed"):
        load_engine(folder)
    assert fake_trt.deserialised == []


def test_an_engine_that_cannot_run_here_can_be_inspected(tiny: Any) -> None:
    folder = tiny.make("trt")
    manifest = Manifest.read(folder)
    verify_files(folder, manifest)
    assert manifest.engine["flavour"] == "tensorrt_rtx"


@pytest.mark.parametrize("built", ["1.7.0.116", "1.7.2.1", "2.7.1"])
def test_only_the_release_that_built_a_plan_loads_it(tiny: Any, fake_gpu: SimpleNamespace, built: str) -> None:
    folder = tiny.make("trt", libraries={"tensorrt_rtx": built})
    message = rf"built with tensorrt_rtx {built} .*installed is 1\.7\.1\.116.*tensorrt-rtx-cu13-bindings=={built}"
    with pytest.raises(EngineVersionError, match=message):
        load_engine(folder)
    assert fake_gpu.trt.deserialised == []


def test_builds_of_one_release_are_the_same_to_a_plan(tiny: Any, fake_gpu: SimpleNamespace) -> None:
    with load_engine(tiny.make("trt", libraries={"tensorrt_rtx": "1.7.1.9"})) as engine:
        assert engine.self_test().passed


def test_full_tensorrt_is_another_flavour(
    tiny: Any, fake_gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_gpu.trt)
    engine = {"file": "engine.plan", "flavour": "tensorrt"}
    folder = tiny.make("trt", engine=engine, libraries={"tensorrt": "11.4.0"})
    with pytest.raises(EngineVersionError, match=r"built with tensorrt 11\.4\.0 .*pip install tensorrt==11\.4\.0"):
        load_engine(folder)
    tiny.edit(folder, lambda m: m.update(libraries={"tensorrt": "1.7.1"}))
    with load_engine(folder) as loaded:
        assert loaded.self_test().passed


@pytest.mark.parametrize("content", ["# somebody's own file", None])
def test_a_file_in_the_place_of_tensorrt_is_named(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "tensorrt.py" if content else tmp_path / "tensorrt"
    place.write_text(content) if content else place.mkdir()
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(BrokenDependencyError, match=rf"{place} takes the place of the library tensorrt; rename it"):
            import_tensorrt("tensorrt")
    finally:
        sys.modules.pop("tensorrt", None)


def test_options_that_make_no_sense_are_refused(tiny: Any, fake_gpu: SimpleNamespace) -> None:
    folder = tiny.make("trt")
    with pytest.raises(ConfigError, match="threads=4 has no meaning"):
        load_engine(folder, threads=4)
    with pytest.raises(ConfigError, match=r"device='gpu\.1' is not a device of a TensorRT engine"):
        load_engine(folder, device="GPU.1")
    with pytest.raises(DeviceError, match="no number 3 of 1"):
        load_engine(folder, device="cuda:3")
    tiny.edit(folder, lambda m: m["engine"].update(flavour="vanilla"))
    with pytest.raises(EngineError, match=r"engine\.flavour must be one of tensorrt, tensorrt_rtx, got 'vanilla'"):
        load_engine(folder)
    assert fake_gpu.held.value == 0


@pytest.fixture
def rtx_folder(tiny: Any) -> Path:
    """A real plan of TensorRT for RTX, batch 1 to 4."""
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(tiny.onnx_model(["x"], BatchRange(1, 2, 4)).SerializeToString())
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("x", (1, 5, 4), (2, 5, 4), (4, 5, 4))
    config.add_optimization_profile(profile)
    config.clear_flag(trt.BuilderFlag.TF32)
    folder = tiny.make("trt", libraries={"tensorrt_rtx": trt.__version__})
    (folder / "engine.plan").write_bytes(builder.build_serialized_network(network, config))
    Manifest.read(folder).write(folder)
    return folder


def test_the_real_bindings_have_what_the_stand_in_has() -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    for fake, real in (
        (FakeEngine, trt.ICudaEngine),
        (FakeContext, trt.IExecutionContext),
        (FakeRuntime, trt.Runtime),
        (FakeTensorRT, trt),
    ):
        public = {name for name in vars(fake) if not name.startswith("_")}
        knobs = {"accepts_shapes", "executes", "creates_contexts", "output_type"}
        assert public - knobs <= set(dir(real)), fake
    assert {"ERROR", "INTERNAL_ERROR"} <= set(dir(trt.ILogger))
    assert {"INPUT", "OUTPUT"} <= set(trt.TensorIOMode.__members__)
    assert set(DataType.__members__) <= set(trt.DataType.__members__)


def test_real_bindings_without_a_device_fail_with_their_own_reason(rtx_folder: Path, stub_cuda: ctypes.CDLL) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has a CUDA driver")
    with pytest.raises(EngineError, match=r"cannot load .*engine\.plan: .*[Cc][Uu][Dd][Aa]"):
        load_engine(rtx_folder)
    assert ctypes.c_int.in_dll(stub_cuda, "stub_held").value == 0


@pytest.mark.gpu
def test_a_real_plan_runs(tiny: Any, rtx_folder: Path) -> None:
    with load_engine(rtx_folder) as engine:
        assert engine.self_test().passed
        for batch in (1, 4, 2):
            feed = tiny.feed(["x"], batch)
            np.testing.assert_allclose(engine.infer(feed)["logits"], tiny.logits(feed), rtol=1e-4, atol=1e-5)
