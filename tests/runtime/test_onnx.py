from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from kdcmae.errors import DeviceError, EngineError, EngineIntegrityError
from kdcmae.runtime import load_engine
from kdcmae.runtime.manifest import Manifest


def move_weights_out(folder: Path, location: str) -> None:
    """Store the constants of ``model.onnx`` in a file beside it."""
    model = onnx.load(folder / "model.onnx")
    (folder / "model.onnx").unlink()
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location=location, size_threshold=100)
    Manifest.read(folder).write(folder)


def test_weights_beside_the_model_are_found_and_digested(tiny: Any) -> None:
    folder = tiny.make("onnx", ["audio", "image"])
    move_weights_out(folder, "model.data")
    assert "model.data" in Manifest.read(folder).files
    with load_engine(folder) as engine:
        assert engine.self_test().passed
    content = bytearray((folder / "model.data").read_bytes())
    content[0] ^= 1
    (folder / "model.data").write_bytes(content)
    with pytest.raises(EngineIntegrityError, match=r"model\.data has changed"):
        load_engine(folder)


def test_weights_outside_the_folder_are_refused(tiny: Any) -> None:
    folder = tiny.make("onnx", ["audio", "image"])
    move_weights_out(folder, "model.data")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../model.data"
    onnx.save(model, folder / "model.onnx")
    (folder / "model.data").rename(folder.parent / "model.data")
    Manifest.read(folder).write(folder)
    with pytest.raises(EngineError, match=r"cannot load .*model\.data"):
        load_engine(folder)


def test_a_quota_of_cpus_limits_the_threads(tiny: Any, quota: Any) -> None:
    folder = tiny.make("onnx")
    for usable, threads, expected in ((8, None, 0), (3, None, 3), (3, 5, 5)):
        quota(usable)
        with load_engine(folder, threads=threads) as engine:
            assert engine.backend._session.get_session_options().intra_op_num_threads == expected


def test_threads_reach_onnx_runtime(tiny: Any) -> None:
    folder = tiny.make("onnx", engine={"file": "model.onnx", "threads": 1})
    for threads, expected in ((None, 1), (2, 2)):
        with load_engine(folder, threads=threads) as engine:
            options = engine.backend._session.get_session_options()
            assert options.intra_op_num_threads == expected


def test_a_device_that_fails_to_start_is_an_error_not_a_silent_cpu(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA starts here, or fails for reasons of its own")
    folder = tiny.make("onnx", engine={"file": "model.onnx", "device": "CUDA"})
    with pytest.raises(DeviceError, match="no device 'CUDA' here, only CPU"):
        load_engine(folder)
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda session: ["CPUExecutionProvider"])
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(DeviceError, match="did not start"):
        load_engine(folder)


@pytest.mark.parametrize("names", [5, "MatMulAddFusion", [1]])
def test_optimisers_that_are_no_list_of_names_are_refused(names: Any, tiny: Any) -> None:
    folder = tiny.make("onnx", engine={"file": "model.onnx", "disabled_optimizers": names})
    with pytest.raises(EngineError, match=r"engine\.disabled_optimizers must be a list of names"):
        load_engine(folder)


def test_onnx_runtime_keeps_no_identifier_of_the_device(tiny: Any, tmp_path: Path) -> None:
    """It warns where it cannot, as for a user without a home folder."""
    folder = tiny.make("onnx")
    (tmp_path / "home").touch()
    code = f"from kdcmae.runtime import load_engine; load_engine({str(folder)!r}).close()"
    environment = {"PATH": os.defpath, "HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
