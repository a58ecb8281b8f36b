"""``kdcmae predict``: the top labels of video clips, from an engine or a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from kdcmae.cli.common import KdcmaeCommand, json_option, note, print_json
from kdcmae.errors import ConfigError, DataError, KdcmaeError
from kdcmae.labels import read_labels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kdcmae.classifier import KDCMAEClassifier
    from kdcmae.runtime import Engine
    from kdcmae.runtime.preprocessing import Preprocessing
    from kdcmae.runtime.scores import Scores

__all__ = ["command"]


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What the command needs to know about a model.

    Args:
        name: for people.
        runs_on: what computes it, such as ``"openvino"`` or ``"torch"``.
        modality: what it sees: ``"audiovisual"``, ``"audio"`` or ``"video"``.
        labels: in the order of its logits.
        scores: how its logits become scores.
        random_weights: it was never trained.
        preprocessing: of a clip.
        batch: smallest and largest number of samples it takes at once.
    """

    name: str
    runs_on: str
    modality: str
    labels: tuple[str, ...]
    scores: Scores
    random_weights: bool
    preprocessing: Preprocessing
    batch: tuple[int, int]


class Predictor(Protocol):
    """A model that turns prepared inputs into logits."""

    facts: ModelFacts

    def logits(self, inputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """``audio`` (B, T, 128) and ``image`` (B, 3, S, S), as far as the model sees them -> (B, classes)."""


class EnginePredictor:
    """A compiled engine; needs no torch."""

    def __init__(self, engine: Engine) -> None:
        from kdcmae.runtime.preprocessing import Preprocessing

        self.engine = engine
        manifest = engine.manifest
        self.facts = ModelFacts(
            name=manifest.model["name"],
            runs_on=manifest.target,
            modality=manifest.model["modality"],
            labels=manifest.labels,
            scores=manifest.scores,
            random_weights=manifest.model["random_weights"],
            preprocessing=Preprocessing.from_dict(manifest.preprocessing),
            batch=(manifest.batch.min, manifest.batch.max),
        )

    def logits(self, inputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        return self.engine.infer(dict(inputs))[self.engine.manifest.outputs[0].name]


class CheckpointPredictor:
    """A finetuned checkpoint in PyTorch."""

    def __init__(self, classifier: KDCMAEClassifier, name: str) -> None:
        from kdcmae.runtime.preprocessing import Preprocessing

        self.classifier = classifier
        config = classifier.config
        self.facts = ModelFacts(
            name=name,
            runs_on="torch",
            modality=config.modality,
            labels=classifier.labels,
            scores="sigmoid" if config.multi_label else "softmax",
            random_weights=False,
            preprocessing=Preprocessing(audio_frames=config.audio_length, image_size=config.image_size),
            batch=(1, 10),
        )

    def logits(self, inputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            return self.classifier(**{name: torch.from_numpy(array) for name, array in inputs.items()}).numpy()


@click.command(name="predict", cls=KdcmaeCommand)
@click.argument("model", metavar="ENGINE_OR_CHECKPOINT", type=click.Path(path_type=Path))
@click.argument("clips", metavar="CLIP...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Labels to show per clip.")
@click.option("--average-frames", is_flag=True, help="Average the scores over ten frames; otherwise the middle one.")
@click.option("--modality", type=click.Choice(["audiovisual", "audio", "video"]), help="What a checkpoint sees.")
@click.option("--num-heads", type=int, help="Attention heads of a checkpoint, where they are not 64 wide.")
@click.option("--labels", type=click.Path(path_type=Path), help="Class names of a checkpoint: text or CSV.")
@json_option
def command(
    model: Path,
    clips: tuple[Path, ...],
    top: int,
    average_frames: bool,
    as_json: bool,
    labels: Path | None,
    **options: Any,
) -> None:
    """Print the top labels of each CLIP.

    \b
    kdcmae predict out/openvino-fp32 clip.mp4
    kdcmae predict model.pth *.mp4 --average-frames --json
    """
    from kdcmae.data.clip import FRAMES_PER_CLIP

    overrides = {name: value for name, value in options.items() if value is not None}
    if labels is not None:
        overrides["labels"] = read_labels(labels)
    predictor = load_predictor(model, **overrides)
    facts = predictor.facts
    if facts.random_weights:
        note(f"note: {facts.name} has random weights; its labels mean nothing")
    if average_frames and facts.modality == "audio":
        raise ConfigError(f"--average-frames: {facts.name} is an audio model and sees no frames")
    # The published evaluation takes the middle one of a clip's ten frames, number 5.
    frame_numbers = range(FRAMES_PER_CLIP) if average_frames else (FRAMES_PER_CLIP // 2,)
    results = []
    for number, path in enumerate(clips, start=1):
        if len(clips) > 1:
            note(f"[{number}/{len(clips)}] {path}")
        try:
            result = classify_clip(predictor, path, frame_numbers=frame_numbers, top=top)
        except DataError as error:
            click.echo(f"error: {error}", err=True)
            result = {"path": str(path), "error": str(error)}
        else:
            if not as_json:
                _show(result)
        results.append(result)
    if as_json:
        print_json({"model": _described(model, facts), "clips": results})
    if any("error" in result for result in results):
        raise SystemExit(DataError.exit_code)


def load_predictor(path: Path, **overrides: Any) -> Predictor:
    """Open an engine folder or a finetuned checkpoint.

    Args:
        path: a folder is an engine, a file is a checkpoint.
        overrides: for :func:`kdcmae.load_classifier`; an engine takes none.

    Raises:
        KdcmaeError: it cannot be opened.
    """
    if path.is_dir():
        if overrides:
            raise ConfigError(f"{path} is an engine: --{next(iter(overrides)).replace('_', '-')} is for checkpoints")
        from kdcmae.runtime import load_engine

        return EnginePredictor(load_engine(path))
    from kdcmae import load_classifier

    return CheckpointPredictor(load_classifier(path, **overrides), path.stem)


def classify_clip(predictor: Predictor, path: Path, *, frame_numbers: Sequence[int], top: int) -> dict[str, Any]:
    """Classify one clip.

    Args:
        predictor: the model.
        path: the clip.
        frame_numbers: which of the clip's ten frames to use; their scores are averaged.
        top: labels to return.

    Returns:
        ``path``, ``predictions`` (``label`` and ``score``, best first), ``decode_ms`` and ``model_ms``.

    Raises:
        DataError: the clip cannot be used.
        KdcmaeError: the model failed.
    """
    import numpy as np

    from kdcmae.runtime.scores import scores

    start = time.perf_counter()
    inputs = _read_inputs(path, predictor.facts, frame_numbers)
    decoded = time.perf_counter()
    logits = _batched_logits(predictor, inputs)
    done = time.perf_counter()
    if not np.isfinite(logits).all():
        raise KdcmaeError(f"{predictor.facts.name} gave logits that are not finite for {path}")
    mean_scores = scores(logits, predictor.facts.scores).mean(axis=0)
    best = mean_scores.argsort()[::-1][:top]
    return {
        "path": str(path),
        "predictions": [{"label": predictor.facts.labels[i], "score": float(mean_scores[i])} for i in best],
        "decode_ms": round(1000 * (decoded - start), 3),
        "model_ms": round(1000 * (done - decoded), 3),
    }


def _read_inputs(path: Path, facts: ModelFacts, frame_numbers: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """Decode what the model sees, and no more; one row per frame."""
    import numpy as np

    from kdcmae.data.clip import read_clip, read_frames, read_waveform
    from kdcmae.runtime.preprocessing import SAMPLE_RATE_HZ, prepare_audio, prepare_image

    if facts.modality == "audio":
        waveform, frames = read_waveform(path), None
    elif facts.modality == "video":
        waveform, frames = None, read_frames(path)
    else:
        clip = read_clip(path)
        waveform, frames = clip.waveform, clip.frames
    inputs = {}
    if waveform is not None:
        audio = prepare_audio(waveform, SAMPLE_RATE_HZ, facts.preprocessing)
        inputs["audio"] = np.repeat(audio, len(frame_numbers), axis=0)
    if frames is not None:
        inputs["image"] = np.concatenate([prepare_image(frames[i], facts.preprocessing) for i in frame_numbers])
    return inputs


def _batched_logits(predictor: Predictor, inputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Logits of any number of rows, in batches the model takes; a batch that is too small is filled up."""
    import numpy as np

    smallest, largest = predictor.facts.batch
    rows = len(next(iter(inputs.values())))
    parts = []
    for start in range(0, rows, largest):
        batch = {name: array[start : start + largest] for name, array in inputs.items()}
        given = min(largest, rows - start)
        missing = max(0, smallest - given)
        filled = {name: np.concatenate([array, array[-1:].repeat(missing, axis=0)]) for name, array in batch.items()}
        parts.append(predictor.logits(filled)[:given])
    return np.concatenate(parts)


def _described(path: Path, facts: ModelFacts) -> dict[str, Any]:
    return {
        "path": str(path),
        "name": facts.name,
        "runs_on": facts.runs_on,
        "modality": facts.modality,
        "random_weights": facts.random_weights,
    }


def _show(result: dict[str, Any]) -> None:
    from rich.bar import Bar
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    # Text, because a path or a label may hold square brackets, which a plain string would read as markup.
    table = Table("label", Column("score", justify="right"), Column(width=20))
    for prediction in result["predictions"]:
        score = prediction["score"]
        table.add_row(Text(prediction["label"]), f"{score:.4f}", Bar(size=1.0, begin=0.0, end=score, color="green"))
    console = Console(highlight=False)
    console.print(Text(result["path"]), soft_wrap=True)
    console.print(table)
    console.print(f"decoded in {result['decode_ms']:.0f} ms, classified in {result['model_ms']:.0f} ms")
