"""A benchmark from start to report: load, check, warm up, then take turns."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing

import kdcmae
from kdcmae.bench.contender import Contender
from kdcmae.bench.environment import describe_environment
from kdcmae.bench.schema import Report, Settings
from kdcmae.bench.subjects import Facts, open_subject
from kdcmae.bench.timing import Schedule, plan_rounds
from kdcmae.bench.worker import OpenSubject, Worker
from kdcmae.errors import ConfigError, EngineInputError

__all__ = ["run_benchmark"]

Step = Callable[[str], AbstractContextManager[None]]


def run_benchmark(
    sources: Sequence[str], settings: Settings, *, step: Step, open_subject: OpenSubject = open_subject
) -> Report:
    """Benchmark subjects against each other, interleaved, each in a process of its own.

    Args:
        sources: engine folders, checkpoint files or ``preset:NAME``.
        settings: how to run.
        step: shows progress; a context manager per named step.
        open_subject: opens a source inside a worker.

    Returns:
        One row per source; a subject that fails or cannot run here is a row too.

    Raises:
        ConfigError: a batch size that a subject does not take.
        EngineInputError: the subjects take different inputs, so they cannot be compared.
    """
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    environment = describe_environment()
    with ExitStack() as stack:
        contenders = []
        for source in sources:
            with step(f"load {source}"):
                worker = Worker(
                    source, threads=settings.threads, timeout_s=settings.timeout_s, open_subject=open_subject
                )
                one = Contender(source, stack.enter_context(closing(worker)), settings)
                one.load()
                contenders.append(one)
        _require_same_inputs([one for one in contenders if one.running], settings.batch)
        for one in contenders:
            if one.running:
                with step(f"check {one.source}"):
                    one.check()
        running = [one for one in contenders if one.running]
        reference = next((one for one in running if one.facts.is_torch), running[0] if running else None)
        schedule = _measure(running, settings.seconds, step) if running else None
        rows = tuple(one.row(reference) for one in contenders)
    return Report(
        kdcmae_version=kdcmae.__version__,
        created=created,
        environment=environment,
        settings=settings,
        schedule=schedule,
        reference=contenders.index(reference) if reference else None,
        rows=rows,
    )


def _measure(contenders: Sequence[Contender], seconds: float, step: Step) -> Schedule:
    with step("warm up"):
        for one in contenders:
            one.warm_up()
    schedule = plan_rounds(seconds, max(one.call_s for one in contenders))
    with step(f"measure in {schedule.rounds} rounds"):
        for turn in range(schedule.rounds):
            # Back and forth, so that over two rounds nobody always runs after the same other.
            for one in contenders if turn % 2 == 0 else reversed(contenders):
                if one.running:
                    one.take_turn(schedule.window_s)
    for one in contenders:
        if one.running:
            one.finish()
    return schedule


def _require_same_inputs(contenders: Sequence[Contender], batch: int) -> None:
    for one in contenders:
        first = contenders[0]
        if _signature(one.facts) != _signature(first.facts):
            raise EngineInputError(
                f"{first.source} takes {_signature(first.facts)}, but {one.source} takes {_signature(one.facts)}; "
                "benchmark them in separate runs"
            )
        sizes = one.facts.batch
        if sizes is not None and not sizes.min <= batch <= sizes.max:
            raise ConfigError(f"{one.source} takes batches of {sizes.min} to {sizes.max}, not --batch {batch}")


def _signature(facts: Facts) -> str:
    return ", ".join(
        f"{spec.name} ({', '.join(map(str, spec.shape))}) {spec.dtype}"
        for spec in sorted(facts.inputs, key=lambda spec: spec.name)
    )
