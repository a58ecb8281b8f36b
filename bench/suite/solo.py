"""Cases of a single subject: more samples per call, more threads and instances, cold starts, clip to label."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcmae import host
from kdcmae.bench.machine.state import run_pinned
from kdcmae.bench.machine.yardstick import Yardstick, apart
from kdcmae.bench.report.records import Case, Row, Settings, failure_of
from kdcmae.bench.run.contender import Entry
from kdcmae.bench.run.sources import open_subject
from kdcmae.bench.run.subjects import Facts
from kdcmae.bench.run.timing import BETWEEN_MOMENTS, Latency, settled, summarize
from kdcmae.bench.run.worker import OpenSubject, Session, Worker
from kdcmae.errors import DeviceError, EngineError
from kdcmae.runtime.manifest import Manifest
from kdcmae.runtime.targets import TARGETS

__all__ = ["Solo", "layouts"]

_WINDOWS, _MOST_WINDOWS = 6, 9


def layouts(cpus: int) -> list[tuple[int, int]]:
    """Instances and threads per instance: one instance on 1, 2, 4, ... CPUs, then all CPUs shared out."""
    powers = [1 << shift for shift in range(cpus.bit_length()) if 1 << shift <= cpus]
    single = [(1, threads) for threads in sorted({*powers, cpus})]
    return single + [(count, cpus // count) for count in powers[1:] if cpus % count == 0]


@dataclass(frozen=True, kw_only=True)
class Solo:
    """One subject and how it is measured.

    Args:
        entry: the subject.
        settings: of the benchmark; ``seconds`` are for each row.
        yardstick: reads the state of the machine.
        open_subject: opens the source inside a worker.
        saturated: times as many samples per second as the batch before that a batch has to reach for a larger one to
            be tried.
        cold_starts: windows of cold starts, and starts in each.
    """

    entry: Entry
    settings: Settings
    yardstick: Yardstick
    open_subject: OpenSubject = open_subject
    saturated: float = 1.05
    cold_starts: tuple[int, int] = (5, 2)

    def batches(self, largest: int) -> list[Row]:
        """Throughput over the batch: doubled until the machine is saturated."""
        case = self._case(kind="batch", threads=self.settings.threads)
        return self._guarded(case, lambda: self._batches(case, largest))

    def threads(self) -> list[Row]:
        """Throughput and latency over threads and instances, every instance pinned to CPUs of its own."""
        rows = []
        for instances, threads in layouts(host.usable_cpus()):
            case = self._case(kind="threads", threads=threads, instances=instances)
            rows += self._guarded(case, lambda case=case: [self._instances(case)])  # type: ignore[misc]
        return rows

    def clip_to_label(self, clip: Path) -> list[Row]:
        """From a video file to the outputs, by stages."""
        case = self._case(kind="clip to label", boundary="clip to label", threads=self.settings.threads)
        return self._guarded(case, lambda: [self._stages(case, clip)])

    def cold_start(self, engine: Path, data: Path) -> list[Row]:
        """From starting a process to the first label, several times.

        Args:
            engine: an engine folder.
            data: clips, as :func:`kdcmae.bench.run.clips.write_clips` wrote them.
        """
        case = self._case(kind="cold start", boundary="process to label", threads=self.settings.threads)
        return self._guarded(case, lambda: [self._cold_start(case, engine, data)])

    def _batches(self, case: Case, largest: int) -> list[Row]:
        with closing(self._worker(case.threads)) as worker:
            facts = worker.ask(Session.load).facts
            fewest, most = (facts.batch.min, facts.batch.max) if facts.batch else (1, largest)
            rows: list[Row] = []
            batch, best = fewest, 0.0
            while batch <= min(most, largest):
                worker.ask(Session.first_inference, batch, self.settings.seed)
                latency = self._settled_windows(worker)
                rate = batch / latency.mean_ms * 1e3
                rows.append(_row(replace(case, batch=batch), facts, latency, rate, worker))
                if rate < best * self.saturated:
                    break
                batch, best = 2 * batch, rate
            return rows

    def _instances(self, case: Case) -> Row:
        cpus = host.cpu_numbers()
        shares = [cpus[index * case.threads : (index + 1) * case.threads] for index in range(case.instances)]
        with ExitStack() as stack:
            workers = [stack.enter_context(closing(self._worker(case.threads, share))) for share in shares]
            loaded = [worker.ask(Session.load) for worker in workers]
            facts = loaded[0].facts
            batch = facts.batch.min if facts.batch else 1
            for worker in workers:
                worker.ask(Session.first_inference, batch, self.settings.seed)
            with ThreadPoolExecutor(len(workers)) as pool:
                measured = list(pool.map(self._windows, workers))
            rate = sum(1e3 * batch / float(np.mean(np.concatenate(windows))) for windows in measured)
            # The windows of all instances ran at the same time: the calls of the first ones together, and so on.
            latency = summarize(
                [[call for window in windows for call in window] for windows in zip(*measured, strict=True)],
                between_runs=BETWEEN_MOMENTS,
            )
            return _row(replace(case, batch=batch), facts, latency, rate, workers[0])

    def _stages(self, case: Case, clip: Path) -> Row:
        with closing(self._worker(case.threads)) as worker:
            facts = worker.ask(Session.load).facts
            stages = worker.ask(Session.stages, clip, self.settings.seconds)
            totals = [sum(parts) for parts in zip(*stages.values(), strict=True)]
            windows = [part.tolist() for part in np.array_split(totals, min(_WINDOWS, len(totals)))]
            latency = summarize(windows, between_runs=BETWEEN_MOMENTS)
            medians = {name: float(np.median(parts)) for name, parts in stages.items()}
            return replace(_row(case, facts, latency, 1e3 / latency.mean_ms, worker), stages_ms=medians)

    def _cold_start(self, case: Case, engine: Path, data: Path) -> Row:
        threads = [case.threads] if TARGETS[Manifest.read(engine).target].runs_on_cpu else []
        arguments = (engine, data, *threads)
        windows, starts = self.cold_starts
        times_ms = [[self._started_ms(arguments, case.threads) for _ in range(starts)] for _ in range(windows)]
        latency = summarize(times_ms, between_runs=BETWEEN_MOMENTS)
        return Row(case=case, status="measured" if latency.stable else "unstable", latency=latency)

    def _started_ms(self, arguments: Sequence[object], threads: int) -> float:
        """Milliseconds from now until a new process prints its first label."""
        start, cpus = time.perf_counter(), host.cpu_numbers()[:threads]
        printed = run_pinned("kdcmae.bench.run.coldstart", *arguments, cpus=cpus, timeout_s=self.settings.timeout_s)
        return (float(printed.split()[0]) - start) * 1e3

    def _windows(self, worker: Worker) -> list[list[float]]:
        worker.ask(Session.window, self.settings.warm_up_s)
        return [worker.ask(Session.window, self.settings.seconds / _WINDOWS) for _ in range(_WINDOWS)]

    def _settled_windows(self, worker: Worker) -> Latency:
        """The last windows, once they agree or the time is up."""
        windows = self._windows(worker)
        while not settled(windows[-_WINDOWS:]) and len(windows) < _MOST_WINDOWS:
            windows.append(worker.ask(Session.window, self.settings.seconds / _WINDOWS))
        return summarize(windows[-_WINDOWS:], left_out=len(windows) - _WINDOWS, between_runs=BETWEEN_MOMENTS)

    def _worker(self, threads: int, cpus: tuple[int, ...] | None = None) -> Worker:
        timeout_s, opened = self.settings.timeout_s, self.open_subject
        return Worker(self.entry.source, threads=threads, timeout_s=timeout_s, open_subject=opened, cpus=cpus)

    def _case(self, **facts: Any) -> Case:
        return Case(model=self.entry.model, subject=self.entry.subject, **facts)

    def _guarded(self, case: Case, measure: Callable[[], list[Row]]) -> list[Row]:
        """The rows, or a row with the reason why there are none."""
        try:
            before = self.yardstick()
            rows = measure()
            after = self.yardstick()
            return [_in_state(row, before, after) for row in rows]
        except (DeviceError, EngineError, subprocess.TimeoutExpired) as error:
            status, reason = failure_of(error)
            return [Row(case=case, status=status, reason=reason)]


def _in_state(row: Row, before_ms: float, after_ms: float) -> Row:
    """With what the yardstick read around it; unstable where the machine changed meanwhile."""
    row = replace(row, yardstick_ms=max(before_ms, after_ms))
    if not apart(before_ms, after_ms):
        return row
    reason = f"the machine changed its state: known work took {before_ms:.2f} ms before, {after_ms:.2f} ms after"
    return replace(row, status="unstable", reason=reason)


def _row(case: Case, facts: Facts, latency: Latency, rate: float, worker: Worker) -> Row:
    return Row(
        case=case,
        status="measured" if latency.stable else "unstable",
        latency=latency,
        throughput_samples_per_s=rate,
        peak_rss_bytes=worker.ask(Session.memory).peak_rss_bytes,
        parity=facts.ladder,
        **facts.row_fields,
    )
