"""ONNX Runtime sessions on the CPU, for the checks of a build."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kdcmae.extras import to_run
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.backend import import_library

__all__ = ["open_session", "require_onnxruntime", "sparing_options"]


def open_session(
    path: Path, disabled: Sequence[str] = (), *, floating: bool = False, sparing: bool = True
) -> Callable[[Arrays], Arrays]:
    """Load an ONNX file for checks on the CPU with ONNX Runtime.

    Args:
        disabled: optimisers that ONNX Runtime must not apply.
        floating: compute products of dequantised operands in float32.
        sparing: spare memory rather than time.

    Returns:
        From inputs to outputs, by name.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    ort = require_onnxruntime()
    options = sparing_options(ort) if sparing else _quiet_options(ort)
    if floating:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(
        path, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, dict(feed)), strict=True))


def require_onnxruntime() -> Any:
    """Import ONNX Runtime.

    Raises:
        MissingDependencyError: it is not installed.
    """
    return import_library("onnxruntime", install=to_run("onnx"))


def sparing_options(ort: Any) -> Any:
    """Session options that spare memory: weights stay where they are mapped, and what is freed goes back."""
    options = _quiet_options(ort)
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.disable_prepacking", "1")  # it holds the weights a second time
    return options


def _quiet_options(ort: Any) -> Any:
    """Session options that keep all but errors to themselves: it warns about every constant it cannot fold."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return options
