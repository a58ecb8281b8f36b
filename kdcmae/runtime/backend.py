"""Base class of the engine backends, and the checks that they share."""

from __future__ import annotations

import importlib
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdcmae import host
from kdcmae.errors import (
    BrokenDependencyError,
    ConfigError,
    EngineError,
    EngineVersionError,
    MissingDependencyError,
)
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.cpu import Cpu
from kdcmae.runtime.execution import Execution
from kdcmae.runtime.manifest import BATCH_AXIS, BatchRange, Manifest, TensorSpec

__all__ = [
    "Backend",
    "Lane",
    "Streams",
    "TensorType",
    "bfloat16_to_float32",
    "check_streams",
    "check_tensors",
    "engine_option",
    "engine_threads",
    "import_library",
    "is_whole",
    "limited_threads",
    "loaded_versions",
    "require_same_or_newer",
    "require_same_release",
    "run_module",
]

TensorType = tuple[str, tuple[int | None, ...]]  # numpy's dtype name, and the axis sizes with None for a free one

Lane = Callable[[Arrays], Arrays]
"""Runs one batch, as :meth:`Backend.infer` does."""

Streams = int | Literal["auto"]
"""Number of calls that run at the same time; ``"auto"`` for as many as give the most calls per second."""


class Backend(ABC):
    """A loaded engine of one library; a backend per target derives from it.

    It need not be thread-safe, because the engine runs one call at a time in each of its :attr:`lanes`.

    Args:
        folder: the engine folder, its files already verified.
        manifest: of that folder.
        device: device to use instead of the manifest's; None for the manifest's.
        threads: CPU threads to use; None for the manifest's number, or else the library's choice. Always None for a
            target that only runs on a GPU.

    Raises:
        MissingDependencyError: the library is not installed.
        EngineVersionError: the installed release does not read what the build's release wrote.
        DeviceError: this machine lacks the device.
        EngineError: the library cannot load the engine, or it is not what the manifest says.

    Attributes:
        reuses: encoders that are parts of their own may skip an input that they have just had.
    """

    reuses: bool = True

    @abstractmethod
    def __init__(self, folder: Path, manifest: Manifest, *, device: str | None, threads: int | None) -> None: ...

    @classmethod
    def load(
        cls, folder: Path, manifest: Manifest, *, device: str | None, threads: int | None, streams: Streams
    ) -> Backend:
        """Load an engine; a library that runs calls at the same time overrides this, others have no use for `streams`.

        Args:
            folder, manifest, device, threads: as the class takes them; threads are those of all streams together.
            streams: number of calls that are to run at the same time.

        Raises:
            ConfigError: there are fewer threads than streams.
        """
        return cls(folder, manifest, device=device, threads=threads)

    @property
    def streams(self) -> int:
        """Number of calls that run at the same time."""
        return 1

    @property
    def lanes(self) -> Sequence[Lane]:
        """Functions that may run at the same time as each other, each of them for one caller at a time."""
        return (self.infer,)

    @property
    def chosen_device(self) -> str:
        """The device that executes, if the library was left to choose it and says which; else empty."""
        return ""

    @abstractmethod
    def infer(self, feed: Arrays) -> Arrays:
        """Run one batch of checked, C-contiguous inputs; the outputs may be views that the next call overwrites."""

    @abstractmethod
    def close(self) -> None:
        """Release the engine and the memory it holds. Called once; nothing is called afterwards."""

    @property
    def encoder_runs(self) -> Mapping[str, int]:
        """How often each encoder ran, by name, if the encoders are parts of their own; empty if not."""
        return {}

    def execution(self) -> Execution:
        """Precisions that the layers execute in, as far as the library reports them without a run.

        It is called at every load.
        """
        return Execution()

    def profile(self, folder: Path, feed: Arrays) -> Execution:
        """Precisions that the layers execute in, measured with a run where the library needs one.

        Args:
            folder: the engine folder, for a library that loads the engine again to profile it.
            feed: checked inputs to run.
        """
        return self.execution()

    @classmethod
    def library_version(cls, module: str, *, install: str) -> str:
        """The version of the library, after importing it.

        Args:
            module: the one of the target's modules that is installed.
            install: the requirement that installs it, for the error message.

        Raises:
            MissingDependencyError: the module cannot be imported because it is not installed.
            BrokenDependencyError: it is installed but does not load.
        """
        return str(getattr(import_library(module, install=install), "__version__", ""))

    @classmethod
    def executed_as(cls, precision: str, cpu: Cpu) -> str:
        """The precision in which the library executes matrix products of a floating precision on a CPU.

        By default that is the precision itself: the types in the engine's code are what executes.

        Args:
            precision: precision of the products in the engine.
            cpu: processor that executes them.
        """
        return precision


