"""``make demo``: the whole product in one go, as a newcomer would use it.

Makes clips of AVSynth, compiles the model that ships with the package for OpenVINO, in the precision that this machine
executes best and in int8 beside it, and for TensorRT, measures how fast and how accurate the engines are beside
PyTorch, and classifies the clips. Every step is the command a user would type, and is shown as such.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from kdcmae.assets import default_checkpoint
from kdcmae.cli.common import KdcmaeCommand, note
from kdcmae.compile.latency import describe_speed
from kdcmae.data.manifest import ClipRecord, read_manifest
from kdcmae.errors import GateError
from kdcmae.evaluation.windows import score_clip, windowing_of
from kdcmae.export.onnxruntime_web import PACKAGE, cached
from kdcmae.media.frame_numbers import MIDDLE_FRAME
from kdcmae.predictors import Predictor, open_model
from kdcmae.runtime.manifest import Manifest

__all__ = ["main"]

_CLIPS = 24  # four of them are for testing


@click.command(cls=KdcmaeCommand)
@click.option("--output", type=click.Path(path_type=Path), default=Path("out/demo"))
def main(output: Path) -> None:
    """Compile, verify, benchmark and use a model on this machine."""
    start = time.perf_counter()
    data = output / "avsynth"
    best, int8, trt = (output / name for name in ("openvino", "openvino-int8", "trt-fp16"))
    _run(f"kdcmae data synth {data} --clips {_CLIPS}")
    _run(f"kdcmae-compile --target openvino --output {best}")
    _run(f"kdcmae-compile --target openvino --precision int8 --output {int8}")
    _run(f"kdcmae-compile --target trt --precision fp16 --batch 1:8:64 --output {trt}")
    _run(f"kdcmae-bench {_from_here(default_checkpoint())} {best} {int8} {trt} --seconds 2")
    note(f"\n{why_chosen(Manifest.read(best), Manifest.read(int8))}")
    clips = read_manifest(data / "test.jsonl")
    _run(f"kdcmae predict {best} {' '.join(str(clip.video) for clip in clips)} --top 2")
    note("\nTheir labels:  " + ", ".join(label for clip in clips for label in clip.labels))
    note(f"{_right(open_model(best), clips)} of {len(clips)} right")
    note(f"\nDone in {time.perf_counter() - start:.0f} s. The TensorRT engine was built here; running it takes a GPU.")
    note("Compile your own checkpoint with  kdcmae-compile --target openvino --checkpoint FILE")
    note(f"See this model in your browser with  {in_browser()}")


def in_browser() -> str:
    """The command that opens the model in a browser, and what it lacks here."""
    command = str(Path(sys.executable).with_name("kdcmae"))
    with suppress(ValueError):
        command = str(Path(command).relative_to(Path.cwd()))
    lacks = cached() is None and shutil.which("npm") is None
    return f"{command} demo" + (f"  (install npm first, which fetches {PACKAGE} once)" if lacks else "")


def why_chosen(best: Manifest, int8: Manifest) -> str:
    """One sentence: why the first engine has its precision, and how fast the other is beside it.

    Args:
        best: of an engine whose precision kdcmae chose.
        int8: of the same model in int8, whose build timed both in turns.
    """
    chosen = best.precision
    return (
        f"The first engine is in {chosen['asked']} because {chosen['chosen']}; "
        f"{describe_speed('int8', int8.build['speed'])}."
    )


def _right(predictor: Predictor, clips: Sequence[ClipRecord]) -> int:
    """Number of clips whose best label is one of their own."""
    windowing, correct = windowing_of(predictor.facts), 0
    for clip in clips:
        if clip.video is not None:
            scored = score_clip(predictor, clip.video, windowing, frame_numbers=(MIDDLE_FRAME,))
            correct += scored.labels[scored.scores.mean(axis=0).argmax()] in clip.labels
    return correct


def _from_here(path: Path) -> Path:
    """A path as a user would type it: without the way to the current folder, where it is below that."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _run(command: str) -> None:
    """Show a command and run it as installed beside this interpreter.

    Raises:
        GateError: it failed.
    """
    note(f"\n$ {command}")
    name, *arguments = shlex.split(command)
    result = subprocess.run([Path(sys.executable).with_name(name), *arguments], check=False)
    if result.returncode:
        raise GateError(f"{command!r} failed with exit code {result.returncode}")


if __name__ == "__main__":
    main()
