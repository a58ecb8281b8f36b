"""One record per target: what the runtime knows about an engine library before it imports it.

A row of :data:`TARGETS` holds the facts that are known without the library. What only the library knows is a method of
the row's :class:`kdcmae.runtime.backend.Backend`. A new target is that backend (``kdcmae/runtime/NAME.py``), its
compiler (``compile/targets/NAME.py``) and its row.

``TARGETS`` is a live view: it includes the targets that :func:`registered` adds for the length of a ``with`` block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from kdcmae.errors import ConfigError, DeviceError
from kdcmae.extras import is_installed, to_compile, to_run
from kdcmae.runtime.cuda import Device
from kdcmae.runtime.precisions import PRECISIONS

if TYPE_CHECKING:
    from kdcmae.runtime.backend import Backend

__all__ = ["TARGETS", "TargetRecord", "find_target", "registered"]


@dataclass(frozen=True, kw_only=True)
class TargetRecord:
    """What the runtime knows about a target. Reasons say why something is impossible; an empty reason means possible.

    Args:
        name: value of ``--target`` and of the manifest's field.
        label: name of the library in messages.
        backend: ``"module:Class"`` of the :class:`~kdcmae.runtime.backend.Backend`, imported when it is needed.
        compiler: module that builds engines; the runtime never imports it.
        modules: import names of the library, alternatives in order of preference: the first that is installed is used,
            and :attr:`install` installs the last.
        distributions: packages whose versions identify the library.
        tools: other modules that building needs.
        tools_of: modules that building needs for one precision only, by precision.
        needs_compiler: building needs a C++ compiler.
        devices: ``cpu``, ``cuda`` or both: devices that engines can be for, the default first.
        upper_devices: the library spells devices in capitals.
        needs_device: reason why engines cannot be built on a machine without their device.
        builds_without_device: modules among :attr:`modules` to which that reason does not apply.
        this_machine_only: reason why engines cannot be for another processor than that of the building machine.
        cannot_build: reasons by precision why engines cannot have it.
        cannot_run: reasons by precision why the library cannot run such engines although they can be built for others.
        one_precision: the library executes all floating layers of a model in one precision, whatever their types, so
            the float32 preprocessing of raw inputs has to be a model of its own.
        auto: floating precisions that ``--precision auto`` may choose on a CPU that multiplies them fast.
        auto_because: reason for the choice, if it is the same on all CPUs.
        sidecar: suffix of a file that the library opens by itself beside an engine file; empty if there is none.
    """

    name: str
    label: str
    backend: str
    compiler: str
    modules: tuple[str, ...]
    distributions: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    tools_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needs_compiler: bool = False
    devices: tuple[str, ...]
    upper_devices: bool = False
    needs_device: str = ""
    builds_without_device: tuple[str, ...] = ()
    this_machine_only: str = ""
    cannot_build: Mapping[str, str] = field(default_factory=dict)
    cannot_run: Mapping[str, str] = field(default_factory=dict)
    one_precision: bool = False
    auto: tuple[str, ...] = ()
    auto_because: str = ""
    sidecar: str = ""

    @property
    def install(self) -> str:
        """The requirement that installs what runs its engines."""
        return to_run(self.name)

    @property
    def install_compiler(self) -> str:
        """The requirement that installs what builds its engines."""
        return to_compile(self.name)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Names of the precisions that its engines can have."""
        return tuple(name for name in PRECISIONS if name not in self.cannot_build)

    @property
    def default_device(self) -> str:
        """Device that engines are for by default."""
        return self.devices[0]

    @property
    def runs_on_cpu(self) -> bool:
        """Whether engines can run on a CPU, and so take a number of CPU threads."""
        return "cpu" in self.devices

    @property
    def runs_on_cpu_only(self) -> bool:
        """Whether engines run only on a CPU."""
        return self.devices == ("cpu",)

    def module(self) -> str:
        """The module that is used here: the first installed of :attr:`modules`, or else the last."""
        return next((name for name in self.modules if is_installed(name)), self.modules[-1])

    def load_backend(self) -> type[Backend]:
        """The backend class, imported without the target's library."""
        module, _, name = self.backend.partition(":")
        backend: type[Backend] = getattr(import_module(module), name)
        return backend

    def spell_device(self, device: str) -> str:
        """A device in the spelling of the target's library."""
        return device.upper() if self.upper_devices else device.lower()

    def cannot_execute_here(self, device: str = "") -> str:
        """Reason why this machine lacks the device to run an engine; empty if it has it.

        Args:
            device: one of :attr:`devices`; the default if empty.
        """
        if (device or self.default_device) == "cpu":
            return ""
        try:
            Device(0).close()
        except DeviceError:
            return "no CUDA device"
        return ""

    def cannot_build_here(self, device: str = "") -> str:
        """Reason why this machine lacks the device to build an engine; empty if it has it or needs none.

        Args:
            device: one of :attr:`devices`; the default if empty.
        """
        missing = self.cannot_execute_here(device)
        if not missing or not self.needs_device or self.module() in self.builds_without_device:
            return ""
        return f"{missing}, and {self.needs_device}"


