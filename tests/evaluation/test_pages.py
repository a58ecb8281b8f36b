"""Pages of evaluations: the figures of their JSON, escaped, self-contained, of bounded size, readable in a browser."""

from __future__ import annotations

import json
from dataclasses import asdict
from html import unescape
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from kdcmae.drawing.matrices import MOST_CELLS
from kdcmae.evaluation.classification import ScoredClips, summarize
from kdcmae.evaluation.details import classification_details, localization_details, retrieval_details
from kdcmae.evaluation.inpainting import Inpainting
from kdcmae.evaluation.localization import CentreBox, Localization, Scores
from kdcmae.evaluation.pages import CLIPS_SHOWN, render
from kdcmae.evaluation.pages.inpainting import PANELS
from kdcmae.evaluation.pictures import Shown
from kdcmae.evaluation.retrieval import Features, ranks_of
from kdcmae.evaluation.retrieval import summarize as summarize_ranks

NASTY = "<script>alert('x')</script>&\""
DRAWN = 2  # clips of a page of panels
RNG = np.random.default_rng(0)


def shown(height: int, width: int, seconds: float | None = None) -> Shown:
    """Noise, which no other picture takes more bytes than."""
    return Shown(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8), seconds)


def document(task: str, result: Any, **parts: Any) -> dict[str, Any]:
    """As the JSON file holds it, with a name that would be markup in every place that others write."""
    data = {"manifest": NASTY, "clips": 9, "skipped": [{"clip": NASTY, "reason": NASTY}]}
    model, result = {"path": NASTY, "runs_on": "torch"}, None if result is None else asdict(result)
    whole = {"task": task, "model": model, "data": data, "settings": {}, "result": result, **parts}
    return json.loads(json.dumps(whole).replace("NaN", "null"))


def thumbnails(clips: list[str]) -> dict[str, dict[str, Shown]]:
    return {clip: {"frame": shown(128, 128), "sound": shown(64, 320, 9.98)} for clip in clips}


def classification(classes: int = 4, *, several: bool = False, clips: int = 300) -> tuple[dict[str, Any], Any]:
    rng = np.random.default_rng(classes)
    positives = np.zeros((clips, classes), dtype=bool)
    positives[np.arange(clips), rng.integers(0, classes - 1, clips)] = True
    if several:
        positives |= rng.random(positives.shape) < 0.1
    scored = ScoredClips(rng.random(positives.shape) + 0.5 * positives, positives)
    labels = (NASTY, *(f"a class of a long name, number {index}" for index in range(1, classes)))
    result = summarize(scored, labels)
    names = [f"{NASTY} {row}" for row in range(clips)]
    details = classification_details(scored, result, names, several=several, most=8)
    pictures = thumbnails([one["clip"] for one in details["examples"]][1:])  # the first could not be read again
    return document("classification", result, **details), pictures


def retrieval() -> tuple[dict[str, Any], Any]:
    rng = np.random.default_rng(0)
    audio = rng.normal(size=(150, 8)).astype(np.float32)
    features = Features(audio, audio + rng.normal(size=audio.shape).astype(np.float32))
    ranks, names = ranks_of(features), [f"{NASTY} {row}" for row in range(150)]
    return document(
        "retrieval", summarize_ranks(ranks), **retrieval_details(features, ranks, names, most=16)
    ), thumbnails(names)


def inpainting() -> tuple[dict[str, Any], Any]:
    errors = {"audio_mse": 0.5, "video_mse": 0.25, "audio_constant_mse": 1.0, "video_constant_mse": 0.75}
    clips = [f"{NASTY} {number}" for number in range(DRAWN)]
    panels = {f"{kind} {name}": shown(*size) for kind, *size in (("sound", 128, 1024, 10.24), ("frame", 224, 224))
              for name in PANELS}  # fmt: skip
    examples = [{"clip": clip, **errors} for clip in [*clips, "drawn into files alone"]]
    whole = document("inpainting", Inpainting(clips=30, norm_pix=True, **errors), examples=examples)
    whole["settings"] = {"mask": "time_frequency", "mask_ratio": 0.75, "seed": 0}
    return whole, dict.fromkeys(clips, panels)


