"""``kdcmae check``: check an engine on the machine that will run it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click

from kdcmae.cards import BOUNDARIES, SELF_TEST, DeviceCard
from kdcmae.cli.common import KdcmaeCommand, Number, Steps, json_option, print_json, thread_count
from kdcmae.drawing.charts import number
from kdcmae.errors import GateError
from kdcmae.runtime.execution import counted
from kdcmae.terminal import say, style, table

__all__ = ["command"]

_COLOURS = {"holds": "green", "does not hold": "red", "cannot be told": "yellow"}


@click.command("check", cls=KdcmaeCommand)
@click.argument("engine", type=click.Path(path_type=Path))
@click.option(
    "--seconds", type=Number(min=0, min_open=True), default=5.0, show_default=True, help="How long to time calls."
)
@click.option("--threads", type=thread_count, help="CPU threads.", show_default="the engine's or its library's")
@click.option(
    "--device", help="Device to use instead of the one that the engine was built for, in its library's spelling."
)
@click.option("--name", default="", help="Name of this device on its card.", show_default="its processor")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Also write the device card to this file."
)
@json_option
def command(
    engine: Path,
    seconds: float,
    threads: int | None,
    device: str | None,
    name: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Check an ENGINE folder on the device that will run it: files, executed precisions, errors and latency.

    Needs numpy and the engine's library, not torch. With --json, prints a device card; kdcmae-bench fleet compares the
    cards of several devices.

    Exit code 0: every claim about the engine holds here, or cannot be checked. 1: a claim or the self-test fails. 2: a
    bad engine. 3: its library or its device is missing.
    """
    from kdcmae.check import check_engine
    from kdcmae.files.disk import writing
    from kdcmae.files.replacing import replacing

    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)  # fail now rather than after the measurement
    card = check_engine(engine, seconds=seconds, step=Steps(), device=device, threads=threads, name=name)
    if output is not None:
        with writing(output), replacing(output) as partial:
            partial.write_text(json.dumps(card.to_dict(), indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(card.to_dict())
    else:
        _print(card)
    if card.failed:
        raise GateError(f"{engine}: {_summary(card)}")


def _print(card: DeviceCard) -> None:
    say(table((), _facts(card)))
    say()
    rows = [
        (verdict.claim, style(verdict.outcome, _COLOURS[verdict.outcome]), verdict.found) for verdict in card.verdicts
    ]
    say(table(("claim", "here", "found"), rows))
    say()
    say(table(("measured", "", "covers"), _figures(card), right=(1,)))
    if not card.failed:
        say(f"\n{_summary(card)}")


def _facts(card: DeviceCard) -> Iterator[tuple[str, str]]:
    device, engine, facts = card.device, card.engine, card.device.host
    cap = f", oneDNN capped to {device.cpu_cap}" if device.cpu_cap else ""
    called = f"{device.name}: " if device.name else ""
    yield "device", f"{called}{facts['cpu']}, class {device.cpu_class or 'below avx2'}{cap}, {facts['cpus']} CPUs"
    libraries = ", ".join(f"{name} {version}" for name, version in device.libraries.items())
    threads = f"threads: {device.threads or 'as the engine or its library chooses'}"
    yield "runs with", f"{libraries}, Python {facts['python']}, {facts['system']} {facts['machine']}"
    yield "runs on", ", ".join(filter(None, (device.runs_on, threads)))
    yield "features", " ".join(device.cpu_features) or "unknown"
    random = ", random weights: to be timed only" if engine.random_weights else ""
    yield (
        "engine",
        f"{engine.folder}: {engine.model}, {engine.parameters / 1e6:.1f} M parameters, {engine.target} "
        f"{engine.asked}, {engine.size_bytes / 1e6:.1f} MB{random}",
    )
    yield (
        "built",
        f"{engine.created} on {engine.built_on or 'an unknown processor'}"
        + (f", for {engine.built_for}" if engine.built_for else ""),
    )
    classes = (f"{layers} {counted(counts)}" for layers, counts in card.executed.items() if counts)
    yield "executes", f"{'; '.join(classes)}; by {card.read_from}" if card.executed else "not reported by the library"


def _figures(card: DeviceCard) -> Iterator[tuple[str, str, str]]:
    timings, latency = card.timings, card.timings.latency
    yield "load", f"{number(timings.load_ms)} ms", BOUNDARIES["load_ms"]
    yield "first inference", f"{number(timings.first_inference_ms)} ms", BOUNDARIES["first_inference_ms"]
    yield "latency, median", f"{number(latency.p50_ms)} ms", BOUNDARIES["latency"]
    yield "p90", f"{number(latency.p90_ms)} ms", f"batch {card.engine.batch}, {latency.count} calls"
    yield "p99", f"{number(latency.p99_ms)} ms", f"after a warm-up of {latency.warm_up_s:g} s"
    yield "variation", f"{latency.coefficient_of_variation:.1%}", "standard deviation of single calls over their mean"
    if card.engine.built_ms is not None:
        built = f"median of a short run on {card.engine.built_on or 'an unknown processor'}"
        yield "where it was built", f"{number(card.engine.built_ms)} ms", built
    if timings.peak_rss_bytes is not None:
        yield "peak memory", f"{timings.peak_rss_bytes / 1e6:.0f} MB", BOUNDARIES["peak_rss_bytes"]


def _summary(card: DeviceCard) -> str:
    if not card.failed:
        unknown = sum(verdict.outcome == "cannot be told" for verdict in card.verdicts)
        rest = f"; {unknown} cannot be told" if unknown else ""
        return f"every claim that this machine can check holds{rest}"
    failed = [verdict.claim for verdict in card.failed]
    said = [f"{len(failed)} of {len(card.verdicts)} claims do not hold here ({', '.join(failed)})"]
    if SELF_TEST in failed:
        said.append("it does not compute here what its model computes: do not use it")
    if failed != [SELF_TEST]:
        median = number(card.timings.latency.p50_ms)
        cpu_class = card.device.cpu_class
        said.append(f"its products execute in {card.computes_in or 'unknown precision'}, at {median} ms a call")
        said.append(f"kdcmae-compile {f'--for {cpu_class}' if cpu_class else 'on this machine'} builds what fits")
    return "; ".join(said)
