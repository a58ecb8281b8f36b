"""Where the time of an OpenVINO engine goes, by class of layer, and how much of the CPU's ceiling it reaches."""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import kdcmae
from kdcmae.bench.machine.ceilings import measure_ceilings
from kdcmae.bench.machine.environment import describe_environment, usable_cpus
from kdcmae.bench.run.subjects import engine_facts
from kdcmae.bench.run.work import count_work
from kdcmae.errors import ConfigError
from kdcmae.progress import Step
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.manifest import Manifest, verify_files
from kdcmae.runtime.openvino import compile_native, is_attention, openvino_core

__all__ = ["BEGIN", "END", "LayerTime", "profile_engine", "render"]

SCHEMA_VERSION = 1
BEGIN = "<!-- profile: written by `kdcmae-bench profile` -->"
END = "<!-- end of profile -->"

_WARM_UP = 3
_LINEAR = "linear layers"
_CLASSES = {
    _LINEAR: ("FullyConnected", "Convolution"),
    "norms": ("MVN",),
    "softmax": ("Softmax",),
    "changes of layout or type": (
        "Transpose",
        "Reorder",
        "Reshape",
        "Split",
        "Concatenation",
        "Convert",
        "StridedSlice",
    ),
    "sums, scales, rounding": ("Subgraph", "Eltwise", "FakeQuantize", "Math"),
}
_PRECISIONS = {"f32": "fp32", "f16": "fp16", "i8": "int8", "u8": "int8"}


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """Layers of one class that execute in one precision.

    Args:
        layers: the class.
        precision: as the device reports it.
        count: of the layers that take time.
        ms: all of them, per inference.
    """

    layers: str
    precision: str
    count: int
    ms: float


def profile_engine(folder: Path, *, threads: int | None, seconds: float, step: Step) -> dict[str, Any]:
    """Time every layer, and the machine's ceiling before and after.

    Args:
        folder: an engine for OpenVINO.
        threads: CPU threads; None for all usable CPUs.
        seconds: of inferences, and of each ceiling.
        step: shows progress.

    Returns:
        The report as plain data.

    Raises:
        ConfigError: an engine of another target.
        KdcmaeError: the engine cannot be loaded, or the ceiling not be measured.
    """
    manifest = Manifest.read(folder)
    if manifest.target != "openvino":
        raise ConfigError(
            f"{folder} is an engine for {manifest.target}; only OpenVINO's CPU plugin says what layers take"
        )
    verify_files(folder, manifest)
    environment, facts = describe_environment(), engine_facts(folder, manifest)
    cpus = usable_cpus()[:threads]
    with step(f"ceiling of {len(cpus)} CPUs"):
        ceilings = [measure_ceilings(cpus, seconds=seconds)]
    with step(f"profile {folder.name}"):
        latency_ms, layers = _timed(folder, manifest, len(cpus), seconds)
    with step("ceiling again"):
        ceilings.append(measure_ceilings(cpus, seconds=seconds))
    # What executes here: the manifest says what did where the engine was built.
    products = [layer for layer in layers if layer.layers == _LINEAR]
    precision = max(products, key=lambda layer: layer.count).precision
    ceiling = statistics.fmean(found.flop_per_s[precision] for found in ceilings)
    flop = count_work(facts.config, facts.given, manifest.batch.opt).flop
    return {
        "schema_version": SCHEMA_VERSION,
        "kdcmae_version": kdcmae.__version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": environment,
        "engine": folder.name,
        "model": {"name": manifest.model["name"], "keep": manifest.model.get("keep")},
        "threads": len(cpus),
        "batch": manifest.batch.opt,
        "latency_ms": latency_ms,
        "flop": flop,
        "precision": precision,
        "ceilings_flop_per_s": [found.flop_per_s[precision] for found in ceilings],
        "share_of_ceiling": 1e3 * flop / latency_ms / ceiling,
        "layers": [asdict(layer) for layer in layers],
    }


def render(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    ceiling = statistics.fmean(report["ceilings_flop_per_s"])
    rate = 1e3 * report["flop"] / report["latency_ms"]
    lines = [
        f"{report['engine']} ({report['model']['name']}) on {report['environment']['host']['cpu']}, "
        f"{report['threads']} threads, batch {report['batch']}: {report['latency_ms']:.4g} ms for "
        f"{report['flop'] / 1e9:.1f} GFLOP in matrix products, {rate / 1e9:.0f} GFLOP/s. A large product in "
        f"{report['precision']} reaches {ceiling / 1e9:.0f} there, so that is {report['share_of_ceiling']:.0%} of it.",
        "",
        "| layers | executed in | count | ms | share of the time |",
        "| --- | --- | --- | --- | --- |",
    ]
    total = sum(layer["ms"] for layer in report["layers"])
    for layer in report["layers"]:
        cells = (
            layer["layers"],
            layer["precision"],
            layer["count"],
            f"{layer['ms']:.3g}",
            f"{layer['ms'] / total:.1%}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _timed(folder: Path, manifest: Manifest, threads: int, seconds: float) -> tuple[float, list[LayerTime]]:
    """Median latency in ms, and the mean time of the layers."""
    weights = folder / manifest.engine["weights"] if "weights" in manifest.engine else ""
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "PERF_COUNT": True,
    }
    model = openvino_core().read_model(folder / manifest.engine["file"], weights)
    compiled = compile_native(model, "CPU", manifest.engine["inference_precision"], properties)
    kinds = {op.get_friendly_name(): _kind(op.get_rt_info()) for op in compiled.get_runtime_model().get_ops()}
    request, feed = compiled.create_infer_request(), example_inputs(manifest.inputs, manifest.batch.opt)
    for _ in range(_WARM_UP):
        request.infer(feed)
    calls: list[float] = []
    spent: dict[str, float] = {}
    end = time.perf_counter() + seconds
    while not calls or time.perf_counter() < end:
        begin = time.perf_counter()
        request.infer(feed, share_inputs=True, share_outputs=True)
        calls.append(1e3 * (time.perf_counter() - begin))
        for layer in request.get_profiling_info():
            spent[layer.node_name] = spent.get(layer.node_name, 0.0) + 1e3 * layer.real_time.total_seconds()
    return statistics.median(calls), _grouped({name: ms / len(calls) for name, ms in spent.items()}, kinds)


def _grouped(spent: Mapping[str, float], kinds: Mapping[str, tuple[str, str]]) -> list[LayerTime]:
    """The longest first; layers that were fused into others or cost nothing are left out."""
    groups: dict[tuple[str, str], list[float]] = {}
    for name, ms in spent.items():
        if ms > 0 and name in kinds:
            groups.setdefault(kinds[name], []).append(ms)
    found = [
        LayerTime(layers=layers, precision=precision, count=len(times), ms=sum(times))
        for (layers, precision), times in groups.items()
    ]
    return sorted(found, key=lambda layer: -layer.ms)


def _kind(info: Any) -> tuple[str, str]:
    """Class and precision of a layer of the runtime model."""
    facts = {
        key: info[key].astype(str) for key in ("layerType", "runtimePrecision", "originalLayersNames") if key in info
    }
    precision = facts.get("runtimePrecision", "")
    precision = _PRECISIONS.get(precision, precision)
    kind = facts.get("layerType", "")
    if is_attention(kind, facts.get("originalLayersNames", "")):
        return "attention", precision
    return next((name for name, types in _CLASSES.items() if kind in types), "others"), precision
