"""``kdcmae predict``: the top labels of video clips, from an engine or a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdcmae.cli.common import KdcmaeCommand, json_option, note, print_json, weights_option
from kdcmae.cli.normalisation import statistics_options
from kdcmae.errors import ConfigError, DataError, KdcmaeError
from kdcmae.labels import read_labels
from kdcmae.predictors import ModelFacts, Predictor, batched_logits, load_predictor
from kdcmae.terminal import bar, line, say, table

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["command"]

_MODEL_SUFFIXES = {"", ".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".onnx", ".gguf", ".h5", ".npz", ".xml", ".plan"}


@click.command(name="predict", cls=KdcmaeCommand)
@click.argument(
    "paths", metavar="[ENGINE_OR_CHECKPOINT] CLIP...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Labels to show per clip.")
@click.option("--average-frames", is_flag=True, help="Average the scores over ten frames; otherwise the middle one.")
@click.option(
    "--modality",
    type=click.Choice(["audiovisual", "audio", "video"]),
    help="What a checkpoint sees.",
    show_default="what its file says",
)
@click.option("--num-heads", type=int, help="Attention heads of a checkpoint.", show_default="each 64 wide")
@weights_option
@statistics_options
@click.option("--labels", type=click.Path(path_type=Path), help="Class names of a checkpoint: text or CSV.")
@json_option
def command(
    paths: tuple[Path, ...],
    top: int,
    average_frames: bool,
    as_json: bool,
    labels: Path | None,
    **options: Any,
) -> None:
    """Print the top labels of each CLIP.

    Where the first path is a video clip too, the model is the one that ships with the package.

    \b
    kdcmae predict clip.mp4
    kdcmae predict out/openvino-fp32 clip.mp4
    kdcmae predict model.pth *.mp4 --average-frames --json
    """
    from kdcmae.data.broken import BrokenClipError
    from kdcmae.data.frame_numbers import FRAMES_PER_CLIP, MIDDLE_FRAME

    model, clips = _model_and_clips(paths)
    overrides = {name: value for name, value in options.items() if value is not None}
    if labels is not None:
        overrides["labels"] = read_labels(labels)
    predictor = load_predictor(model, **overrides)
    facts = predictor.facts
    if facts.random_weights:
        note(f"note: {facts.name} has random weights; its labels mean nothing")
    if average_frames and facts.modality == "audio":
        raise ConfigError(f"--average-frames: {facts.name} is an audio model and sees no frames")
    frame_numbers = range(FRAMES_PER_CLIP) if average_frames else (MIDDLE_FRAME,)
    results = []
    for number, path in enumerate(clips, start=1):
        if len(clips) > 1:
            note(f"[{number}/{len(clips)}] {path}")
        try:
            result = classify_clip(predictor, path, frame_numbers=frame_numbers, top=top)
        except BrokenClipError as error:
            reason = error.reason if str(path) in error.reason else f"{path}: {error.reason}"
            note(f"error: {reason}")
            result = {"path": str(path), "error": error.reason}
        else:
            if not as_json:
                _show(result)
        results.append(result)
    if as_json:
        print_json({"model": _described(model, facts), "clips": results})
    if any("error" in result for result in results):
        raise SystemExit(DataError.exit_code)


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
        BrokenClipError: the clip cannot be used.
        KdcmaeError: the model failed.
    """
    import numpy as np

    from kdcmae.data.broken import clip_boundary
    from kdcmae.runtime.scores import scores

    start = time.perf_counter()
    with clip_boundary(str(path)):
        inputs = _read_inputs(path, predictor, frame_numbers)
    decoded = time.perf_counter()
    logits = batched_logits(predictor, inputs)
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


def _model_and_clips(paths: tuple[Path, ...]) -> tuple[Path, tuple[Path, ...]]:
    """Tell the model from the clips."""
    if _is_model(paths[0]):
        if len(paths) == 1:
            raise ConfigError(f"{paths[0]} is no video clip: give a clip to classify")
        return paths[0], paths[1:]
    from kdcmae.assets import default_checkpoint

    model = default_checkpoint()
    note("no model named: using the one that ships with the package, which knows AVSynth's classes")
    return model, paths


def _is_model(path: Path) -> bool:
    """Whether a path is a model rather than a clip, by what it is; names decide where that does not tell."""
    from kdcmae.data.clip import is_clip

    if path.is_dir():
        return True
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:
        head = b""
    if head[8:] == b"{" or head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] <= b"\x05"):
        return True
    return path.suffix.lower() in _MODEL_SUFFIXES and not is_clip(path)


def _read_inputs(path: Path, predictor: Predictor, frame_numbers: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Decode what the model sees and hears, and no more; one row per frame."""
    from kdcmae.data.clip import read_clip, read_frames, read_waveform
    from kdcmae.runtime.resampling import SAMPLE_RATE_HZ

    modality = predictor.facts.modality
    seconds = predictor.facts.preprocessing.audio_samples / SAMPLE_RATE_HZ
    if modality == "audio":
        sound = predictor.prepare(read_waveform(path, seconds=seconds), None)
        return {name: array.repeat(len(frame_numbers), axis=0) for name, array in sound.items()}
    if modality == "video":
        waveform, frames = None, read_frames(path)
    else:
        clip = read_clip(path, seconds=seconds)
        waveform, frames = clip.waveform, clip.frames
    return predictor.prepare(waveform, [frames[number] for number in frame_numbers])


def _described(path: Path, facts: ModelFacts) -> dict[str, Any]:
    return {
        "path": str(path),
        "name": facts.name,
        "runs_on": facts.runs_on,
        "modality": facts.modality,
        "random_weights": facts.random_weights,
    }


def _show(result: dict[str, Any]) -> None:
    rows = [(found["label"], f"{found['score']:.4f}", bar(found["score"])) for found in result["predictions"]]
    say(line(result["path"]))
    say(table(("label", "score", ""), rows, right=(1,)))
    say(f"decoded in {result['decode_ms']:.0f} ms, classified in {result['model_ms']:.0f} ms")
