"""Check an engine on this machine: its files, the precisions that execute, its errors, and its latency.

That needs what an app needs, numpy and the engine's library. Torch is not imported.
"""

from __future__ import annotations

import datetime
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import kdcmae
from kdcmae import host
from kdcmae.cards import (
    SELF_TEST,
    CardDevice,
    CardEngine,
    DeviceCard,
    Outcome,
    SteadyLatency,
    Timings,
    Verdict,
)
from kdcmae.progress import Step
from kdcmae.runtime import Engine, load_engine
from kdcmae.runtime.backend import loaded_versions
from kdcmae.runtime.capabilities import SATURATES, saturates_here
from kdcmae.runtime.cpu import CAP_VARIABLE, this_cpu
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.execution import Execution, claims_against, counted, differences_known, read_claims
from kdcmae.runtime.manifest import Manifest, digest, file_name
from kdcmae.runtime.schema import MANIFEST_FILE
from kdcmae.timing import call_statistics, time_window

__all__ = ["check_engine"]

_WARM_UP_S = 1.0


_OUTCOMES: Mapping[bool | None, Outcome] = {True: "holds", False: "does not hold", None: "cannot be told"}


def check_engine(
    folder: Path, *, seconds: float, step: Step, device: str | None = None, threads: int | None = None, name: str = ""
) -> DeviceCard:
    """Load an engine as an app does, time it, run its self-test, and check the claims in its manifest.

    Call it in a fresh process, because load time and peak memory are those of the process.

    Args:
        seconds: duration of timing single calls, after a warm-up.
        step: shows progress; a context manager per named step.
        device: device to use instead of the one that the engine was built for, in its library's spelling.
        threads: CPU threads to use; None for the manifest's number, or else the library's choice.
        name: name of this device on the card; empty for its processor.

    Raises:
        EngineError: a bad engine folder, or one that its library cannot load.
        MissingDependencyError: the engine's library is not installed.
        DeviceError: this machine lacks the device.
    """
    start = time.perf_counter()
    with step("check digests, load"), differences_known():
        engine = load_engine(folder, device=device, threads=threads)
    load_ms = (time.perf_counter() - start) * 1e3
    with engine, differences_known():
        timings = _timed(engine, load_ms, seconds, step)
        with step("self-test"):
            self_test = engine.self_test()
        with step("read back what executes"):
            executions = engine.executions()
        manifest, execution = engine.manifest, executions[""]
        worst = max(self_test.max_error, key=lambda name: self_test.max_error[name] / (self_test.tolerance[name] or 1))
        error = self_test.max_error[worst]
        return DeviceCard(
            kdcmae_version=kdcmae.__version__,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            device=_device(manifest, name, engine.device, threads),
            engine=_engine(folder, engine),
            executed=execution.by_class() if execution.executed else {},
            read_from=execution.read_from,
            error=error if math.isfinite(error) else None,
            tolerance=self_test.tolerance[worst],
            verdicts=(
                *_verdicts(engine, executions, engine.device or ""),
                Verdict(claim=SELF_TEST, outcome=_OUTCOMES[self_test.passed], found=str(self_test)),
            ),
            timings=timings,
        )


def _timed(engine: Engine, load_ms: float, seconds: float, step: Step) -> Timings:
    feed = example_inputs(engine.manifest.inputs, engine.manifest.batch.min)
    start = time.perf_counter()
    with step("first inference"):
        engine.infer(feed)
    first_ms = (time.perf_counter() - start) * 1e3
    engine.reuse_encodings(False)  # the same inputs again and again
    call = partial(engine.infer, feed)
    warm_up_s = min(_WARM_UP_S, seconds)
    with step(f"warm up {warm_up_s:g} s, time {seconds:g} s"):
        warm = time.perf_counter() + warm_up_s
        while time.perf_counter() < warm:
            call()
        calls = call_statistics(time_window(call, seconds))
    return Timings(
        load_ms=load_ms,
        first_inference_ms=first_ms,
        latency=SteadyLatency(warm_up_s=warm_up_s, **asdict(calls)),
        peak_rss_bytes=host.peak_rss_bytes(),  # before loading anything that an app does not load
    )


def _device(manifest: Manifest, name: str, device: str | None, threads: int | None) -> CardDevice:
    cpu = this_cpu()
    return CardDevice(
        name=name,
        host=host.describe_host(),
        cpu_class=cpu.class_name,
        cpu_features=tuple(sorted(cpu.features)),
        cpu_cap=os.environ.get(CAP_VARIABLE, ""),
        libraries=loaded_versions(("numpy", *manifest.libraries)),
        runs_on=device or str(manifest.engine.get("device", "")),
        threads=threads,
    )


def _engine(folder: Path, engine: Engine) -> CardEngine:
    manifest = engine.manifest
    files = {name for variant in engine.manifests.values() for name in variant.files}
    return CardEngine(
        folder=str(folder),
        digest=digest(folder / MANIFEST_FILE),
        target=manifest.target,
        model=manifest.model["name"],
        parameters=manifest.model["parameters"],
        modality=manifest.model["modality"],
        random_weights=manifest.model["random_weights"],
        batch=manifest.batch.min,
        asked=str(manifest.precision.get("asked", "")),
        built_for=_built_for(manifest.precision.get("built_for")),
        built_on=str(_part(manifest.build, "host").get("cpu", "")),
        built_ms=_part(manifest.build, "latency").get("median_ms"),
        created=manifest.created,
        size_bytes=sum((folder / name).stat().st_size for name in files),
    )


def _part(section: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = section.get(name)
    return part if isinstance(part, Mapping) else {}


def _built_for(described: Any) -> str:
    """The processor in a manifest: its class, and its name if that is another."""
    if not isinstance(described, Mapping):
        return ""
    class_name, name = str(described.get("class", "")), str(described.get("name", ""))
    return f"{name} ({class_name})" if name and name != class_name else class_name


def _verdicts(engine: Engine, executions: Mapping[str, Execution], device: str) -> Iterator[Verdict]:
    """Verdicts on the files and on every layer class, including those of variants."""
    files = sum(len(manifest.files) for manifest in engine.manifests.values())
    yield Verdict(claim="files", outcome="holds", found=f"the digests of {files} files are those of the manifest")
    if saturates_here(engine.manifest, device=device):
        yield Verdict(claim="sums of int8 products fit", outcome=_OUTCOMES[False], found=SATURATES)
    for variant, manifest in engine.manifests.items():
        built = read_claims(manifest.precision)
        for before, claim in zip(built, claims_against(manifest.precision, executions[variant]), strict=True):
            executed = counted(claim.executed)
            reported = executions[variant].executed
            if reported and not claim.executed and not before.executed:
                continue  # fused into layers of other classes, here and in the build
            if not executed:
                executed = "compiled into layers of other classes" if reported else "the library does not report it"
            yield Verdict(
                claim=f"{file_name(claim.layers, variant)} in {claim.claimed}",
                outcome=_OUTCOMES[claim.holds],
                found=f"{executed}; not checked where it was built" if before.holds is None else executed,
            )
