"""What every target can do, and why not where it cannot: the one table that the compiler and the doctor read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdcmae.errors import ConfigError, DeviceError
from kdcmae.runtime.cuda import Device
from kdcmae.runtime.manifest import BatchRange

__all__ = ["CAPABILITIES", "PRECISIONS", "Capabilities", "require_capable", "require_device"]

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a target can do. Where a value is a text, it is the reason why not, and empty where it can.

    Args:
        precisions: a reason for each of :data:`PRECISIONS`.
        devices: ``cpu`` and ``cuda``, those it builds for; the first is the default.
        builds_without_device: engines for a device that the machine lacks.
        dynamic_batch: a range of batch sizes in one engine.
        modules: to import, any of which brings the target.
        install: what brings it, in pip's words.
    """

    precisions: Mapping[str, str]
    devices: tuple[str, ...]
    builds_without_device: str = ""
    dynamic_batch: str = ""
    modules: tuple[str, ...]
    install: str

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
        return f"{missing}, and {self.builds_without_device}" if missing and self.builds_without_device else ""


_NO_FP8_CPU = "no processor multiplies fp8; use int8, or --target trt"
_READS_NO_QDQ = "quantised models are ONNX graphs, which this target does not read; use --target openvino, onnx or trt"

CAPABILITIES: Mapping[str, Capabilities] = {
    "openvino": Capabilities(
        precisions={"fp32": "", "fp16": "", "bf16": "", "int8": "", "fp8": _NO_FP8_CPU},
        devices=("cpu",),
        modules=("openvino",),
        install="kdcmae[openvino]",
    ),
    "trt": Capabilities(
        precisions=dict.fromkeys(PRECISIONS, ""),
        devices=("cuda",),
        modules=("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"),
        install="kdcmae[trt]",
    ),
    "torch-trt": Capabilities(
        precisions={"fp32": "", "fp16": "", "bf16": "", "int8": _READS_NO_QDQ, "fp8": _READS_NO_QDQ},
        devices=("cuda",),
        builds_without_device="Torch-TensorRT builds for the GPU at hand",
        modules=("torch_tensorrt",),
        install="kdcmae[torch-trt]",
    ),
    "onnx": Capabilities(
        precisions={"fp32": "", "fp16": "", "bf16": "", "int8": "", "fp8": _NO_FP8_CPU},
        devices=("cpu",),
        modules=("onnxruntime",),
        install="kdcmae[onnx]",
    ),
    "aoti": Capabilities(
        precisions={"fp32": "", "fp16": "", "bf16": "", "int8": _READS_NO_QDQ, "fp8": _READS_NO_QDQ},
        devices=("cpu", "cuda"),
        builds_without_device="AOTInductor compiles and tunes its kernels on the GPU at hand",
        modules=("torch",),
        install="kdcmae",
    ),
}


def require_capable(target: str, *, precision: str, batch: BatchRange, device: str = "") -> None:
    """Refuse a combination that a target cannot build, before any work.

    Args:
        target: its name.
        precision: of the matrix products.
        batch: sizes the engine must serve.
        device: what it is built for; the target's default where empty.

    Raises:
        ConfigError: says why it cannot and what can.
    """
    capable = CAPABILITIES[target]
    if device and device not in capable.devices:
        raise ConfigError(f"--target {target} does not build for --device {device}, only {', '.join(capable.devices)}")
    problems = {
        f"--precision {precision}": capable.precisions.get(precision, f"use one of {', '.join(capable.precisions)}"),
        f"--batch {batch.min}:{batch.opt}:{batch.max}": capable.dynamic_batch if batch.min != batch.max else "",
    }
    for option, reason in problems.items():
        if reason:
            raise ConfigError(f"--target {target} cannot build {option}: {reason}")


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
