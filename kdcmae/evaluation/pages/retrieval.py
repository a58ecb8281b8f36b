"""The page of retrieval: recall from sound to picture and back, and example queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdcmae.drawing import charts
from kdcmae.drawing.markup import Html, section, tag
from kdcmae.evaluation.pages.parts import Document, Pictures, figures_table, headline, picture, strip, task_page
from kdcmae.evaluation.pictures import Shown

__all__ = ["DIRECTIONS", "render"]

DIRECTIONS = {
    "audio_to_video": ("Picture by sound", "sound", "frame"),
    "video_to_audio": ("Sound by picture", "frame", "sound"),
}
"""Title, kind of the query and kind of the answers, by direction."""

_ID = 28


def render(document: Document, pictures: Pictures) -> str:
    """The page of ``retrieval``.

    Args:
        document: the report, with ``intervals``, ``ranks`` and ``examples``.
        pictures: of the queries and the answers.
    """
    return task_page("Retrieval", document, [_figures(document), *_ranks(document), *_examples(document, pictures)])


def _figures(document: Document) -> Html:
    result, intervals = document["result"], document["intervals"]
    columns = {name.replace("_", " "): result[name] for name in (*DIRECTIONS, "chance")}
    known = {name.replace("_", " "): ends for name, ends in intervals.items()}
    first = "audio_to_video"
    return section(
        f"Recall among {result['clips']} clips",
        headline(
            result[first]["recall_at_1"], "of the sounds find their own picture first", intervals[first]["recall_at_1"]
        ),
        figures_table(columns, known),
    )


def _ranks(document: Document) -> Iterator[Html]:
    clips = document["result"]["clips"]
    for name, (title, _, _) in DIRECTIONS.items():
        rows = [
            charts.Bar(label=f"rank {ranks}", value=count, note=f"{count / clips:.1%}")
            for ranks, count in document["ranks"][name].items()
        ]
        said = f"Where the right one stands among {clips}."
        yield section(f"{title}: ranks", charts.bars(f"{title}: ranks", rows, unit=f"of {clips}"), note=said)


def _examples(document: Document, pictures: Pictures) -> Iterator[Html]:
    for direction, (title, asked, found) in DIRECTIONS.items():
        examples = [example for example in document["examples"] if example["direction"] == direction]
        if examples:
            shown = [_example(example, pictures, asked, found) for example in examples]
            said = "From the best rank to the worst: the query, and the five nearest below it. The right one is framed."
            yield section(f"{title}: examples", tag("div", *shown, class_="gallery"), note=said, wide=True)


def _example(example: Mapping[str, Any], pictures: Pictures, asked: str, found: str) -> Html:
    query = example["clip"]
    stands = tag("span", f" right one at rank {example['rank']}", class_="good" if example["rank"] == 1 else "soft")
    caption = tag("figcaption", tag("b", query), stands)
    answers = list(enumerate(example["found"], start=1))
    if query not in example["found"]:
        answers.append((example["rank"], query))
    own = {kind: shown for kind, shown in pictures.get(query, {}).items() if kind == asked}
    drawn = [
        _answer(rank, clip, pictures.get(clip, {}).get(found), f"{found} of {clip}", right=clip == query)
        for rank, clip in answers
    ]
    return tag("figure", caption, strip(query, {query: own}), tag("div", *drawn, class_="answers"), class_="clip")


def _answer(rank: int, clip: str, shown: Shown | None, said: str, *, right: bool) -> Html:
    parts = [picture(shown, said)] if shown is not None else []
    name = tag("figcaption", tag("b", f"{rank} "), charts.cut(clip, _ID))
    return tag("figure", *parts, name, **({"class_": "right"} if right else {}))
