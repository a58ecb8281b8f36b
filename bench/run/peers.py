"""What others offer for the same model, in the same run: each an extra, skipped with a reason where it is absent."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcmae.bench.run.subjects import (
    Arrays,
    Facts,
    HostTimed,
    Subject,
    TorchSubject,
    engine_facts,
    load_torch_model,
)
from kdcmae.errors import ConfigError, DeviceError, EngineError
from kdcmae.extras import to_compile, to_run
from kdcmae.runtime.backend import import_library
from kdcmae.runtime.manifest import Manifest, TensorSpec

__all__ = ["open_peer"]

_INDUCTOR_TOLERANCE = 1e-4  # float32 with sums in another order, as the compiler allows for its own engines
_TOOL_TIMEOUT_S = 300


def open_peer(peer: str, source: str, threads: int) -> Subject:
    """Load a peer.

    Args:
        peer: its name, one of :data:`kdcmae.bench.run.subjects.PEERS`.
        source: a checkpoint or preset for those of PyTorch, an engine folder for the others.
        threads: CPU threads it may use.

    Raises:
        KdcmaeError: it is not installed, cannot run here or cannot be loaded.
    """
    return _PEERS[peer](source, threads)


class CompiledTorchSubject(TorchSubject):
    """The model through ``torch.compile``: the first inference compiles."""

    kind = "torch.compile"

    def __init__(self, source: str, threads: int) -> None:
        super().__init__(load_torch_model(source), threads)
        self.facts = replace(self.facts, tolerance=_INDUCTOR_TOLERANCE)
        self._call = self._torch.compile(self._call)


class CudaTorchSubject(TorchSubject):
    """The model in float32 on the GPU, replayed from a CUDA graph between two events.

    Args:
        source: a checkpoint or preset.
        threads: of the host.
    """

    kind = "torch CUDA graph"

    def __init__(self, source: str, threads: int) -> None:
        import torch

        if not torch.cuda.is_available():
            raise DeviceError("PyTorch finds no CUDA device")
        from kdcmae.bench.kernels.clock import CudaClock

        super().__init__(load_torch_model(source), threads)
        self._device = torch.device("cuda")
        self._call = self._call.to(self._device)
        self._clock = CudaClock(self._device)
        self._timed: Callable[[float], list[float]] | None = None
        self.facts = replace(self.facts, device="cuda", boundary="device", tolerance=_INDUCTOR_TOLERANCE)

    def run(self, inputs: Arrays) -> Arrays:
        with self._torch.inference_mode():
            return {"logits": self._call(**self._on_device(inputs)).cpu().numpy()}

    def window(self, inputs: Arrays, seconds: float) -> list[float]:
        from kdcmae.bench.kernels.clock import GRAPH_WARM

        with self._torch.inference_mode(), self._clock.running():
            if self._timed is None:
                tensors = self._on_device(inputs)
                self._timed = self._clock.prepare(lambda: self._call(**tensors), GRAPH_WARM)
            return [time_us / 1e3 for time_us in self._timed(seconds)]

    def _on_device(self, inputs: Arrays) -> dict[str, Any]:
        return {name: self._torch.from_numpy(array).to(self._device) for name, array in inputs.items()}


class OrtInt8Subject(HostTimed):
    """An ONNX engine's graph with ONNX Runtime's dynamic quantisation: int8 weights, int8 activations on the fly.

    Args:
        source: an engine folder of target ``onnx``.
        threads: for its operators.
    """

    def __init__(self, source: str, threads: int) -> None:
        folder, manifest = _engine(source, "onnx")
        ort = import_library("onnxruntime", install=to_compile("onnx"))
        quantization = import_library("onnxruntime.quantization", install=to_compile("onnx"))
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            quantised = Path(scratch) / "int8.onnx"
            logging.disable(logging.WARNING)  # it advises steps that a graph from torch's exporter went through
            quantization.quantize_dynamic(
                folder / manifest.engine["file"], quantised, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True
            )
            logging.disable(logging.NOTSET)
            options = ort.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = threads
            self._session = ort.InferenceSession(quantised, options, providers=["CPUExecutionProvider"])
            size = quantised.stat().st_size
        self._outputs = [spec.name for spec in manifest.outputs]
        self.facts = replace(
            engine_facts(folder, manifest),
            kind="onnxruntime",
            computes_in="int8 dynamic",
            precision="int8",
            tolerance=None,
            ladder=None,
            artifact_bytes=size,
            compile_s=time.perf_counter() - start,
        )

    def run(self, inputs: Arrays) -> Arrays:
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))

    def self_test(self) -> None:
        """None: it is nobody's engine."""


class _ToolSubject:
    """An engine timed by a command: one process per window, which reports its own latencies.

    Its outputs are out of reach; they are those of the engine.
    """

    facts: Facts

    def run(self, inputs: Arrays) -> Arrays:
        return {}

    def self_test(self) -> None:
        """None: see the engine's."""


