"""The OpenVINO library: its import, and the one Core of a process."""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType
from typing import Any

from kdcmae.extras import to_run
from kdcmae.runtime.backend import import_library

__all__ = ["import_openvino", "openvino_core"]

_CONVERTER = "openvino.tools.ovc"  # takes half of the time of the import


def import_openvino() -> ModuleType:
    """Import OpenVINO without its usage telemetry, and without its converter of models until that is used.

    Importing ``openvino`` reports the import to Intel unless the telemetry package is absent, so it is made to look
    absent in this process. ``openvino.convert_model`` imports the converter when it is first used. If an app has
    imported OpenVINO before, the app's choice stands.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    if "openvino" in sys.modules or _CONVERTER in sys.modules:
        return import_library("openvino", install=to_run("openvino"))
    sys.modules[_CONVERTER] = None  # type: ignore[assignment]
    try:
        openvino = import_library("openvino", install=to_run("openvino"))
    finally:
        del sys.modules[_CONVERTER]
    if "convert_model" not in vars(openvino):
        vars(openvino)["__getattr__"] = _converter
    return openvino


def _converter(name: str) -> Any:
    """An attribute of ``openvino`` that its import left out."""
    if name != "convert_model":
        raise AttributeError(f"module 'openvino' has no attribute {name!r}")
    return importlib.import_module(_CONVERTER).convert_model


@functools.cache
def openvino_core() -> Any:
    """The one ``openvino.Core`` of this process.

    A Core with a CPU plugin replaces its thread's stack for signals, and restores the previous one when it ends. If
    two of them do not end in the opposite order, an unmapped stack remains, and the next signal that Python handles,
    such as the SIGCHLD that PyTorch's loaders use, is a segmentation fault.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
    """
    return import_openvino().Core()