def localization(*, has_masks: bool = True) -> tuple[dict[str, Any], Any]:
    scores = {"ciou": 0.4, "auc": 0.38, "pointing": 0.7}
    result = Localization(
        clips=30, **scores, other_sound=Scores(**scores), centre_box=CentreBox(side=0.5, **scores)
    )  # fmt: skip
    examples = [
        {"clip": NASTY, "iou": 0.523 if has_masks else None, "peak_on_object": True if has_masks else None},
        {"clip": "unseen", "iou": None, "peak_on_object": None},
    ]
    details = localization_details(result if has_masks else None, examples)
    pictures = {one["clip"]: {"frame": shown(224, 224), "heat": shown(224, 224)} for one in examples}
    return document("localization", result if has_masks else None, **details), pictures


PAGES = {
    "single": classification,
    "many": lambda: classification(309, clips=600),
    "several": lambda: classification(40, several=True),
    "retrieval": retrieval,
    "inpainting": inpainting,
    "localization": localization,
    "unscored": lambda: localization(has_masks=False),
}


@pytest.fixture(scope="module")
def rendered() -> dict[str, tuple[dict[str, Any], str]]:
    """Report and page of each task."""
    made = {name: make() for name, make in PAGES.items()}
    return {name: (report, render(report, pictures)) for name, (report, pictures) in made.items()}


