"""Load an engine folder and run it: ``load_engine(folder)`` gives an :class:`Engine`."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import ConfigError, EngineError, EngineInputError
from kdcmae.runtime.backend import Arrays, Backend
from kdcmae.runtime.manifest import BATCH_AXIS, Manifest, TensorSpec, verify_files
from kdcmae.runtime.preprocessing import Preprocessing, prepare_audio, prepare_image
from kdcmae.runtime.scores import scores

__all__ = ["Engine", "Prediction", "SelfTest", "load_engine"]

GOLDEN_FILE = "golden.npz"

# Imported when an engine of the target is loaded: each brings its library.
_BACKENDS = {
    "openvino": ("kdcmae.runtime.openvino", "OpenVINOBackend"),
    "trt": ("kdcmae.runtime.tensorrt", "TensorRTBackend"),
    "onnx": ("kdcmae.runtime.onnx", "ONNXBackend"),
}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One class of a clip and its score: a probability."""

    label: str
    score: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfTest:
    """What :meth:`Engine.self_test` found.

    Args:
        max_error: per output, the largest absolute difference from the reference, relative to the reference's
            largest absolute value; infinite where the engine gave a NaN or an infinity.
        tolerance: per output, the largest error allowed.
    """

    max_error: dict[str, float]
    tolerance: dict[str, float]

    @property
    def passed(self) -> bool:
        """Every output is finite and within its tolerance."""
        return all(math.isfinite(error) and error <= self.tolerance[name] for name, error in self.max_error.items())


