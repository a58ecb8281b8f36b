from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kdcmae.errors import (
    BrokenDependencyError,
    ConfigError,
    DeviceError,
    EngineError,
    EngineVersionError,
    MissingDependencyError,
)
from kdcmae.runtime import load_engine
from kdcmae.runtime.torch_trt import import_torch_tensorrt

torch = pytest.importorskip("torch", reason="torch is not installed")

LIBRARIES = {"torch_tensorrt": "2.13.0", "tensorrt": "11.0.0.5"}


class Program(torch.nn.Module):
    """What the tiny engines compute, on the CPU."""

    def __init__(self, tiny: Any) -> None:
        super().__init__()
        self.tiny = tiny

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (torch.from_numpy(self.tiny.logits({"x": x.numpy()}).astype(np.float32)),)


@pytest.fixture
def library(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A torch_tensorrt whose engines compute the tiny model, and a CUDA device that is the CPU."""
    loaded: list[str] = []

    def load(file_path: str = "") -> Any:
        loaded.append(file_path)
        if not Path(file_path).read_bytes() == b"plan":
            raise ValueError(f"The file {file_path} doesn't correspond to a valid ExportedProgram.\nMore.")
        return SimpleNamespace(module=lambda: Program(tiny))

    fake = SimpleNamespace(__version__="2.13.0", load=load, loaded=loaded)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", fake)
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.0.0.5"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.inference_mode())
    return fake


@pytest.fixture
def folder(tiny: Any) -> Path:
    return tiny.make("torch-trt", libraries=LIBRARIES, engine={"file": "engine.plan", "device": "cpu"})


def test_a_program_runs(tiny: Any, library: SimpleNamespace, folder: Path) -> None:
    feed = tiny.feed(["x"], 3)
    with load_engine(folder) as engine:
        np.testing.assert_allclose(engine.infer(feed)["logits"], tiny.logits(feed), rtol=1e-6)
        assert engine.self_test().passed
        feed["x"].setflags(write=False)
        np.testing.assert_allclose(engine.infer(feed)["logits"], tiny.logits(feed), rtol=1e-6)


def test_a_program_that_does_not_load_says_why_in_one_line(tiny: Any, library: SimpleNamespace) -> None:
    folder = tiny.make("torch-trt", libraries=LIBRARIES, engine={"file": "labels.txt", "device": "cpu"})
    with pytest.raises(EngineError, match=r"torch_tensorrt 2\.13\.0 cannot load .*a valid ExportedProgram\. More\.$"):
        load_engine(folder)


def test_the_device_comes_before_the_program(
    library: SimpleNamespace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="need a CUDA device, torch finds none"):
        load_engine(folder)
    assert library.loaded == []


@pytest.mark.parametrize("name", ["torch_tensorrt", "tensorrt"])
def test_only_the_release_that_built_it_loads_it(tiny: Any, library: SimpleNamespace, name: str) -> None:
    folder = tiny.make("torch-trt", libraries=LIBRARIES | {name: "9.9.9"})
    with pytest.raises(EngineVersionError, match=rf"built with {name} 9\.9\.9 .*pip install {name}==9\.9\.9"):
        load_engine(folder)
    assert library.loaded == []


def test_threads_have_no_meaning(library: SimpleNamespace, folder: Path) -> None:
    with pytest.raises(ConfigError, match="threads=4 has no meaning"):
        load_engine(folder, threads=4)


def test_without_the_package_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'kdcmae\[torch-trt\]'") as error:
        import_torch_tensorrt()
    assert error.value.exit_code == 3


def test_without_tensorrt_its_bare_exception_becomes_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The genuine package prints and raises Exception, see tests/contract."""
    (tmp_path / "torch_tensorrt.py").write_text(
        "print('make sure tensorrt lib is in the LD_LIBRARY_PATH')\n"
        "raise Exception('libnvinfer.so.11: cannot open shared object file')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch_tensorrt", raising=False)
    with pytest.raises(BrokenDependencyError, match=r"does not import: libnvinfer\.so\.11.*pip install") as error:
        import_torch_tensorrt()
    assert error.value.exit_code == 3
    assert isinstance(error.value.__cause__, Exception)
    assert capsys.readouterr().out == ""
    assert not isinstance(sys.modules.get("torch_tensorrt"), ModuleType)
