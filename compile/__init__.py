"""Lower a model to an engine folder and prove what was shipped.

``build`` yields the stages of a build (``stages``): ``lowering`` puts the precision into the torch module, ``export``
writes it as ONNX, ``quantize`` puts 8-bit layers into the graph, and ``targets``, one class per engine library, turn
program or graph into engines. ``parity`` runs every stage on the ``cases`` and compares it with the reference model;
``diagnose`` looks inside the same stages for the first layer that is wrong. ``gates`` compares the precision claimed
with the precision executed, ``report`` and ``package`` write the folder, and ``cache`` has engines built before.
``inspection`` and ``comparison`` look into existing engines.

The same model, settings and versions give the same engine file, golden data and labels, byte for byte, where the
library builds deterministically: OpenVINO, ONNX and TensorRT for RTX do. ``manifest.json`` and ``report.html`` say when
and in how many seconds an engine was built, so they differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcmae.compile.api import compile_model

__all__ = ["compile_model"]


def __getattr__(name: str) -> Any:
    """``compile_model`` is imported when it is asked for: the command line needs none of what it imports."""
    if name == "compile_model":
        from kdcmae.compile.api import compile_model

        return compile_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
