"""``kdcmae evaluate TASK``: how good a model is, on the clips of a manifest."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdcmae.cli.common import KdcmaeCommand, KdcmaeGroup, Number, note
from kdcmae.cli.evaluate_gallery import Drawn, Gallery
from kdcmae.cli.evaluate_setup import COMMON_OPTIONS, PATH, Outcome, Setup, labels_option, modality_option, watched
from kdcmae.errors import ConfigError
from kdcmae.extras import TRAIN, require_installed
from kdcmae.terminal import progress_bar

if TYPE_CHECKING:
    from kdcmae.config import Modality
    from kdcmae.data.dataset import Frames
    from kdcmae.evaluation.classification import Classification, ScoredClips
    from kdcmae.evaluation.clips import EvaluationClips
    from kdcmae.evaluation.pages import Pictures

__all__ = ["command"]


@click.group(name="evaluate", cls=KdcmaeGroup)
def command() -> None:
    """Measure a model on the clips of a manifest or of shards, or on AVSynth.

    Of a clip longer than what the model hears at once it takes sound and frames of the first seconds, as training does;
    kdcmae predict takes windows of all of it.

    \b
    kdcmae evaluate classification --data avsynth
    kdcmae evaluate classification model.safetensors --data test.jsonl
    kdcmae evaluate classification out/openvino-fp32 --data test.jsonl --frames all --json
    kdcmae evaluate retrieval pretrained.safetensors --data test.jsonl
    """


_model = click.argument("model", metavar="MODEL", type=PATH)
_model_or_shipped = click.argument("model", metavar="[MODEL]", type=PATH, required=False)


def _task(name: str, model: Any = _model) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function that takes the :class:`Setup` and the task's own options."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def run(**options: Any) -> None:
            require_installed("torch", "safetensors", "av", install=TRAIN)
            common = {field.name: options.pop(field.name) for field in fields(Setup)}
            common["model"] = common["model"] or _shipped()
            setup = Setup(**common)
            setup.check(*([options["train"]] if "train" in options else []))
            function(setup, **options)

        decorated: Callable[..., None] = run
        for option in reversed((model, *COMMON_OPTIONS)):
            decorated = option(decorated)
        return command.command(name, cls=KdcmaeCommand)(decorated)

    return decorate


def _shipped() -> Path:
    """The model that ships with the package."""
    from kdcmae.assets import default_checkpoint

    model = default_checkpoint()
    note("no model named: using the one that ships with the package")
    return model


@_task("classification", model=_model_or_shipped)
@labels_option
@click.option("--frames", type=click.Choice(["middle", "all"]), default="middle", help="Frames of each clip to score.")
@modality_option
@click.option("--missing", type=click.Choice(["audio", "video"]), help="Withhold it from an audiovisual model.")
def classification(setup: Setup, labels: Path | None, frames: Frames, modality: Modality | None, missing: Any) -> None:
    """Accuracy, mAP, AUC and d' of a finetuned checkpoint or an engine; of the shipped model where none is named.

    --frames all averages a clip's scores over its ten frames. --modality says what a checkpoint was finetuned on,
    where its file does not.
    """
    from kdcmae.evaluation.classification import score_clips, summarize
    from kdcmae.evaluation.clips import label_map

    predictor = setup.open("classify", **({} if modality is None else {"modality": modality}))
    facts = predictor.facts
    if facts.random_weights:
        note(f"note: {facts.name} has random weights; its scores mean nothing")
    classes = label_map(facts.labels, labels)
    sees: Any = {"audio": "video", "video": "audio"}.get(missing, facts.modality)
    if frames == "all" and sees == "audio":
        raise ConfigError("--frames all: this evaluation sees no frames")
    clips = setup.clips(facts.preprocessing, classes, modality=sees, frames=frames)
    scored = score_clips(predictor, watched(clips), missing=missing)
    result = summarize(scored, classes.names)
    details, pictures = _mistakes(setup, clips, scored, result, several=facts.scores == "sigmoid")
    settings = {"modality": facts.modality, "missing": missing, "frames": frames}
    outcome = Outcome(
        task="classification",
        runs_on=facts.runs_on,
        result=result,
        settings=settings,
        details=details,
        pictures=pictures,
    )
    setup.finish(outcome, clips)


@_task("retrieval")
def retrieval(setup: Setup) -> None:
    """Find a clip's picture by its sound and back, with a pretraining checkpoint or an engine that gives features."""
    from kdcmae.evaluation.details import retrieval_details
    from kdcmae.evaluation.retrieval import CLIPS_PER_CHUNK, extract_features, ranks_of, summarize

    predictor = setup.open("features")
    clips = setup.clips(predictor.facts.preprocessing, None)
    features = extract_features(predictor, watched(clips))
    with progress_bar("rank", math.ceil(len(features.audio) / CLIPS_PER_CHUNK)) as on_chunk:
        ranks = ranks_of(features, on_chunk=on_chunk)
    details = retrieval_details(features, ranks, clips.ids, most=setup.shown)
    shown = [clip for example in details["examples"] for clip in (example["clip"], *example["found"])]
    pictures = clips.pictures(shown) if setup.writes_page else {}
    runs_on = predictor.facts.runs_on
    outcome = Outcome(task="retrieval", runs_on=runs_on, result=summarize(ranks), details=details, pictures=pictures)
    setup.finish(outcome, clips)


