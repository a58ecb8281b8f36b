"""``kdcmae evaluate TASK``: how good a model is, on the clips of a manifest."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from kdcmae.cli import evaluate_report as report
from kdcmae.cli.common import KdcmaeCommand, KdcmaeGroup, Number, json_option, note, weights_option
from kdcmae.cli.normalisation import NAMES, statistics_options
from kdcmae.errors import ConfigError, DeviceError
from kdcmae.extras import TRAIN, require_installed
from kdcmae.terminal import progress_bar

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from kdcmae.config import Modality
    from kdcmae.data.dataset import Frames
    from kdcmae.data.manifest import LabelMap
    from kdcmae.evaluation.clips import EvaluationClips
    from kdcmae.evaluation.retrieval import FeatureModel
    from kdcmae.predictors import Predictor
    from kdcmae.pretraining import KDCMAE
    from kdcmae.runtime.preprocessing import Preprocessing

__all__ = ["command"]


class _Indexed(Protocol):
    """A batch that knows its clips' numbers."""

    @property
    def index(self) -> Tensor: ...


Indexed = TypeVar("Indexed", bound=_Indexed)

_PATH = click.Path(path_type=Path)
_modality_option = click.option(
    "--modality",
    type=click.Choice(["audiovisual", "audio", "video"]),
    help="What a checkpoint sees.",
    show_default="what its file says",
)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every task takes from the command line."""

    model: Path
    data: str
    output: Path | None
    batch_size: int
    workers: int
    broken_limit: float
    device: str
    num_heads: int | None
    weights: str | None
    fbank_mean: float | None
    fbank_std: float | None
    image_mean: tuple[float, ...] | None
    image_std: tuple[float, ...] | None
    as_json: bool

    @property
    def overrides(self) -> dict[str, Any]:
        """What the command line says about a checkpoint."""
        said = {name: getattr(self, name) for name in ("num_heads", "weights", *NAMES)}
        return {name: value for name, value in said.items() if value is not None}

    @property
    def torch_device(self) -> str:
        """Where a checkpoint runs."""
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise DeviceError("--device cuda: PyTorch sees no CUDA device here; use --device cpu")
        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device

    def clips(
        self,
        preprocessing: Preprocessing,
        labels: LabelMap | None,
        *,
        train: str | None = None,
        modality: Modality = "audiovisual",
        frames: Frames = "middle",
    ) -> EvaluationClips:
        """The clips of ``--data``, or those to fit on."""
        from kdcmae.data.dataset import DatasetSettings
        from kdcmae.evaluation.clips import EvaluationClips, LoaderSettings

        return EvaluationClips(
            train or self.data,
            labels,
            DatasetSettings(preprocessing=preprocessing, modality=modality, frames=frames),
            LoaderSettings(batch_size=self.batch_size, workers=self.workers, broken_limit=self.broken_limit),
            split="test" if train is None else "train",
        )

    def pretrained(self, **overrides: Any) -> tuple[KDCMAE, Preprocessing]:
        """The pretraining checkpoint, ready to evaluate; ``overrides`` say what its file does not."""
        from kdcmae import load_pretrained

        if self.model.is_dir():
            raise ConfigError(f"{self.model} is an engine; this task needs a pretraining checkpoint")
        model = load_pretrained(self.model, **self.overrides, **overrides).eval().to(self.torch_device)
        return model, model.config.preprocessing

    def finish(self, task: str, clips: EvaluationClips, runs_on: str, result: Any, **facts: Any) -> None:
        """Show what came out, and write it to ``--output``."""
        skipped = [{"clip": clip, "reason": reason} for clip, reason in clips.skipped.items()]
        document = {
            "task": task,
            "model": {"path": str(self.model), "runs_on": runs_on},
            "data": {"manifest": self.data, "clips": len(clips.records) - len(skipped), "skipped": skipped},
            "settings": facts,
            "result": None if result is None else asdict(result),
        }
        report.publish(document, self.output, as_json=self.as_json)


_COMMON = (
    click.option(
        "--data", required=True, help="Manifest (.json, .csv, .jsonl), folder of .tar shards, or avsynth[:CLIPS]."
    ),
    click.option("--output", type=_PATH, help="Folder for the report and the pictures."),
    click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Clips at once."),
    click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that read."),
    click.option(
        "--broken-limit", type=Number(0, 1), default=0.01, show_default=True, help="Share of clips that may fail."
    ),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Of a checkpoint."),
    click.option("--num-heads", type=int, help="Attention heads of a checkpoint.", show_default="each 64 wide"),
    weights_option,
    statistics_options,
    json_option,
)


_labels_option = click.option("--labels", type=_PATH, help="Classes, where the model has none: text or CSV.")
_pictures_option = click.option(
    "--pictures", type=click.IntRange(min=0), default=16, show_default=True, help="Clips to draw into --output."
)


@click.group(name="evaluate", cls=KdcmaeGroup)
def command() -> None:
    """Measure a model on the clips of a manifest or of shards, or on AVSynth.

    \b
    kdcmae evaluate classification --data avsynth
    kdcmae evaluate classification model.safetensors --data test.jsonl
    kdcmae evaluate classification out/openvino-fp32 --data test.jsonl --frames all --json
    kdcmae evaluate retrieval pretrained.safetensors --data test.jsonl
    """


_model = click.argument("model", metavar="MODEL", type=_PATH)
_model_or_shipped = click.argument("model", metavar="[MODEL]", type=_PATH, required=False)


def _task(name: str, model: Any = _model) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function that takes the :class:`Setup` and the task's own options."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def run(**options: Any) -> None:
            require_installed("torch", "safetensors", "av", install=TRAIN)
            common = {field.name: options.pop(field.name) for field in fields(Setup)}
            common["model"] = common["model"] or _shipped()
            function(Setup(**common), **options)

        decorated: Callable[..., None] = run
        for option in reversed((model, *_COMMON)):
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
@_labels_option
@click.option("--frames", type=click.Choice(["middle", "all"]), default="middle", help="Of each clip.")
@_modality_option
@click.option("--missing", type=click.Choice(["audio", "video"]), help="Withhold it from an audiovisual model.")
def classification(setup: Setup, labels: Path | None, frames: Frames, modality: Modality | None, missing: Any) -> None:
    """Accuracy, mAP, AUC and d' of a finetuned checkpoint or an engine; of the shipped model where none is named.

    --frames all averages a clip's scores over its ten frames. --modality says what a checkpoint was finetuned on,
    where its file does not.
    """
    from kdcmae.evaluation.classification import score_clips, summarize
    from kdcmae.evaluation.clips import label_map

    predictor = _predictor(setup, modality)
    facts = predictor.facts
    if facts.random_weights:
        note(f"note: {facts.name} has random weights; its scores mean nothing")
    classes = label_map(facts.labels, labels)
    sees: Any = {"audio": "video", "video": "audio"}.get(missing, facts.modality)
    if frames == "all" and sees == "audio":
        raise ConfigError("--frames all: this evaluation sees no frames")
    clips = setup.clips(facts.preprocessing, classes, modality=sees, frames=frames)
    result = summarize(score_clips(predictor, _watched(clips), missing=missing), classes.names)
    setup.finish(
        "classification", clips, facts.runs_on, result, modality=facts.modality, missing=missing, frames=frames
    )


@_task("retrieval")
def retrieval(setup: Setup) -> None:
    """Find a clip's picture by its sound and back, with a pretraining checkpoint or an engine that gives features."""
    from kdcmae.evaluation.retrieval import CheckpointFeatures, EngineFeatures, extract_features, retrieve

    features: FeatureModel
    if setup.model.is_dir():
        from kdcmae.runtime import load_engine
        from kdcmae.runtime.preprocessing import Preprocessing

        engine = load_engine(setup.model)
        features, runs_on = EngineFeatures(engine), str(engine.manifest.target)
        preprocessing = Preprocessing.from_dict(engine.manifest.preprocessing)
    else:
        model, preprocessing = setup.pretrained()
        features, runs_on = CheckpointFeatures(model), "torch"
    clips = setup.clips(preprocessing, None)
    setup.finish("retrieval", clips, runs_on, retrieve(extract_features(features, _watched(clips))))


