"""What a report comes to, row by row: for the terminal's summary and for the README. Works on the JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["HEADINGS", "comparison_rows", "machine_line", "time_text"]

HEADINGS = ("case", "pass", "ours", "against", "theirs", "times as fast (95 % interval)", "target")

_PASSES = {"forward": "forward", "backward": "backward", "both": "forward + backward"}


def comparison_rows(case: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """One row of :data:`HEADINGS` per comparison of a case.

    Args:
        case: an entry of a report's ``cases``.
    """
    for comparison in case["comparisons"]:
        speed, target = comparison["speed"], comparison["target"]
        baseline, against = comparison["baseline"], comparison["against"]
        yield (
            case["name"],
            _PASSES[comparison["direction"]],
            f"{comparison['subject']} {_rate(case, comparison, comparison['subject'])}",
            against if against == baseline else f"{against}: {baseline}",
            _rate(case, comparison, baseline),
            f"{speed['ratio']:.3g} ({speed['low']:.3g}-{speed['high']:.3g})",
            "" if target is None else f"{target:g}: {'met' if speed['ratio'] >= target else 'missed'}",
        )


def machine_line(report: Mapping[str, Any]) -> str:
    """What ran, where, and what the device does at most.

    Args:
        report: as JSON.
    """
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


def _rate(case: Mapping[str, Any], comparison: Mapping[str, Any], name: str) -> str:
    """The median under the compared condition; of a pretraining step clips per second too."""
    result = next(result for result in case["results"] if result["name"] == name)
    median_us = result["timings"][comparison["direction"]][comparison["condition"]]["median_us"]
    rate = f", {case['samples'] * 1e6 / median_us:.4g} clips/s" if case["kind"] == "step" else ""
    return f"{time_text(median_us)}{rate}"
