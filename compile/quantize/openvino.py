"""INT8 for OpenVINO: NNCF puts FakeQuantize nodes into the model, and the device runs integer kernels for them.

What stays in floating point runs in bfloat16 where the CPU has it.

On x86 without VNNI, the kernels add two products of u8 activations and s8 weights in 16 bits, where the sum of two
large ones is cut to 32767; signed activations are moved to unsigned ones first, and fare worse. For such CPUs the
weights get 7 bits, with which no sum leaves 16 bits, and the scores of attention, whose operands are both activations
and were as wrong, stay in floating point: there the plugin has no fused integer attention, and they are faster so.
On ARM it multiplies them in floating point in any case.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcmae.compile import memory
from kdcmae.compile.quantize import attention
from kdcmae.compile.quantize.nodes import products_of
from kdcmae.compile.quantize.rows import split_short_blocks
from kdcmae.errors import EngineError
from kdcmae.extras import to_compile
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.backend import import_library
from kdcmae.runtime.cpu import Cpu, this_cpu
from kdcmae.runtime.metrics import Kind, compare
from kdcmae.runtime.openvino import HINTS, compile_native, native_precision
from kdcmae.runtime.openvino_library import import_openvino, openvino_core

if TYPE_CHECKING:
    from kdcmae.compile.quantize.calibration import Clips

__all__ = ["beside_int8", "closest", "declared_products", "import_nncf", "method", "quantize", "read_runner"]

_COMPARED = 4  # batches
_CLOSE = 0.999  # cosine between outputs that rounding explains


def import_nncf() -> ModuleType:
    """Import NNCF without its reports to its maker.

    Raises:
        MissingDependencyError: NNCF or OpenVINO is not installed.
    """
    import_openvino()  # blocks the telemetry package, which NNCF uses too
    nncf = import_library("nncf", install=to_compile("openvino"))
    nncf.set_log_level(logging.ERROR)
    return nncf


def method(*, saturates: bool = False, scores: bool = True) -> str:
    """How :func:`quantize` does it, for the manifest."""
    how = f"NNCF {import_nncf().__version__}, transformer preset, smoothed where plain is not close, OpenVINO IR"
    if saturates:
        return f"{how}, weights in 7 bits and scores in floating point, so that no product saturates without VNNI"
    return how if scores else f"{how}, scores in floating point"


def quantize(
    graph: Path,
    target: Path,
    clips: Clips,
    layers: Sequence[str],
    *,
    kinds: Mapping[str, Kind],
    saturates: bool = False,
    scores: bool = True,
) -> None:
    """Write an IR with these layers in int8.

    Args:
        graph: the float ONNX graph.
        target: the ``.xml`` to write, its ``.bin`` beside it.
        kinds: what each output is for.
        saturates: for processors whose integer products saturate.
        scores: the products of queries and keys too, for processors that multiply them on integers.

    Raises:
        EngineError: OpenVINO or NNCF refuses the graph.
    """
    import onnx

    ov, nncf = import_openvino(), import_nncf()
    chosen = set(products_of(onnx.load(graph, load_external_data=False).graph, layers))
    try:
        model = openvino_core().read_model(graph)
        chosen |= attention.separate_products(model, chosen).keys()
        if scores and not saturates:
            chosen |= attention.score_products(model, chosen)
        quantized = _closest(model, clips, chosen, kinds, saturates=saturates)
        ov.save_model(quantized, target, compress_to_fp16=False)
    except RuntimeError as error:
        raise EngineError(f"NNCF {nncf.__version__} could not quantise the graph: {error}") from error


def _closest(model: Any, clips: Clips, products: set[str], kinds: Mapping[str, Kind], *, saturates: bool) -> Any:
    """The model with these products in int8: plain, or smoothed where plain is not close and smoothed is closer.

    Smoothing moves outliers from activations into weights. Its scales stand between a norm or an attention and the
    rounding, which keeps the plugin from rounding in the same pass.
    """
    # For a CPU with VNNI, on one without: its kernels would be compared, not the roundings.
    floating = this_cpu().saturates_int8 and not saturates

    def candidates() -> Iterator[tuple[Any, list[Arrays]]]:
        for smooth in (False, True):
            made = _quantized(model, clips, products, smooth=smooth, saturates=saturates)
            yield made, _answers(made, clips, floating=floating)

    return closest(candidates(), _answers(model, clips, floating=floating), kinds)


def closest(
    candidates: Iterable[tuple[Any, Sequence[Arrays]]], expected: Sequence[Arrays], kinds: Mapping[str, Kind]
) -> Any:
    """The first candidate whose outputs are close to the expected ones, or else the closest.

    Args:
        candidates: each with its outputs per batch; the next one is made only if none was close so far.
        kinds: what each output is for.
    """
    best, closeness = None, -1.0
    for candidate, outputs in candidates:
        cosine = min(
            compare(output[name], reference[name], kind=kind, tie=0.0).cosine
            for output, reference in zip(outputs, expected, strict=True)
            for name, kind in kinds.items()
        )
        if cosine > closeness:
            best, closeness = candidate, cosine
        if closeness >= _CLOSE:
            break
    return best


def _answers(model: Any, clips: Clips, *, floating: bool) -> list[Arrays]:
    """The outputs of the first batches; what is compiled for them does not stay, it holds the weights once more."""
    run = _runner(model, floating=floating)
    answers = [run(dict(batch)) for batch in clips.batches[:_COMPARED]]
    del run
    memory.trim()
    return answers


def _quantized(model: Any, clips: Clips, products: set[str], *, smooth: bool, saturates: bool) -> Any:
    nncf = import_nncf()
    strength = {} if smooth else {"matmul": -1, "convolution": -1}
    parameters = nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix.ENABLE if saturates else nncf.OverflowFix.DISABLE,
        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(**strength),
    )
    others = [name for op in model.get_ops() if (name := op.get_friendly_name()) not in products]
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        made = nncf.quantize(
            model,
            nncf.Dataset([dict(batch) for batch in clips.batches]),
            subset_size=len(clips.batches),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=others, validate=False),
            advanced_parameters=parameters,
        )
    attention.balance_scores(made)
    split_short_blocks(made)
    return made


def read_runner(path: Path, *, floating: bool = False) -> Callable[[Arrays], Arrays]:
    """Compile an IR for the CPU as the engine will be, and give what runs it.

    Args:
        path: of the ``.xml``.
        floating: instead of on integers, compute in float32 with what was rounded to 8 bits, to see the error
            of rounding without that of the kernels.
    """
    return _runner(openvino_core().read_model(path), floating=floating)


def _runner(model: Any, *, floating: bool) -> Callable[[Arrays], Arrays]:
    properties = {"PERFORMANCE_HINT": "LATENCY"}
    precision = beside_int8(this_cpu())
    if floating:
        model, precision = model.clone(), "fp32"
        _unpack_weights(model)
        properties["LP_TRANSFORMS_MODE"] = "NO"  # the plugin's own key: FakeQuantize stays one, and nothing is i8
    compiled = compile_native(model, "CPU", HINTS[precision], properties)
    request = compiled.create_infer_request()

    def run(feed: Arrays) -> Arrays:
        results = request.infer(dict(feed))
        return {name: results[port].copy() for port in compiled.outputs for name in port.get_names()}

    return run


def _unpack_weights(model: Any) -> None:
    """Replace stored int8 weights by float32 ones of the same values; their scales stay behind them."""
    ops = import_openvino().opset13
    for convert in [op for op in model.get_ops() if op.get_type_name() == "Convert"]:
        stored = convert.input_value(0).get_node()
        if stored.get_type_name() == "Constant" and stored.get_element_type().to_string() in ("i8", "u8"):
            wide = ops.constant(stored.data.astype(np.float32))
            for reader in convert.output(0).get_target_inputs():
                reader.replace_source_output(wide.output(0))


def beside_int8(cpu: Cpu) -> str:
    """The precision of what is not quantised: bfloat16 where the processor multiplies it."""
    return native_precision("bf16", cpu)


def declared_products(model: Any, floating: str) -> dict[str, int]:
    """Products with weights in an IR by precision: int8 where both operands are quantised.

    Args:
        model: an ``openvino.Model``.
        floating: the precision of all others.
    """
    products = [
        op
        for op in model.get_ops()
        if op.get_type_name() == "MatMul" and any(_is_stored(value.get_node()) for value in op.input_values())
    ]
    integer = sum(all(_is_quantized(value.get_node()) for value in op.input_values()) for op in products)
    return {"int8": integer, floating: len(products) - integer}


_MOVES = ("Reshape", "Transpose", "VariadicSplit", "Concat", "Convert", "Multiply", "Subtract")


def _is_stored(node: Any) -> bool:
    """A constant, behind whatever only moves, scales or rounds it."""
    return bool(attention.behind(node, (*_MOVES, "FakeQuantize")).get_type_name() == "Constant")


def _is_quantized(node: Any) -> bool:
    """A FakeQuantize, or stored int8 weights being scaled, behind whatever only moves data."""
    node = attention.behind(node, _MOVES)
    if node.get_type_name() == "Constant":
        return bool(node.get_element_type().to_string() in ("i8", "u8"))
    return bool(node.get_type_name() == "FakeQuantize")