class Elements(HTMLParser):
    """Elements, attributes and text of a page; an element that is not closed in order fails."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_one_file_of_bounded_size_without_scripts(rendered, name):
    page = rendered[name][1]
    elements = Elements(page)
    shows = {"retrieval": 16, "inpainting": DRAWN, "localization": 2, "unscored": 2}.get(name, 8)
    most = CLIPS_SHOWN / shows  # were it to show as many clips as it may
    assert most * len(page) < 3e6
    assert not {"script", "iframe", "object", "form"} & {tag for tag, _ in elements.found}
    places = [found[key] for _, found in elements.found for key in ("src", "href") if key in found]
    assert all(place.startswith("data:") for place in places)
    assert not [key for _, found in elements.found for key in found if key.startswith("on")]
    assert "http" not in page
    assert "url(" not in page


@pytest.mark.parametrize("name", PAGES)
def test_what_others_wrote_is_text(rendered, name):
    page = rendered[name][1]
    assert "<script" not in page
    assert NASTY in "".join(Elements(page).text)
    assert all(found.get("alt") for tag, found in Elements(page).found if tag == "img")


def texts(page: str) -> str:
    return " ".join(" ".join(Elements(page).text).split())


@pytest.mark.parametrize("name", ["single", "several"])
def test_the_figures_of_a_classifier_are_those_of_its_report(rendered, name):
    report, page = rendered[name]
    text, result = texts(page), report["result"]
    figures = {"single": "accuracy", "several": "mean_average_precision"}
    low, high = report["intervals"][figures[name]]
    assert f"{100 * result[figures[name]]:.1f} %" in text
    assert f"95 % interval {100 * low:.1f} to {100 * high:.1f}" in text
    for figure in ("accuracy", "mean_average_precision", "auc"):
        assert f"{100 * result[figure]:.2f}" in text
    for pair in report["confused"]:
        assert f"{pair['label']} {pair['predicted']} {pair['clips']} ({100 * pair['share']:.1f} %)" in text
    for one in report["examples"]:
        assert one["clip"] in text
        for answer in (*one["labels"], *one["predicted"]):
            assert f"{answer['label']} {answer['score']:.3f}" in text
    assert text.count("the clip could not be read again") == 1


def test_every_cell_of_a_small_confusion_matrix_is_on_the_page(rendered):
    report, page = rendered["single"]
    titles = [unescape(part.split("</title>")[0]) for part in page.split("<title>")[2:]]
    labels = report["confusion"]["labels"]
    for cell in report["confusion"]["cells"]:
        own, predicted = labels[cell["class"]], labels[cell["predicted"]]
        assert any(title.startswith(f"{own}, predicted {predicted}: {cell['clips']} clips") for title in titles)


def test_classes_of_one_name_have_cells_of_their_own():
    positives = np.eye(2, dtype=bool)[[0, 0, 0, 1]]
    scored = ScoredClips(np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7]]), positives)
    result = summarize(scored, ("engine", "engine"))
    details = classification_details(scored, result, list("abcd"), several=False, most=0)
    page = render(document("classification", result, **details), {})
    counts = [part.split(" clip")[0] for part in page.split("engine, predicted engine: ")[1:]]
    assert counts == ["2", "1", "0", "1"]


def test_a_large_confusion_matrix_is_a_picture_and_one_of_several_classes_is_none(rendered):
    assert "309 classes in the model" in rendered["many"][1]
    assert "data:image/png" in rendered["many"][1]
    assert "Confusion" not in rendered["several"][1]
    assert "Average precision by class" in rendered["several"][1]


def test_a_confusion_matrix_has_cells_as_long_as_they_can_be_read():
    small, large = (render(*classification(classes)) for classes in (MOST_CELLS, MOST_CELLS + 1))
    assert 'alt="confusion matrix"' not in small
    assert 'alt="confusion matrix"' in large


def test_a_page_of_nothing_but_right_answers_shows_no_errors():
    scored = ScoredClips(np.eye(3), np.eye(3, dtype=bool))
    result = summarize(scored, ("a", "b", "c"))
    details = classification_details(scored, result, ["x", "y", "z"], several=False, most=4)
    page = render(document("classification", result, **details), {})
    assert "100.0 %" in page
    assert "Most frequent errors" not in page
    assert "largest errors" not in page


def test_the_figures_of_retrieval_and_where_the_right_ones_stand(rendered):
    report, page = rendered["retrieval"]
    text = texts(page)
    for direction in ("audio_to_video", "video_to_audio", "chance"):
        assert f"{100 * report['result'][direction]['recall_at_5']:.2f}" in text
    for ranks in report["ranks"].values():
        assert sum(ranks.values()) == 150
        for name, clips in ranks.items():
            assert f"rank {name}" in text
            assert f"{clips} of 150, {clips / 150:.1%}" in text
    for one in report["examples"]:
        assert f"{one['clip']} right one at rank {one['rank']}" in text
    assert page.count('class="right"') == len(report["examples"]) == 16


def test_panels_of_inpainting_have_titles_axes_and_errors(rendered):
    text = texts(rendered["inpainting"][1])
    for title in (f"{kind}, {name}" for kind in ("Sound", "Frame") for name in PANELS):
        assert text.count(title) == DRAWN
    assert text.count("seconds") == text.count("Hz") == 3 * DRAWN
    assert "10.24 s of sound; MSE of the sound 0.5 (one constant 1), MSE of the frame 0.25 (one constant 0.75)" in text
    assert "by a time and frequency mask" in text
    assert "drawn into files alone" not in text


def test_panels_of_localisation_say_how_well_the_heat_lies(rendered):
    text = texts(rendered["localization"][1])
    assert "IoU 0.52, peak on the object" in text
    assert "unseen : the object is not in the frame" in text
    assert "40.0 %" in text
    assert "IoU" not in texts(rendered["unscored"][1])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1400, True)])
def test_the_pages_are_readable_in_a_browser(look_at, rendered, width, dark):
    pages = [page for _, page in rendered.values()]
    for page, found in zip(pages, look_at(pages, width=width, dark=dark), strict=True):
        assert found["charts"] == page.count('role="img"')
        assert found["empty"] == 0
        assert found["broken"] == 0
        assert found["overflow"] <= 0
        assert found["outside"] == 0
        assert found["contrast"] >= 4.5
        assert (found["smallest"] or 12) >= 8.5
