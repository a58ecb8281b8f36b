"""TensorRT engines: full TensorRT (10 or 11) where it is installed, TensorRT for RTX otherwise.

Both have the same builder. The network is strongly typed, so the types of the ONNX graph are the precision. The
plan is written raw, so that trtexec and C++ load it too. TensorRT for RTX builds ahead of time without a GPU, for
every compute capability it is portable to; full TensorRT builds for the GPU at hand.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from kdcmae.compile.quantize.qdq import declared_products
from kdcmae.compile.targets import BuildRequest, BuiltEngine, Contents, Target, plain_counts
from kdcmae.errors import DeviceError, EngineError, MissingDependencyError
from kdcmae.runtime.cuda import Device
from kdcmae.runtime.precisions import QUANTIZED, named
from kdcmae.runtime.tensorrt import error_logger, import_tensorrt

__all__ = ["TARGET", "TensorRt", "plan_kernels", "plan_writer"]

_PRECISIONS = named("tensorrt")
_RTX_CAPABILITIES = ("SM80", "SM86", "SM89", "SM120", "SM121")
_NO_FP8 = ("SM80", "SM86")
# The first bytes of raw plans.
_PLANS = {b"ftrt": "TensorRT", b"vtrt": "TensorRT for RTX"}
_RELEASE = slice(24, 28)  # where TensorRT for RTX 1.7 has its release, a byte per number
# How the inspector's "Format/Datatype" spells precisions: TensorRT 10 by type, before it in a sentence with the layout.
_FORMATS = {
    "bf16": re.compile("BFloat16|BF16"),
    "fp16": re.compile("Half|FP16"),
    "fp32": re.compile(r"\bFloat\b|FP32"),
    "int8": re.compile("Int8"),
}


class TensorRt(Target):
    """Builds a plan from the ONNX graph."""

    name = "trt"

    def require(self) -> None:
        _bindings()

    def build(self, request: BuildRequest) -> BuiltEngine:
        assert request.graph is not None
        trt, flavour = _bindings()
        logger = error_logger(trt)
        builder = trt.Builder(logger)
        network, parser = _parse(trt, builder, logger, request.graph)
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default; float32 that is asked for is float32
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector tells what the plan keeps
        config.add_optimization_profile(_profile(builder, request))
        capabilities = _target_all_capabilities(trt, config, request.precision) if flavour == "tensorrt_rtx" else ()
        executed, products = _layer_precisions(network), _product_precisions(network)
        # Unbuffered: a disk that fills up is noticed while the library writes, not when the file is closed.
        plan = request.folder / "engine.plan"
        with plan.open("wb", buffering=0) as file:
            writer = plan_writer(trt, file)  # as it is made: in memory the plan would be one more copy of the weights
            built = builder.build_serialized_network_to_stream(network, config, writer)
        del parser  # it owns the weights, so it had to outlive the build
        if writer.error is not None:
            raise writer.error
        if not built:
            raise EngineError(f"{flavour} {trt.__version__} could not build the engine: {logger.reason()}")
        return BuiltEngine(
            engine={"file": "engine.plan", "flavour": flavour, "compute_capabilities": list(capabilities)},
            libraries={flavour: trt.__version__},
            executed=executed,
            read_from="TensorRT's strongly typed network",
            products=products,
            run=None,
            unrunnable=_unrunnable(),
            declared=declared_products(request.graph, request.precision) if request.precision in QUANTIZED else None,
            # How 8-bit operands inside a fused kernel are told is not documented; their claim is the network's.
            kernels=None if request.precision in QUANTIZED else plan_kernels(trt, logger, plan),
        )

    def inspect(self, path: Path) -> Contents:
        with path.open("rb") as file:
            head = file.read(_RELEASE.stop)
        if head[:4] not in _PLANS:
            raise EngineError(
                f"{path} is not a TensorRT plan: it starts with {head[:4]!r}; rebuild it with kdcmae-compile"
            )
        flavour = _PLANS[head[:4]]
        release = f" {'.'.join(map(str, head[_RELEASE]))}" if flavour == "TensorRT for RTX" else ""
        return Contents(format=f"{flavour}{release} plan")


TARGET = TensorRt()


def _bindings() -> tuple[ModuleType, str]:
    """The TensorRT module and its flavour: full TensorRT where it is installed.

    Raises:
        MissingDependencyError: neither flavour is installed.
    """
    try:
        return import_tensorrt("tensorrt"), "tensorrt"
    except MissingDependencyError:
        return import_tensorrt("tensorrt_rtx"), "tensorrt_rtx"


def _unrunnable() -> str:
    try:
        Device(0).close()
    except DeviceError:
        return "no CUDA device"
    return ""


def _parse(trt: ModuleType, builder: Any, logger: Any, graph: Path) -> tuple[Any, Any]:
    """The network of an ONNX file, and the parser that owns its weights."""
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        problems = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise EngineError(f"TensorRT {trt.__version__} does not take this graph: {'; '.join(problems[:3])}")
    return network, parser


def plan_writer(trt: ModuleType, file: IO[bytes]) -> Any:
    """What TensorRT hands the plan to; an error of the file is kept, because it cannot pass through the library."""

    class Writer(trt.IStreamWriter):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.error: OSError | None = None

        def write(self, data: bytes) -> int:
            rest = memoryview(data)
            try:
                while rest:  # one call of the system takes less than 2 GiB
                    rest = rest[file.write(rest) :]
            except OSError as error:
                self.error = error
                return 0
            return len(data)

    return Writer()


def _profile(builder: Any, request: BuildRequest) -> Any:
    profile = builder.create_optimization_profile()
    for spec in request.inputs:
        batch = request.batch
        profile.set_shape(spec.name, spec.sizes(batch.min, "min"), spec.sizes(batch.opt), spec.sizes(batch.max, "max"))
    return profile


def _target_all_capabilities(trt: ModuleType, config: Any, precision: str) -> tuple[str, ...]:
    names = [name for name in _RTX_CAPABILITIES if precision != "fp8" or name not in _NO_FP8]
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    return tuple(f"{name[2:-1]}.{name[-1]}" for name in names)


def _product_precisions(network: Any) -> dict[str, int]:
    """Matrix products by the precision of their operands.

    Where both are dequantised that is the 8-bit one: TensorRT fuses such a product with its neighbours into a kernel of
    that precision.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)}
    counts: Counter[str] = Counter()
    for layer in layers:
        if layer.type.name == "MATRIX_MULTIPLY":
            operands = {_operand_precision(layer.get_input(index), makers) for index in range(2)}
            counts[operands.pop() if len(operands) == 1 else _PRECISIONS[layer.get_output(0).dtype.name]] += 1
    return dict(counts)