@_task("inpainting")
@click.option(
    "--mask",
    type=click.Choice(["random", "time", "frequency", "time_frequency"]),
    default="random",
    help="Of the sound.",
)
@click.option("--mask-ratio", type=Number(0, 1), default=0.75, show_default=True, help="Share of patches removed.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the masks.")
@click.option("--norm-pix/--no-norm-pix", default=None, help="What a published checkpoint was trained to predict.")
@_pictures_option
def inpainting(setup: Setup, mask: Any, mask_ratio: float, seed: int, norm_pix: bool | None, pictures: int) -> None:
    """Error of a pretraining checkpoint on removed patches, and pictures of what it fills in.

    A checkpoint trained with normalised patches predicts neither their mean nor their contrast: its pictures take
    them from the removed patches themselves. --norm-pix and --no-norm-pix are for files that do not say.
    """
    from kdcmae.evaluation.inpainting import MaskSettings, draw_reconstruction, inpaint, summarize

    masks = MaskSettings(ratio=mask_ratio, audio=mask, seed=seed)
    model, preprocessing = setup.pretrained(**({} if norm_pix is None else {"norm_pix": norm_pix}))
    clips = setup.clips(preprocessing, None)
    gallery = _Gallery(setup, clips, pictures)
    batches = gallery.drawn(
        inpaint(model, _watched(clips), masks), lambda one, row: draw_reconstruction(one, row, preprocessing)
    )
    result = summarize(batches, norm_pix=model.config.norm_pix)
    setup.finish("inpainting", clips, "torch", result, mask=mask, mask_ratio=mask_ratio, seed=seed)


