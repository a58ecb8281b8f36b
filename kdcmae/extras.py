"""The package's extras by purpose: pyproject.toml declares them, and errors print them.

The extra that runs engines of a target has the target's name, ``kdcmae[openvino]``; the one that builds them has
``compile-`` before it, ``kdcmae[compile-openvino]``.
"""

from __future__ import annotations

import importlib.util
import sys

from kdcmae.errors import MissingDependencyError

__all__ = [
    "BENCH",
    "TORCH",
    "TRAIN",
    "VIDEO",
    "is_installed",
    "missing_dependency",
    "require_installed",
    "to_compile",
    "to_run",
]

BENCH = "kdcmae[bench]"  # measure engines and checkpoints
VIDEO = "kdcmae[video]"  # decode clips
TORCH = "kdcmae[torch]"  # the model itself: checkpoints, their evaluation
TRAIN = "kdcmae[train]"  # all of that, and training


def to_run(target: str) -> str:
    """The extra that runs engines of a target."""
    return f"kdcmae[{target}]"


def to_compile(target: str) -> str:
    """The extra that builds engines for a target."""
    return f"kdcmae[compile-{target}]"


# The extra that installs a module, for code that does not know the target.
_BRINGS = {
    "av": VIDEO,
    "filelock": "kdcmae[compile]",
    "nncf": to_compile("openvino"),
    "onnx": to_compile("onnx"),
    "onnxruntime": to_run("onnx"),
    "PIL": TRAIN,
    "psutil": BENCH,
    "pynvml": BENCH,
    "onnxscript": to_compile("onnx"),
    "openvino": to_run("openvino"),
    "safetensors": TORCH,
    "tensorboard": TRAIN,
    "torch": TORCH,
    "triton": TRAIN,
}


def missing_dependency(error: ModuleNotFoundError) -> MissingDependencyError | None:
    """The error that names the extra to install after an import failed; None if no extra has that module."""
    module = (error.name or "").partition(".")[0]
    return MissingDependencyError(module, install=_BRINGS[module]) if module in _BRINGS else None


def is_installed(module: str) -> bool:
    """Whether a module is installed, without importing it."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None


def require_installed(*modules: str, install: str) -> None:
    """Raise now if a later import would fail. Imports nothing.

    Args:
        install: the extra that installs them.

    Raises:
        MissingDependencyError: a module is not installed; the message has the install line.
    """
    for name in modules:
        if not is_installed(name):
            raise MissingDependencyError(name, install=install)
