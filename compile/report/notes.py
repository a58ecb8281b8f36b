"""What stands below a table of rungs, on the page as in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdcmae.compile.variants import CONTROL, PLAIN, Tuning

__all__ = ["accuracy_line", "clip_lines", "how_rungs_ran", "variant_lines", "what_stays_float32"]

_SHOWN = 3  # broken clips that a line names


def how_rungs_ran(rungs: Sequence[Mapping[str, Any]]) -> list[str]:
    """How rungs of a manifest ran, in words; those that ran the same way share a line."""
    names: dict[str, list[str]] = {}
    for rung in rungs:
        if note := rung.get("note"):
            names.setdefault(note, []).append(rung["name"])
    return [f"{', '.join(shared)}: {note}" for note, shared in names.items()]


def clip_lines(precision: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What an engine was calibrated on and what that cost, as titles and lines.

    Args:
        precision: of a manifest; without clips in it there are no lines.
    """
    lines = []
    if calibration := precision.get("calibration"):
        line = f"on {calibration['clips']} clips of {calibration['source']}"
        lines.append(("calibrated", "; ".join(filter(None, (line, calibration.get("note"), _broken(calibration))))))
    if accuracy := precision.get("accuracy"):
        kept = len(precision.get("kept", ()))
        lines.append(("accuracy", f"{accuracy_line(accuracy)}; {kept} layers kept in floating point"))
    return lines


def accuracy_line(accuracy: Mapping[str, Any]) -> str:
    """What an engine loses against the float32 model, in words.

    Args:
        accuracy: as :meth:`kdcmae.compile.quantize.accuracy.Accuracy.to_dict` gives it.
    """
    low, high = accuracy["interval"]
    parts = (
        f"{accuracy['metric']} {accuracy['quantized']:.1f} %, in float32 {accuracy['reference']:.1f} %: "
        f"{accuracy['drop']:.2f} points lost (95 % interval {low:.2f} to {high:.2f})",
        f"on {accuracy['clips']} clips of {accuracy['source']} ({accuracy['clips_that_chose']} others chose)",
        f"{accuracy['agreement']:.1f} % get the same first class",
        _broken(accuracy),
    )
    return ", ".join(parts[:2]) + "".join(f"; {part}" for part in parts[2:] if part)


def what_stays_float32(precision: Mapping[str, Any]) -> list[str]:
    """What of an engine in half precision stays float32, why and at what cost, in words; nothing for other engines."""
    in_float32 = precision.get("in_float32")
    if not in_float32:
        return []
    asked, limit = precision["asked"], in_float32["limit"]
    lines = []
    for part in in_float32["parts"]:
        why = f"without it outputs are out of their gate in {asked}"
        if part["exceeds"]:
            why = f"it reaches {part['largest']:.3g} on the inputs of the proof, and {asked} ends at {limit:.0f}"
        lines.append(f"{part['name']} stays float32: {why}")
    return [*lines, _cost(asked, in_float32.get("speed"))]


def variant_lines(build: Mapping[str, Any]) -> list[str]:
    """Which variant of the graph an engine is and why, in words; nothing for a target without variants.

    Args:
        build: a manifest's section.
    """
    if "variants" not in build:
        return []
    tuning = Tuning.from_dict(build["variants"])
    speeds = {timing.variant: timing for timing in tuning.timings}
    if not speeds:
        return []
    origin = {
        "measured": "measured by this build",
        "cache": f"measured before on a CPU of class {tuning.cpu_class}",
        "table": f"measured on {tuning.measured_on}, of class {tuning.cpu_class}",
    }[tuning.origin]
    noise = speeds[CONTROL]
    control = f"the plain one beside itself {noise.speed_low:.2f}-{noise.speed_high:.2f}; {origin}"
    if tuning.chosen == PLAIN:
        names = ", ".join(name for name in speeds if name not in (PLAIN, CONTROL))
        lines = [f"plain: none of {names} was faster and passed ({control})"]
    else:
        best = speeds[tuning.chosen]
        times = f"{best.speed:.2f} times as fast ({best.speed_low:.2f}-{best.speed_high:.2f}) as the plain graph"
        lines = [f"{tuning.chosen}, {times} ({control})"]
    failed = [timing for timing in tuning.timings if timing.problem]
    return lines + [f"{timing.variant} was faster and is not taken: {timing.problem}" for timing in failed]


def _broken(facts: Mapping[str, Any]) -> str:
    """Clips that could not be used; empty where all could."""
    broken = facts.get("broken", {})
    if not broken:
        return ""
    shown = "; ".join(f"{clip}: {reason}" for clip, reason in list(broken.items())[:_SHOWN])
    return f"{len(broken)} clips could not be used ({shown}{'; ...' if len(broken) > _SHOWN else ''})"


def _cost(asked: str, speed: Mapping[str, Any] | None) -> str:
    if speed is None:
        return f"what that costs was not measured: no graph in {asked} throughout could be timed beside it here"
    costs = 100 * (1 / speed["speed"] - 1)
    low, high = (100 * (1 / speed[name] - 1) for name in ("speed_high", "speed_low"))
    return (
        f"that costs {costs:+.0f} % of the time ({low:+.0f} to {high:+.0f} % in half of the turns): "
        f"{speed['median_ms']:.3g} ms against {speed['against_ms']:.3g} in {speed['against']}"
    )
