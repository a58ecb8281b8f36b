"""Summary of the kernel benchmark: a table row per comparison, for the terminal and the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdcmae.bench.report.publishing import Document, Section
from kdcmae.bench.report.table import Block, Column, Table, Tone, table

__all__ = ["NOT_MEASURED", "SECTION", "machine_line", "summary", "time_text"]

NOT_MEASURED = "not measured on a GPU yet"

_PASSES = {"forward": "forward", "backward": "backward", "both": "forward + backward"}

Case = Mapping[str, Any]
Comparison = Mapping[str, Any]


def summary(cases: Sequence[Case], *, title: str = "") -> Table:
    """A row per comparison: our code, the code that it is compared with, and how many times as fast it is.

    Args:
        cases: of a report as JSON.
        title: of the table.
    """
    columns = (
        Column(title="case", value=lambda row: row[0]["name"], align="left"),
        Column(title="pass", value=lambda row: _PASSES[row[1]["direction"]], align="left"),
        Column(
            title="ours",
            value=lambda row: f"{row[1]['subject']} {_rate(row[0], row[1], row[1]['subject'])}",
            align="left",
        ),
        Column(title="against", value=lambda row: _against(row[1]), align="left"),
        Column(title="theirs", value=lambda row: _rate(row[0], row[1], row[1]["baseline"]), align="left"),
        Column(title="times as fast (95 % interval)", value=lambda row: row[1]["speed"], text=_speed),
        Column(
            title="target",
            value=lambda row: row[1],
            text=lambda one: "" if one["target"] is None else f"{one['target']:g}: {'met' if _met(one) else 'missed'}",
            tone=_tone,
        ),
    )
    return table(title, columns, [(case, comparison) for case in cases for comparison in case["comparisons"]])


def machine_line(report: Document) -> str:
    """The device, the versions, and what the device does at most."""
    device, ceilings, libraries = report["device"], report["ceilings"], report["environment"]["libraries"]
    versions = ", ".join(f"{name} {libraries[name]}" for name in ("torch", "triton") if name in libraries)
    return (
        f"{device['name']}; {versions}; kdcmae {report['kdcmae_version']} "
        f"({report['environment']['git_commit'] or 'commit unknown'}), {report['created'][:10]}. "
        f"Ceilings in this run: copy {ceilings['copy_bytes_per_s'] / 1e12:.3g} TB/s, {ceilings['matmul_dtype']} "
        f"matmul {ceilings['matmul_flop_per_s'] / 1e12:.4g} TFLOP/s, timer {ceilings['timer_floor_us']:.1f} us."
    )


def time_text(*times_us: float) -> str:
    """Four significant digits of each, in the unit that suits the first."""
    unit, scale = ("us", 1.0) if times_us[0] < 1e4 else ("ms", 1e3)
    first, *others = (f"{time_us / scale:.4g}" for time_us in times_us)
    return f"{first} {unit}" + (f" ({'-'.join(others)})" if others else "")


def _blocks(documents: Sequence[Document]) -> Iterator[Block]:
    """The newest report of a GPU and the newest of a CPU; dry runs are left out."""
    newest = {report["device"]["type"]: report for report in documents if not report["settings"]["quick"]}
    if "cuda" not in newest:
        yield f"The kernels are {NOT_MEASURED}."
    for device in ("cuda", "cpu"):
        if device in newest:
            yield machine_line(newest[device])
            yield summary(newest[device]["cases"])


SECTION = Section(name="kernel benchmark", command="readme", kind="kernels", blocks=_blocks)


def _ours(row: tuple[Case, Comparison]) -> str:
    case, comparison = row
    return f"{comparison['subject']} {_rate(case, comparison, comparison['subject'])}"


def _against(comparison: Comparison) -> str:
    baseline, against = comparison["baseline"], comparison["against"]
    return str(against if against == baseline else f"{against}: {baseline}")


def _speed(speed: Mapping[str, float]) -> str:
    return f"{speed['ratio']:.3g} ({speed['low']:.3g}-{speed['high']:.3g})"


def _met(comparison: Comparison) -> bool:
    return bool(comparison["speed"]["ratio"] >= comparison["target"])


def _tone(comparison: Comparison) -> Tone:
    return "" if comparison["target"] is None else "good" if _met(comparison) else "idle"


def _rate(case: Case, comparison: Comparison, name: str) -> str:
    """The median under the compared condition; of a pretraining step clips per second too."""
    result = next(result for result in case["results"] if result["name"] == name)
    median_us = result["timings"][comparison["direction"]][comparison["condition"]]["median_us"]
    rate = f", {case['samples'] * 1e6 / median_us:.4g} clips/s" if case["kind"] == "step" else ""
    return f"{time_text(median_us)}{rate}"
