"""``make assets``: put the trained model into the package, rounded to float16 and measured, with its card.

Run by :file:`Makefile` after ``kdcmae pretrain`` and ``kdcmae finetune``, whose ``--json`` outputs it reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import click
import torch

from kdcmae import assets
from kdcmae.bench.report.rendering import render_markdown
from kdcmae.bench.report.table import Column, percent, table
from kdcmae.bench.studies.heldout import HeldOut, measure_features
from kdcmae.checkpoints import save_checkpoint
from kdcmae.cli.common import KdcmaeCommand, note
from kdcmae.data.avsynth.scene import AVSYNTH_VERSION
from kdcmae.evaluation.classification import Missing
from kdcmae.host import cpu_name
from kdcmae.predictors import open_model

__all__ = ["main"]

_WITHHELD: dict[str, Missing | None] = {"sound and picture": None, "sound alone": "video", "picture alone": "audio"}
_TRAINING = {
    **{name: name for name in ("epochs", "steps")},
    "batch": "batch_size",
    "learning rate": "learning_rate",
    **{name: name for name in ("precision", "seed", "seconds")},
}

Text = Callable[[Any], str]


@click.command(cls=KdcmaeCommand)
@click.argument("runs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--clips", type=click.IntRange(min=1), default=1200, help="Of AVSynth's test split.")
@click.option("--output", type=click.Path(path_type=Path), default=assets.FOLDER, help="Folder of the package's model.")
def main(runs: Path, clips: int, output: Path) -> None:
    """Ship the model of RUNS, which has pretrained.json and finetuned.json."""
    pretrained, finetuned = (
        json.loads((runs / f"{stage}.json").read_text(encoding="utf-8")) for stage in ("pretrained", "finetuned")
    )
    trainings = {"pretraining": _training(pretrained), "finetuning": _training(finetuned)}
    shipped = output / "classifier.safetensors"
    save_checkpoint(open_model(Path(finetuned["weights"]), engine=False).module, shipped, dtype=torch.float16)
    shipped.chmod(0o644)  # whoever installs the package reads it
    predictor = open_model(shipped, engine=False)
    classifier = predictor.module
    (output / "labels.txt").write_text("".join(f"{label}\n" for label in classifier.labels), encoding="utf-8")
    note(f"{shipped}: {shipped.stat().st_size / 1e6:.2f} MB; measuring on {clips} held-out clips")
    measured = HeldOut(predictor.facts.preprocessing, clips).accuracies(predictor)
    accuracies = {name: measured[missing] for name, missing in _WITHHELD.items()}
    shares = {name: {"share": share} for name, share in accuracies.items()}
    parameters = sum(parameter.numel() for parameter in classifier.parameters())
    facts = {
        "parameters": f"{parameters / 1e6:.2f}",
        "megabytes": f"{shipped.stat().st_size / 1e6:.2f}",
        "name": "kdcmae-tiny-avsynth",
        "clips": clips,
        "avsynth": AVSYNTH_VERSION,
        "cpu": cpu_name(),
        "libraries": f"PyTorch {torch.__version__}",
        "audio_s": f"{classifier.config.audio_length / 100:.2f}",
        "image_size": classifier.config.image_size,
        "classes": ", ".join(classifier.labels),
        "runs": _table("", _TRAINING, trainings, str),
        "accuracies": _table("given", {"accuracy": "share"}, shares, percent(2)),
        **_features(Path(pretrained["weights"]), clips),
    }
    (output / "model_card.md").write_text(_CARD.format(**facts), encoding="utf-8")
    for name, value in accuracies.items():
        note(f"{name}: {100 * value:.2f} %")


def _table(names: str, columns: Mapping[str, str], rows: Mapping[str, Mapping[str, Any]], text: Text) -> str:
    """Markdown of a table of the card.

    Args:
        names: title of the column that names the rows.
        columns: key in a row, by the title of the column.
        rows: by name.
        text: of a value.
    """
    shown = [Column(title=names, value=itemgetter(""), align="left")]
    shown += [Column(title=title, value=itemgetter(key), text=text) for title, key in columns.items()]
    return render_markdown([table("", shown, ({**row, "": name} for name, row in rows.items()))])


def _training(document: Mapping[str, Any]) -> dict[str, Any]:
    """Settings and result of a training run, from its JSON and its settings."""
    settings = json.loads((Path(document["weights"]).parent / "settings.json").read_text(encoding="utf-8"))
    return {**settings, **document, "seconds": f"{document['seconds']:.0f}"}


def _features(checkpoint: Path, clips: int) -> dict[str, str]:
    """Tables of retrieval and localisation of the model before it was finetuned."""
    retrieval, localization = measure_features(checkpoint, clips)
    recalls = {f"R@{rank}": f"recall_at_{rank}" for rank in (1, 5, 10)}
    ways = {
        "picture by sound": vars(retrieval.audio_to_video),
        "sound by picture": vars(retrieval.video_to_audio),
        "chance": vars(retrieval.chance),
    }
    measures = {"cIoU at 0.5": "ciou", "AUC": "auc", "peak on object": "pointing"}
    scores = {
        "pretrained model": vars(localization),
        "the same with another clip's sound": vars(localization.other_sound),
        "best box in the middle": vars(localization.centre_box),
    }
    return {
        "retrieval": _table("retrieval", recalls, ways, percent()),
        "localization": _table("localisation", measures, scores, percent()),
    }


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

A class pairs a sound with a look, so a model that only hears or only sees is right for at most one clip in two.

## Before finetuning

The pretrained model, which is not shipped, on the same clips. Retrieval of the matching clip among {clips}:

{retrieval}

Localisation of the source of the sound in the frame:

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
