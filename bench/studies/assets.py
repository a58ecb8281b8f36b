"""``make assets``: the trained model into the package, rounded, measured after the rounding, with its card.

Run by :file:`Makefile` after ``kdcmae pretrain`` and ``kdcmae finetune``, whose ``--json`` outputs it reads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch

from kdcmae import assets, load_classifier
from kdcmae.bench.machine.environment import describe_environment
from kdcmae.bench.studies.heldout import measure_accuracy, measure_features
from kdcmae.checkpoints import save_checkpoint
from kdcmae.cli.common import KdcmaeCommand, note
from kdcmae.data.avsynth.scene import AVSYNTH_VERSION
from kdcmae.evaluation.classification import Missing
from kdcmae.evaluation.localization import Scores
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
    measured = {name: measure_accuracy(predictor, clips, missing=missing) for name, missing in _WITHHELD.items()}
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
        "runs": "\n".join(
            (_training("pretraining", pretrained), _training("finetuning", finetuned)),
        ),
        "accuracies": "\n".join(f"| {name} | {100 * value:.2f} % |" for name, value in measured.items()),
        **_features(Path(pretrained["weights"]), clips),
    }
    (output / "model_card.md").write_text(_CARD.format(**facts), encoding="utf-8")
    for name, value in measured.items():
        note(f"{name}: {100 * value:.2f} %")


def _training(stage: str, document: dict[str, Any]) -> str:
    """A row of the card: what a run's JSON and settings tell."""
    settings = json.loads((Path(document["weights"]).parent / "settings.json").read_text(encoding="utf-8"))
    cells = (
        *(stage, document["epochs"], document["steps"]),
        *(settings[name] for name in ("batch_size", "learning_rate", "precision", "seed")),
        f"{document['seconds']:.0f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _features(checkpoint: Path, clips: int) -> dict[str, str]:
    """Rows of the card: retrieval and localisation of the model before it was finetuned."""
    found, located = measure_features(checkpoint, clips)
    rows = [
        f"| {name} | {100 * way.recall_at_1:.1f} % | {100 * way.recall_at_5:.1f} % | {100 * way.recall_at_10:.1f} % |"
        for name, way in (
            ("picture by sound", found.audio_to_video),
            ("sound by picture", found.video_to_audio),
            ("chance", found.chance),
        )
    ]
    scores: tuple[tuple[str, Scores], ...] = (
        ("pretrained model", located),
        ("the same with another clip's sound", located.other_sound),
        ("best box in the middle", located.centre_box),
    )
    rows_located = [
        f"| {name} | {100 * one.ciou:.1f} % | {100 * one.auc:.1f} % | {100 * one.pointing:.1f} % |"
        for name, one in scores
    ]
    return {"retrieval": "\n".join(rows), "localization": "\n".join(rows_located)}


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

| | epochs | steps | batch | learning rate | precision | seed | seconds |
| --- | --- | --- | --- | --- | --- | --- | --- |
{runs}

On one core of {cpu}, which other work shared; {libraries}. AVSynth version {avsynth}.

## Held-out accuracy

{clips} clips of the test split, middle frame, after the rounding to float16:

| given | accuracy |
| --- | --- |
{accuracies}

A class is a sound with a look. Who only hears, or only sees, is right for one clip in two at best.

## Before finetuning

The pretrained model, which is not shipped, on the same clips. Which clip belongs to which among {clips}:

| retrieval | R@1 | R@5 | R@10 |
| --- | --- | --- | --- |
{retrieval}

Where in the frame is what is heard:

| localisation | cIoU at 0.5 | AUC | peak on object |
| --- | --- | --- | --- |
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
