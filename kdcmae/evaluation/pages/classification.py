"""The page of a classifier: its metrics, its confused classes and its worst clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.data.images import encode_image
from kdcmae.drawing import charts, matrices
from kdcmae.drawing.markup import Html, section, table, tag
from kdcmae.evaluation.pages.parts import Document, Pictures, data_uri, figures_table, headline, strip, task_page
from kdcmae.evaluation.pictures import heat_colours
from kdcmae.evaluation.wording import cell, figure_name, percent

__all__ = ["render"]

_BESIDE = 12  # most classes of a matrix that fits beside another section
_BARS = 30  # most classes with a bar; of more, the hardest
_MAP_SIDE = 640  # pixels of the matrix of many classes
_LABEL = 44


def render(document: Document, pictures: Pictures) -> str:
    """The page of ``classification`` and of ``probe``.

    Args:
        document: the report, with ``intervals``, ``confused`` and ``examples``, and with ``confusion`` where each clip
            has one class.
    """
    result = document["result"]
    probe = "classification" in result
    return task_page(
        "Linear probe" if probe else "Classification",
        document,
        [
            _figures(document),
            *_confusion(document),
            _bars(document),
            *_worst(document, pictures),
            _all_classes(document),
        ],
    )


def _measured(document: Document) -> dict[str, Any]:
    """Figures of the classification, those of a probe's fit among them."""
    result = dict(document["result"])
    result.update(result.pop("classification", {}))
    return result


def _main_figure(document: Document) -> str:
    """Accuracy where each clip has one class; mAP where it may have several."""
    return "accuracy" if "confusion" in document else "mean_average_precision"


def _figures(document: Document) -> Html:
    result = _measured(document)
    clips = result.pop("clips")
    result.pop("classes")
    name, intervals = _main_figure(document), document["intervals"]
    title, words = {
        "accuracy": ("Accuracy", "of the clips have their class as the best one"),
        "mean_average_precision": ("mAP", "is the average precision, averaged over the classes"),
    }[name]
    figures = figures_table({"model": result}, {"model": intervals})
    return section(f"{title} on {clips} clips", headline(result[name], words, intervals.get(name)), figures)


def _confusion(document: Document) -> Iterator[Html]:
    confusion = document.get("confusion")
    if confusion is not None:
        yield _matrix(confusion["labels"], confusion["cells"])
    pairs = document["confused"]
    if pairs:
        rows = [
            (mistake["label"], mistake["predicted"], f"{mistake['clips']} ({percent(mistake['share'])})")
            for mistake in pairs
        ]
        shown = table(("class", "taken for", "clips#"), rows)
        several = "" if confusion is not None else " A clip of several classes counts for each of them."
        yield section("Most frequent errors", shown, note=f"Clips, and their share of those of the class.{several}")


def _matrix(labels: Sequence[str], cells: Sequence[Mapping[str, int]]) -> Html:
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for count in cells:
        counts[count["class"], count["predicted"]] = count["clips"]
    note = "A row per class, a column per predicted class; a stronger colour for a larger share of the row."
    if len(labels) <= matrices.MOST_CELLS:
        drawn = matrices.confusion("confusion matrix", labels, counts.tolist())
        return section("Confusion", drawn, note=note, wide=len(labels) > _BESIDE)
    said = (
        f"{len(labels)} classes in the model's order: a row per class from above, a column per predicted class from "
        "the left; brighter the more of its row it holds."
    )
    content = encode_image(_map(counts), "png")
    image = tag("img", src=data_uri("png", content), alt="confusion matrix", class_="cells")
    return section("Confusion", image, note=said)


def _map(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The shares of every row as colours, several classes to a pixel where there are too many."""
    step = -(-len(counts) // _MAP_SIDE)
    starts = np.arange(0, len(counts), step)
    summed = np.add.reduceat(np.add.reduceat(counts, starts, axis=0), starts, axis=1)
    return heat_colours(np.sqrt(summed / np.maximum(summed.sum(axis=1, keepdims=True), 1)))


def _bars(document: Document) -> Html:
    name = "accuracy" if "confusion" in document else "average_precision"
    known = [entry for entry in _measured(document)["classes"] if entry["clips"]]
    known.sort(key=lambda entry: entry[name])
    title = f"{'Accuracy' if name == 'accuracy' else 'Average precision'} by class"
    rows = [
        charts.Bar(
            label=charts.cut(entry["label"], _LABEL), value=100 * entry[name], note=_count(entry["clips"], "clip")
        )
        for entry in known[:_BARS]
    ]
    note = "The hardest first."
    if len(known) > _BARS:
        note = f"The {_BARS} hardest of {len(known)}; the table below has all."
    return section(title, charts.bars(title, rows, unit="%"), note=note)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _worst(document: Document, pictures: Pictures) -> Iterator[Html]:
    examples = document["examples"]
    if not examples:
        return
    shown = []
    for example in examples:
        caption = tag("figcaption", tag("b", example["clip"]))
        expected = tag(
            "p", tag("span", "expected ", class_="soft"), tag("span", _answers(example["labels"]), class_="good")
        )
        answer = tag("p", tag("span", "predicted ", class_="soft"), _answers(example["predicted"]))
        shown.append(tag("figure", caption, strip(example["clip"], pictures), expected, answer, class_="clip"))
    yield section(
        "Clips with the largest errors",
        tag("div", *shown, class_="gallery"),
        note="What the model gets of each clip, without padding, and the scores of its classes and of the best ones.",
        wide=True,
    )


def _answers(answers: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{answer['label']} {answer['score']:.3f}" for answer in answers)


def _all_classes(document: Document) -> Html:
    names = ("clips", "accuracy", "average_precision", "auc")
    head = ("class", *(f"{figure_name(name)}#" for name in names))
    rows = [(entry["label"], *(cell(name, entry[name]) for name in names)) for entry in _measured(document)["classes"]]
    every = tag("details", tag("summary", f"classes: {len(rows)}"), table(head, rows))
    return section("Every class", every, wide=True)
