"""The page of localisation: how well heat matches the sounding object, and panels of frames and heat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdcmae.drawing import charts
from kdcmae.drawing.markup import Html, section, tag
from kdcmae.evaluation.pages.parts import Document, Pictures, figures_table, frame_panel, headline, task_page

__all__ = ["render"]

_BASELINES = {"other_sound": "sound of another clip", "centre_box": "box in the middle"}


def render(document: Document, pictures: Pictures) -> str:
    """The page of ``localization``.

    Args:
        document: the report, with ``intervals`` and ``examples``.
        pictures: of the examples: ``frame`` and ``heat``.
    """
    has_masks = document["result"] is not None
    shown = [
        _clip(example, pictures, has_masks=has_masks) for example in document["examples"] if example["clip"] in pictures
    ]
    said = "The frame as the model sees it, and brighter where it goes better with the sound than the rest does."
    if has_masks:
        said += " The sounding object is outlined in green, the heat's region (at least half its range) in white."
    gallery = tag("div", *shown, class_="gallery")
    examples = [section("Clips", gallery, note=said, wide=True)] if shown else []
    return task_page("Localisation", document, [*_figures(document), *examples])


def _figures(document: Document) -> list[Html]:
    if document["result"] is None:
        said = "The manifest does not name a mask of the sounding object for every clip: there are no scores."
        return [section("Not scored", note=said)]
    result = dict(document["result"])
    clips, intervals = result.pop("clips"), document["intervals"]
    columns = {"model": {name: value for name, value in result.items() if name not in _BASELINES}}
    columns |= {title: result[name] for name, title in _BASELINES.items()}
    bars = [
        charts.Bar(label=title, value=100 * column["ciou"], colour=0 if title == "model" else 7)
        for title, column in columns.items()
    ]
    words = "of the regions overlap the object with an IoU of at least 0.5"
    return [
        section(
            f"Success on {clips} clips",
            headline(result["ciou"], words, intervals["ciou"]),
            figures_table(columns, {"model": intervals}),
            note="How often the region of the heat, at least half its range, lies on the object.",
        ),
        section(
            "Against what hears nothing",
            charts.bars("cIoU at 0.5", bars, unit="%"),
            note="cIoU at 0.5. As much as another clip's sound reaches is found without hearing.",
        ),
    ]


def _clip(example: Mapping[str, Any], pictures: Pictures, *, has_masks: bool) -> Html:
    clip, own = example["clip"], pictures[example["clip"]]
    scored = ": the object is not in the frame" if has_masks else ""
    if example["iou"] is not None:
        scored = f": IoU {example['iou']:.2f}, peak {'on' if example['peak_on_object'] else 'off'} the object"
    panels = [
        frame_panel(title, own[kind], f"{kind} of {clip}")
        for kind, title in (("frame", "Frame"), ("heat", "Heat over it"))
    ]
    caption = tag("figcaption", tag("b", clip), scored)
    return tag("figure", caption, tag("div", *panels, class_="squares two"), class_="clip")
