"""Device cards side by side: the precision, speed and error of each engine on each device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from operator import itemgetter, methodcaller
from pathlib import Path
from typing import Any

from kdcmae.bench.report.envelope import from_plain, stamp
from kdcmae.bench.report.rendering import html_table, precision_colour, precision_legend
from kdcmae.bench.report.table import Column, Table, Tone, megabytes, percent, table
from kdcmae.cards import BOUNDARIES, SCHEMA_VERSION, DeviceCard
from kdcmae.drawing import charts
from kdcmae.drawing.charts import number
from kdcmae.drawing.markup import page, section, tag
from kdcmae.errors import DataError
from kdcmae.files.text import read_json

__all__ = ["fleet_conditions", "fleet_document", "fleet_tables", "read_card", "render_fleet"]

_MEASURED = {"load_ms": "load", "first_inference_ms": "first", "peak_rss_bytes": "peak"}
_NOT_REPORTED = "not reported"
_LABEL = 58  # characters of a bar's label that fit on a page


def read_card(path: Path) -> DeviceCard:
    """Read a device card.

    Raises:
        DataError: no such file, not a device card, or of another schema version.
    """
    fix = "write one on the device with: kdcmae check ENGINE --json"
    try:
        content = read_json(path)
    except DataError as error:
        raise DataError(f"{error}; {fix}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(f"{path} has schema version {version!r}, not that of a device card, {SCHEMA_VERSION}; {fix}")
    content.pop("boundaries", None)
    try:
        card: DeviceCard = from_plain(DeviceCard, content)
        fleet_conditions([card])  # a fact of the device that is not there shows where it is used
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not a device card: {error}; {fix}") from error
    return card


def fleet_document(cards: Sequence[DeviceCard]) -> dict[str, Any]:
    """The cards, with the names of engines and devices that the tables use, as plain data."""
    engines = _engine_names(cards)
    return {
        **stamp("fleet", measures=False),
        "boundaries": dict(BOUNDARIES),
        "rows": [
            {
                "engine": engines[card.engine.digest],
                "device": _device_name(card),
                "computes_in": card.computes_in,
                "claims": _claims(card),
                "card": asdict(card),
            }
            for card in _sorted(cards)
        ],
    }


def fleet_conditions(cards: Sequence[DeviceCard]) -> list[str]:
    """Devices, libraries and measured quantities that the figures depend on, one per line."""
    devices = dict.fromkeys(map(_device_name, cards))
    engines = {card.engine.digest for card in cards}
    checked = sorted(card.created for card in cards)
    lines = [
        f"cards: {len(cards)}, devices: {len(devices)}, engines: {len(engines)}; checked {checked[0]} to {checked[-1]}",
        *(f"{_MEASURED.get(name, name)}: {covers}" for name, covers in BOUNDARIES.items()),
        "error: largest difference from the reference outputs of the self-test, over their largest value",
    ]
    for device in devices:
        own = [card for card in cards if _device_name(card) == device]
        host = own[0].device.host
        libraries = sorted({f"{name} {version}" for card in own for name, version in card.device.libraries.items()})
        lines.append(
            f"{device}: {host['cpus']} CPUs, {host['system']} {host['machine']}, Python {host['python']}, "
            f"{', '.join(libraries)}"
        )
    return lines


def fleet_tables(cards: Sequence[DeviceCard]) -> list[Table]:
    """An overview of engines by device per model, every figure, and the claims that do not hold or cannot be told."""
    engines = _engine_names(cards)
    tables = []
    for model in dict.fromkeys(card.engine.model for card in cards):
        own = _sorted([card for card in cards if card.engine.model == model])
        tables.append(_overview(f"{model}: what executes, and the median latency in ms", own, engines))
        tables.append(table(f"{model}: engines on devices, times in ms", _columns(engines), own))
    doubtful = [
        (engines[card.engine.digest], _device_name(card), verdict)
        for card in _sorted(cards)
        for verdict in card.verdicts
        if verdict.outcome != "holds"
    ]
    left = partial(Column, align="left")
    columns = (
        left(title="engine", value=lambda row: row[0]),
        left(title="device", value=lambda row: row[1]),
        left(title="claim", value=lambda row: row[2].claim),
        left(title="found", value=lambda row: row[2].found),
        left(
            title="here",
            value=lambda row: row[2].outcome,
            tone=lambda outcome: "bad" if outcome == "does not hold" else "idle",
        ),
    )
    tables.append(table("claims that fail or are open", columns, doubtful))
    return [filled for filled in tables if filled.rows]


def _columns(engines: Mapping[str, str]) -> tuple[Column, ...]:
    """Columns of every figure of a card."""
    left = partial(Column, align="left")
    return (
        left(title="engine", value=lambda card: engines[card.engine.digest]),
        left(title="device", value=_device_name),
        left(title="executes", value=lambda card: card.computes_in or _NOT_REPORTED),
        left(title="claims", value=lambda card: card, text=_claims, tone=_claims_tone),
        Column(title="error (allowed)", value=lambda card: card, text=_error),
        Column(title="p50", value=lambda card: card.timings.latency.p50_ms, text=number),
        Column(title="p90", value=lambda card: card.timings.latency.p90_ms, text=number),
        Column(title="p99", value=lambda card: card.timings.latency.p99_ms, text=number),
        Column(title="variation", value=lambda card: card.timings.latency.coefficient_of_variation, text=percent()),
        Column(title="calls", value=lambda card: card.timings.latency.count),
        Column(title="load", value=lambda card: card.timings.load_ms, text=number),
        Column(title="first", value=lambda card: card.timings.first_inference_ms, text=number),
        Column(title="peak MB", value=lambda card: card.timings.peak_rss_bytes, text=megabytes()),
    )


def render_fleet(cards: Sequence[DeviceCard]) -> str:
    """One self-contained page: latencies by model, then every table, then what the figures depend on."""
    engines, (counts, *conditions) = _engine_names(cards), fleet_conditions(cards)
    sections = []
    for model in dict.fromkeys(card.engine.model for card in cards):
        title = f"{model}: latency"
        drawn = charts.bars(title, list(_bars(cards, model, engines)), unit="ms")
        legend = precision_legend(card.computes_in for card in cards if card.engine.model == model)
        sections.append(section(title, legend, drawn, note="Median, whisker to the 99th percentile."))
    sections += [section(shown.title, html_table(shown), wide=True) for shown in fleet_tables(cards)]
    sections.append(section("Conditions", tag("ul", *(tag("li", line) for line in conditions)), wide=True))
    return page("kdcmae fleet", [counts], sections)


def _bars(cards: Sequence[DeviceCard], model: str, engines: Mapping[str, str]) -> Iterator[charts.Bar]:
    own = [card for card in cards if card.engine.model == model]
    for card in sorted(own, key=lambda card: card.timings.latency.p50_ms):
        notes = [card.computes_in or "precision not reported", *(["claims fail"] if card.failed else [])]
        yield charts.Bar(
            label=charts.cut(f"{engines[card.engine.digest]} on {_device_name(card)}", _LABEL),
            value=card.timings.latency.p50_ms,
            high=card.timings.latency.p99_ms,
            note=", ".join(notes),
            colour=precision_colour(card.computes_in),
        )


def _overview(title: str, cards: Sequence[DeviceCard], engines: Mapping[str, str]) -> Table:
    devices = dict.fromkeys(map(_device_name, cards))
    cells: dict[str, dict[str, list[DeviceCard]]] = defaultdict(lambda: defaultdict(list))
    for card in cards:
        cells[engines[card.engine.digest]][_device_name(card)].append(card)
    columns = [Column(title="engine", value=itemgetter("engine"), align="left")]
    columns += [
        Column(
            title=device,
            value=methodcaller("get", device),
            text=lambda own: " and ".join(map(_latency, own)),
            tone=lambda own: "bad" if any(card.failed for card in own) else "",
        )
        for device in devices
    ]
    return table(title, columns, ({"engine": engine, **by_device} for engine, by_device in cells.items()))


def _latency(card: DeviceCard) -> str:
    latency = f"{card.computes_in or _NOT_REPORTED}: {number(card.timings.latency.p50_ms)}"
    return f"{latency}, claims fail" if card.failed else latency


def _error(card: DeviceCard) -> str:
    error = "not finite" if card.error is None else f"{card.error:.1e}"
    return f"{error} ({card.tolerance:.0e})"


def _unknown(card: DeviceCard) -> int:
    """Number of claims that nobody can check on the device."""
    return sum(verdict.outcome == "cannot be told" for verdict in card.verdicts)


def _claims_tone(card: DeviceCard) -> Tone:
    return "bad" if card.failed else "idle" if _unknown(card) else "good"


def _claims(card: DeviceCard) -> str:
    if card.failed:
        return f"{len(card.failed)} of {len(card.verdicts)} FAILED"
    unknown = _unknown(card)
    return f"hold, but {unknown} cannot be told" if unknown else "hold"


def _sorted(cards: Sequence[DeviceCard]) -> list[DeviceCard]:
    """Cards by model and device, the fastest first."""
    return sorted(cards, key=lambda card: (card.engine.model, _device_name(card), card.timings.latency.p50_ms))


def _device_name(card: DeviceCard) -> str:
    """The processor and whatever else tells one device from another."""
    device = card.device
    parts = [device.name, str(device.host["cpu"]) or str(device.host["machine"]), device.cpu_class]
    parts.append(f"oneDNN capped to {device.cpu_cap}" if device.cpu_cap else "")
    parts.append(device.runs_on if device.runs_on.upper() != "CPU" else "")
    parts.append(f"threads: {device.threads}" if device.threads else "")
    return ", ".join(filter(None, parts))


def _engine_names(cards: Sequence[DeviceCard]) -> dict[str, str]:
    """A name for each engine by its digest: its target and precision, and more where several engines share them."""
    engines = {card.engine.digest: card.engine for card in cards}
    names: dict[str, str] = {}
    for digest, engine in engines.items():
        batch = f", batch {engine.batch}" if engine.batch > 1 else ""
        names[digest] = f"{engine.target} {engine.asked}{batch}"
    for more in (lambda engine: Path(engine.folder).name, lambda engine: engine.digest[:8]):
        shared = [name for name in names.values() if list(names.values()).count(name) > 1]
        names = {
            digest: f"{name} ({more(engines[digest])})" if name in shared else name for digest, name in names.items()
        }
    return names
