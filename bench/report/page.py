"""A benchmark's report as one self-contained HTML page: the verdict first, the conditions last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdcmae.bench.report.records import Agreement, Report, Row
from kdcmae.bench.report.rendering import html_table, precision_colour, precision_legend
from kdcmae.bench.report.summary import conditions, doubts, verdict
from kdcmae.bench.report.table import on_front
from kdcmae.bench.report.tables import TITLES, absent, fastest_first, models, overview, rows_of, tables
from kdcmae.drawing import charts, matrices
from kdcmae.drawing.markup import Html, document, section, tag

__all__ = ["render_page"]

_LATENCY_NOTE = "Median, whisker to the 99th percentile; behind it the accuracy of a trained model."
_INSTANCES_NOTE = "Independent copies that run at the same time, each pinned to CPUs of its own."
_DETAILS, _CONDITIONS = "details", "conditions"


def render_page(report: Report) -> str:
    """The page: per model the verdict, its table and charts; then every table; then how it was measured."""
    host = report.environment["host"]
    chapters = {f"model-{number}": model for number, model in enumerate(models(report), start=1)}
    links = {anchor: _heading(model) for anchor, model in chapters.items()}
    links |= {_DETAILS: "All figures", _CONDITIONS: "How this was measured"}
    cards: list[Html] = []
    for anchor, model in chapters.items():
        cards += [_chapter(links[anchor], anchor), *_model_cards(report, model)]
    cards += [_chapter(links[_DETAILS], _DETAILS), *_details(report)]
    cards += [_chapter(links[_CONDITIONS], _CONDITIONS), section("Conditions", _listed(conditions(report)), wide=True)]
    head = tag(
        "header",
        tag("h1", "kdcmae benchmark"),
        tag("p", f"{host['cpu'] or host['machine']}, {report.settings.threads} threads, {report.created[:10]}"),
        *_warning(report),
        tag("nav", *(tag("a", title, href=f"#{anchor}") for anchor, title in links.items())),
    )
    return document("kdcmae benchmark", head, tag("main", *cards))


def _heading(model: str) -> str:
    return TITLES.get(model, model) or "Engines and models"


def _chapter(title: str, anchor: str) -> Html:
    return tag("h2", title, class_="chapter", id=anchor)


def _listed(lines: Sequence[str]) -> Html:
    return tag("ul", *(tag("li", line) for line in lines))


def _warning(report: Report) -> list[Html]:
    problems = report.self_check.problems if report.self_check else ()
    text = f"The machine was not fit for measuring: {'; '.join(problems)}. Do not quote these figures."
    return [tag("p", text, class_="bad")] if problems else []


def _model_cards(report: Report, model: str) -> Iterator[Html]:
    best = verdict(report, model)
    if best is not None:
        speed = (tag("p", f"{best.row.speed.ratio:.2f}x as fast", class_="headline"),) if best.row.speed else ()
        said = "; ".join(filter(None, (best.latency, best.speed, best.answers)))
        yield section(f"{best.condition}: {best.row.case.subject}", *speed, tag("p", f"{said}."), wide=True)
    shown = overview(report, model)
    if shown.rows:
        yield section("Engines and peers, the fastest first", html_table(shown), wide=True)
    yield from _charts(report, model)
    reasons = absent(report, model)
    if reasons:
        yield section("Not measured here", _listed(reasons), wide=True)


def _charts(report: Report, model: str) -> Iterator[Html]:
    timed = fastest_first(rows_of(report, model))
    if timed:
        title = f"Latency, batch {timed[0].case.batch}"
        yield section(
            title, _legend(timed), charts.bars(title, [_bar(row) for row in timed], unit="ms"), note=_LATENCY_NOTE
        )
    known = [row for row in timed if row.accuracy]
    if known:
        title = "Accuracy against latency"
        drawn = charts.scatter(title, _points(known), x_label="median latency in ms", y_label="accuracy in %")
        yield section(title, drawn, note="The dashed line joins those that nothing beats in both.")
    swept = [row for row in rows_of(report, model, "batch") if row.latency]
    if swept:
        title = "Throughput over the batch"
        yield section(title, charts.lines(title, _lines(swept), x_label="batch", y_label="samples per second"))
    trips = {row.case.subject: row.stages_ms for row in rows_of(report, model, "clip to label") if row.stages_ms}
    if trips:
        title = "From clip to label, by stage"
        yield section(title, charts.stacked(title, trips, unit="ms"), note="Medians; a ten-second clip.")
    spread = [row for row in rows_of(report, model, "threads") if row.latency]
    if spread:
        title = "Throughput over instances and threads"
        drawn = charts.bars(title, [_instances(row) for row in spread], unit="samples/s")
        yield section(title, _legend(spread), drawn, note=_INSTANCES_NOTE)
    starts = [row for row in rows_of(report, model, "cold start") if row.latency]
    if starts:
        title = "Cold start"
        drawn = charts.bars(title, [_bar(row) for row in starts], unit="ms")
        yield section(title, _legend(starts), drawn, note="From starting a process to its first label.")


def _details(report: Report) -> Iterator[Html]:
    """Every table and the agreement of every two subjects, folded away; then the remarks."""
    for shown in tables(report, beside_overview=True):
        yield _folded(shown.title, html_table(shown))
    for agreement in report.agreement:
        if len(agreement.subjects) > 1:
            title = f"{agreement.model}: agreement" if agreement.model else "agreement"
            note = tag("p", _agreement_note(agreement), class_="note")
            yield _folded(title, note, _matrix(agreement, rows_of(report, agreement.model)))
    remarks = list(doubts(report))
    if remarks:
        yield section("Remarks", _listed(remarks), wide=True)


def _folded(title: str, *content: Html) -> Html:
    return tag("section", tag("details", tag("summary", title), *content), class_="card wide folded")


def _legend(rows: Sequence[Row]) -> Html:
    return precision_legend(row.computes_in for row in rows)


def _bar(row: Row) -> charts.Bar:
    assert row.latency is not None
    notes = [f"{row.accuracy.top1:.1%}"] if row.accuracy else []
    notes += ["unstable"] if row.status == "unstable" else []
    return charts.Bar(
        label=row.case.subject,
        value=row.latency.p50_ms,
        high=row.latency.p99_ms,
        note=", ".join(notes),
        colour=precision_colour(row.computes_in),
    )


def _instances(row: Row) -> charts.Bar:
    return charts.Bar(
        label=f"{row.case.subject}, {row.case.instances} x {row.case.threads} threads",
        value=row.throughput_samples_per_s or 0,
        colour=precision_colour(row.computes_in),
    )


def _points(rows: Sequence[Row]) -> list[charts.Point]:
    """Accuracy in per cent over latency; those on the front are marked."""
    places = [(row.latency.p50_ms, row.accuracy.top1) for row in rows if row.latency and row.accuracy]
    front = on_front([(latency_ms, -top1) for latency_ms, top1 in places])
    return [
        charts.Point(label=row.case.subject, x=latency_ms, y=100 * top1, marked=best)
        for row, (latency_ms, top1), best in zip(rows, places, front, strict=True)
    ]


def _lines(rows: Sequence[Row]) -> list[charts.Line]:
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        points.setdefault(row.case.subject, []).append((row.case.batch, row.throughput_samples_per_s or 0))
    return [charts.Line(label=subject, points=tuple(line)) for subject, line in points.items()]


def _matrix(agreement: Agreement, rows: Sequence[Row]) -> Html:
    """Differences of two subjects that compute the same model from the same inputs are coloured, others expected."""
    computes = {row.case.subject: (row.modality, row.keep) for row in rows}
    cells: list[list[tuple[str, float | None] | None]] = []
    for row, subject in enumerate(agreement.subjects):
        line: list[tuple[str, float | None] | None] = []
        for column, other in enumerate(agreement.subjects):
            flips, same = agreement.flips[row][column], computes.get(subject) == computes.get(other)
            text = f"{flips}\n{agreement.cosine[row][column]:.4f}"
            line.append(None if row == column else (text, 4 * flips / agreement.clips if same else None))
        cells.append(line)
    return matrices.matrix(f"{agreement.model} agreement", agreement.subjects, cells)


def _agreement_note(agreement: Agreement) -> str:
    return (
        f"{agreement.data}: between every two subjects, clips whose best class differs (above) and the smallest cosine "
        "of their outputs (below). Grey cells compare different tasks: fewer tokens, or one modality."
    )
