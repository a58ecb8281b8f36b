"""What the suite benchmarks: per model the engines to build, the peers beside them, and which get which case."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdcmae.bench.report.records import CaseKind, Status
from kdcmae.bench.run.subjects import VARIANT
from kdcmae.compile.cache import cache_key
from kdcmae.doctor import require_target
from kdcmae.errors import BrokenDependencyError, DeviceError, MissingDependencyError
from kdcmae.runtime.capabilities import executed_as
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.schema import MANIFEST_FILE

__all__ = ["ALL_PLANS", "PLANS", "Built", "EnginePlan", "ModelPlan", "build_engine", "torch_source"]


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """One engine.

    Args:
        name: in the report.
        target: what it is compiled for.
        options: of kdcmae-compile, beside the model's.
        fallback: more options, for a machine on which the engine does not pass its gates without them.
        variants: of the engine that are benchmarked too.
        cases: it also gets, by itself.
    """

    name: str
    target: str
    options: tuple[str, ...]
    fallback: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    cases: tuple[CaseKind, ...] = ()

    @property
    def slug(self) -> str:
        """Its folder's name."""
        return self.name.replace(" ", "-").lower()


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """One model.

    Args:
        name: in the report.
        options: of kdcmae-compile that choose it.
        torch: the PyTorch model; None for the one that ships in the package.
        engines: to build and measure.
        peers: name in the report and source, in which ``{torch}`` is the model and ``{engines}`` the engines' folder.
        left_out: peers that take too long for the suite, and why.
        seconds: timed seconds of each subject in the interleaved run.
        clips: on which accuracy and agreement are measured.
        largest_batch: of the sweep.
    """

    name: str
    options: tuple[str, ...]
    torch: str | None
    engines: tuple[EnginePlan, ...]
    peers: Mapping[str, str]
    left_out: Mapping[str, str]
    seconds: float
    clips: int
    largest_batch: int


CALL_ALONE = " call alone"
"""End of the name of a library's call without kdcmae's runtime around it."""

_ALONE: tuple[CaseKind, ...] = ("threads", "cold start", "clip to label")

_OPENVINO = (
    EnginePlan(name="OpenVINO fp32", target="openvino", options=("--precision", "fp32")),
    EnginePlan(name="OpenVINO bf16", target="openvino", options=("--precision", "bf16")),
    EnginePlan(name="OpenVINO int8", target="openvino", options=("--precision", "int8"), cases=_ALONE),
    EnginePlan(
        name="OpenVINO int8 half the tokens", target="openvino", options=("--precision", "int8", "--keep", "0.5")
    ),
)
_OPENVINO_FORMS = (
    EnginePlan(
        name="OpenVINO bf16 raw", target="openvino", options=("--precision", "bf16", "--inputs", "raw"), cases=_ALONE
    ),
    EnginePlan(
        name="OpenVINO bf16 each modality",
        target="openvino",
        options=("--precision", "bf16", "--modalities", "audiovisual,audio,video"),
        variants=("audio", "video"),
    ),
)
# TensorRT for RTX builds without a GPU; running what it built takes one.
_GPU = (
    EnginePlan(name="TensorRT fp32", target="trt", options=("--precision", "fp32")),
    EnginePlan(name="TensorRT fp16", target="trt", options=("--precision", "fp16")),
    EnginePlan(name="TensorRT bf16", target="trt", options=("--precision", "bf16")),
    EnginePlan(name="TensorRT fp16 raw", target="trt", options=("--precision", "fp16", "--inputs", "raw")),
    EnginePlan(name="Torch-TensorRT fp16", target="torch-trt", options=("--precision", "fp16")),
)
_GPU_BATCHES = EnginePlan(
    name="TensorRT fp16 any batch", target="trt", options=("--precision", "fp16", "--batch", "1:8:64"), cases=("batch",)
)
_ONNX = EnginePlan(name="ONNX Runtime fp32", target="onnx", options=("--precision", "fp32"))
_ONNX_INT8 = EnginePlan(name="ONNX Runtime int8", target="onnx", options=("--precision", "int8"))
_AOTI = EnginePlan(name="AOTInductor fp32", target="aoti", options=("--precision", "fp32"))
_PEERS = {
    "PyTorch eager": "{torch}",
    "ONNX Runtime dynamic int8": "ort-int8:{engines}/onnx-runtime-fp32",
    f"OpenVINO bf16{CALL_ALONE}": "openvino-call:{engines}/openvino-bf16",
    "benchmark_app bf16": "benchmark_app:{engines}/openvino-bf16",
    "PyTorch CUDA graph": "torch-cuda:{torch}",
    "trtexec fp16": "trtexec:{engines}/tensorrt-fp16",
}
_TORCH_COMPILE = {"torch.compile": "torch-compile:{torch}"}