@_task("inpainting")
@click.option(
    "--mask",
    type=click.Choice(["random", "time", "frequency", "time_frequency"]),
    default="random",
    help="Pattern of the removed patches of sound.",
)
@click.option("--mask-ratio", type=Number(0, 1), default=0.75, show_default=True, help="Share of patches removed.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the masks.")
@click.option(
    "--norm-pix/--no-norm-pix",
    default=None,
    help="Whether a published checkpoint was trained to predict normalised patches.",
)
def inpainting(setup: Setup, mask: Any, mask_ratio: float, seed: int, norm_pix: bool | None) -> None:
    """Error of a pretraining checkpoint on removed patches, and pictures of what it fills in.

    A checkpoint trained with normalised patches predicts neither their mean nor their contrast: its pictures take
    them from the removed patches themselves. --norm-pix and --no-norm-pix are for files that do not say.
    """
    from kdcmae.evaluation.inpainting import (
        MaskSettings,
        clip_errors,
        draw_reconstruction,
        inpaint,
        joined,
        summarize,
    )

    masks = MaskSettings(ratio=mask_ratio, audio=mask, seed=seed)
    model, preprocessing = setup.pretrained(**({} if norm_pix is None else {"norm_pix": norm_pix}))
    clips = setup.clips(preprocessing, None)

    def draw(one: Any, row: int) -> Drawn:
        shown = draw_reconstruction(one, row, preprocessing)
        return Drawn(shown, joined(shown), clip_errors(one, row))

    gallery = Gallery(setup, clips)
    result = summarize(gallery.drawn(inpaint(model, watched(clips), masks), draw), norm_pix=model.config.norm_pix)
    outcome = Outcome(
        task="inpainting",
        runs_on="torch",
        result=result,
        settings={"mask": mask, "mask_ratio": mask_ratio, "seed": seed},
        details={"examples": gallery.examples},
        pictures=gallery.pictures,
    )
    setup.finish(outcome, clips)


@_task("localization")
def localization(setup: Setup) -> None:
    """Where a pretraining checkpoint sees what it hears: pictures, and scores where the manifest names masks.

    Every patch is compared with the sound by itself, without the rest of the picture. "other sound" gives each picture
    the sound of the clip before it: as much of the score is found without hearing.
    """
    from kdcmae.evaluation.details import localization_details
    from kdcmae.evaluation.localization import clip_scores, draw_heat, localize, summarize
    from kdcmae.evaluation.pictures import side_by_side

    model, preprocessing = setup.pretrained()
    clips = setup.clips(preprocessing, None)
    if not clips.has_masks and setup.output is None:
        raise ConfigError(
            f"{setup.data} does not name a mask for every clip to score with; --output DIR gives pictures"
        )

    def draw(one: Any, row: int) -> Drawn:
        shown = draw_heat(one, row, preprocessing)
        joined = side_by_side([panel.picture for panel in shown.values()])
        return Drawn(shown, {"heat": joined}, clip_scores(one, row))

    gallery = Gallery(setup, clips)
    batches = clips.masked(watched(clips)) if clips.has_masks else watched(clips)
    heats = gallery.drawn(localize(model, batches), draw)
    if clips.has_masks:
        result = summarize(heats)
    else:
        note(f"note: {setup.data} does not name a mask for every clip; only pictures are made")
        result = None
        for _ in heats:  # each is drawn on its way here
            pass
    outcome = Outcome(
        task="localization",
        runs_on="torch",
        result=result,
        details=localization_details(result, gallery.examples),
        pictures=gallery.pictures,
    )
    setup.finish(outcome, clips)


@_task("probe")
@click.option("--train", required=True, help="Clips to fit on, given as --data.")
@labels_option
@modality_option
def probe(setup: Setup, train: str, labels: Path | None, modality: Modality | None) -> None:
    """Fit a linear map on a pretraining checkpoint's frozen features, and measure it on --data."""
    from kdcmae.checkpoints import init_classifier
    from kdcmae.data.manifest import LabelMap
    from kdcmae.evaluation import probe as task
    from kdcmae.evaluation.clips import classes_of

    model, preprocessing = setup.pretrained()
    classes = LabelMap.read(labels) if labels is not None else classes_of(train)
    sees: Modality = modality or "audiovisual"
    encoder, _ = init_classifier(model, num_classes=len(classes), modality=sees)
    encoder.eval().to(model.pos_embed_a.device)
    fitted = setup.clips(preprocessing, classes, train=train, modality=sees)
    clips = setup.clips(preprocessing, classes, modality=sees)
    features = [task.pooled_features(encoder, watched(part)) for part in (fitted, clips)]
    result, scored = task.probe(features[0], features[1], classes.names)
    details, pictures = _mistakes(setup, clips, scored, result.classification, several=False)
    skipped = [{"clip": clip, "reason": reason} for clip, reason in fitted.skipped.items()]
    settings = {"modality": sees, "train": train, "train_skipped": skipped}
    outcome = Outcome(
        task="probe", runs_on="torch", result=result, settings=settings, details=details, pictures=pictures
    )
    setup.finish(outcome, clips)


def _mistakes(
    setup: Setup, clips: EvaluationClips, scored: ScoredClips, result: Classification, *, several: bool
) -> tuple[dict[str, Any], Pictures]:
    """What a classifier gets wrong, and pictures of its worst clips."""
    from kdcmae.evaluation.details import classification_details

    details = classification_details(scored, result, clips.ids, several=several, most=setup.shown)
    worst = [example["clip"] for example in details["examples"]]
    return details, clips.pictures(worst) if setup.writes_page else {}
