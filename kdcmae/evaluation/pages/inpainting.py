"""The page of inpainting: errors of the filled-in patches, and panels of original, masked and filled-in clips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdcmae.drawing import charts
from kdcmae.drawing.charts import number
from kdcmae.drawing.markup import Html, section, tag
from kdcmae.evaluation.pages.parts import Document, Pictures, figures_table, frame_panel, sound_panel, task_page

__all__ = ["PANELS", "render"]

PANELS = ("original", "masked", "filled in")
"""Suffixes of the kinds of pictures, after ``sound`` and ``frame``."""

_MASKS = {"random": "random", "time": "time", "frequency": "frequency", "time_frequency": "time and frequency"}


def render(document: Document, pictures: Pictures) -> str:
    """The page of ``inpainting``.

    Args:
        document: the report, with ``examples``.
        pictures: of the examples: ``sound original``, ``frame masked`` and so on.
    """
    shown = [_clip(example, pictures) for example in document["examples"] if example["clip"] in pictures]
    settings = document["settings"]
    said = (
        f"{settings['mask_ratio']:.0%} of the patches are removed, of the sound by a {_MASKS[settings['mask']]} mask. "
        "The sound is cut where the clip ends; the frame is the middle square that the model sees."
    )
    if document["result"]["norm_pix"]:
        said += " Mean and contrast of a filled-in patch are those of the original: the model predicts neither."
    examples = [section("Clips", tag("div", *shown, class_="rows"), note=said, wide=True)] if shown else []
    return task_page("Inpainting", document, [_figures(document), _bars(document), *examples])


def _figures(document: Document) -> Html:
    result = dict(document["result"])
    title = f"Error on removed patches of {result.pop('clips')} clips"
    kind = "patches normalised by themselves" if result["norm_pix"] else "normalised spectrograms and images"
    return section(title, figures_table({"model": result}, {}), note=f"Mean squared error, of {kind}.")


def _bars(document: Document) -> Html:
    result = document["result"]
    names = {
        "audio_mse": ("sound, model", 0),
        "audio_constant_mse": ("sound, one constant", 7),
        "video_mse": ("frame, model", 0),
        "video_constant_mse": ("frame, one constant", 7),
    }
    rows = [charts.Bar(label=label, value=result[name], colour=colour) for name, (label, colour) in names.items()]
    said = "The constant is the mean of what is visible of the clip, or 0 where patches are normalised."
    return section("Against one constant per clip", charts.bars("errors", rows, unit="MSE"), note=said)


def _clip(example: Mapping[str, Any], pictures: Pictures) -> Html:
    clip, own = example["clip"], pictures[example["clip"]]
    errors = ", ".join(
        f"MSE of the {kind} {number(example[f'{name}_mse'])} (one constant {number(example[f'{name}_constant_mse'])})"
        for kind, name in (("sound", "audio"), ("frame", "video"))
    )
    seconds = own[f"sound {PANELS[0]}"].seconds or 0.0
    caption = tag("figcaption", tag("b", clip), f": {number(seconds)} s of sound; {errors}")
    sounds = [sound_panel(f"Sound, {name}", own[f"sound {name}"], f"sound of {clip}, {name}") for name in PANELS]
    frames = [frame_panel(f"Frame, {name}", own[f"frame {name}"], f"frame of {clip}, {name}") for name in PANELS]
    panels = tag("div", *sounds, class_="panels"), tag("div", *frames, class_="squares")
    return tag("figure", caption, *panels, class_="clip")
