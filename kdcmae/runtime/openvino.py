"""OpenVINO engines: an IR (``model.xml`` with its ``model.bin``) compiled for one device at load time.

An engine that takes raw clips has a second IR, its frontend, because a precision hint applies to a whole model and the
preprocessing of a bf16 or int8 engine has to stay float32.
"""

from __future__ import annotations

import functools
import importlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcmae.errors import DeviceError, EngineError
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.backend import (
    Backend,
    Lane,
    Streams,
    TensorType,
    check_streams,
    check_tensors,
    engine_option,
    engine_threads,
    limited_threads,
    require_same_or_newer,
)
from kdcmae.runtime.cpu import Cpu, this_cpu
from kdcmae.runtime.execution import Execution
from kdcmae.runtime.manifest import Manifest
from kdcmae.runtime.openvino_library import import_openvino, openvino_core
from kdcmae.runtime.precisions import FLOATING, PRECISIONS, named

__all__ = [
    "HINTS",
    "OpenVINOBackend",
    "Pipeline",
    "compile_native",
    "is_attention",
    "native_precision",
    "read_execution",
    "widen",
]

# Precision hints of OpenVINO by precision.
HINTS = {name: PRECISIONS[name].openvino[0] for name in FLOATING}
_FLOATING = named("openvino", FLOATING)
_PRECISIONS = named("openvino")
_CHOOSES = "AUTO"  # not a device, but the plugin that chooses one
_DATA_ONLY = ("Const", "Input", "Output")
_DTYPES = {
    "f32": "float32",
    "f16": "float16",
    "u8": "uint8",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
}


def read_execution(*compiled: Any) -> Execution:
    """The precisions that the layers of compiled models execute in, from OpenVINO's runtime models.

    Layers that only hold data are left out, and so are those of other precisions than kdcmae's.

    Args:
        compiled: ``openvino.CompiledModel`` objects: the engine's frontend, if it has one, then the engine itself.
    """
    *frontends, body = compiled
    layers = list(_layers(body))
    executed = _counted(layers, _PRECISIONS)
    attention = Counter(
        _PRECISIONS.get(precision, precision) for kind, precision, names in layers if is_attention(kind, names)
    )
    return Execution(
        executed=executed,
        read_from="OpenVINO's runtime model",
        products=executed.get("FullyConnected", {}),
        attention=dict(attention),
        # Bytes in a frontend are pixels and results of comparisons, no quantised values.
        frontend=_counted(_layers(frontends[0]), _FLOATING) if frontends else {},
    )


def _layers(compiled: Any) -> Iterator[tuple[str, str, str]]:
    """Type, precision and original names of every layer, as the plugin names them."""
    for layer in compiled.get_runtime_model().get_ops():
        facts = layer.get_rt_info()
        kind, precision, names = (
            facts[fact].astype(str) if fact in facts else ""
            for fact in ("layerType", "runtimePrecision", "originalLayersNames")
        )
        yield kind, precision, names


