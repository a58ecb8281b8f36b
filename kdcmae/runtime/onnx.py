"""ONNX engines, run by ONNX Runtime: ``model.onnx``, with its weights in it or in a file beside it."""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdcmae import host
from kdcmae.errors import DeviceError, EngineError
from kdcmae.extras import to_run
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.backend import (
    Backend,
    Lane,
    Streams,
    TensorType,
    check_streams,
    check_tensors,
    engine_threads,
    import_library,
    limited_threads,
    require_same_or_newer,
)
from kdcmae.runtime.cpu import Cpu
from kdcmae.runtime.execution import Execution
from kdcmae.runtime.manifest import Manifest
from kdcmae.runtime.precisions import FLOATING, named

__all__ = ["ONNXBackend", "profile_execution"]

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
# Operators into which ONNX Runtime fuses a product of dequantised operands, or of operands rounded at run time.
_INTEGER_PRODUCTS = ("DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul", "QGemm")
_PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", *_INTEGER_PRODUCTS)
_FLOATING = named("onnxruntime", FLOATING)


def profile_execution(
    path: Path, feed: Arrays, *, disabled: Sequence[str] = (), provider: str = "CPUExecutionProvider", threads: int = 0
) -> Execution:
    """The precisions that the kernels of a graph execute in, from ONNX Runtime's profile of one run.

    The graph is loaded and optimised once more, because profiling has to be enabled before a session is created.

    Args:
        path: path of the graph.
        feed: inputs by name.
        disabled: names of the library's graph optimisers that it must not apply.
        provider: ONNX Runtime's name of the device.
        threads: CPU threads; 0 for the library's choice.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
    """
    ort = import_library("onnxruntime", install=to_run("onnx"))
    options = _options(ort, threads)
    options.enable_profiling = True
    options.add_session_config_entry("session.disable_prepacking", "1")  # which would copy the weights
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(path, options, providers=[provider], disabled_optimizers=list(disabled))
        session.run(None, dict(feed))
        # Names of layers are copied from the graph, where they may not be valid UTF-8.
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8", errors="replace"))
    executed = _executed(event["args"] for event in events if event["name"].endswith("_kernel_time"))
    products = sum((Counter(executed.get(kind)) for kind in _PRODUCTS), Counter[str]())
    return Execution(executed=executed, read_from="ONNX Runtime's profile of a run", products=dict(products))


class ONNXBackend(Backend):
    """An ONNX model on the CPU or a CUDA device.

    ``manifest.engine`` holds ``device`` (``"CPU"``, the default, or ``"CUDA"``) and, optionally, ``threads`` and
    ``disabled_optimizers``: names of the library's graph optimisers that it must not apply. The installed ONNX Runtime
    must not be older than the one that verified the engine.

    Streams are callers of one session: each computes in its own thread, and the session's threads help all of them.
    The library's ``run_async`` keeps one of its threads waiting, and was half as fast with two threads.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, *, device: str | None, threads: int | None, streams: Streams = 1
    ) -> None:
        ort = import_library("onnxruntime", install=to_run("onnx"))
        require_same_or_newer(manifest, "onnxruntime", ort.__version__)
        provider = _provider(ort, device or manifest.engine.get("device", "CPU"))
        self._file = manifest.engine["file"]
        path = folder / self._file
        disabled = _disabled_optimizers(manifest)
        threads = engine_threads(manifest, threads)
        check_streams(streams, threads)
        threads = threads or limited_threads() or 0
        if streams == 1:
            self._streams = 1
        else:
            threads = threads or host.usable_cpus()
            self._streams = threads if streams == "auto" else streams
            threads = max(1, threads - self._streams + 1)  # a session counts one of its callers among its threads
        options = _options(ort, threads)
        try:
            self._session = ort.InferenceSession(path, options, providers=[provider], disabled_optimizers=disabled)
            types = _tensor_types(self._session.get_inputs()), _tensor_types(self._session.get_outputs())
        except _failures(ort) as error:
            raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {path}: {error}") from error
        # ONNX Runtime falls back to the CPU silently when a device fails to start.
        if self._session.get_providers()[0] != provider:
            raise DeviceError(f"ONNX Runtime {ort.__version__} has {provider}, but it did not start; check its driver")
        check_tensors(manifest, *types)
        self._outputs = [spec.name for spec in manifest.outputs]
        self._profile = partial(profile_execution, disabled=disabled, provider=provider, threads=threads)

    @classmethod
    def load(
        cls, folder: Path, manifest: Manifest, *, device: str | None, threads: int | None, streams: Streams
    ) -> Backend:
        """See :meth:`Backend.load`; ``"auto"`` is a thread per call."""
        return cls(folder, manifest, device=device, threads=threads, streams=streams)

    @property
    def streams(self) -> int:
        """Number of calls that run at the same time."""
        return self._streams

    @property
    def lanes(self) -> Sequence[Lane]:
        """The session takes any number of callers."""
        return [self.infer] * self._streams

    @classmethod
    def executed_as(cls, precision: str, cpu: Cpu) -> str:
        """ONNX Runtime's CPU kernels cast around every fp16 product on x86."""
        return "fp32" if precision == "fp16" and cpu.machine == "x86_64" else precision

    def profile(self, folder: Path, feed: Arrays) -> Execution:
        """Precisions that the kernels execute in, from a run in a separate session."""
        return self._profile(folder / self._file, feed)

    def infer(self, feed: Arrays) -> Arrays:
        """Run one batch."""
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(feed)), strict=True))

    def close(self) -> None:
        """Release the session."""
        del self._session


def _options(ort: Any, threads: int) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings are about graph clean-up
    options.intra_op_num_threads = threads
    return options


def _executed(kernels: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Number of kernels by operator and precision: that of their first floating output, or else input."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for kernel in kernels:
        values = (*kernel.get("output_type_shape", ()), *kernel.get("input_type_shape", ()))
        precisions = [_FLOATING[name] for value in values for name in value if name in _FLOATING]
        if kernel["op_name"] in _INTEGER_PRODUCTS:
            precisions = ["int8"]
        if precisions:
            counts[kernel["op_name"]][precisions[0]] += 1
    return {kind: dict(by_precision) for kind, by_precision in sorted(counts.items())}


def _disabled_optimizers(manifest: Manifest) -> list[str]:
    names = manifest.engine.get("disabled_optimizers", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise EngineError(f"manifest field engine.disabled_optimizers must be a list of names, got {names!r}")
    return names


def _provider(ort: Any, device: Any) -> str:
    available = [name for name, provider in _PROVIDERS.items() if provider in ort.get_available_providers()]
    if device not in available:
        raise DeviceError(
            f"ONNX Runtime {ort.__version__} has no device {device!r} here, only {', '.join(available)}; "
            f"choose one of these"
        )
    return _PROVIDERS[device]


def _failures(ort: Any) -> tuple[type[Exception], ...]:
    """Exceptions that loading may raise. Those of ONNX Runtime have no base class of their own.

    ``UnicodeDecodeError`` is for names in the file that are not valid UTF-8.
    """
    state = vars(ort.capi.onnxruntime_pybind11_state).values()
    return (UnicodeDecodeError, *(kind for kind in state if isinstance(kind, type) and issubclass(kind, Exception)))


def _tensor_types(nodes: Any) -> dict[str, TensorType]:
    return {
        node.name: (
            _DTYPES.get(node.type, node.type),
            tuple(axis if isinstance(axis, int) else None for axis in node.shape),
        )
        for node in nodes
    }
