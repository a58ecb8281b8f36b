"""Evaluations as self-contained HTML pages, one per task: figures, charts, and pictures of clips."""

from __future__ import annotations

from collections.abc import Callable

from kdcmae.evaluation.pages import classification, inpainting, localization, retrieval
from kdcmae.evaluation.pages.parts import CLIPS_SHOWN, Document, Pictures

__all__ = ["CLIPS_SHOWN", "Document", "Pictures", "render"]

_PAGES: dict[str, Callable[[Document, Pictures], str]] = {
    "classification": classification.render,
    "inpainting": inpainting.render,
    "localization": localization.render,
    "probe": classification.render,
    "retrieval": retrieval.render,
}


def render(document: Document, pictures: Pictures) -> str:
    """The page of a report.

    Args:
        document: the report of a task, as its JSON file holds it.
        pictures: of its examples, by the ids of their clips.
    """
    return _PAGES[document["task"]](document, pictures)
