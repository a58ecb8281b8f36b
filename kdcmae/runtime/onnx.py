"""ONNX engines, run by ONNX Runtime: ``model.onnx``, with its weights inside or in a file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdcmae.errors import DeviceError, EngineError
from kdcmae.extras import to_run
from kdcmae.runtime.backend import (
    Arrays,
    TensorType,
    check_tensors,
    engine_threads,
    import_library,
    require_same_or_newer,
)
from kdcmae.runtime.manifest import Manifest

__all__ = ["NO_BFLOAT16", "ONNXBackend"]

NO_BFLOAT16 = "ONNX Runtime's CPU provider has no bfloat16 kernels"

_PROVIDERS = {"CPU": "CPUExecutionProvider", "CUDA": "CUDAExecutionProvider"}
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


class ONNXBackend:
    """An ONNX model on the CPU or a CUDA device.

    ``manifest.engine`` holds ``device`` (``"CPU"``, the default, or ``"CUDA"``) and, optionally, ``threads`` and
    ``disabled_optimizers``: names of the library's own graph optimisers that it must not apply.

    Args:
        folder: the engine folder, its files already verified.
        manifest: of that folder.
        device: another device than the manifest's.
        threads: CPU threads to use; as many as the manifest says, or ONNX Runtime chooses, where None.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        EngineVersionError: the installed ONNX Runtime is older than the one that verified the engine.
        DeviceError: ONNX Runtime has no such device here.
        EngineError: ONNX Runtime cannot load the model, or it is not what the manifest says.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, device: str | None, threads: int | None) -> None:
        ort = import_library("onnxruntime", install=to_run("onnx"))
        require_same_or_newer(manifest, "onnxruntime", ort.__version__)
        provider = _provider(ort, device or manifest.engine.get("device", "CPU"))
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors; its warnings are about graph clean-up
        options.intra_op_num_threads = engine_threads(manifest, threads) or 0  # 0: its own choice
        path = folder / manifest.engine["file"]
        disabled = _disabled_optimizers(manifest)
        try:
            self._session = ort.InferenceSession(path, options, providers=[provider], disabled_optimizers=disabled)
        except _failures(ort) as error:
            raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {path}: {error}") from error
        # ONNX Runtime falls back to the CPU silently when a device fails to start.
        if self._session.get_providers()[0] != provider:
            raise DeviceError(f"ONNX Runtime {ort.__version__} has {provider}, but it did not start; check its driver")
        check_tensors(manifest, _tensor_types(self._session.get_inputs()), _tensor_types(self._session.get_outputs()))
        self._outputs = [spec.name for spec in manifest.outputs]

    def infer(self, feed: Arrays) -> Arrays:
        """Run one batch."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(feed)), strict=True))

    def close(self) -> None:
        """Release the session."""
        del self._session


def _disabled_optimizers(manifest: Manifest) -> list[str]:
    names = manifest.engine.get("disabled_optimizers", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise EngineError(f"manifest field engine.disabled_optimizers must be a list of names, got {names!r}")
    return names


def _provider(ort: Any, device: Any) -> str:
    here = [name for name, provider in _PROVIDERS.items() if provider in ort.get_available_providers()]
    if device not in here:
        raise DeviceError(
            f"ONNX Runtime {ort.__version__} has no device {device!r} here, only {', '.join(here)}; choose one of these"
        )
    return _PROVIDERS[device]


def _failures(ort: Any) -> tuple[type[Exception], ...]:
    """What loading raises: ONNX Runtime's exceptions share no base class of their own."""
    state = ort.capi.onnxruntime_pybind11_state
    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


def _tensor_types(nodes: Any) -> dict[str, TensorType]:
    return {
        node.name: (
            _DTYPES.get(node.type, node.type),
            tuple(axis if isinstance(axis, int) else None for axis in node.shape),
        )
        for node in nodes
    }
