"""The page itself: every section reads the manifest, and names the command that measures what it lacks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdcmae.compile.latency import describe_speed
from kdcmae.compile.report.notes import accuracy_line, clip_lines, how_rungs_ran, variant_lines, what_stays_float32
from kdcmae.compile.report.proof import QUANTILES, clip_cases_of, not_proved, proved
from kdcmae.compile.report.use import use
from kdcmae.drawing.charts import Bar, Point, bars, scatter
from kdcmae.drawing.markup import Html, document, section, table, tag
from kdcmae.runtime.facts import describe_parts
from kdcmae.runtime.folders import file_sizes
from kdcmae.runtime.manifest import Manifest

__all__ = ["REPORT_FILE", "render", "write"]

REPORT_FILE = "report.html"

_VERDICTS = {True: ("holds", "good"), False: ("differs", "bad"), None: ("not checked on this machine", "idle")}
_WIDE = ("app", "proof", "parity")
_STATUS = {"passed": "good", "failed": "bad", "skipped": "idle"}


def write(manifest: Manifest, folder: Path) -> None:
    """Write ``report.html`` into an engine folder.

    Args:
        folder: the engine folder, complete but for this page and the final manifest.
    """
    sizes = {name: size for name, size in file_sizes(folder).items() if name != REPORT_FILE}
    (folder / REPORT_FILE).write_text(render(manifest, sizes), encoding="utf-8", errors="backslashreplace")


def render(manifest: Manifest, sizes: Mapping[str, int]) -> str:
    """The page as HTML.

    Args:
        sizes: bytes of its files by name.
    """
    name = f"{manifest.model['name']} for {manifest.target}, {manifest.precision['asked']}"
    sections = {
        "app": ("In an app", use(manifest)),
        "proof": ("What was proved", _proof(manifest)),
        "parity": ("Parity", _ladder(manifest.parity)),
        "precision": ("Precision", _precision(manifest.precision)),
        "speed": ("Speed", _latency(manifest.build)),
        "choices": ("Choices", _pareto(manifest.build)),
        "layers": ("Layers", _sensitivity(manifest.precision)),
        "build": ("Build", _timings(manifest.build)),
        "files": ("Files", _sizes(sizes)),
        "environment": ("Environment", _environment(manifest)),
    }
    links = tag("nav", *(tag("a", title, href=f"#{anchor}") for anchor, (title, _) in sections.items()))
    cards = (
        tag("div", card, id=anchor, class_="wide" if anchor in _WIDE else "") for anchor, (_, card) in sections.items()
    )
    return document(name, _head(name, manifest, sizes, links), tag("main", *cards))


def _head(name: str, manifest: Manifest, sizes: Mapping[str, int], links: Html) -> Html:
    model = manifest.model
    skipped = [rung["note"] for rung in manifest.parity if rung["status"] == "skipped"]
    failed = [rung["name"] for rung in manifest.parity if rung["status"] == "failed"]
    if failed:
        verdict = tag("strong", f"failed at {failed[0]}", class_="bad")
    elif skipped:
        verdict = tag("strong", skipped[-1], class_="idle")
    else:
        verdict = tag("strong", "built and verified", class_="good")
    batch = manifest.batch
    batches = (
        f"batch {batch.min}" if batch.min == batch.max else f"batch {batch.min} to {batch.max}, tuned for {batch.opt}"
    )
    lines = [
        tag("h1", name),
        tag("p", verdict, f" · {manifest.created} · {batches}"),
        tag(
            "p",
            f"{model['parameters'] / 1e6:.1f} M parameters, {model['modality']}, from {model['source']}",
            class_="soft",
        ),
    ]
    if assumed := model.get("assumed"):
        lines.append(
            tag("p", f"The checkpoint does not say how its inputs were made; assumed: {assumed}.", class_="idle")
        )
    if model["random_weights"]:
        lines.append(
            tag("p", "Random weights: the engine is for trying things out, its labels mean nothing.", class_="idle")
        )
    return tag("header", *lines, tag("ul", *(tag("li", line) for line in _in_short(manifest, sizes))), links)


def _in_short(manifest: Manifest, sizes: Mapping[str, int]) -> Iterator[str]:
    """What people ask first: how fast, how accurate, how large."""
    if latency := manifest.build.get("latency"):
        cpu = manifest.build.get("host", {}).get("cpu") or "this machine"
        yield f"{_ms(latency['median_ms'])} for a batch of {latency['batch']} on {cpu}, measured in passing"
    if accuracy := manifest.precision.get("accuracy"):
        yield accuracy_line(accuracy)
    yield f"{sum(sizes.values()) / 1e6:,.1f} MB of files"


def _proof(manifest: Manifest) -> Html:
    """What was proved and what was not, in words, and how it is distributed over the clips."""
    shown = proved(manifest)
    missing = not_proved(manifest)
    _, cases = clip_cases_of(manifest.parity)
    rows = [
        (f"{output}, {measure}", case["case"], *(_number(comparison[measure][name], style) for name in QUANTILES))
        for case in cases
        for output, comparison in case["outputs"].items()
        for measure, style in (("error", ".1e"), ("cosine", ".6f"), ("distance", ".2%"))
        if measure in comparison
    ]
    header = ("per clip", "clips", "least#", "5 %#", "25 %#", "middle#", "75 %#", "95 %#", "most#")
    return section(
        "What was proved, and what was not",
        tag("h3", "Proved") if shown else "",
        tag("ul", *(tag("li", line) for line in shown)) if shown else "",
        tag("h3", "Not proved"),
        tag("ul", *(tag("li", line) for line in missing)) if missing else tag("p", "Nothing is missing."),
        table(header, rows, caption="Distribution over the clips") if rows else "",
        wide=True,
    )


def _ladder(rungs: list[dict[str, Any]]) -> Html:
    climbed = [rung for rung in rungs if rung.get("cases")]
    rows = [
        (
            rung["name"],
            tag("span", rung["status"], class_=_STATUS.get(rung["status"], "")),
            _worst(rung["errors"].values(), max, ".1e"),
            _number(rung.get("tolerance"), ".0e"),
            _worst(rung.get("cosines", {}).values(), min, ".7f"),
            _number(rung.get("strict"), ".1%"),
            _number(rung.get("agreement"), ".1%"),
        )
        for rung in rungs
    ]
    header = ("rung", "result", "largest error#", "allowed#", "smallest cosine#", "same class#", "with ties#")
    plot = [
        Bar(
            label=rung["name"],
            value=max((error for error in rung["errors"].values() if error is not None), default=0.0),
            text=_worst(rung["errors"].values(), max, ".1e"),
            limit=rung["tolerance"],
        )
        for rung in climbed
    ]
    title = "Largest error of every stage"
    detail = [
        (
            rung["name"],
            case["case"],
            str(case.get("samples", case["batch"])),
            output,
            _number(error, ".2e"),
            f"{case['cosines'][output]:.8f}",
        )
        for rung in climbed
        for case in rung["cases"]
        for output, error in case["errors"].items()
    ]
    every = table(("rung", "case", "samples#", "output", "error#", "cosine#"), detail)
    return section(
        "Parity with the PyTorch model in float32",
        bars(title, plot, unit="", logarithmic=True) if plot else "",
        tag(
            "p",
            "Largest error of a sample relative to its spread, of logits around their mean, logarithmic; the mark is "
            "what is allowed. A tie is excused only where the model separates two classes by less than the precision "
            "blurs.",
            class_="soft",
        ),
        table(header, rows),
        *(tag("p", line, class_="soft") for line in how_rungs_ran(rungs)),
        tag("details", tag("summary", "every case and output"), every) if detail else "",
    )


def _precision(precision: Mapping[str, Any]) -> Html:
    rows = [
        (
            claim["layers"],
            claim["claimed"],
            _counts(claim["executed"]) or "not reported",
            tag("span", claim.get("checked") or verdict, class_=style),
        )
        for claim in precision.get("claims", ())
        for verdict, style in [_VERDICTS[claim["holds"]]]
    ]
    executed = [(kind, _counts(counts)) for kind, counts in precision.get("executed", {}).items()]
    kinds = tag(
        "details", tag("summary", "every layer class of the library"), table(("layer", "executes in"), executed)
    )
    return section(
        "Precision claimed and executed",
        tag(
            "p", f"What executes is read from {precision.get('read_from', 'what the library reports')}.", class_="soft"
        ),
        table(("layers", "claimed", "executes in", ""), rows),
        *(tag("p", f"{title}: {line}") for title, line in clip_lines(precision)),
        *(tag("p", line) for line in what_stays_float32(precision)),
        kinds if executed else "",
    )


def _latency(build: Mapping[str, Any]) -> Html:
    latency = build.get("latency")
    if not latency:
        return section("Latency", _missing("not measured", "kdcmae-bench FOLDER"))
    measured = tag(
        "p",
        f"median {_ms(latency['median_ms'])}, nine in ten within {_ms(latency['p90_ms'])}, at batch {latency['batch']}",
    )
    load = f"with a load of {latency['load']:.1f} before them" if "load" in latency else "on the machine below"
    how = f"{latency['runs']} runs right after the build, {load}; to measure with care: "
    speed = build.get("speed")
    beside = tag("p", describe_speed("The quantised graph", speed)) if speed else ""
    how_to = tag("p", how, tag("code", "kdcmae-bench FOLDER"), class_="soft")
    return section("Latency", measured, beside, how_to, *_variants(build))


def _variants(build: Mapping[str, Any]) -> Iterator[Html]:
    """The variants of the graph that were timed."""
    timings = build.get("variants", {}).get("timings", ())
    if not timings:
        return
    rows = [
        (
            timing["variant"],
            _ms(timing["median_ms"]),
            f"{timing['speed']:.2f}",
            f"{timing['speed_low']:.2f} to {timing['speed_high']:.2f}",
        )
        for timing in timings
    ]
    header = ("graph", "median#", "times as fast#", "half of the turns#")
    yield table(header, rows, caption="Variants of the graph, in turns")
    yield from (tag("p", line) for line in variant_lines(build))


def _ms(value: float) -> str:
    """Milliseconds with three significant digits, and never an exponent."""
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _missing(what: str, command: str) -> Html:
    """One line in the place of what was not measured."""
    return tag("p", f"{what}: run ", tag("code", command), class_="soft")


def _sensitivity(precision: Mapping[str, Any]) -> Html:
    sensitivity = precision.get("sensitivity")
    title = "Sensitivity of layers to quantisation"
    if not sensitivity:
        return section(
            title, _missing("not measured", "kdcmae-compile --target openvino --precision int8 --max-drop POINTS")
        )
    ranked = sorted(sensitivity.items(), key=lambda item: -item[1])
    rows = [Bar(label=layer, value=value, text=f"{value:.2e}") for layer, value in ranked]
    return section(f"{title}, most sensitive first", bars(title, rows, unit=""))


def _pareto(build: Mapping[str, Any]) -> Html:
    trials = build.get("search", {}).get("trials", ())
    points = [
        Point(
            label=f"{trial['precision']}, {trial['keep']:.0%} of the tokens",
            x=min(trial["latency_ms"].values()),
            y=-trial["drop"],
        )
        for trial in trials
        if trial["latency_ms"] and trial["drop"] is not None
    ]
    title = "Accuracy against latency of what was tried"
    if not points:
        return section(title, _missing("nothing else was tried", "kdcmae-compile --budget-ms MILLISECONDS"))
    accuracy = build["search"].get("accuracy")
    return section(
        title,
        scatter(title, points, x_label="latency in ms", y_label="accuracy gained or lost, in points"),
        tag("p", accuracy_line(accuracy)) if accuracy else "",
    )


def _sizes(sizes: Mapping[str, int]) -> Html:
    rows = [Bar(label=name, value=size / 1e6, text=f"{size / 1e6:,.2f} MB") for name, size in sizes.items()]
    title = f"Files, {sum(sizes.values()) / 1e6:,.1f} MB"
    return section(title, bars(title, rows, unit="MB"))


def _timings(build: Mapping[str, Any]) -> Html:
    seconds = build.get("seconds", {})
    rows = [Bar(label=name, value=value, text=f"{value:.1f} s") for name, value in seconds.items()]
    peak = build.get("peak_rss_bytes")
    memory = f", {peak / 1e9:.2f} GB of memory at most" if peak else ""
    title = f"Build, {sum(seconds.values()):.0f} s{memory}"
    return section(title, bars(title, rows, unit="s"))


def _environment(manifest: Manifest) -> Html:
    facts = {"kdcmae": manifest.kdcmae_version, **manifest.libraries, **manifest.build.get("host", {})}
    options = {
        f"engine {key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in manifest.engine.items()
        if key != "parts"
    }
    options.update({f"engine part {name}": part for name, part in describe_parts(manifest.engine).items()})
    rows = [(key, str(value)) for key, value in {**facts, **options}.items()]
    return section("Environment", table(("what", "value"), rows))


def _worst(values: Any, choose: Any, style: str) -> str:
    known = list(values)
    if not known:
        return "-"
    return "not finite" if None in known else format(choose(known), style)


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} in {precision}" for precision, count in counts.items())
