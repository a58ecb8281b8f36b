"""Clips per second of one engine: by one caller, by many, and by OpenVINO's own tool, in turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from kdcmae.bench.report.envelope import machine, stamp
from kdcmae.bench.report.publishing import Document, Section
from kdcmae.bench.report.table import Block, Column, interval, table
from kdcmae.bench.run.peers.benchmark_app import BenchmarkApp
from kdcmae.bench.run.timing import SpeedRatio, speed_ratio
from kdcmae.drawing.charts import number
from kdcmae.errors import ConfigError, DeviceError, EngineInputError
from kdcmae.progress import Step
from kdcmae.runtime import Engine, load_engine
from kdcmae.runtime.examples import example_inputs

__all__ = ["SECTION", "measure_throughput"]

CALLERS = 8
ONE, TOOL = "1 thread", "benchmark_app -hint throughput"
_ROUNDS = 10
_SAMPLE_RATE_HZ, _CLIP_S, _FRAME = 16_000, 10, (240, 320, 3)

Window = Callable[[float], float]
"""Seconds of a window -> seconds per clip in it."""


def measure_throughput(folder: Path, *, seconds: float, step: Step) -> dict[str, Any]:
    """Measure clips per second, every way of calling an engine in turns with the others.

    Args:
        folder: the engine.
        seconds: of each way, in ten windows; more if eight calls do not fit into one.
        step: shows progress.

    Returns:
        The report as plain data.

    Raises:
        KdcmaeError: the engine cannot be loaded.
    """
    envelope = stamp("throughput")
    with ExitStack() as stack:
        with step("load the engine, once as it is and once with streams"):
            serial = stack.enter_context(load_engine(folder))
            parallel = stack.enter_context(load_engine(folder, streams="auto"))
        ways, reason = dict(_ways(serial, parallel)), ""
        try:
            tool = BenchmarkApp(folder, "-hint", "throughput")
            ways[TOOL] = lambda seconds: 1 / float(tool.run(seconds)["throughput"])
        except (ConfigError, DeviceError) as error:
            reason = str(error)
        with step("warm up"):
            call_s = max(way(0.0) for name, way in ways.items() if name != TOOL)
        window_s = max(seconds / _ROUNDS, CALLERS * call_s)
        windows: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(_ROUNDS):
            with step(f"round {turn + 1} of {_ROUNDS}, {window_s:.1f} s each"):
                for name, way in ways.items():
                    windows[name].append(way(window_s))
        facts = {"streams": parallel.streams, "products": serial.products(), "batch": serial.manifest.batch.opt}
    return {
        **envelope,
        "engine": folder.name,
        "target": serial.manifest.target,
        "precision": serial.manifest.precision.get("asked"),
        **facts,
        "window_s": window_s,
        "no_tool": reason,
        "ways": [
            {"way": name, "clips_per_s": float(1 / np.median(times)), "window_clips_per_s": [1 / t for t in times]}
            | {f"over_{key}": asdict(speed_ratio(windows[other], times)) for key, other in _references(windows)}
            for name, times in windows.items()
        ],
    }


def _references(windows: dict[str, list[float]]) -> Iterator[tuple[str, str]]:
    yield "one", ONE
    if TOOL in windows:
        yield "tool", TOOL


def _ways(serial: Engine, parallel: Engine) -> Iterator[tuple[str, Window]]:
    batch, streams = serial.manifest.batch.opt, f"streams={parallel.streams}"
    feed = example_inputs(serial.manifest.inputs, batch)
    yield ONE, _by_threads(lambda: serial.infer(feed), 1, batch)
    yield f"{CALLERS} threads", _by_threads(lambda: serial.infer(feed), CALLERS, batch)
    yield f"{CALLERS} threads, {streams}", _by_threads(lambda: parallel.infer(feed), CALLERS, batch)

    def by_iterator(seconds: float) -> float:
        begin, count = time.perf_counter(), 0
        for _ in parallel.infer_many(repeat(feed)):
            count += batch
            if time.perf_counter() - begin >= seconds:
                break
        return (time.perf_counter() - begin) / count

    yield f"infer_many, {streams}", by_iterator
    generator = np.random.default_rng(0)
    waveform = generator.uniform(-0.5, 0.5, _CLIP_S * _SAMPLE_RATE_HZ).astype(np.float32)
    frame = generator.integers(0, 256, _FRAME, dtype=np.uint8)
    try:
        parallel.classify(waveform, _SAMPLE_RATE_HZ, frame)
    except EngineInputError:
        return  # it takes something else than clips
    classify = lambda: parallel.classify(waveform, _SAMPLE_RATE_HZ, frame)  # noqa: E731
    yield f"classify in {CALLERS} threads, {streams}", _by_threads(classify, CALLERS, 1)


def _by_threads(call: Callable[[], object], threads: int, clips: int) -> Window:
    """A window of calls by so many threads; its end is that of the last call."""

    def window(seconds: float) -> float:
        begin = time.perf_counter()
        counts = [0] * threads

        def work(number: int) -> None:
            while not counts[number] or time.perf_counter() - begin < seconds:
                call()
                counts[number] += clips

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return (time.perf_counter() - begin) / sum(counts)

    return window


def _blocks(documents: Sequence[Document]) -> Iterator[Block]:
    for report in {document["engine"]: document for document in documents}.values():
        executes = ", ".join(f"{count} products in {name}" for name, count in report["products"].items())
        yield (
            f"{report['engine']} ({report['target']} {report['precision']}, {executes}), batch {report['batch']}, on "
            f"{machine(report)}: medians of {_ROUNDS} windows of {report['window_s']:.1f} s, taken in turns, and 95 % "
            "intervals of ratios of windows."
        )
        if report["no_tool"]:
            yield f"No benchmark_app: {report['no_tool']}."
        columns = (
            Column(title="calls", value=lambda way: way["way"], align="left"),
            Column(title="clips per second", value=lambda way: way["clips_per_s"], text=number),
            Column(title=f"times {ONE}", value=lambda way: way.get("over_one"), text=_ratio),
            Column(title=f"times {TOOL}", value=lambda way: way.get("over_tool"), text=_ratio),
        )
        yield table("", columns, report["ways"])


def _ratio(ratio: dict[str, float]) -> str:
    return interval(SpeedRatio(**ratio))


SECTION = Section(name="throughput", command="throughput", kind="throughput", blocks=_blocks)
