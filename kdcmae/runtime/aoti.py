"""AOTInductor packages: ``model.pt2``, machine code that PyTorch's compiler made for one kind of processor or GPU.

This backend and Torch-TensorRT's are the only ones that need torch. It is imported when such an engine is loaded.
"""

from __future__ import annotations

import os
import zipfile
from importlib import metadata
from pathlib import Path
from types import ModuleType

from kdcmae import host
from kdcmae.errors import ConfigError, DeviceError, EngineError, cause
from kdcmae.extras import to_run
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.backend import (
    Backend,
    engine_option,
    engine_threads,
    import_library,
    limited_threads,
    require_same_release,
    run_module,
)
from kdcmae.runtime.manifest import Manifest

__all__ = ["AOTIBackend", "require_scratch"]

DEVICES = ("cpu", "cuda")

_TEMPORARY, _DEFAULT = ("TMPDIR", "TMP", "TEMP", "TEMPDIR"), "/tmp"  # as in torch's C++ code


class AOTIBackend(Backend):
    """An AOTInductor package on the device it was compiled for.

    ``manifest.engine`` holds ``device`` (``"cpu"`` or ``"cuda"``), ``cpu_features`` or ``compute_capability`` (what
    the code needs of the device) and, optionally, ``threads``. ``device`` may choose another GPU, such as ``cuda:1``,
    but not another kind of device. ``threads`` applies to all of torch in this process. The installed torch must be the
    release that compiled the package, and it needs a folder to unpack the package into. The folder's files must be
    verified first, because loading a package executes its code.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, device: str | None, threads: int | None) -> None:
        torch = import_library("torch", install=to_run("aoti"))
        require_same_release(manifest, "torch", torch.__version__, packages=("torch",))
        kind = engine_option(manifest, "device", DEVICES)
        self._device = device or kind
        if self._device.partition(":")[0] != kind:
            raise ConfigError(f"device={device!r}: this engine was compiled for {kind}; compile it again with --device")
        count = engine_threads(manifest, threads)
        if kind == "cpu":
            _require_cpu(manifest)
        else:
            _require_gpu(torch, self._device, manifest)
        if count is None and (limit := limited_threads()) is not None:
            count = min(limit, torch.get_num_threads())  # OMP_NUM_THREADS may set fewer
        if count is not None:
            torch.set_num_threads(count)
        path = folder / manifest.engine["file"]
        require_scratch(_unpacked_size_bytes(path))
        index = int(self._device.partition(":")[2] or -1)
        try:
            self._model = torch._inductor.aoti_load_package(str(path), device_index=index)
        except RuntimeError as error:
            raise EngineError(f"torch {torch.__version__} cannot load {path}: {cause(error)}") from error
        self._torch = torch
        self._outputs = [spec.name for spec in manifest.outputs]

    def infer(self, feed: Arrays) -> Arrays:
        """Run one batch."""
        return dict(zip(self._outputs, run_module(self._torch, self._model, feed, self._device), strict=True))

    @classmethod
    def library_version(cls, module: str, *, install: str) -> str:
        """As installed: importing torch takes seconds, and whatever needs it says soon enough if it is broken.

        Empty for a torch without metadata, such as a file that takes its place.
        """
        try:
            return metadata.version(module)
        except metadata.PackageNotFoundError:
            return ""

    def close(self) -> None:
        """Release the code, its weights and the files that torch unpacked."""
        del self._model


def require_scratch(size_bytes: int = 0) -> None:
    """Check the folder that torch unpacks packages into and loads their code from.

    Torch's own error names no folder, and if the code may not be executed there it only says that a segment could not
    be mapped.

    Args:
        size_bytes: size of the unpacked package.

    Raises:
        EngineError: the folder cannot be used; the message says why.
    """
    variable, folder = next(
        ((name, os.environ[name]) for name in _TEMPORARY if name in os.environ), (_TEMPORARY[0], _DEFAULT)
    )
    if problem := _problem(Path(folder), size_bytes):
        raise EngineError(
            f"torch unpacks AOTInductor packages into {folder}, which {problem}; "
            f"set {variable} to a folder that can be written to and executed from"
        )


def _problem(folder: Path, size_bytes: int) -> str:
    if not folder.is_dir():
        return "is not a folder" if folder.exists() else "does not exist"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "cannot be written to"
    if hasattr(os, "statvfs"):
        disk = os.statvfs(folder)
        if disk.f_flag & getattr(os, "ST_NOEXEC", 0):
            return "is mounted without the right to execute (noexec)"
        free_bytes = disk.f_bavail * disk.f_frsize
        if free_bytes < size_bytes:
            return f"has {free_bytes / 1e6:.1f} MB left where {size_bytes / 1e6:.1f} MB are needed"
    return ""


def _unpacked_size_bytes(package: Path) -> int:
    try:
        with zipfile.ZipFile(package) as archive:
            return sum(info.file_size for info in archive.infolist())
    except (OSError, zipfile.BadZipFile):
        return 0  # torch reports that when it loads the file


def _require_cpu(manifest: Manifest) -> None:
    """Check the CPU features, because machine code with instructions that the CPU lacks kills the process."""
    missing = sorted(set(manifest.engine.get("cpu_features", ())) - host.cpu_features())
    if missing:
        raise DeviceError(
            f"the engine was compiled for a processor with {', '.join(missing)}, which this one lacks; "
            f"compile it on this machine with kdcmae-compile"
        )


def _require_gpu(torch: ModuleType, device: str, manifest: Manifest) -> None:
    if not torch.cuda.is_available():
        raise DeviceError(f"the engine needs a CUDA device, torch {torch.__version__} finds none; install its driver")
    capability = "{}.{}".format(*torch.cuda.get_device_capability(device))
    built = manifest.engine.get("compute_capability")
    if capability != built:
        raise DeviceError(
            f"the engine was compiled for compute capability {built}, {device} has {capability}; "
            f"compile it on this machine with kdcmae-compile"
        )