@_task("localization")
@_pictures_option
def localization(setup: Setup, pictures: int) -> None:
    """Where a pretraining checkpoint sees what it hears: pictures, and scores where the manifest names masks.

    Every patch is compared with the sound by itself, without the rest of the picture. "other sound" gives each picture
    the sound of the clip before it: as much of the score is found without hearing.
    """
    from kdcmae.evaluation.localization import draw_heat, localize, summarize

    model, preprocessing = setup.pretrained()
    clips = setup.clips(preprocessing, None)
    if not clips.has_masks and setup.output is None:
        raise ConfigError(
            f"{setup.data} does not name a mask for every clip to score with; --output DIR gives pictures"
        )
    batches = clips.masked(_watched(clips)) if clips.has_masks else _watched(clips)
    gallery = _Gallery(setup, clips, pictures)
    heats = gallery.drawn(localize(model, batches), lambda one, row: draw_heat(one, row, preprocessing))
    if clips.has_masks:
        result = summarize(heats)
    else:
        note(f"note: {setup.data} does not name a mask for every clip; only pictures are made")
        result = None
        for _ in heats:  # each is drawn on its way here
            pass
    setup.finish("localization", clips, "torch", result)


@_task("probe")
@click.option("--train", required=True, help="Clips to fit on, given as --data.")
@_labels_option
@_modality_option
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
    encoder.eval().to(setup.torch_device)
    fitted = setup.clips(preprocessing, classes, train=train, modality=sees)
    clips = setup.clips(preprocessing, classes, modality=sees)
    features = [task.pooled_features(encoder, _watched(part)) for part in (fitted, clips)]
    result = task.probe(features[0], features[1], classes.names)
    skipped = [{"clip": clip, "reason": reason} for clip, reason in fitted.skipped.items()]
    setup.finish("probe", clips, "torch", result, modality=sees, train=train, train_skipped=skipped)


class _Gallery:
    """Writes the pictures of the first clips while an evaluation goes on."""

    def __init__(self, setup: Setup, clips: EvaluationClips, count: int) -> None:
        self.folder, self.records, self.left = setup.output, clips.records, count

    def drawn(
        self, batches: Iterable[Indexed], draw: Callable[[Indexed, int], dict[str, NDArray[Any]]]
    ) -> Iterator[Indexed]:
        """Hand batches on; ``draw`` gives the pictures of one row of one, by kind."""
        from kdcmae.data.images import write_image

        for batch in batches:
            for row, number in enumerate(batch.index.tolist()):
                if self.folder is None or self.left == 0:
                    break
                self.folder.mkdir(parents=True, exist_ok=True)
                for kind, picture in draw(batch, row).items():
                    write_image(self.folder / f"{self.records[number].id}.{kind}.png", picture)
                self.left -= 1
            yield batch


def _predictor(setup: Setup, modality: Modality | None) -> Predictor:
    from kdcmae.predictors import CheckpointPredictor, load_predictor

    overrides = setup.overrides if modality is None else {**setup.overrides, "modality": modality}
    predictor = load_predictor(setup.model, **overrides)
    if isinstance(predictor, CheckpointPredictor):
        predictor.classifier.to(setup.torch_device)
    elif setup.device != "auto":
        raise ConfigError(f"{setup.model} is an engine: --device is for checkpoints")
    return predictor


def _watched(clips: EvaluationClips) -> Iterator[Any]:
    """The batches, with a progress bar; says at the end how many clips were skipped."""
    with progress_bar("evaluate", len(clips)) as on_batch:
        for batch in clips:
            yield batch
            on_batch()
    for clip, reason in clips.skipped.items():
        note(f"skipped {clip}: {reason}")
