"""What a build proved, on which clips, and what it did not, in words; the same on the page and in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kdcmae.runtime.manifest import Manifest

__all__ = ["QUANTILES", "clip_cases_of", "not_proved", "proved"]

QUANTILES = ("min", "p05", "p25", "p50", "p75", "p95", "max")
"""Names of the quantiles that a comparison in a manifest has."""

_MANY = 64  # clips of a proof, unless the model is large
_WHOSE = {"made": "made by kdcmae", "yours": "of yours"}


def clip_cases_of(rungs: Sequence[Mapping[str, Any]]) -> tuple[str, list[Mapping[str, Any]]]:
    """The last rung of a manifest that ran clips, by name, and its cases of clips; none where no rung did."""
    for rung in reversed(rungs):
        cases = [case for case in rung.get("cases", ()) if case.get("clips")]
        if cases:
            return str(rung["name"]), cases
    return "", []


def proved(manifest: Manifest) -> list[str]:
    """What was proved, a sentence each; nothing of an engine that was not executed on clips."""
    name, cases = clip_cases_of(manifest.parity)
    if not cases:
        return []
    total = sum(case["samples"] for case in cases)
    whose = ", ".join(f"{case['samples']} {_WHOSE[case['clips']]}" for case in cases)
    lines = [f"The {name} and the PyTorch model in float32 ran the same {total} clips ({whose})."]
    if all(case.get("strict") is not None for case in cases):
        strict, agreed = (round(sum(case[key] * case["samples"] for case in cases)) for key in ("strict", "agreement"))
        line = f"Both give the same first class on {strict} of them ({strict / total:.1%})"
        if agreed > strict:
            line += f"; on {agreed - strict} more the model separates the two by less than the precision blurs"
        lines.append(f"{line}.")
    rung = next(rung for rung in reversed(manifest.parity) if rung["name"] == name)
    for case in cases:
        for output, comparison in case["outputs"].items():
            lines.extend(_numbers(case["case"], output, comparison, rung.get("gate") or {}))
    products = manifest.precision.get("products", {})
    if products:
        executed = ", ".join(f"{count} in {precision}" for precision, count in products.items())
        lines.append(f"Asked was {manifest.precision['asked']}; matrix products executed here: {executed}.")
    return lines


def _numbers(case: str, output: str, found: Mapping[str, Any], gate: Mapping[str, Any]) -> Iterator[str]:
    """How far off an output is on one case of clips."""
    error = found.get("error")
    if error is None:
        return
    around = "" if found["kind"] == "features" else " around their mean"
    allowed = f" ({_value(gate['max_error'])} is allowed)" if gate.get("max_error") is not None else ""
    middle, worst, cosine = (
        _value(error["p50"]), _value(error["max"]), _value(found["cosine"]["min"], ".6f"),
    )  # fmt: skip
    yield (
        f"On {case}, {output}{around} differ by {middle} of their spread on the median clip and by {worst} on the "
        f"worst{allowed}; their cosine is {cosine} at least."
    )
    if "mean_distance" in found:
        yield f"Probabilities differ by {found['mean_distance']:.2%} on average."
    ranked = [found[name] for name in ("ranking_clips", "ranking_classes") if name in found]
    if ranked:
        what = "neighbours by cosine" if found["kind"] == "features" else "classes of a clip, and clips of a class,"
        yield f"{what.capitalize()} that the model tells apart keep their order in {min(ranked):.2%} of all pairs."


def not_proved(manifest: Manifest) -> list[str]:
    """What was not proved, and why, a sentence each."""
    lines = [f"Stage {rung['name']}: {rung['note']}." for rung in manifest.parity if rung["status"] == "skipped"]
    name, cases = clip_cases_of(manifest.parity)
    whose = {case["clips"] for case in cases}
    if manifest.model["random_weights"]:
        lines.append(
            "That classes mean anything: the weights are random. Fewer clips prove the numbers of a large model."
        )
    elif whose and "yours" not in whose:
        lines.append("Anything about your own clips: these were made by kdcmae. --clips FOLDER proves it on yours.")
    if not manifest.model["random_weights"]:
        lines.extend(_few_clips(cases, more_run=name == "artifact"))
    if not cases:
        lines.append("Anything on clips: no stage ran any.")
    if cases and name != "artifact":
        lines.append(f"That the finished folder computes the same: the last stage that ran clips is {name}.")
    for claim in manifest.precision.get("claims", ()):
        if claim.get("checked"):
            lines.append(f"That {claim['layers']} execute in {claim['claimed']}: {claim['checked']}.")
        elif claim.get("holds") is None:
            lines.append(f"That {claim['layers']} execute in {claim['claimed']}: the library does not report it.")
    if not any(rung["name"] == "trained" for rung in manifest.parity):
        lines.append(
            "That the PyTorch model here computes what your own code computes: --expect FILE compares them first."
        )
    return lines


def _few_clips(cases: Sequence[Mapping[str, Any]], *, more_run: bool) -> Iterator[str]:
    """What few clips say of the classes of new ones; nothing where they are many, or have no classes.

    Args:
        more_run: the stage that ran them runs as many as are asked for.
    """
    total = sum(case["samples"] for case in cases)
    if not 0 < total < _MANY or any(case.get("strict") is None for case in cases):
        return
    same = round(sum(case["strict"] * case["samples"] for case in cases))
    says = f"{total} clips, of which {same} do, are too few to say how many."
    if same == total:
        says = (
            f"{total} clips that all do say, with a confidence of 95 %, that at least {0.05 ** (1 / total):.0%} of "
            "new ones do."
        )
    more = f" A build of a large model runs few; --proof-clips {_MANY} runs more"
    advice = f"{more}, for at least {0.05 ** (1 / _MANY):.0%}." if same == total else f"{more}."
    yield f"That new clips keep their class: {says}{advice if more_run else ''}"


def _value(value: float | None, style: str = "") -> str:
    if value is None:
        return "not finite"
    return format(value, style or (".2%" if value >= 1e-3 or not value else ".1e"))