def _operand_precision(tensor: Any, makers: Mapping[str, Any]) -> str:
    """That of the values before they were dequantised, or else the tensor's own."""
    maker = makers.get(tensor.name)
    while maker is not None and maker.type.name == "SHUFFLE":  # it only moves data
        maker = makers.get(maker.get_input(0).name)
    if maker is not None and maker.type.name == "DEQUANTIZE":
        tensor = maker.get_input(0)
    return str(_PRECISIONS[tensor.dtype.name])


def _layer_precisions(network: Any) -> dict[str, dict[str, int]]:
    """Layers by class and output precision, which is what executes: the network is strongly typed.

    Only float outputs count: shapes and indices are integers.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        precision = _PRECISIONS.get(layer.get_output(0).dtype.name)
        if precision is not None:
            counts[layer.type.name][precision] += 1
    return plain_counts(counts)


def plan_kernels(trt: ModuleType, logger: Any, plan: Path) -> dict[str, int]:
    """How many kernels of a plan read or write which precision, as TensorRT's engine inspector reports them.

    Not yet verified on a GPU.

    Args:
        trt: the module of the flavour that built it.
        logger: :func:`kdcmae.runtime.tensorrt.error_logger`'s.

    Returns:
        By precision; empty without a GPU to load the plan on, and where the plan holds only the names of its layers.

    Raises:
        EngineError: TensorRT cannot load what it built.
    """
    try:
        device = Device(0)
    except DeviceError:
        return {}
    with closing(device), device.current():
        runtime = trt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise EngineError(f"TensorRT {trt.__version__} cannot load the plan it built: {logger.reason()}")
        inspector = engine.create_engine_inspector()
        kernels = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON)).get("Layers", ())
        del inspector, engine, runtime  # before the device they are on
    return _kernel_precisions(kernels)


def _kernel_precisions(kernels: Iterable[Any]) -> dict[str, int]:
    """Count what an inspector tells; a kernel without details, which is only a name, tells nothing."""
    counts: Counter[str] = Counter()
    for kernel in kernels:
        if isinstance(kernel, Mapping):
            ports = (*kernel.get("Inputs", ()), *kernel.get("Outputs", ()))
            spelled = " ".join(port.get("Format/Datatype", "") for port in ports)
            counts.update(precision for precision, pattern in _FORMATS.items() if pattern.search(spelled))
    return dict(counts)