def _counted(layers: Iterable[tuple[str, str, str]], names: Mapping[str, str]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, precision, _ in layers:
        if kind not in _DATA_ONLY and precision in names:
            counts[kind][names[precision]] += 1
    return {kind: dict(by_precision) for kind, by_precision in sorted(counts.items())}


def native_precision(precision: str, cpu: Cpu) -> str:
    """The precision in which OpenVINO's CPU plugin should execute ``precision``: the nearest that the CPU multiplies.

    For fp16 that is fp16, bf16 or fp32, for bf16 it is bf16 or fp32. The plugin's own ``OPTIMIZATION_CAPABILITIES`` do
    not tell, because they ignore the instruction cap that its kernels obey.

    Args:
        precision: ``fp32``, ``fp16`` or ``bf16``.
        cpu: processor that executes it.
    """
    candidates = {"fp16": ("fp16", "bf16"), "bf16": ("bf16",)}.get(precision, ())
    if cpu.features:
        return next((name for name in candidates if cpu.multiplies(name)), "fp32")
    # If the system lists no CPU instructions, only the plugin knows them. It names the precisions FP16 and BF16.
    capabilities = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return next((name for name in candidates if name.upper() in capabilities), "fp32")


def compile_native(model: Any, device: str, hint: str, properties: Mapping[str, Any]) -> Any:
    """Compile a model to execute in a precision, or in the nearest that this CPU multiplies.

    By default, the plugin emulates bfloat16 on a CPU with AVX-512 but without bfloat16, which takes twenty times as
    long as float32, and looks for bfloat16 kernels that a capped instruction set does not have.

    Args:
        model: an ``openvino.Model``; it may be changed.
        device: device that OpenVINO compiles for; on other devices than a CPU, the device decides about the precision.
            ``AUTO`` may choose the CPU, and hands the hint on to it.
        hint: one of the values of :data:`HINTS`.
        properties: all other properties of OpenVINO.

    Returns:
        An ``openvino.CompiledModel``.
    """
    cpu = this_cpu()
    if _may_be_cpu(device):
        hint = HINTS[native_precision(_FLOATING[hint], cpu)]
        if native_precision("bf16", cpu) != "bf16":
            widen(model)
    return openvino_core().compile_model(model, device, {**properties, "INFERENCE_PRECISION_HINT": hint})


def widen(model: Any) -> bool:
    """Replace bfloat16 types in a model by float32, because a precision hint does not change them.

    Args:
        model: an ``openvino.Model``; changed in place.

    Returns:
        Whether there were any.
    """
    opset = importlib.import_module("openvino.opset13")
    changed = False
    for op in model.get_ordered_ops():
        if not op.get_output_size() or op.get_output_element_type(0).to_string() != "bf16":
            continue
        changed = True
        if op.get_type_name() == "Convert":
            op.set_attribute("destination_type", "f32")
        elif op.get_type_name() == "Constant":
            readers = op.output(0).get_target_inputs()
            wide = opset.convert(op, "f32")
            for reader in readers:
                reader.replace_source_output(wide.output(0))
    if changed:
        model.validate_nodes_and_infer_types()
    return changed


def is_attention(kind: str, names: str) -> bool:
    """Whether a layer of a runtime model holds products of attention.

    Args:
        kind: ``layerType`` of the layer.
        names: its ``originalLayersNames``.
    """
    # The plugin may compile both products of an attention, with the softmax between them, into one kernel.
    return kind in ("MatMul", "ScaledDotProductAttention") or (kind == "Subgraph" and "softmax" in names.lower())


class Pipeline:
    """Compiled models one after the other: each reads its inputs where the one before it wrote them.

    Args:
        compiled: ``openvino.CompiledModel``; a tensor between two of them has the same name in both.
        queued: run in the library's own streams, which other pipelines of these models use at the same time. A call
            that runs alone is faster in the caller's thread.

    Raises:
        EngineError: a model does not give what the next one takes.
    """

    def __init__(self, *compiled: Any, queued: bool = False) -> None:
        self._queued = queued
        self._tensor = import_openvino().Tensor
        self._requests = [model.create_infer_request() for model in compiled]
        self._handed_on = [_handed_on(first, second) for first, second in itertools.pairwise(compiled)]

    def infer(self, feed: Arrays, outputs: Sequence[str]) -> Arrays:
        """Run one batch.

        Args:
            feed: inputs by name.
            outputs: names of the outputs to return.

        Returns:
            The outputs, as views of memory that the next call overwrites.
        """
        # Setting and getting tensors by name costs less than infer() with a mapping, which has to match the names.
        # Only a writeable array in C order can be shared; others are copied.
        tensors = {name: self._tensor(array, shared_memory=array.flags.carray) for name, array in feed.items()}
        for request, names in zip(self._requests, (*self._handed_on, outputs), strict=True):
            for name, tensor in tensors.items():
                request.set_tensor(name, tensor)
            if self._queued:
                request.start_async(share_inputs=True)
                request.wait()
            else:
                request.infer(share_outputs=True)
            tensors = {name: request.get_tensor(name) for name in names}
        return {name: tensor.data for name, tensor in tensors.items()}


class OpenVINOBackend(Backend):
    """An OpenVINO IR on one device.

    ``manifest.engine`` holds ``device`` (such as ``"CPU"``), ``inference_precision`` (``"f32"``, ``"bf16"`` or
    ``"f16"``) and, optionally, ``threads`` and ``frontend``: the IR that runs first, in float32. A CPU that does not
    multiply that precision executes the nearest that it does, see :func:`compile_native`. The installed OpenVINO must
    not be older than the one that built the engine.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, *, device: str | None, threads: int | None, streams: Streams = 1
    ) -> None:
        ov = import_openvino()
        require_same_or_newer(manifest, "openvino", ov.__version__)
        hints = {"frontend": "f32", "file": engine_option(manifest, "inference_precision", tuple(HINTS.values()))}
        properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT"}
        core = openvino_core()
        device = _available(device or manifest.engine.get("device", "CPU"), core.available_devices)
        threads = engine_threads(manifest, threads)
        if threads is None and _may_be_cpu(device):
            threads = limited_threads()
        check_streams(streams, threads)
        if threads is not None:
            properties["INFERENCE_NUM_THREADS"] = threads
        if streams not in (1, "auto"):
            properties["NUM_STREAMS"] = streams
        if device == _CHOOSES:
            # Otherwise the CPU executes until the chosen device is ready, and the results change at that moment.
            properties["ENABLE_STARTUP_FALLBACK"] = False
        # Variants of one engine share their weights; if no file is named, OpenVINO reads those beside the .xml.
        weights = folder / manifest.engine["weights"] if "weights" in manifest.engine else ""
        self._chooses = device == _CHOOSES
        self._models: list[Any] = []
        for role in [role for role in hints if role in manifest.engine]:
            path = folder / manifest.engine[role]
            try:
                model = core.read_model(path, weights)
                self._models.append(compile_native(model, device, hints[role], properties))
            except RuntimeError as error:
                raise EngineError(f"OpenVINO {ov.__version__} cannot load {path} on {device}: {error}") from error
        self._outputs = [spec.name for spec in manifest.outputs]
        inputs = _tensor_types(self._models[0].inputs, [spec.name for spec in manifest.inputs])
        check_tensors(manifest, inputs, _tensor_types(self._models[-1].outputs, self._outputs))
        self._streams = 1 if streams == 1 else int(self._models[-1].get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        # Of two requests per stream one computes and the other waits in the library's queue, so that no stream waits
        # for Python. Requests share the models, and their memory is that of the caller's arrays.
        requests = 1 if self._streams == 1 else 2 * self._streams
        self._pipelines = [Pipeline(*self._models, queued=requests > 1) for _ in range(requests)]

    @classmethod
    def load(
        cls, folder: Path, manifest: Manifest, *, device: str | None, threads: int | None, streams: Streams
    ) -> Backend:
        """See :meth:`Backend.load`; ``"auto"`` is OpenVINO's throughput hint."""
        return cls(folder, manifest, device=device, threads=threads, streams=streams)

    @property
    def streams(self) -> int:
        """Number of calls that run at the same time; OpenVINO makes no more streams than it has threads."""
        return self._streams

    @property
    def chosen_device(self) -> str:
        """See :attr:`Backend.chosen_device`."""
        return ",".join(self._models[-1].get_property("EXECUTION_DEVICES")) if self._chooses else ""

    @property
    def lanes(self) -> Sequence[Lane]:
        """One per request."""
        return [functools.partial(pipeline.infer, outputs=self._outputs) for pipeline in self._pipelines]

    def infer(self, feed: Arrays) -> Arrays:
        """Run one batch; the outputs are views of memory that the next call overwrites."""
        return self._pipelines[0].infer(feed, self._outputs)

    def execution(self) -> Execution:
        """Precisions that the layers execute in, from OpenVINO's runtime models; empty for a device without them."""
        try:
            return read_execution(*self._models)
        except RuntimeError:
            return Execution()

    @classmethod
    def library_version(cls, module: str, *, install: str) -> str:
        """See :meth:`Backend.library_version`."""
        return str(import_openvino().__version__)

    @classmethod
    def executed_as(cls, precision: str, cpu: Cpu) -> str:
        """See :func:`native_precision`."""
        return native_precision(precision, cpu)

    def close(self) -> None:
        """Release the compiled model."""
        del self._pipelines, self._models


def _may_be_cpu(device: str) -> bool:
    return device.partition(".")[0] in ("CPU", _CHOOSES)


def _available(device: Any, devices: list[str]) -> str:
    """The device if OpenVINO lists it; ``GPU`` stands for the first of ``GPU.0``, ``GPU.1``."""
    if device == _CHOOSES:
        return _CHOOSES
    if not any(listed == device or listed.startswith(f"{device}.") for listed in devices):
        raise DeviceError(f"OpenVINO finds no device {device!r} here, only {', '.join(devices)}; choose one of these")
    return str(device)


def _handed_on(first: Any, second: Any) -> tuple[str, ...]:
    """Names that outputs of one compiled model share with the inputs of the next; a port may have several names."""
    available = {name: port.get_element_type() for port in first.outputs for name in port.get_names()}
    names = []
    for port in second.inputs:
        shared = sorted(name for name in port.get_names() if available.get(name) == port.get_element_type())
        if not shared:
            raise EngineError(
                f"the frontend gives {', '.join(sorted(available))} and the engine takes "
                f"{port.get_any_name()} {port.get_element_type().to_string()}; rebuild it with kdcmae-compile"
            )
        names.append(shared[0])
    return tuple(names)


def _tensor_types(ports: Any, promised: list[str]) -> dict[str, TensorType]:
    """Types by name. A port has the names of all nodes that were folded into it; the manifest's name is used."""
    types = {}
    for port in ports:
        name = min(port.get_names(), key=lambda name: (name not in promised, name), default="(unnamed)")
        dtype = port.get_element_type().to_string()
        shape = tuple(axis.get_length() if axis.is_static else None for axis in port.get_partial_shape())
        types[name] = _DTYPES.get(dtype, dtype), shape
    return types
