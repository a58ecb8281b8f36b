"""Output of ``kdcmae predict`` for a clip."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcmae.cli.common import note
from kdcmae.drawing.timelines import Timeline, clock, runs
from kdcmae.errors import ConfigError
from kdcmae.extras import TRAIN, require_installed
from kdcmae.files.disk import writing
from kdcmae.files.replacing import replacing
from kdcmae.terminal import bar, line, say, status, table

if TYPE_CHECKING:
    from kdcmae.evaluation.windows import Progress, ScoredClip

__all__ = ["check_timeline", "described", "progress_of", "show", "write_timeline"]

_ROWS = 40  # of a table over time; in longer tables, neighbouring windows with the same best label share a row
_NOTE_EVERY_S = 10.0
_MANY = 100  # from so many windows on, their number is printed first
_KINDS = (".png", ".html")


def described(clip: ScoredClip, top: int) -> dict[str, Any]:
    """A clip as JSON: the mean over its windows, and each of them.

    Args:
        top: labels of each.
    """
    windows = [
        {"start_s": round(start, 4), "end_s": round(end, 4), "predictions": clip.best(scores, top)}
        for (start, end), scores in zip(clip.spans, clip.scores, strict=True)
    ]
    return {
        "path": str(clip.path),
        "predictions": clip.best(clip.scores.mean(axis=0), top),
        "windows": windows,
        "decode_ms": clip.decode_ms,
        "model_ms": clip.model_ms,
    }


def show(clip: ScoredClip, top: int) -> None:
    """Print a clip: the best label of each window if there are several, and the best labels of their mean."""
    say(line(str(clip.path)))
    count = len(clip.spans)
    if count > 1:
        _show_windows(clip)
        say(f"mean of {count} windows:")
    best = clip.best(clip.scores.mean(axis=0), top)
    rows = [(prediction["label"], f"{prediction['score']:.4f}", bar(prediction["score"])) for prediction in best]
    say(table(("label", "score", ""), rows, right=(1,)))
    say(f"decoded in {clip.decode_ms:.0f} ms, classified in {clip.model_ms:.0f} ms")


def _show_windows(clip: ScoredClip) -> None:
    spells = runs(clip.scores.argmax(axis=1).tolist()) if len(clip.spans) > _ROWS else None
    spans = spells or [(number, number + 1) for number in range(len(clip.spans))]
    rows = []
    for first, end in spans[:_ROWS]:
        highest = clip.scores[first:end].max(axis=0)
        number = int(clip.scores[first].argmax())
        time_shown = f"{clock(clip.spans[first][0])} - {clock(clip.spans[end - 1][1])}"
        rows.append((time_shown, clip.labels[number], f"{highest[number]:.4f}", bar(float(highest[number]))))
    say(table(("time", "label", "score" if spells is None else "highest", ""), rows, right=(2,)))
    if len(spans) > _ROWS:
        say(f"and {len(spans) - _ROWS} more; --json and --timeline have all")


@contextmanager
def progress_of(path: Path, *, seconds: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """Progress of a long clip on stderr: continuous on a terminal, and every ten seconds otherwise."""
    noted = seconds()

    def progress(done: int, total: int) -> None:
        nonlocal noted
        if done == 0:
            if total >= _MANY:
                note(f"  {path}: {total} windows")
            return
        if total > 1:
            status(f"  {line(str(path))}: window {done} of {max(done, total)}")
        if seconds() - noted > _NOTE_EVERY_S:
            noted = seconds()
            note(f"  {path}: window {done} of {max(done, total)}")

    yield progress
    status("")


def check_timeline(path: Path, clips: int) -> None:
    """Refuse a timeline that could not be written, before anything is computed.

    Raises:
        ConfigError: no PNG or HTML file, no such folder, or several clips.
        MissingDependencyError: the library that draws a PNG is not installed.
    """
    if path.suffix.lower() not in _KINDS:
        raise ConfigError(f"--timeline {path}: give a name that ends in {' or '.join(_KINDS)}")
    if clips != 1:
        raise ConfigError(f"--timeline draws one clip, and there are {clips}: give one CLIP")
    if not path.parent.is_dir():
        raise ConfigError(f"--timeline {path}: there is no folder {path.parent}")
    if path.suffix.lower() == ".png":
        require_installed("PIL", install=TRAIN)


def write_timeline(path: Path, clip: ScoredClip, model: str) -> None:
    """Draw a clip's scores over time.

    Args:
        path: a PNG or HTML file.
        model: name of the model.

    Raises:
        DiskFullError: no space is left for it.
    """
    timeline = Timeline.of(clip.path.name, model, clip.spans, clip.scores, clip.labels)
    with writing(path), replacing(path) as partial:
        if path.suffix.lower() == ".png":
            from kdcmae.data.images import write_image
            from kdcmae.drawing.figures import timeline_figure

            write_image(partial, timeline_figure(timeline))
        else:
            partial.write_text(timeline.page(), encoding="utf-8")
    note(f"written to {path}")
