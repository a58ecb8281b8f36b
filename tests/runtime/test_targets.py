"""A target is a backend and a row: a made-up one, added for a test, is known to everything that asks about targets."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from kdcmae.cli import main
from kdcmae.doctor import diagnose, require_target
from kdcmae.errors import ConfigError, DeviceError, EngineError, EnginePrecisionError, MissingDependencyError
from kdcmae.runtime import Manifest, load_engine
from kdcmae.runtime.capabilities import executed_as, fastest_floating, not_native, require_capable, require_native
from kdcmae.runtime.cpu import describe_cpu
from kdcmae.runtime.precisions import PRECISIONS
from kdcmae.runtime.targets import TARGETS, TargetRecord, find_target, registered

LIBRARY = """
__version__ = "1.2"


def run(weights, x):
    return x.mean(axis=1) @ weights
"""
BACKEND = """
import numpy as np

from kdcmae.runtime.backend import Backend, check_tensors, import_library, require_same_or_newer
from kdcmae.runtime.execution import Execution


class ToyBackend(Backend):
    def __init__(self, folder, manifest, *, device, threads):
        self._library = import_library("toy_library", install="kdcmae[toy]")
        require_same_or_newer(manifest, "toy_library", self._library.__version__)
        self._weights = np.load(folder / "model.npy")
        self.device = device

    def infer(self, feed):
        return {"logits": self._library.run(self._weights, feed["x"])}

    def execution(self):
        return Execution(executed={"product": {"fp32": 1}}, read_from="the toy", products={"fp32": 1})

    @classmethod
    def executed_as(cls, precision, cpu):
        return "fp32"

    def close(self):
        del self._weights
