"""What every target can do, and why not where it cannot: the one table that the compiler and the doctor read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kdcmae.errors import ConfigError, DeviceError, MissingDependencyError
from kdcmae.extras import is_installed, require_installed, to_compile, to_run
from kdcmae.runtime.cpu import Cpu, this_cpu
from kdcmae.runtime.cuda import Device
from kdcmae.runtime.execution import Execution, claims_against, read_claims
from kdcmae.runtime.manifest import BatchRange, Manifest
from kdcmae.runtime.openvino import native_precision

__all__ = [
    "CAPABILITIES",
    "PRECISIONS",
    "SATURATES",
    "Capabilities",
    "executed_as",
    "execution_differences",
    "fastest_floating",
    "not_native",
    "require_capable",
    "require_device",
    "require_native",
    "require_tools",
    "saturates_here",
]

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")


def _as_typed(precision: str, cpu: Cpu) -> str:
    """The types of the engine's own code are what executes, natively or not."""
    return precision


def _onnx_executes(precision: str, cpu: Cpu) -> str:
    # It casts around every product there.
    return "fp32" if precision == "fp16" and cpu.machine == "x86_64" else precision


SATURATES = (
    "products in int8 saturate, for this processor adds them in 16 bits and the one that the engine is for does not"
)
_HALF_BECAUSE = "the GPU's tensor cores multiply it as fast as bf16, and it rounds less"


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a target can do. Where a value is a text, it is the reason why not, and empty where it can.

    Args:
        precisions: a reason for each of :data:`PRECISIONS`.
        devices: ``cpu`` and ``cuda``, those it builds for; the first is the default.
        builds_without_device: engines for a device that the machine lacks.
        dynamic_batch: a range of batch sizes in one engine.
        modules: to import, any of which brings the target; the first that is installed is used.
        portable: those of them that build without a device all the same.
        install: what brings the last of them, in pip's words.
        tools: modules that building needs beside them.
        tools_of: and those that building a precision needs besides.
        executes: what the products of a floating precision execute in, on a processor.
        fastest: the fastest floating precision of the products, on a processor.
        fastest_because: why, where it is the same on all of them.
        builds_for: engines for another processor than this machine's.
    """

    precisions: Mapping[str, str]
    devices: tuple[str, ...]
    builds_without_device: str = ""
    dynamic_batch: str = ""
    modules: tuple[str, ...]
    portable: tuple[str, ...] = ()
    install: str
    tools: tuple[str, ...]
    tools_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    executes: Callable[[str, Cpu], str] = _as_typed
    fastest: Callable[[Cpu], str] = lambda cpu: "fp16"
    fastest_because: str = _HALF_BECAUSE
    builds_for: str = "its engines are for a GPU"

    def module(self) -> str:
        """The one of :attr:`modules` that is used here: the first installed, or else what :attr:`install` brings."""
        return next((name for name in self.modules if is_installed(name)), self.modules[-1])

    def executes_here(self, device: str = "") -> str:
        """Why an engine cannot run on this machine; empty where it can, as far as devices go.

        Args:
            device: one of :attr:`devices`; the default one where empty.
        """
        if (device or self.devices[0]) == "cpu":
            return ""
        try:
            Device(0).close()
        except DeviceError:
            return "no CUDA device"
        return ""

    def builds_here(self, device: str = "") -> str:
        """Why an engine cannot be built on this machine; empty where it can, as far as devices go.

        Args:
            device: one of :attr:`devices`; the default one where empty.
        """
        missing = self.executes_here(device)
        if not missing or not self.builds_without_device or self.module() in self.portable:
            return ""
        return f"{missing}, and {self.builds_without_device}"


_NO_FP8_CPU = "no processor multiplies fp8; use int8, or --target trt"
_READS_NO_QDQ = "quantised models are ONNX graphs, which this target does not read; use --target openvino, onnx or trt"

_MODEL = ("torch", "safetensors")
_EXPORT = (*_MODEL, "onnx", "onnxscript", "onnxruntime")  # export a graph, and prove it

CAPABILITIES: Mapping[str, Capabilities] = {
    "openvino": Capabilities(
        precisions={"fp32": "", "fp16": "", "bf16": "", "int8": "", "fp8": _NO_FP8_CPU},
        devices=("cpu",),
        modules=("openvino",),
        install=to_run("openvino"),
        tools=_EXPORT,
        tools_of={"int8": ("nncf",)},
        executes=native_precision,
        fastest=lambda cpu: cpu.fastest_floating,
        fastest_because="",
        builds_for="",
    ),
    "trt": Capabilities(
        precisions=dict.fromkeys(PRECISIONS, ""),
        devices=("cuda",),
        builds_without_device="full TensorRT builds for the GPU at hand; TensorRT for RTX, in its place, needs none",
        modules=("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"),
        portable=("tensorrt_rtx", "tensorrt_rtx_bindings"),
        install=to_run("trt"),
        tools=_EXPORT,
    ),
    "torch-trt": Capabilities(
        precisions={"fp32": "", "fp16": "", "bf16": "", "int8": _READS_NO_QDQ, "fp8": _READS_NO_QDQ},
        devices=("cuda",),
        builds_without_device="Torch-TensorRT builds for the GPU at hand",
        modules=("torch_tensorrt",),
        install=to_run("torch-trt"),
        tools=_MODEL,
    ),
    "onnx": Capabilities(
        precisions={"fp32": "", "fp16": "", "bf16": "", "int8": "", "fp8": _NO_FP8_CPU},
        devices=("cpu",),
        modules=("onnxruntime",),
        install=to_run("onnx"),
        tools=_EXPORT,
        executes=_onnx_executes,
        fastest=lambda cpu: "fp32",
        fastest_because="ONNX Runtime has its fast CPU kernels for float32",
        builds_for="",
    ),
    "aoti": Capabilities(
        precisions={"fp32": "", "fp16": "", "bf16": "", "int8": _READS_NO_QDQ, "fp8": _READS_NO_QDQ},
        devices=("cpu", "cuda"),
        builds_without_device="AOTInductor compiles and tunes its kernels on the GPU at hand",
        modules=("torch",),
        install=to_run("aoti"),
        tools=_MODEL,
        fastest=lambda cpu: "bf16" if cpu.multiplies("bf16") else "fp32",
        fastest_because="",
        builds_for="AOTInductor compiles for the instructions of the machine at hand; build the engine on the device",
    ),
}


def require_capable(
    target: str, *, precision: str, batch: BatchRange, device: str = "", cpu: Cpu | None = None
) -> None:
    """Refuse a combination that a target cannot build, before any work.

    Args:
        target: its name.
        precision: of the matrix products.
        batch: sizes the engine must serve.
        device: what it is built for; the target's default where empty.
        cpu: the processor that it is built for; this machine's where None.

    Raises:
        ConfigError: says why it cannot and what can.
    """
    capable = CAPABILITIES[target]
    if device and device not in capable.devices:
        raise ConfigError(f"--target {target} does not build for --device {device}, only {', '.join(capable.devices)}")
    problems = {
        f"--precision {precision}": capable.precisions.get(precision, f"use one of {', '.join(capable.precisions)}"),
        f"--batch {batch.min}:{batch.opt}:{batch.max}": capable.dynamic_batch if batch.min != batch.max else "",
        "--for": capable.builds_for if cpu not in (None, this_cpu()) else "",
    }
    for option, reason in problems.items():
        if reason:
            raise ConfigError(f"--target {target} cannot build {option}: {reason}")


def executed_as(target: str, precision: str, *, cpu: Cpu) -> str:
    """What matrix products execute in; the precision itself where a target executes it as such.

    Args:
        target: its name.
        precision: of the products; quantised ones execute as such on every processor.
        cpu: the processor that they execute on.
    """
    floating = {"fp32", "fp16", "bf16"}
    return CAPABILITIES[target].executes(precision, cpu) if precision in floating else precision


def execution_differences(manifest: Manifest, execution: Execution, *, device: str = "") -> list[str]:
    """What an engine executes on this machine otherwise than its manifest claims, in words.

    Another precision of a layer class is one thing; the other is integer products that saturate here and not on the
    processor that the engine is for.

    Args:
        manifest: of the engine.
        execution: what its library tells; where that is nothing, what is known of this processor decides.
        device: it runs on, in the library's words; the processor where empty.

    Raises:
        EngineError: the manifest's claims are not claims.
    """
    on_cpu = device.lower() in ("", "cpu")
    saturates = [SATURATES] if saturates_here(manifest, device=device) else []
    if execution.executed:
        claims = claims_against(manifest.precision, execution)
        return saturates + [str(claim) for claim in claims if claim.holds is False]
    native = not_native(manifest.target, cpu=this_cpu()) if on_cpu else {}
    return saturates + [
        f"{claim.layers} are claimed to execute in {claim.claimed}, which executes as {native[claim.claimed]} here"
        for claim in read_claims(manifest.precision)
        if claim.claimed in native
    ]


def saturates_here(manifest: Manifest, *, device: str = "") -> bool:
    """Integer products of an engine saturate on this processor, and not on the one that its manifest says it is for.

    Args:
        manifest: of the engine.
        device: it runs on, in the library's words; the processor where empty.
    """
    built_for = manifest.precision.get("built_for")
    integer = manifest.precision.get("asked") == "int8" and device.lower() in ("", "cpu")
    if not integer or not isinstance(built_for, Mapping) or not this_cpu().saturates_int8:
        return False
    features = built_for.get("features")
    if not isinstance(features, list) or not all(isinstance(feature, str) for feature in features):
        return False
    return not Cpu(machine=str(built_for.get("machine")), features=frozenset(features)).saturates_int8


def fastest_floating(target: str, *, cpu: Cpu, device: str = "") -> tuple[str, str]:
    """The fastest floating precision that matrix products execute in as such, and the reason in words.

    Args:
        target: its name.
        cpu: the processor that the engine is for.
        device: one of the target's; its default where empty.
    """
    capable = CAPABILITIES[target]
    if (device or capable.devices[0]) == "cuda":
        return "fp16", _HALF_BECAUSE
    because = capable.fastest_because or f"{cpu.described} multiplies no faster floating precision natively"
    return capable.fastest(cpu), because


def not_native(target: str, *, cpu: Cpu) -> dict[str, str]:
    """What executes in the place of each precision that does not execute as such.

    Args:
        target: its name.
        cpu: the processor that the engine is for.
    """
    found = {name: executed_as(target, name, cpu=cpu) for name in PRECISIONS}
    return {name: executed for name, executed in found.items() if executed != name}


def require_native(target: str, *, precision: str, execute_as: str, cpu: Cpu) -> None:
    """Refuse a precision that does not execute as such, before any work, unless what does is accepted.

    Args:
        target: its name.
        precision: of the matrix products.
        execute_as: the precision that they may execute in instead; empty where none may take its place.
        cpu: the processor that the engine is for.

    Raises:
        DeviceError: says what would execute, and how to accept it.
        ConfigError: another precision was accepted than the one that executes.
    """
    native = executed_as(target, precision, cpu=cpu)
    if execute_as and native == precision:
        raise ConfigError(
            f"--execute-as {execute_as} cannot act, --precision {precision} executes as such; leave it out"
        )
    if execute_as != native != precision:
        where = "this processor" if cpu == this_cpu() else cpu.described
        raise DeviceError(
            f"--target {target} cannot build --precision {precision}: it executes as {native} on {where}; "
            f"use --precision {native}, or accept it with --execute-as {native}"
        )


def require_device(target: str, device: str = "") -> None:
    """Refuse a target that builds only where its device is, on a machine without.

    Args:
        target: its name.
        device: what it builds for; the target's default where empty.

    Raises:
        DeviceError: names the device.
    """
    if reason := CAPABILITIES[target].builds_here(device):
        raise DeviceError(f"--target {target} cannot build here: {reason}; compile on a machine that has one")


def require_tools(target: str, *, precision: str = "") -> None:
    """Refuse a target on a machine that lacks its library, or what building needs beside it. Imports nothing.

    Args:
        target: its name.
        precision: of the matrix products; what only some of them need is passed over where empty.

    Raises:
        MissingDependencyError: the message has the install line.
    """
    capable = CAPABILITIES[target]
    if not is_installed(capable.module()):
        raise MissingDependencyError(capable.modules[0], install=to_compile(target))
    require_installed(*capable.tools, *capable.tools_of.get(precision, ()), install=to_compile(target))
