"""Subjects against each other, interleaved: load, check, warm up, then take turns until the windows settle."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from kdcmae.bench.machine.state import energy_counter, machine_state
from kdcmae.bench.machine.yardstick import Yardstick, open_yardstick, steady_rounds
from kdcmae.bench.report.envelope import stamp
from kdcmae.bench.report.records import Accuracy, Report, Row, SelfCheck, Settings
from kdcmae.bench.run.agreement import accuracies, knows
from kdcmae.bench.run.contender import Contender, Entry
from kdcmae.bench.run.sources import Source, open_subject
from kdcmae.bench.run.subjects import Facts
from kdcmae.bench.run.timing import plan_rounds
from kdcmae.bench.run.worker import OpenSubject, Worker
from kdcmae.data.avsynth.classes import LABELS
from kdcmae.errors import EngineInputError
from kdcmae.progress import Step

__all__ = ["measure_group", "new_report", "run_benchmark", "take_turns"]

Visit = Callable[[Sequence[Contender]], None]

_CLIPS = 96


def run_benchmark(
    sources: Sequence[str],
    settings: Settings,
    *,
    step: Step,
    self_check: SelfCheck | None = None,
    open_subject: OpenSubject = open_subject,
    yardstick: Yardstick | None = None,
) -> Report:
    """Benchmark subjects that take the same inputs against each other; those that know AVSynth's labels answer for it.

    Args:
        sources: engine folders, checkpoint files, presets or peers.
        settings: how to run.
        step: shows progress; a context manager per named step.
        self_check: result of the check that came before.
        open_subject: opens a source inside a worker.
        yardstick: reads the state of the machine; started here if None.

    Returns:
        One row per source; a subject that fails or cannot run here is a row too.

    Raises:
        ConfigError: a batch size that a subject does not take.
        EngineInputError: the subjects take different inputs, so they cannot be compared.
    """
    with ExitStack() as stack:
        reading = yardstick or stack.enter_context(open_yardstick(settings.threads))
        accuracy: dict[str, Accuracy] = {}

        def measure() -> list[Row]:
            rows = measure_group(
                [Entry(source=source, subject=source) for source in sources],
                settings,
                step=step,
                yardstick=reading,
                before=_require_same_inputs,
                after=lambda contenders: accuracy.update(_accuracies(contenders, step)),
                open_subject=open_subject,
            )
            return [replace(row, accuracy=accuracy.get(row.case.subject)) for row in rows]

        return new_report(settings, measure, self_check=self_check)


def new_report(settings: Settings, measure: Callable[[], Sequence[Row]], *, self_check: SelfCheck | None) -> Report:
    """A report of what ``measure`` gives, with the state of the machine before and after it."""
    envelope = stamp("benchmark")
    rows = tuple(measure())
    environment = {**envelope.pop("environment"), "after": machine_state()}
    return Report(**envelope, environment=environment, settings=settings, rows=rows, self_check=self_check)


def measure_group(
    entries: Sequence[Entry],
    settings: Settings,
    *,
    step: Step,
    yardstick: Yardstick,
    before: Visit = lambda _: None,
    after: Visit = lambda _: None,
    open_subject: OpenSubject = open_subject,
) -> list[Row]:
    """Measure subjects in turns, each in a process of its own, pinned to the first CPUs.

    Args:
        entries: what takes part.
        settings: how to run.
        step: shows progress.
        yardstick: tells what state the machine is in.
        before: sees the contenders that run, once they are loaded.
        after: sees them again after the last turn, their workers still there.
        open_subject: opens a source inside a worker.

    Returns:
        A row per entry, in order; the first PyTorch model, or else the first that runs, is the reference.
    """
    counter, threads = energy_counter(), settings.threads
    names = {entry.source: entry.subject for entry in entries}
    engines = [Source.parse(entry.source).engine for entry in entries]
    entries = [
        replace(entry, engine=names.get(engine, engine) if engine else None)
        for entry, engine in zip(entries, engines, strict=True)
    ]
    with ExitStack() as stack:
        contenders = []
        for entry in entries:
            with step(f"load {entry.subject}"):
                worker = Worker(entry.source, threads=threads, timeout_s=settings.timeout_s, open_subject=open_subject)
                stack.enter_context(closing(worker))
                contender = Contender(entry=entry, worker=worker, settings=settings, counter=counter)
                contender.load()
                contenders.append(contender)
        before([contender for contender in contenders if contender.running])
        for contender in contenders:
            if contender.running:
                with step(f"check {contender.entry.subject}"):
                    contender.check()
        running = [contender for contender in contenders if contender.running]
        reference = next(
            (contender for contender in running if contender.facts.is_torch), running[0] if running else None
        )
        state_ms = take_turns(running, settings.seconds, step, yardstick) if running else None
        after([contender for contender in contenders if contender.running])
        return [replace(contender.row(reference), yardstick_ms=state_ms) for contender in contenders]


def _accuracies(contenders: Sequence[Contender], step: Step) -> dict[str, Accuracy]:
    """Accuracies on AVSynth's test clips of the subjects that know its labels."""
    if not any(knows(contender, LABELS.names) for contender in contenders):
        return {}
    from kdcmae.bench.run.clips import write_clips  # it brings a video library along

    with tempfile.TemporaryDirectory() as folder:
        data, labels = write_clips(Path(folder), clips=_CLIPS)
        with step(f"answers to {_CLIPS} clips of AVSynth"):
            answers = {
                contender.entry.subject: contender.answers(data) for contender in contenders if knows(contender, labels)
            }
    known = {subject: logits for subject, logits in answers.items() if logits is not None}
    return accuracies(contenders, known, labels, data=f"AVSynth test, {_CLIPS} clips")


def take_turns(contenders: Sequence[Contender], seconds: float, step: Step, yardstick: Yardstick) -> float:
    """Run windows of contenders in turns until enough steady rounds agree.

    Returns:
        What the yardstick read in the rounds that count, in ms.
    """
    with step("warm up"):
        for contender in contenders:
            contender.warm_up()
    schedule = plan_rounds(seconds, max(contender.call_s for contender in contenders))
    readings_ms, counted = [yardstick()], list[int]()
    with step(f"measure in {schedule.rounds} rounds or more"):
        for turn in range(schedule.most_rounds):
            # Back and forth, so that over two rounds nobody always runs after the same other.
            for contender in contenders if turn % 2 == 0 else reversed(contenders):
                if contender.running:
                    contender.take_turn(schedule.window_s)
            readings_ms.append(yardstick())
            steady = steady_rounds(readings_ms, enough=schedule.rounds)
            # A machine that is never steady for long enough is measured all the same, and its intervals are wide.
            kept_still = len(steady) >= schedule.rounds
            counted = steady if kept_still else list(range(turn + 1))
            if kept_still and all(contender.settled(counted) for contender in contenders):
                break
    for contender in contenders:
        if contender.running:
            contender.finish(counted)
    return statistics.median(max(readings_ms[number : number + 2]) for number in counted)


def _require_same_inputs(contenders: Sequence[Contender]) -> None:
    for contender in contenders:
        first = contenders[0]
        if _signature(contender.facts) != _signature(first.facts):
            raise EngineInputError(
                f"{first.entry.source} takes {_signature(first.facts)}, but {contender.entry.source} takes "
                f"{_signature(contender.facts)}; benchmark them in separate runs"
            )
        contender.require_batch()


def _signature(facts: Facts) -> str:
    return ", ".join(
        f"{spec.name} ({', '.join(map(str, spec.shape))}) {spec.dtype}"
        for spec in sorted(facts.inputs, key=lambda spec: spec.name)
    )
