"""A benchmark's report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterator

from kdcmae.bench.report.records import Agreement, Report, Row
from kdcmae.bench.report.tables import Table, conditions, name, remarks, tables
from kdcmae.drawing import charts
from kdcmae.drawing.markup import Html, page, section, table, tag

__all__ = ["precision_colour", "render_page", "table_section"]

_PRECISIONS = ("fp32", "bf16", "fp16", "int8", "fp8")


def render_page(report: Report) -> str:
    """The page: charts first, then every table, then what could not be measured."""
    cards: list[Html] = []
    for model in dict.fromkeys(row.case.model for row in report.rows):
        cards += _model_cards(report, model)
    cards += [table_section(one, wide=True) for one in tables(report)]
    said = list(remarks(report))
    if said:
        cards.append(section("Remarks", tag("ul", *(tag("li", line) for line in said)), wide=True))
    return page("kdcmae benchmark", conditions(report), cards)


def table_section(shown: Table, *, wide: bool) -> Html:
    """A table of a report as a part of its page; every column but the first is flush right."""
    names, *others = shown.head
    return section(shown.title, table((names, *(f"{name}#" for name in others)), shown.rows), wide=wide)


def _model_cards(report: Report, model: str) -> Iterator[Html]:
    rows = [row for row in report.rows if row.case.model == model and row.latency is not None]
    prefix = f"{model}: " if model else ""
    timed = sorted((row for row in rows if row.case.kind == "latency"), key=_p50)
    if timed:
        title = f"{prefix}latency, batch {timed[0].case.batch}"
        yield section(title, charts.bars(title, [_bar(row) for row in timed], unit="ms"), note=_LATENCY_NOTE)
    known = [row for row in timed if row.accuracy]
    if known:
        title = f"{prefix}accuracy against latency"
        drawn = charts.scatter(title, _pareto(known), x_label="median latency in ms", y_label="accuracy in %")
        yield section(title, drawn, note="The dashed line joins those that nothing beats in both.")
    swept = [row for row in rows if row.case.kind == "batch"]
    if swept:
        title = f"{prefix}throughput over the batch"
        yield section(title, charts.lines(title, _lines(swept), x_label="batch", y_label="samples per second"))
    trips = {name(row): row.stages_ms for row in rows if row.stages_ms}
    if trips:
        title = f"{prefix}from clip to label, by stage"
        yield section(title, charts.stacked(title, trips, unit="ms"), note="Medians; a ten-second clip.")
    spread = [row for row in rows if row.case.kind == "threads"]
    if spread:
        title = f"{prefix}throughput over instances and threads"
        bars = [
            charts.Bar(
                label=f"{row.case.subject}, {row.case.instances} x {row.case.threads} threads",
                value=row.throughput_samples_per_s or 0,
                colour=_colour(row),
            )
            for row in spread
        ]
        yield section(title, charts.bars(title, bars, unit="samples/s"), note=_INSTANCES_NOTE)
    starts = [row for row in rows if row.case.kind == "cold start"]
    if starts:
        title = f"{prefix}cold start"
        drawn = charts.bars(title, [_bar(row) for row in starts], unit="ms")
        yield section(title, drawn, note="From starting a process to its first label.")
    for one in report.agreement:
        if one.model == model and len(one.subjects) > 1:
            yield section(f"{prefix}agreement", _matrix(one), note=_agreement_note(one), wide=True)


_LATENCY_NOTE = "Median, whisker to the 99th percentile; behind it the accuracy, where the model has learnt anything."
_INSTANCES_NOTE = "Independent copies that run at the same time, each pinned to CPUs of its own."


def _p50(row: Row) -> float:
    return row.latency.p50_ms if row.latency else 0.0


def _bar(row: Row) -> charts.Bar:
    assert row.latency is not None
    notes = [f"{row.accuracy.top1:.1%}"] if row.accuracy else []
    notes += ["unstable"] if row.status == "unstable" else []
    return charts.Bar(
        label=name(row), value=row.latency.p50_ms, high=row.latency.p99_ms, note=", ".join(notes), colour=_colour(row)
    )


def _colour(row: Row) -> int:
    return precision_colour(row.computes_in or "")


def precision_colour(computes_in: str) -> int:
    """Which of the page's colours stands for what a subject computes in: one per precision, the others together."""
    return next((index for index, name in enumerate(_PRECISIONS) if name in computes_in), len(_PRECISIONS))


def _pareto(rows: list[Row]) -> list[charts.Point]:
    """Points from the fastest on; one that is better than all before it is on the front."""
    points, best = [], -1.0
    for row in rows:
        top1 = row.accuracy.top1 if row.accuracy else 0.0
        points.append(charts.Point(label=name(row), x=_p50(row), y=100 * top1, marked=top1 > best))
        best = max(best, top1)
    return points


def _lines(rows: list[Row]) -> list[charts.Line]:
    subjects = dict.fromkeys(row.case.subject for row in rows)
    return [
        charts.Line(
            label=subject,
            points=tuple(
                (row.case.batch, row.throughput_samples_per_s or 0) for row in rows if row.case.subject == subject
            ),
        )
        for subject in subjects
    ]


def _matrix(one: Agreement) -> Html:
    count = len(one.subjects)
    cells = [
        [
            (f"{one.flips[row][column]}\n{one.cosine[row][column]:.4f}", 4 * one.flips[row][column] / one.clips)
            if row != column
            else None
            for column in range(count)
        ]
        for row in range(count)
    ]
    return charts.matrix(f"{one.model} agreement", one.subjects, cells)


def _agreement_note(one: Agreement) -> str:
    return (
        f"{one.data}: between every two subjects, clips whose best class differs (above) and the smallest cosine of "
        "their outputs (below)."
    )