class OpenVINOCallSubject(_ToolSubject):
    """OpenVINO's call alone on the IR of an engine, by OpenVINO's clock: what ``benchmark_app`` times.

    Args:
        source: an engine folder of target ``openvino``.
        threads: CPU threads.
    """

    def __init__(self, source: str, threads: int) -> None:
        folder, manifest = _single_ir(source)
        self._command = [sys.executable, "-m", "kdcmae.bench.run.openvino_call", str(folder), str(threads)]
        self.facts = replace(engine_facts(folder, manifest), boundary="library call", preprocessing=None)

    def window(self, inputs: Arrays, seconds: float) -> list[float]:
        """Every call of one run, as long as the tool's."""
        latencies_ms: list[float] = json.loads(_run([*self._command, str(_tool_seconds(seconds))]))
        return latencies_ms


class BenchmarkAppSubject(_ToolSubject):
    """OpenVINO's ``benchmark_app`` on the IR of an engine, synchronous, with the engine's own settings.

    The tool refuses a number of threads beside a hint; one stream without a hint is what the engine's hint comes to.
    It times the library's call alone, without what Python adds.

    Args:
        source: an engine folder of target ``openvino``.
        threads: CPU threads.
    """

    def __init__(self, source: str, threads: int) -> None:
        folder, manifest = _single_ir(source)
        self._command = [
            _tool("benchmark_app", f"install it with: pip install '{to_run('openvino')}'"),
            *("-m", str(folder / manifest.engine["file"]), "-d", str(manifest.engine.get("device", "CPU"))),
            *("-api", "sync", "-nireq", "1", "-hint", "none", "-nstreams", "1", "-nthreads", str(threads)),
            *("-infer_precision", manifest.engine["inference_precision"]),
            *("-data_shape", ",".join(f"{spec.name}[{','.join(_sizes(spec))}]" for spec in manifest.inputs)),
            *("-report_type", "no_counters", "-json_stats", "-report_folder"),
        ]
        self.facts = replace(engine_facts(folder, manifest), kind="benchmark_app", boundary="tool", preprocessing=None)

    def window(self, inputs: Arrays, seconds: float) -> list[float]:
        """The median of one run, as the tool reports no single calls."""
        with tempfile.TemporaryDirectory() as scratch:
            _run([*self._command, scratch, "-t", str(_tool_seconds(seconds))])
            report = json.loads((Path(scratch) / "benchmark_report.json").read_text(encoding="utf-8"))
        return [float(report["execution_results"]["latency (ms)"])]


class TrtexecSubject(_ToolSubject):
    """``trtexec`` on the plan of an engine, transfers included.

    Args:
        source: an engine folder of target ``trt``.
        threads: not used; the plan runs on a GPU.
    """

    def __init__(self, source: str, threads: int) -> None:
        folder, manifest = _engine(source, "trt")
        name = "tensorrt_rtx" if manifest.engine.get("flavour") == "tensorrt_rtx" else "trtexec"
        self._command = [
            _tool(name, "TensorRT's own archive has it in bin/"),
            f"--loadEngine={folder / manifest.engine['file']}",
            "--shapes=" + ",".join(f"{spec.name}:{'x'.join(_sizes(spec))}" for spec in manifest.inputs),
            "--warmUp=0",
        ]
        self.facts = replace(engine_facts(folder, manifest), kind=name, boundary="tool", preprocessing=None)

    def window(self, inputs: Arrays, seconds: float) -> list[float]:
        """Every call of one run."""
        with tempfile.TemporaryDirectory() as scratch:
            times = Path(scratch) / "times.json"
            _run([*self._command, f"--duration={_tool_seconds(seconds)}", f"--exportTimes={times}"])
            return [float(call["latencyMs"]) for call in json.loads(times.read_text(encoding="utf-8"))]


_PEERS: Mapping[str, Callable[[str, int], Subject]] = {
    "torch-compile": CompiledTorchSubject,
    "torch-cuda": CudaTorchSubject,
    "ort-int8": OrtInt8Subject,
    "openvino-call": OpenVINOCallSubject,
    "benchmark_app": BenchmarkAppSubject,
    "trtexec": TrtexecSubject,
}


def _engine(source: str, target: str) -> tuple[Path, Manifest]:
    folder = Path(source)
    manifest = Manifest.read(folder)
    if manifest.target != target:
        raise ConfigError(f"{folder} is an engine for {manifest.target}; give one for {target}")
    return folder, manifest


def _single_ir(source: str) -> tuple[Path, Manifest]:
    """An engine for OpenVINO that is one IR with weights of its own: what runs alone.

    Raises:
        ConfigError: it is another.
    """
    folder, manifest = _engine(source, "openvino")
    if others := [manifest.engine[role] for role in ("frontend", "weights") if role in manifest.engine]:
        raise ConfigError(
            f"{folder} is more than one IR: it has {' and '.join(others)} too; give an engine that was built without "
            "--inputs raw and --modalities"
        )
    return folder, manifest


def _tool(name: str, fix: str) -> str:
    """The command beside this interpreter or on the path.

    Raises:
        DeviceError: it is nowhere.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise DeviceError(f"{name} is not on the PATH; {fix}")
    return found


def _tool_seconds(seconds: float) -> int:
    """The tools take whole seconds."""
    return max(1, round(seconds))


def _sizes(spec: TensorSpec) -> list[str]:
    return [str(size) for size in spec.sizes(1)]


def _run(command: list[str]) -> str:
    """What the command printed.

    Raises:
        EngineError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-500:]
        raise EngineError(f"{Path(command[0]).name} ended with exit code {done.returncode}: {said}")
    return done.stdout
