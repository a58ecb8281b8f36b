"""``make assets``: put the trained model into the package, rounded to float16 and measured, with its card.

Run by :file:`Makefile` after ``kdcmae pretrain`` and ``kdcmae finetune``, whose ``--json`` outputs it reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import click
import torch

from kdcmae import assets, load_classifier
from kdcmae.bench.machine.environment import describe_environment
from kdcmae.bench.report.markdown import render_markdown
from kdcmae.bench.report.table import Column, percent, table
from kdcmae.bench.studies.heldout import HeldOut, measure_features
from kdcmae.checkpoints import save_checkpoint
from kdcmae.cli.common import KdcmaeCommand, note
from kdcmae.data.avsynth.scene import AVSYNTH_VERSION
from kdcmae.evaluation.classification import Missing
from kdcmae.predictors import CheckpointPredictor

__all__ = ["main"]

_WITHHELD: dict[str, Missing | None] = {
    "sound and picture": None,
    "sound alone": "video",
    "picture alone": "audio",
}


@click.command(cls=KdcmaeCommand)
@click.argument("runs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--clips", type=click.IntRange(min=1), default=1200, show_default=True, help="Of AVSynth's test split.")
@click.option("--output", type=click.Path(path_type=Path), default=assets.FOLDER, help="Folder of the package's model.")
def main(runs: Path, clips: int, output: Path) -> None:
    """Ship the model of RUNS, which has pretrained.json and finetuned.json."""
    pretrained, finetuned = (
        json.loads((runs / f"{stage}.json").read_text(encoding="utf-8")) for stage in ("pretrained", "finetuned")
    )
    shipped = output / "classifier.safetensors"
    save_checkpoint(load_classifier(finetuned["weights"]), shipped, dtype=torch.float16)
    shipped.chmod(0o644)  # whoever installs the package reads it
    classifier = load_classifier(shipped).eval()
    (output / "labels.txt").write_text("".join(f"{label}\n" for label in classifier.labels), encoding="utf-8")
    note(f"{shipped}: {shipped.stat().st_size / 1e6:.2f} MB; measuring on {clips} held-out clips")
    predictor = CheckpointPredictor(classifier, shipped.stem)
    held_out = HeldOut(predictor.facts.preprocessing, clips)
    measured = {name: held_out.accuracy(predictor, missing=missing) for name, missing in _WITHHELD.items()}
    parameters = sum(parameter.numel() for parameter in classifier.parameters())
    facts = {
        "parameters": f"{parameters / 1e6:.2f}",
        "megabytes": f"{shipped.stat().st_size / 1e6:.2f}",
        "name": "kdcmae-tiny-avsynth",
        "clips": clips,
        "avsynth": AVSYNTH_VERSION,
        "cpu": describe_environment()["host"]["cpu"],
        "libraries": f"PyTorch {torch.__version__}",
        "audio_s": f"{classifier.config.audio_length / 100:.2f}",
        "image_size": classifier.config.image_size,
        "classes": ", ".join(classifier.labels),
        "runs": _training({"pretraining": pretrained, "finetuning": finetuned}),
        "accuracies": _table({"given": itemgetter(0), "accuracy": itemgetter(1)}, measured.items(), percent(2)),
        **_features(Path(pretrained["weights"]), clips),
    }
    (output / "model_card.md").write_text(_CARD.format(**facts), encoding="utf-8")
    for name, value in measured.items():
        note(f"{name}: {100 * value:.2f} %")


def _table(columns: Mapping[str, Callable[[Any], Any]], rows: Iterable[Any], text: Callable[[Any], str] = str) -> str:
    """Markdown of a table of the card.

    Args:
        columns: value in a row, by title; the first names the row.
        rows: of the table.
        text: of the values.
    """
    (name, named), *others = columns.items()
    heads = [Column(title=name, value=named, align="left")]
    heads += [Column(title=title, value=value, text=text) for title, value in others]
    return render_markdown([table("", heads, rows)])


def _training(runs: Mapping[str, dict[str, Any]]) -> str:
    """Table of the training runs, from their JSON and settings."""
    rows = []
    for stage, document in runs.items():
        settings = json.loads((Path(document["weights"]).parent / "settings.json").read_text(encoding="utf-8"))
        rows.append({**settings, **document, "": stage, "seconds": f"{document['seconds']:.0f}"})
    names = ("", "epochs", "steps", "batch_size", "learning_rate", "precision", "seed", "seconds")
    return _table({name.replace("_", " ").replace("batch size", "batch"): itemgetter(name) for name in names}, rows)


def _features(checkpoint: Path, clips: int) -> dict[str, str]:
    """Tables of retrieval and localisation of the model before it was finetuned."""
    retrieval, localization = measure_features(checkpoint, clips)
    ways = {
        "picture by sound": retrieval.audio_to_video,
        "sound by picture": retrieval.video_to_audio,
        "chance": retrieval.chance,
    }
    scores = {
        "pretrained model": localization,
        "the same with another clip's sound": localization.other_sound,
        "best box in the middle": localization.centre_box,
    }
    recalls = {f"R@{rank}": attrgetter(f"recall_at_{rank}") for rank in (1, 5, 10)}
    measures = {"cIoU at 0.5": "ciou", "AUC": "auc", "peak on object": "pointing"}
    return {
        "retrieval": _named("retrieval", ways, recalls),
        "localization": _named("localisation", scores, {title: attrgetter(name) for title, name in measures.items()}),
    }


def _named(title: str, rows: Mapping[str, Any], measures: Mapping[str, Callable[[Any], Any]]) -> str:
    """Table with a row per name and a column per measure, in per cent."""
    columns = {name: (lambda row, measure=measure: measure(row[1])) for name, measure in measures.items()}
    return _table({title: itemgetter(0), **columns}, rows.items(), percent())


_CARD = """# {name}

The tiny KDC-MAE that ships with kdcmae: pretrained without labels, then finetuned, both on AVSynth, kdcmae's procedural
audio-visual data set. It is there so that the demo, the tests and a first try classify something correctly. It is not
a model of real sounds.

- {parameters} M parameters, stored as float16 ({megabytes} MB), loaded as float32. Input: {audio_s} s of sound as a
  log-mel spectrogram, and one frame of {image_size} by {image_size} pixels.
- Classes: {classes}.
- Licence: Apache-2.0, as the rest of kdcmae. The data are made by code of the same licence; they hold nobody's
  recordings.

## How it was made

`make assets` repeats it: `kdcmae pretrain` with the recipe avsynth-pretrain, `kdcmae finetune` with avsynth-finetune.

{runs}

On one core of {cpu}, which other work shared; {libraries}. AVSynth version {avsynth}.

## Held-out accuracy

{clips} clips of the test split, middle frame, after the rounding to float16:

{accuracies}

A class is a sound with a look. Who only hears, or only sees, is right for one clip in two at best.

## Before finetuning

The pretrained model, which is not shipped, on the same clips. Which clip belongs to which among {clips}:

{retrieval}

Where in the frame is what is heard:

{localization}

Every patch is encoded alone and compared with the sound: attention over the whole picture spreads what an object is
into the tokens of the background. Another clip's sound, that of the clip before, is of another class; what is found
with it is found by looking, not by hearing.

## Limits

It knows AVSynth and nothing else: for a real clip it still names one of its classes, with a score that means nothing.
Sounds longer than {audio_s} s are cut. It was measured on clips of the same generator that it was trained on, made
from other random numbers.
"""


if __name__ == "__main__":
    main()