def load_engine(folder: str | Path, *, device: str | None = None, threads: int | None = None) -> Engine:
    """Load an engine folder, after checking every file in it.

    Digests tell a damaged or half-copied folder from a whole one before a library reads it. They do not prove
    who made it: load engines from sources you trust.

    Args:
        folder: what kdcmae-compile wrote.
        device: another device than the one it was compiled for, in the engine library's own words.
        threads: CPU threads to use; where None, what the manifest says or else the library's choice.

    Returns:
        The engine, ready to run.

    Raises:
        EngineError: not an engine folder, a bad manifest, or an engine file its library cannot load.
        EngineIntegrityError: a file is missing or has changed.
        EngineVersionError: made for another version of its library or of the manifest.
        MissingDependencyError: its library is not installed.
        DeviceError: this machine lacks the device.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    verify_files(folder, manifest)
    try:
        preprocessing = Preprocessing.from_dict(manifest.preprocessing)
    except ConfigError as error:
        raise EngineError(f"the manifest of {folder} asks for what this kdcmae cannot do: {error}") from error
    module, name = _BACKENDS[manifest.target]
    load_backend = getattr(importlib.import_module(module), name)
    return Engine(folder, manifest, preprocessing, load_backend(folder, manifest, device=device, threads=threads))


class Engine:
    """A compiled model on its device; :func:`load_engine` makes it.

    Threads may share one engine: their calls run one after another. For calls that run at the same time, load
    the engine once per thread. It holds device memory until :meth:`close`, or the end of its ``with`` block.
    """

    def __init__(self, folder: Path, manifest: Manifest, preprocessing: Preprocessing, backend: Backend) -> None:
        self.folder = folder
        self.manifest = manifest
        self._preprocessing = preprocessing
        self._backend: Backend | None = backend
        self._lock = threading.Lock()

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self.manifest.labels

    @property
    def backend(self) -> Backend:
        """The library's side of the engine.

        Raises:
            EngineError: the engine is closed.
        """
        if self._backend is None:
            raise EngineError(f"engine {self.folder} is closed; load it again")
        return self._backend

    def infer(self, feed: Arrays) -> dict[str, NDArray[np.float32]]:
        """Run one batch.

        Args:
            feed: one array per input of ``manifest.inputs``, of exactly its dtype and shape; all of one batch
                size within ``manifest.batch``.

        Returns:
            One float32 array per output of ``manifest.outputs``, the caller's own.

        Raises:
            EngineInputError: a name, dtype, shape or batch size the engine does not take.
            EngineError: the engine is closed or failed.
        """
        _check_feed(feed, self.manifest)
        contiguous = {name: np.ascontiguousarray(array) for name, array in feed.items()}
        with self._lock:
            results = self.backend.infer(contiguous)
            # A copy, and under the lock: backends may return views of memory that the next call overwrites.
            return {name: np.array(result, dtype=np.float32) for name, result in results.items()}

    def classify(
        self, waveform: NDArray[Any] | None, sample_rate: int, frame: NDArray[np.uint8] | None, *, top: int = 5
    ) -> list[Prediction]:
        """Label one clip.

        Args:
            waveform: (S,) or (channels, S), floating point in [-1, 1] or integers at full scale; None for an
                engine without an audio input, which ignores it.
            sample_rate: of the waveform in Hz.
            frame: (H, W, 3) uint8 RGB; None for an engine without an image input, which ignores it.
            top: how many labels to return.

        Returns:
            The best labels and their scores, best first.

        Raises:
            EngineInputError: an input the engine needs is None, or ``top`` is not positive.
            DataError: a waveform or frame that cannot be used.
            EngineError: the engine is no classifier, or gave scores that are not finite.
        """
        if not self.labels:
            raise EngineError(f"engine {self.folder} has no labels, so it cannot classify; use infer()")
        if top < 1:
            raise EngineInputError(f"top={top} must be at least 1")
        feed = {spec.name: self._prepare(spec, waveform, sample_rate, frame) for spec in self.manifest.inputs}
        logits = self.infer(feed)[self.manifest.outputs[0].name].reshape(-1, len(self.labels))[0]
        if not np.isfinite(logits).all():
            raise EngineError(f"engine {self.folder} gave logits that are not finite; run its self_test()")
        likelihood = scores(logits, self.manifest.scores)
        best = np.argsort(-likelihood, kind="stable")[:top]
        return [Prediction(self.labels[index], float(likelihood[index])) for index in best]

    def self_test(self) -> SelfTest:
        """Run the inputs stored beside the engine and compare with the reference outputs stored there too.

        Returns:
            The errors and tolerances per output; ``passed`` sums them up.

        Raises:
            EngineError: the folder has no ``golden.npz``, or it lacks an array this engine needs.
        """
        golden = _read_golden(self.folder / GOLDEN_FILE, self.manifest)
        results = self.infer({spec.name: golden[f"input.{spec.name}"] for spec in self.manifest.inputs})
        return SelfTest(
            max_error={name: _relative_error(result, golden[f"output.{name}"]) for name, result in results.items()},
            tolerance={name: float(golden[f"tolerance.{name}"]) for name in results},
        )

    def close(self) -> None:
        """Release the engine and the memory it holds; closing twice is harmless."""
        with self._lock:
            if self._backend is not None:
                self._backend.close()
                self._backend = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(
        self, spec: TensorSpec, waveform: NDArray[Any] | None, sample_rate: int, frame: NDArray[np.uint8] | None
    ) -> NDArray[np.float32]:
        """One input of the engine, repeated to the smallest batch it takes."""
        if spec.name not in ("audio", "image"):
            raise EngineError(f"engine {self.folder} takes {spec.name}, which no clip becomes; use infer()")
        if spec.name == "audio":
            sample = prepare_audio(_given("waveform", waveform, spec), sample_rate, self._preprocessing)
        else:
            sample = prepare_image(_given("frame", frame, spec), self._preprocessing)
        return np.repeat(sample, self.manifest.batch.min, axis=0)


def _given(argument: str, array: NDArray[Any] | None, spec: TensorSpec) -> NDArray[Any]:
    if not isinstance(array, np.ndarray):
        raise EngineInputError(f"input {spec.name} needs a {argument} as a numpy array, got {_kind(array)}")
    return array


def _check_feed(feed: Arrays, manifest: Manifest) -> None:
    if not isinstance(feed, Mapping):
        raise EngineInputError(f"the inputs must be a mapping from name to array, got {_kind(feed)}")
    names = [spec.name for spec in manifest.inputs]
    for name in feed:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the engine takes {', '.join(names)}"
            raise EngineInputError(f"unexpected input {name!r}; {hint}")
    for name in names:
        if name not in feed:
            raise EngineInputError(f"input {name} is missing; the engine takes {', '.join(names)}")
    for spec in manifest.inputs:
        _check_array(feed[spec.name], spec)
    _check_batch(feed, manifest)


def _check_array(array: NDArray[Any], spec: TensorSpec) -> None:
    if not isinstance(array, np.ndarray):
        raise EngineInputError(f"input {spec.name} must be a numpy array, got {_kind(array)}")
    if array.dtype != np.dtype(spec.dtype):
        raise EngineInputError(
            f"input {spec.name} must be {spec.dtype}, got {array.dtype}; convert it with .astype('{spec.dtype}')"
        )
    if array.ndim != len(spec.shape):
        raise EngineInputError(
            f"input {spec.name} must have {len(spec.shape)} axes {_shape(spec)}, got {array.ndim} axes {array.shape}"
        )
    for axis, (size, expected) in enumerate(zip(array.shape, spec.shape, strict=True)):
        if expected not in (BATCH_AXIS, size):
            raise EngineInputError(
                f"axis {axis} of input {spec.name} must be {expected}, got {size}; "
                f"the engine takes {_shape(spec)}, not {array.shape}"
            )


def _check_batch(feed: Arrays, manifest: Manifest) -> None:
    sizes = {spec.name: len(feed[spec.name]) for spec in manifest.inputs if spec.shape[0] == BATCH_AXIS}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise EngineInputError(f"all inputs must have one batch size, got {found}")
    low, high = manifest.batch.min, manifest.batch.max
    for name, size in sizes.items():
        if not low <= size <= high:
            accepted = f"{low} only" if low == high else f"{low} to {high}"
            raise EngineInputError(
                f"input {name} has batch size {size}, the engine takes {accepted}; rebuild it with --batch for more"
            )


def _read_golden(path: Path, manifest: Manifest) -> dict[str, NDArray[Any]]:
    if path.name not in manifest.files:
        raise EngineError(f"{path.parent} has no {path.name} to test with; rebuild the engine with kdcmae-compile")
    needed = [f"input.{spec.name}" for spec in manifest.inputs]
    needed += [f"{kind}.{spec.name}" for spec in manifest.outputs for kind in ("output", "tolerance")]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in needed}
    except (KeyError, OSError, ValueError, BadZipFile) as error:
        raise EngineError(f"{path} is not a self-test of this engine: {error}; rebuild the engine") from error


def _relative_error(result: NDArray[np.float32], reference: NDArray[Any]) -> float:
    if result.shape != reference.shape or not np.isfinite(result).all():
        return float("inf")
    exact = reference.astype(np.float64)
    return float(np.abs(result - exact).max() / (np.abs(exact).max() or 1.0))


def _shape(spec: TensorSpec) -> str:
    return f"({', '.join(map(str, spec.shape))})"


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__
