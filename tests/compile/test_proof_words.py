"""The words of a report on what was proved, on which clips, and what was not."""

from __future__ import annotations

import dataclasses
import json

import pytest

from kdcmae.compile.report import render
from kdcmae.compile.report.proof import not_proved, proved
from kdcmae.runtime.manifest import Manifest


@pytest.fixture(scope="module")
def manifest(engine):
    return Manifest.read(engine)


def changed(manifest: Manifest, case: dict, **facts) -> Manifest:
    """The same with other facts of clips in the last rung, and of the model."""
    parity = json.loads(json.dumps(manifest.parity))
    for proved_on in parity[-1]["cases"]:
        if proved_on["clips"]:
            proved_on.update(case)
    return dataclasses.replace(manifest, parity=parity, model={**manifest.model, **facts})


def test_clips_classes_errors_and_precision_are_in_words(manifest):
    text = " ".join(proved(manifest))
    for part in ("The artifact and the PyTorch model in float32 ran the same 8 clips (8 made by kdcmae).",
                 "Both give the same first class on 8 of them (100.0%).", "on the median clip", "is allowed",
                 "Probabilities differ by", "Asked was fp32; matrix products executed here: "):  # fmt: skip
        assert part in text


def test_a_tie_is_told_from_an_agreement(manifest):
    (line,) = [line for line in proved(changed(manifest, {"strict": 0.5, "agreement": 0.75})) if "first class" in line]
    assert line.startswith("Both give the same first class on 4 of them (50.0%); on 2 more the model separates")


def test_what_was_not_proved_says_why(manifest):
    text = " ".join(not_proved(manifest))
    assert "made by kdcmae. --clips FOLDER proves it on yours" in text
    assert "--expect FILE" in text
    assert "your own clips" not in " ".join(not_proved(changed(manifest, {"clips": "yours"})))
    assert "the weights are random" in " ".join(not_proved(changed(manifest, {}, random_weights=True)))
    skipped = {**manifest.parity[-1], "status": "skipped", "note": "built, not executed: no CUDA device", "cases": []}
    unseen = dataclasses.replace(manifest, parity=[*manifest.parity[:-1], skipped])
    text = " ".join(not_proved(unseen))
    assert "Stage artifact: built, not executed: no CUDA device." in text
    assert "the last stage that ran clips is engine" in text
    assert not proved(dataclasses.replace(manifest, parity=[skipped]))


def test_what_few_clips_say_is_said_of_what_they_showed(manifest):
    def said(manifest):
        return [line for line in not_proved(manifest) if "new clips keep their class" in line]

    (line,) = said(manifest)
    assert "8 clips that all do say" in line
    assert "--proof-clips 64 runs more, for at least 95%" in line
    (line,) = said(changed(manifest, {"strict": 0.5, "agreement": 0.75}))
    assert "8 clips, of which 4 do, are too few" in line
    assert "all do" not in line
    assert not said(changed(manifest, {"strict": None, "agreement": None}))  # features have no classes
    skipped = {**manifest.parity[-1], "status": "skipped", "cases": []}
    (line,) = said(dataclasses.replace(manifest, parity=[*manifest.parity[:-1], skipped]))
    assert "--proof-clips" not in line  # an earlier stage runs as few with it


def test_the_page_shows_them_and_how_clips_are_distributed(manifest):
    page = render(manifest, {})
    for part in ("What was proved, and what was not", "Not proved", "Distribution over the clips", "logits, cosine"):
        assert part in page