def import_library(name: str, *, install: str) -> ModuleType:
    """Import an engine library when an engine needs it, without its usage telemetry.

    ONNX Runtime stores an identifier of the device, and warns if there is no home folder to store it in. If an app has
    set its variable or imported it before, the app's choice stands.

    Args:
        name: name of the module.
        install: the requirement that installs it, for the error message.

    Raises:
        MissingDependencyError: the library is not installed; the message holds the install line.
        BrokenDependencyError: it is installed, but one of its own parts fails to load.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise BrokenDependencyError(f"{name} is installed but does not import: {error}; reinstall it") from error
        raise MissingDependencyError(name, install=install) from error
    except (ImportError, OSError) as error:
        raise BrokenDependencyError(f"{name} is installed but does not import: {error}; reinstall it") from error


def loaded_versions(libraries: Iterable[str]) -> dict[str, str]:
    """Versions of the given libraries that this process has imported, without the build number after ``-`` or ``+``."""
    loaded = {name: sys.modules.get(name) for name in libraries}
    return {
        name: re.split("[-+]", str(getattr(module, "__version__", "")))[0] for name, module in loaded.items() if module
    }


def engine_option(manifest: Manifest, option: str, choices: tuple[str, ...]) -> str:
    """The value of a target-specific field in ``manifest.engine``.

    Raises:
        EngineError: the field is missing or not one of ``choices``.
    """
    value = manifest.engine.get(option)
    if value not in choices:
        raise EngineError(f"manifest field engine.{option} must be one of {', '.join(choices)}, got {value!r}")
    return str(value)


def engine_threads(manifest: Manifest, threads: int | None) -> int | None:
    """CPU threads to use: the caller's number, else the manifest's, else None for the library's choice.

    Raises:
        ConfigError: the number is not a positive whole number.
    """
    threads = manifest.engine.get("threads") if threads is None else threads
    if threads is None:
        return None
    if not is_whole(threads) or threads < 1:
        raise ConfigError(f"threads={threads!r} must be a positive whole number; leave it out for the library's choice")
    return int(threads)


def check_streams(streams: Streams, threads: int | None) -> None:
    """Refuse more streams than threads, because every stream needs a thread.

    Args:
        streams: number of calls that are to run at the same time.
        threads: CPU threads of all streams together; None for the library's choice.

    Raises:
        ConfigError: there are fewer threads than streams.
    """
    if threads is not None and streams != "auto" and streams > threads:
        raise ConfigError(
            f"streams={streams} needs at least as many threads, and there are {threads}; "
            f"give threads={streams} or more, or fewer streams"
        )


def limited_threads() -> int | None:
    """Number of usable CPUs if this process may use fewer than the machine has, such as under a quota; else None.

    Libraries start one thread per CPU of the machine, and threads beyond a quota only wait for each other.
    """
    usable = host.usable_cpus()
    return usable if usable < (os.cpu_count() or 1) else None


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, Python's or numpy's."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def require_same_or_newer(manifest: Manifest, library: str, installed: str) -> None:
    """Check the library's version for a format that every later release reads.

    Raises:
        EngineVersionError: the installed release is older than the one that built the engine.
    """
    built = _built_with(manifest, library)
    if _release(installed) < _release(built):
        raise EngineVersionError(
            f"the engine was built with {library} {built}, installed is the older {installed}; "
            f"rebuild it here with kdcmae-compile, or: pip install '{library}>={_dotted(built)}'"
        )


def require_same_release(manifest: Manifest, library: str, installed: str, *, packages: tuple[str, ...]) -> None:
    """Check the library's version for a format that only the release that wrote it reads.

    Args:
        manifest: manifest of the engine.
        library: name of the library in ``manifest.libraries``.
        installed: its installed version.
        packages: distributions to install to get another version.

    Raises:
        EngineVersionError: major, minor or patch differ.
    """
    built = _built_with(manifest, library)
    if _release(installed) != _release(built):
        pins = " ".join(f"{package}=={built}" for package in packages)
        raise EngineVersionError(
            f"the engine was built with {library} {built} and runs with that release only, installed is {installed}; "
            f"rebuild it here with kdcmae-compile, or: pip install {pins}"
        )


def check_tensors(manifest: Manifest, inputs: Mapping[str, TensorType], outputs: Mapping[str, TensorType]) -> None:
    """Compare the tensors of the engine file with those of the manifest.

    Raises:
        EngineError: a tensor is missing, is not in the manifest, or has another dtype or shape.
    """
    for role, promised, actual in (("input", manifest.inputs, inputs), ("output", manifest.outputs, outputs)):
        names = sorted(spec.name for spec in promised)
        if names != sorted(actual):
            raise EngineError(
                f"{manifest.engine['file']} has the {role}s {', '.join(sorted(actual))}, but the manifest says "
                f"{', '.join(names)}; rebuild the engine with kdcmae-compile"
            )
        for spec in promised:
            dtype, shape = actual[spec.name]
            if dtype != spec.dtype or not _fits(shape, spec, manifest.batch):
                raise EngineError(
                    f"{role} {spec.name} of {manifest.engine['file']} is {dtype} {shape}, but the manifest says "
                    f"{spec.dtype} {spec.shape} with batch {manifest.batch.min} to {manifest.batch.max}; "
                    f"rebuild the engine with kdcmae-compile"
                )


def run_module(
    torch: ModuleType, module: Callable[..., Iterable[Any]], feed: Arrays, device: str
) -> list[NDArray[Any]]:
    """Call a module of torch with numpy arrays.

    Args:
        torch: the imported library.
        module: takes tensors by name, and returns tensors.
        feed: inputs by name.
        device: torch's name of the module's device.
    """
    # Torch has no read-only tensors.
    tensors = {name: torch.from_numpy(np.require(array, requirements="W")) for name, array in feed.items()}
    with torch.inference_mode():
        results = module(**{name: tensor.to(device) for name, tensor in tensors.items()})
    return [result.cpu().numpy() for result in results]


def bfloat16_to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Widen bfloat16, which numpy lacks, from its bit patterns: it is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _fits(shape: tuple[int | None, ...], spec: TensorSpec, batch: BatchRange) -> bool:
    fixed_batch = batch.min if batch.min == batch.max else None
    promised = [fixed_batch if axis == BATCH_AXIS else axis for axis in spec.shape]
    same_rank = len(shape) == len(promised)
    return same_rank and all(size in (None, axis) for size, axis in zip(shape, promised, strict=True))


def _built_with(manifest: Manifest, library: str) -> str:
    if library not in manifest.libraries:
        raise EngineError(f"manifest field libraries.{library} is missing; rebuild the engine with kdcmae-compile")
    return manifest.libraries[library]


def _release(version: str) -> tuple[int, ...]:
    """Major, minor and patch of versions such as ``2026.4.1-22982-e213a147257`` or ``1.7.1.116``."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    if numbers is None:
        raise EngineError(f"{version!r} is not a library version; rebuild the engine with kdcmae-compile")
    parts = [int(number) for number in numbers.group().split(".")[:3]]
    return tuple(parts + [0] * (3 - len(parts)))


def _dotted(version: str) -> str:
    return ".".join(map(str, _release(version)))