PLANS: Mapping[str, ModelPlan] = {
    "shipped": ModelPlan(
        name="shipped",
        options=(),
        torch=None,
        engines=(
            *_OPENVINO,
            *_OPENVINO_FORMS,
            EnginePlan(
                name="OpenVINO bf16 any batch",
                target="openvino",
                options=("--precision", "bf16", "--batch", "1:8:32"),
                cases=("batch",),
            ),
            _ONNX,
            _AOTI,
            *_GPU,
            _GPU_BATCHES,
        ),
        peers={**_PEERS, **_TORCH_COMPILE},
        left_out={},
        seconds=2.2,
        clips=96,
        largest_batch=64,
    ),
    "base": ModelPlan(
        name="base",
        options=("--preset", "base", "--random-weights"),
        torch="preset:base",
        engines=(
            *_OPENVINO,
            EnginePlan(
                name="OpenVINO bf16 any batch",
                target="openvino",
                options=("--precision", "bf16", "--batch", "1:2:4"),
                cases=("batch",),
            ),
            _ONNX,
            *(engine for engine in _GPU if "fp16" in engine.name and "raw" not in engine.name),
        ),
        peers=_PEERS,
        left_out={
            "AOTInductor fp32": "left out of the suite: compiling takes minutes; kdcmae-compile --target aoti does it",
            "torch.compile": "left out of the suite: compiling takes minutes; "
            "kdcmae-bench preset:base torch-compile:preset:base measures it",
        },
        seconds=3.5,
        clips=8,
        largest_batch=2,
    ),
}

_EVERY_ENGINE = (
    *_OPENVINO,
    # A CPU without fp16 arithmetic runs it in bf16 or fp32, and the row says so.
    EnginePlan(
        name="OpenVINO fp16",
        target="openvino",
        options=("--precision", "fp16"),
        fallback=("--execute-as", executed_as("openvino", "fp16", cpu=this_cpu())),
    ),
    *_OPENVINO_FORMS,
    _ONNX,
    _ONNX_INT8,
    _AOTI,
    EnginePlan(name="AOTInductor bf16", target="aoti", options=("--precision", "bf16")),
    *_GPU,
    EnginePlan(name="TensorRT int8", target="trt", options=("--precision", "int8")),
    EnginePlan(name="TensorRT fp8", target="trt", options=("--precision", "fp8")),
)
_EVERY_PEER = {
    **_PEERS,
    **_TORCH_COMPILE,
    "benchmark_app fp32": "benchmark_app:{engines}/openvino-fp32",
    "benchmark_app int8": "benchmark_app:{engines}/openvino-int8",
}

ALL_PLANS: Mapping[str, ModelPlan] = {
    name: replace(
        plan,
        engines=(*plan.engines, *(engine for engine in _EVERY_ENGINE if engine not in plan.engines)),
        peers={**plan.peers, **_EVERY_PEER},
        left_out={},
    )
    for name, plan in PLANS.items()
}
"""Everything of :data:`PLANS`, and all that takes too long for them: nothing is left out."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """An engine folder, or why there is none.

    Args:
        plan: of the engine.
        folder: where it is, or would be.
        status: ``measured`` where it is there.
        reason: why it is not.
    """

    plan: EnginePlan
    folder: Path
    status: Status
    reason: str = ""

    @property
    def sources(self) -> dict[str, str]:
        """What to benchmark, by name in the report: the engine, or its variants where it has some."""
        if not self.plan.variants:
            return {self.plan.name: str(self.folder)}
        precision = self.plan.name.partition(" each")[0]
        return {f"{precision} {variant} only": f"{self.folder}{VARIANT}{variant}" for variant in self.plan.variants}


def build_engine(model: ModelPlan, plan: EnginePlan, folder: Path) -> Built:
    """Compile an engine, unless the folder holds it already: made from the same by the same.

    Args:
        model: to compile.
        plan: of the engine.
        folder: where it goes.
    """
    weights = None if model.torch else Path(torch_source(model))
    key = cache_key(
        {"options": model.options, "weights": weights},
        {"target": plan.target, "options": (*plan.options, *plan.fallback)},
    )
    kept = folder.with_name(f"{folder.name}.key")
    if (folder / MANIFEST_FILE).is_file() and kept.is_file() and kept.read_text() == key:
        return Built(plan=plan, folder=folder, status="measured")
    try:
        require_target(plan.target)
    except (BrokenDependencyError, DeviceError, MissingDependencyError) as error:  # sooner than the command says it
        return Built(plan=plan, folder=folder, status="not measured", reason=f"not measured on this hardware: {error}")
    command = ["kdcmae-compile", "--target", plan.target, *model.options, *plan.options, "--output", str(folder)]
    done = _run(command)
    if done.returncode != 0 and plan.fallback:
        command += plan.fallback
        done = _run(command)
    if done.returncode == 0:
        kept.write_text(key)
        return Built(plan=plan, folder=folder, status="measured")
    said = done.stderr.strip().splitlines() or ["it said nothing"]
    reason = said[-1].removeprefix("error: ").removeprefix("Error: ")
    if done.returncode == DeviceError.exit_code:
        return Built(plan=plan, folder=folder, status="not measured", reason=f"not measured on this hardware: {reason}")
    return Built(plan=plan, folder=folder, status="failed", reason=f"{' '.join(command)}: {reason}")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command that is installed beside this interpreter, and keep what it says on stderr."""
    name, *arguments = command
    return subprocess.run(
        [str(Path(sys.executable).with_name(name)), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def torch_source(model: ModelPlan) -> str:
    """The PyTorch model: a preset, or the shipped checkpoint.

    Raises:
        CheckpointError: no checkpoint ships.
    """
    from kdcmae.assets import default_checkpoint

    return model.torch or str(default_checkpoint())
