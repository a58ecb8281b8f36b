"""Choose the variant of a graph: time the variants in turns, prove the winner, remember the choice.

Variants and the plain form run in turns, so that other load on the machine affects all of them, and the plain form runs
twice per turn: what those two differ by is noise. The winner is built and climbs the rung of the engine before it is
taken; where it fails, the next best follows, and at last the plain form.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcmae.compile import memory
from kdcmae.compile.cache import BuildCache
from kdcmae.compile.export import LARGEST_FILE_BYTES
from kdcmae.compile.latency import compare_latency
from kdcmae.compile.variants import CONTROL, PLAIN, Source, Timing, Tuning, Variant, ranked, timings_of
from kdcmae.compile.weights import data_file
from kdcmae.errors import EngineError, GateError
from kdcmae.runtime.capabilities import fastest_floating
from kdcmae.runtime.cpu import this_cpu
from kdcmae.timing import time_window

if TYPE_CHECKING:
    from kdcmae.compile.build import Build

__all__ = ["TABLE", "beside_float", "measured_table", "time_in_turns", "tuned"]

# Windows this short, at least so many turns, and more of them until the first time is over; after the second time a
# large model makes do with fewer.
_WINDOW_S, _TURNS, _SECONDS, _MOST_S, _FEWEST = 0.01, 20, 1.0, 12.0, 5

TABLE = Path(__file__).with_name("measured_variants.json")
_REMEMBERED = "tuning.json"

Calls = Mapping[str, Callable[[], Any]]


def tuned(build: Build, graph: Path, floating: Path, declared: Mapping[str, int]) -> tuple[Path, Tuning | None]:
    """The graph in the form that is fastest, and why it is this one.

    Args:
        build: up to the engine; its ladder has all rungs before.
        graph: in the plain form.
        floating: the float ONNX graph that it was made from.
        declared: matrix products by precision in the exported program.

    Returns:
        A graph in the folder of ``graph``; None for the choice where there is none: the target has no variants of such
        a graph, or none is wanted.
    """
    settings = build.settings
    offered = () if settings.tune == "off" else build.target.variants
    variants = [variant for variant in offered if variant.fits(settings.precision, settings.batch.max)]
    if not variants:
        return graph, None
    layers = build.quantization.quantized if build.quantization else ()
    source = Source(graph=graph, floating=floating, layers=layers, saturates=settings.saturates)
    forms = _Forms(source, variants)
    here = settings.tune == "on" and not settings.elsewhere
    key = _key(build, floating, variants) if here and settings.quantization.reuse else ""
    tuning = (_remembered(key) if key else None) or (None if here else _from_table(build))
    if tuning is None:
        with build.step("time the variants of the graph"):
            tuning = _measured(build, forms)
        # Without what the proof finds: another model of this form has the same latencies, and other answers.
        if key and not tuning.restless:
            _remember(key, tuning)
    return _proved(build, forms, tuning, declared)


class _Forms:
    """The graphs of variants, each written when it is first asked for."""

    def __init__(self, source: Source, variants: Sequence[Variant]) -> None:
        self.source = source
        self._variants = {variant.name: variant for variant in variants}
        self._paths: dict[str, Path | None] = {}
        self.names = tuple(self._variants)

    def path(self, name: str) -> Path | None:
        """The graph of a variant; None where there is no such variant, or where it would change nothing."""
        if name not in self._paths and (variant := self._variants.get(name)) is not None:
            path = self.source.graph.parent / name / f"graph{variant.suffix}"
            path.parent.mkdir()
            self._paths[name] = path if variant.write(self.source, path) else None
        return self._paths.get(name)


def time_in_turns(
    calls: Calls,
    *,
    window: Callable[[Callable[[], Any], float], Sequence[float]] = time_window,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Timing, ...]:
    """Time forms in turns.

    Args:
        calls: each runs one batch, by name; :data:`PLAIN` among them.
        window: gives the latencies in ms of calls within so many seconds.
        clock: gives seconds.
    """
    turns: dict[str, list[float]] = {name: [] for name in calls}
    start, done = clock(), 0
    while True:
        took_s = clock() - start
        if (done >= _TURNS and took_s >= _SECONDS) or (done >= _FEWEST and took_s >= _MOST_S):
            return timings_of(turns)
        # Every other turn backwards, so that no form always runs behind the same one.
        for name in calls if done % 2 else reversed(list(calls)):
            turns[name].append(float(np.median(window(calls[name], _WINDOW_S))))
        done += 1


def _measured(build: Build, forms: _Forms) -> Tuning:
    """Time all variants that change something."""
    changed = {name: path for name in forms.names if (path := forms.path(name)) is not None}
    timings = _timed(build, forms.source, changed) if changed else ()
    cpu = this_cpu()
    best = next(iter(ranked(timings)), PLAIN)
    return Tuning(chosen=best, origin="measured", cpu_class=cpu.class_name, timings=timings, measured_on=cpu.name)


def _timed(build: Build, source: Source, changed: Mapping[str, Path]) -> tuple[Timing, ...]:
    """Open the plain form twice and the variants, and time them in turns."""
    opened = partial(build.target.open_graph, precision=build.settings.precision)
    feed = build.smallest_feed()
    memory.trim()
    plain = opened(source.graph)
    # A second copy of a large model has no room: there the control is the same engine again.
    again = plain if data_file(source.floating).stat().st_size > LARGEST_FILE_BYTES else opened(source.graph)
    runs = {PLAIN: plain, CONTROL: again, **{name: opened(path) for name, path in changed.items()}}
    return time_in_turns({name: partial(run, feed) for name, run in runs.items()})


def _proved(build: Build, forms: _Forms, tuning: Tuning, declared: Mapping[str, int]) -> tuple[Path, Tuning]:
    """The first of the choice, the next best and so on, whose engine passes, and the plain form where none does."""
    order = [tuning.chosen, *ranked(tuning.timings)]
    problems: dict[str, str] = {timing.variant: timing.problem for timing in tuning.timings if timing.problem}
    for name in dict.fromkeys(order):
        path = None if name == PLAIN or problems.get(name) else forms.path(name)
        if path is None:
            continue
        memory.trim()
        with build.step(f"prove the variant {name}"):
            problems[name] = _engine_problem(build, path, declared)
        if not problems[name]:
            return path, _with_problems(tuning, name, problems)
    return forms.source.graph, _with_problems(tuning, PLAIN, problems)


def _engine_problem(build: Build, graph: Path, declared: Mapping[str, int]) -> str:
    """Why an engine made of a variant would not pass as the next rung, in words; empty where it would."""
    report = build.quantization
    with TemporaryDirectory(dir=build.folder, ignore_cleanup_errors=True) as folder:
        request = dataclasses.replace(build.request(None, graph), folder=Path(folder))
        try:
            if build.quantizer is not None and report is not None:
                report = build.quantizer.confirmed(graph, report)
            stage = build.engine_stage(request, declared)
            build.ladder.try_out(dataclasses.replace(stage, cases=build.some_cases))
            del stage
        except (EngineError, GateError) as error:
            return str(error)
    build.quantization = report
    return ""


def _with_problems(tuning: Tuning, chosen: str, problems: Mapping[str, str]) -> Tuning:
    timings = tuple(dataclasses.replace(timing, problem=problems.get(timing.variant, "")) for timing in tuning.timings)
    return dataclasses.replace(tuning, chosen=chosen, timings=timings)


def beside_float(build: Build, graph: Path, other: Path | None) -> dict[str, Any]:
    """Time the graph of an engine in turns with the float one in the fastest precision, or with the one all in half.

    Args:
        build: whose target runs both.
        graph: of the engine.
        other: to time it beside; None where there is none.

    Returns:
        What :func:`~kdcmae.compile.latency.compare_latency` gives; nothing where that cannot be timed here.
    """
    settings, target = build.settings, build.target
    if other is None or not target.record.runs_on_cpu_only or settings.elsewhere:
        return {}
    memory.trim()
    precision, against = settings.precision, f"{settings.precision} throughout"
    if build.quantization is not None:
        precision, _ = fastest_floating(target.name, cpu=settings.cpu)
        against = precision
    with build.step(f"time it beside {against}"):
        feed = build.smallest_feed()
        run, another = (
            partial(target.open_graph(path, name), feed)
            for path, name in ((graph, settings.precision), (other, precision))
        )
        return compare_latency(run, another, against=against)


def measured_table() -> list[dict[str, Any]]:
    """Choices that were measured before kdcmae was released, one per CPU class, target and precision."""
    entries: list[dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return entries


def _from_table(build: Build) -> Tuning:
    settings = build.settings
    wanted = (settings.cpu.class_name, settings.target, settings.precision)
    for entry in measured_table():
        if wanted == (entry["cpu_class"], entry["target"], entry["precision"]):
            timings = tuple(Timing(**timing) for timing in entry["timings"])
            return Tuning(
                chosen=entry["chosen"],
                origin="table",
                cpu_class=wanted[0],
                timings=timings,
                measured_on=entry["measured_on"],
            )
    return Tuning(chosen=PLAIN, origin="table", cpu_class=wanted[0])


def _key(build: Build, floating: Path, variants: Sequence[Variant]) -> str:
    """A name for a choice, by what decides it: CPU class, library, form of the model, and the variants there are."""
    import onnx

    graph = onnx.load(floating, load_external_data=False).graph
    settings = build.settings
    facts = {
        "cpu_class": this_cpu().class_name,
        "libraries": build.target.identity(),
        "operations": [node.op_type for node in graph.node],
        "weights": [list(tensor.dims) for tensor in graph.initializer],
        "target": settings.target,
        "precision": settings.precision,
        "batch": dataclasses.astuple(settings.batch),
        "variants": [variant.name for variant in variants],
    }
    return f"tuned-{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()}"


def _remembered(key: str) -> Tuning | None:
    """The choice of an earlier build; None where there is none, or where it cannot be read."""
    with TemporaryDirectory(prefix="kdcmae-tuning-") as folder:
        if not BuildCache().fetch_files(key, Path(folder)):
            return None
        try:
            tuning = Tuning.from_dict(json.loads(Path(folder, _REMEMBERED).read_text(encoding="utf-8")))
        except (KeyError, OSError, TypeError, ValueError):
            return None
    return dataclasses.replace(tuning, origin="cache")


def _remember(key: str, tuning: Tuning) -> None:
    with TemporaryDirectory(prefix="kdcmae-tuning-") as folder:
        path = Path(folder, _REMEMBERED)
        path.write_text(json.dumps(tuning.to_dict()), encoding="utf-8")
        BuildCache().store_files(key, [path])
