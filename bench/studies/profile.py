"""Time of an OpenVINO engine's layers by class, and the share of the CPU's ceiling that the engine reaches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from kdcmae import host
from kdcmae.bench.machine.ceilings import measure_ceilings
from kdcmae.bench.report.envelope import machine, stamp
from kdcmae.bench.report.publishing import Document, Section
from kdcmae.bench.report.table import Block, Column, percent, table
from kdcmae.bench.run.subjects import engine_facts
from kdcmae.bench.run.work import count_work
from kdcmae.errors import ConfigError
from kdcmae.progress import Step
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.facts import require_one_piece
from kdcmae.runtime.manifest import Manifest, verify_files
from kdcmae.runtime.openvino import compile_native, is_attention
from kdcmae.runtime.openvino_library import openvino_core
from kdcmae.runtime.precisions import named

__all__ = ["SECTION", "profile_engines"]

_WARM_UP = 3
_LINEAR = "linear layers"
_CLASSES = {
    _LINEAR: ("FullyConnected", "Convolution"),
    "norms": ("MVN",),
    "softmax": ("Softmax",),
    "changes of layout or type": (
        *("Transpose", "Reorder", "Reshape", "Split"),
        *("Concatenation", "Convert", "StridedSlice"),
    ),
    "sums, scales, rounding": ("Subgraph", "Eltwise", "FakeQuantize", "Math"),
}
_PRECISIONS = named("openvino")


def profile_engines(folders: Sequence[Path], *, threads: int | None, seconds: float, step: Step) -> dict[str, Any]:
    """Time every layer of engines, and the machine's ceiling before and after each.

    Args:
        folders: engines for OpenVINO.
        threads: CPU threads; None for all usable CPUs.
        seconds: of inferences, and of each ceiling.
        step: shows progress.

    Returns:
        The report as plain data.

    Raises:
        ConfigError: an engine of another target.
        KdcmaeError: an engine cannot be loaded, or the ceiling not be measured.
    """
    envelope = stamp("profile")
    return {**envelope, "engines": [_profile(folder, threads, seconds, step) for folder in folders]}


def _profile(folder: Path, threads: int | None, seconds: float, step: Step) -> dict[str, Any]:
    manifest = Manifest.read(folder)
    if manifest.target != "openvino":
        raise ConfigError(f"{folder} is an engine for {manifest.target}; only OpenVINO's CPU plugin times its layers")
    require_one_piece(folder, manifest)
    verify_files(folder, manifest)
    facts, cpus = engine_facts(folder, manifest), host.cpu_numbers()[:threads]
    with step(f"ceiling of {len(cpus)} CPUs"):
        ceilings = [measure_ceilings(cpus, seconds=seconds)]
    with step(f"profile {folder.name}"):
        latency_ms, layers = _timed(folder, manifest, len(cpus), seconds)
    with step("ceiling again"):
        ceilings.append(measure_ceilings(cpus, seconds=seconds))
    # The manifest says which precision executed where the engine was built; the layers say which executes here.
    products = [layer for layer in layers if layer["layers"] == _LINEAR]
    precision = max(products, key=itemgetter("count"))["precision"]
    rates = [measured.flop_per_s[precision] for measured in ceilings]
    flop = count_work(facts.config, facts.modalities, manifest.batch.opt).flop
    return {
        "engine": folder.name,
        "model": {"name": manifest.model["name"], "keep": manifest.model.get("keep")},
        "threads": len(cpus),
        "batch": manifest.batch.opt,
        "latency_ms": latency_ms,
        "flop": flop,
        "precision": precision,
        "ceilings_flop_per_s": rates,
        "share_of_ceiling": 1e3 * flop / latency_ms / statistics.fmean(rates),
        "layers": layers,
    }


def _blocks(documents: Sequence[Document]) -> Iterator[Block]:
    report = documents[-1]
    for engine in report["engines"]:
        ceiling = statistics.fmean(engine["ceilings_flop_per_s"])
        rate = 1e3 * engine["flop"] / engine["latency_ms"]
        yield (
            f"{engine['engine']} ({engine['model']['name']}) on {machine(report)}, {engine['threads']} threads, batch "
            f"{engine['batch']}: {engine['latency_ms']:.4g} ms for {engine['flop'] / 1e9:.1f} GFLOP in matrix "
            f"products, {rate / 1e9:.0f} GFLOP/s, {engine['share_of_ceiling']:.0%} of the {ceiling / 1e9:.0f} GFLOP/s "
            f"that a large product in {engine['precision']} reaches there."
        )
        total = sum(layer["ms"] for layer in engine["layers"])
        columns = (
            Column(title="layers", value=lambda layer: layer["layers"], align="left"),
            Column(title="executed in", value=lambda layer: layer["precision"], align="left"),
            Column(title="count", value=lambda layer: layer["count"]),
            Column(title="ms", value=lambda layer: layer["ms"], text=lambda ms: f"{ms:.3g}"),
            Column(title="share of the time", value=lambda layer: layer["share"], text=percent(unit="%")),
        )
        yield table("", columns, ({**layer, "share": layer["ms"] / total} for layer in engine["layers"]))


SECTION = Section(name="profile", command="profile", kind="profile", blocks=_blocks)


def _timed(folder: Path, manifest: Manifest, threads: int, seconds: float) -> tuple[float, list[dict[str, Any]]]:
    """Median latency in ms, and the mean time of the layers, as :func:`_grouped` gives it."""
    weights = folder / manifest.engine["weights"] if "weights" in manifest.engine else ""
    properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "PERF_COUNT": True}
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


def _grouped(spent: Mapping[str, float], kinds: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Layers of one class that execute in one precision, the longest first: their count, and ms of all per inference.

    Layers that were fused into others or cost nothing are left out.
    """
    groups: dict[tuple[str, str], list[float]] = {}
    for name, ms in spent.items():
        if ms > 0 and name in kinds:
            groups.setdefault(kinds[name], []).append(ms)
    rows = [
        {"layers": layers, "precision": precision, "count": len(times), "ms": sum(times)}
        for (layers, precision), times in groups.items()
    ]
    return sorted(rows, key=itemgetter("ms"), reverse=True)


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