"""
TOY = TargetRecord(
    name="toy",
    label="Toy",
    backend="toy_backend:ToyBackend",
    compiler="toy_compiler",
    modules=("toy_library",),
    tools=("toy_tool",),
    devices=("cpu",),
    upper_devices=True,
    cannot_build={"int8": "it has no integers", "fp8": "it has no integers"},
    cannot_run={"bf16": "its samples run elsewhere"},
    auto=("fp32",),
    auto_because="it knows nothing else",
    sidecar=".npy",
)
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The target ``toy``, its library and its backend, for this test."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "toy_library.py").write_text(LIBRARY)
    (package / "toy_backend.py").write_text(BACKEND)
    monkeypatch.syspath_prepend(package)
    with registered(TOY):
        yield


@pytest.fixture
def engine_folder(toy: None, tiny: Any, tmp_path: Path) -> Path:
    """An engine of the target ``toy``: input ``x`` (batch, 5, 4), batch 1 to 4."""
    return write_engine(tiny, tmp_path / "engine")


def write_engine(tiny: Any, folder: Path, *, claimed: str = "fp32", weights: str = "model.npy") -> Path:
    folder.mkdir()
    (folder / "model.toy").write_bytes(b"toy")
    np.save(folder / weights, WEIGHTS)
    x = tiny.feed(["x"], 2)["x"]
    arrays = {"input.x": x, "output.logits": x.mean(axis=1) @ WEIGHTS, "tolerance.logits": np.float32(1e-5)}
    np.savez(folder / "golden.npz", **arrays)
    claim = {"layers": "products", "claimed": claimed, "besides": {}, "executed": {}, "holds": None}
    precision = {"asked": claimed, "claims": [claim]}
    engine = {"file": "model.toy", "device": "CPU"}
    tiny.manifest("toy", engine=engine, libraries={"toy_library": "1.2"}, precision=precision).write(folder)
    return folder


def test_its_engines_load_run_and_pass_their_self_test(engine_folder: Path, tiny: Any) -> None:
    with load_engine(engine_folder, device=" cpu", strict=True) as engine:
        feed = tiny.feed(["x"], 3, seed=1)
        np.testing.assert_allclose(engine.infer(feed)["logits"], feed["x"].mean(axis=1) @ WEIGHTS, rtol=1e-5)
        assert engine.self_test().passed
        assert engine.products() == {"fp32": 1}
        assert engine.device == "CPU"


def test_what_executes_otherwise_than_claimed_is_noticed(toy: None, tiny: Any, tmp_path: Path) -> None:
    folder = write_engine(tiny, tmp_path / "engine", claimed="fp16")
    with pytest.raises(EnginePrecisionError, match="claimed to execute in fp16, the engine runs 1 in fp32"):
        load_engine(folder, strict=True)


def test_its_manifest_needs_the_target_and_the_file_that_its_library_opens(
    tiny: Any, tmp_path: Path, toy: None
) -> None:
    folder = tmp_path / "engine"
    with pytest.raises(EngineError, match=r"does not list model\.npy"):
        write_engine(tiny, folder, weights="other.npy")
    assert Manifest.read(write_engine(tiny, tmp_path / "whole")).target == "toy"


def test_without_its_row_its_manifest_is_refused(tiny: Any, tmp_path: Path) -> None:
    with registered(TOY):
        folder = write_engine(tiny, tmp_path / "engine")
    with pytest.raises(EngineError, match="field target must be one of openvino, trt, torch-trt, onnx, aoti"):
        Manifest.read(folder)
    with pytest.raises(ConfigError, match="target 'toy' is unknown; use one of openvino"):
        find_target("toy")


def test_what_it_can_do_is_known(toy: None) -> None:
    require_capable("toy", precision="fp16")
    with pytest.raises(ConfigError, match="--target toy cannot build --precision int8: it has no integers"):
        require_capable("toy", precision="int8")
    cpu = describe_cpu("amx")
    assert executed_as("toy", "bf16", cpu=cpu) == "fp32"
    assert not_native("toy", cpu=cpu) == {"fp16": "fp32", "bf16": "fp32"}
    assert fastest_floating("toy", cpu=cpu) == ("fp32", "it knows nothing else")
    with pytest.raises(DeviceError, match="accept it with --execute-as fp32"):
        require_native("toy", precision="fp16", execute_as="", cpu=cpu)


def test_the_doctor_reports_it(toy: None) -> None:
    report = {report.target: report for report in diagnose().targets}["toy"]
    assert (report.library, report.runs, report.broken) == ("toy_library 1.2", "", False)
    assert "toy_tool is not installed" in report.builds
    assert report.fix == "install it with: pip install 'kdcmae[compile-toy]'"
    assert (report.precisions["fp32"], report.precisions["int8"]) == ("", "it has no integers")
    assert "executes as fp32 on this processor" in report.executes["fp16"]
    assert "toy_library 1.2" in CliRunner().invoke(main, ["doctor"]).output
    with pytest.raises(MissingDependencyError, match="toy_tool"):
        require_target("toy")


def test_check_makes_a_card_of_its_engine(engine_folder: Path) -> None:
    result = CliRunner().invoke(main, ["check", str(engine_folder), "--seconds", "0.05", "--json"])
    assert result.exit_code == 0, result.output
    card = json.loads(result.stdout)
    assert (card["engine"]["target"], card["read_from"]) == ("toy", "the toy")
    assert {verdict["outcome"] for verdict in card["verdicts"]} == {"holds"}
    assert card["device"]["libraries"]["toy_library"] == "1.2"


def test_two_targets_have_two_names(toy: None) -> None:
    with pytest.raises(ConfigError, match="target 'toy' exists already"), registered(TOY):
        pass
    assert TARGETS["toy"] is TOY


@pytest.mark.parametrize("record", TARGETS.values(), ids=lambda record: record.name)
def test_every_row_names_what_there_is(record: TargetRecord) -> None:
    assert record.load_backend().__name__ == record.backend.partition(":")[2]
    assert importlib.util.find_spec(record.compiler) is not None
    assert {*record.cannot_build, *record.cannot_run, *record.tools_of, *record.auto} <= PRECISIONS.keys()
    assert {*record.devices} <= {"cpu", "cuda"}
    assert "fp32" in record.precisions
    assert ("fp32" in record.auto) == record.runs_on_cpu
    assert record.install == f"kdcmae[{record.name}]"