_NO_FP8_CPU = "no processor multiplies fp8; use int8, or --target trt"
_READS_NO_QDQ = "quantised models are ONNX graphs, which this target does not read; use --target openvino, onnx or trt"
_FOR_A_GPU = "its engines are for a GPU"
_MODEL = ("torch", "safetensors")
_EXPORT = (*_MODEL, "onnx", "onnxscript", "onnxruntime")  # to export a graph and compare it with the model

_RECORDS = (
    TargetRecord(
        name="openvino",
        label="OpenVINO",
        backend="kdcmae.runtime.openvino:OpenVINOBackend",
        compiler="kdcmae.compile.targets.openvino",
        modules=("openvino",),
        distributions=("openvino",),
        tools=_EXPORT,
        tools_of={"int8": ("nncf",)},
        devices=("cpu",),
        upper_devices=True,
        cannot_build={"fp8": _NO_FP8_CPU},
        one_precision=True,
        auto=("bf16", "fp16", "fp32"),
        sidecar=".bin",
    ),
    TargetRecord(
        name="trt",
        label="TensorRT",
        backend="kdcmae.runtime.tensorrt:TensorRTBackend",
        compiler="kdcmae.compile.targets.trt",
        modules=("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"),
        distributions=("tensorrt", "tensorrt-cu13-bindings", "tensorrt-rtx-cu13-bindings"),
        tools=_EXPORT,
        devices=("cuda",),
        needs_device="full TensorRT builds for the GPU at hand; TensorRT for RTX, in its place, needs none",
        builds_without_device=("tensorrt_rtx", "tensorrt_rtx_bindings"),
        this_machine_only=_FOR_A_GPU,
    ),
    TargetRecord(
        name="torch-trt",
        label="Torch-TensorRT",
        backend="kdcmae.runtime.torch_trt:TorchTensorRTBackend",
        compiler="kdcmae.compile.targets.torch_trt",
        modules=("torch_tensorrt",),
        distributions=("torch-tensorrt",),
        tools=_MODEL,
        devices=("cuda",),
        needs_device="Torch-TensorRT builds for the GPU at hand",
        this_machine_only=_FOR_A_GPU,
        cannot_build={"int8": _READS_NO_QDQ, "fp8": _READS_NO_QDQ},
    ),
    TargetRecord(
        name="onnx",
        label="ONNX Runtime",
        backend="kdcmae.runtime.onnx:ONNXBackend",
        compiler="kdcmae.compile.targets.onnx",
        modules=("onnxruntime",),
        distributions=("onnxruntime",),
        tools=_EXPORT,
        devices=("cpu",),
        upper_devices=True,
        cannot_build={"fp8": _NO_FP8_CPU},
        cannot_run={"bf16": "ONNX Runtime's CPU provider has no bfloat16 kernels"},
        auto=("fp32",),
        auto_because="ONNX Runtime has its fast CPU kernels for float32",
    ),
    TargetRecord(
        name="aoti",
        label="AOTInductor",
        backend="kdcmae.runtime.aoti:AOTIBackend",
        compiler="kdcmae.compile.targets.aoti",
        modules=("torch",),
        distributions=("torch",),
        tools=_MODEL,
        needs_compiler=True,
        devices=("cpu", "cuda"),
        needs_device="AOTInductor compiles and tunes its kernels on the GPU at hand",
        this_machine_only=(
            "AOTInductor compiles for the instructions of the machine at hand; build the engine on the device"
        ),
        cannot_build={"int8": _READS_NO_QDQ, "fp8": _READS_NO_QDQ},
        auto=("bf16", "fp32"),
    ),
)

_TABLE: dict[str, TargetRecord] = {record.name: record for record in _RECORDS}

TARGETS: Mapping[str, TargetRecord] = MappingProxyType(_TABLE)
"""Every target by its name."""


def find_target(name: str) -> TargetRecord:
    """The record of the target with this name.

    Raises:
        ConfigError: there is no such target.
    """
    if name not in TARGETS:
        raise ConfigError(f"target {name!r} is unknown; use one of {', '.join(TARGETS)}")
    return TARGETS[name]


@contextmanager
def registered(record: TargetRecord) -> Iterator[None]:
    """Add a target for the length of a ``with`` block.

    Raises:
        ConfigError: a target of that name exists.
    """
    if record.name in _TABLE:
        raise ConfigError(f"target {record.name!r} exists already; give the new one another name")
    _TABLE[record.name] = record
    try:
        yield
    finally:
        del _TABLE[record.name]
