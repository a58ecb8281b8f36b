"""``kdcmae predict``: the top labels of video clips, from an engine or a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdcmae.cli.common import KdcmaeCommand, Number, json_option, note, print_json, weights_option
from kdcmae.cli.normalisation import statistics_options
from kdcmae.errors import ConfigError, DataError
from kdcmae.labels import read_labels
from kdcmae.predictors import ModelFacts, Predictor, open_model

if TYPE_CHECKING:
    from kdcmae.evaluation.windows import ScoredClip

__all__ = ["command"]

_MODEL_SUFFIXES = {"", ".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".onnx", ".gguf", ".h5", ".npz", ".xml", ".plan"}


@click.command(name="predict", cls=KdcmaeCommand)
@click.argument(
    "paths", metavar="[ENGINE_OR_CHECKPOINT] CLIP...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Labels to show per clip.")
@click.option("--average-frames", is_flag=True, help="Average the scores over ten frames; otherwise the middle one.")
@click.option(
    "--window",
    "window_s",
    type=Number(min=0, min_open=True),
    help="Seconds that are scored at once; a longer clip is cut into windows of as many.",
    show_default="what the model hears",
)
@click.option(
    "--hop",
    "hop_s",
    type=Number(min=0, min_open=True),
    help="Seconds from one window to the next, no more than a window.",
    show_default="half a window",
)
@click.option("--timeline", type=click.Path(path_type=Path), help="Draw one clip's scores over time: a .png or .html.")
@click.option(
    "--modality",
    type=click.Choice(["audiovisual", "audio", "video"]),
    help="Modality of a checkpoint.",
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
    window_s: float | None,
    hop_s: float | None,
    timeline: Path | None,
    as_json: bool,
    labels: Path | None,
    **options: Any,
) -> None:
    """Print the top labels of each CLIP.

    Where the first path is a video clip too, the model is the one that ships with the package. A clip longer than what
    the model hears at once is cut into windows, sound and frames of the same time: their best labels are printed over
    time, and then those of the mean of all windows.

    \b
    kdcmae predict clip.mp4
    kdcmae predict out/openvino-fp32 clip.mp4
    kdcmae predict model.pth *.mp4 --average-frames --json
    kdcmae predict clip.mp4 --hop 1 --timeline clip.html
    """
    from kdcmae.cli import predict_report

    model, clips = _model_and_clips(paths)
    if timeline is not None:
        predict_report.check_timeline(timeline, len(clips))
    overrides = {name: value for name, value in options.items() if value is not None}
    if labels is not None:
        overrides["labels"] = read_labels(labels)
    predictor = open_model(model, **overrides)
    facts = predictor.facts
    if facts.random_weights:
        note(f"note: {facts.name} has random weights; its labels mean nothing")
    if average_frames and facts.modality == "audio":
        raise ConfigError(f"--average-frames: {facts.name} is an audio model and sees no frames")
    results = []
    for clip in _scored(predictor, clips, average_frames=average_frames, window_s=window_s, hop_s=hop_s):
        if isinstance(clip, dict):
            results.append(clip)
            continue
        results.append(predict_report.described(clip, top))
        if not as_json:
            predict_report.show(clip, top)
        if timeline is not None:
            predict_report.write_timeline(timeline, clip, facts.name)
    if as_json:
        print_json({"model": _described(model, facts), "clips": results})
    if any("error" in result for result in results):
        raise SystemExit(DataError.exit_code)


def _scored(
    predictor: Predictor,
    clips: tuple[Path, ...],
    *,
    average_frames: bool,
    window_s: float | None,
    hop_s: float | None,
) -> Iterator[ScoredClip | dict[str, str]]:
    """Scores of each clip in turn, or the path and the error of a clip that cannot be used."""
    from kdcmae.cli.predict_report import progress_of
    from kdcmae.data.broken import BrokenClipError
    from kdcmae.evaluation.windows import score_clip, windowing_of
    from kdcmae.media.frame_numbers import FRAMES_PER_CLIP, MIDDLE_FRAME

    frame_numbers = range(FRAMES_PER_CLIP) if average_frames else (MIDDLE_FRAME,)
    windowing = windowing_of(predictor.facts, window_s, hop_s)
    for number, path in enumerate(clips, start=1):
        if len(clips) > 1:
            note(f"[{number}/{len(clips)}] {path}")
        try:
            with progress_of(path) as progress:
                clip = score_clip(predictor, path, windowing, frame_numbers=frame_numbers, progress=progress)
        except BrokenClipError as error:
            note(f"error: {error.reason if str(path) in error.reason else f'{path}: {error.reason}'}")
            yield {"path": str(path), "error": error.reason}
        else:
            yield clip


def _model_and_clips(paths: tuple[Path, ...]) -> tuple[Path, tuple[Path, ...]]:
    """Separate the model from the clips."""
    if _is_model(paths[0]):
        if len(paths) == 1:
            raise ConfigError(f"{paths[0]} is no video clip: give a clip to classify")
        return paths[0], paths[1:]
    from kdcmae.assets import default_checkpoint

    model = default_checkpoint()
    note("no model named: using the one that ships with the package, which knows AVSynth's classes")
    return model, paths


def _is_model(path: Path) -> bool:
    """Whether a path is a model rather than a clip, by its content, or else by its name."""
    from kdcmae.media.clip import is_clip

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


def _described(path: Path, facts: ModelFacts) -> dict[str, Any]:
    return {
        "path": str(path),
        "name": facts.name,
        "runs_on": facts.runs_on,
        "modality": facts.modality,
        "random_weights": facts.random_weights,
    }
