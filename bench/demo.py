"""``make demo``: the whole product in one go, as a newcomer would use it.

Writes a short clip, compiles the tiny preset for OpenVINO and TensorRT, benchmarks the engines against PyTorch and
classifies the clip. Every step is the command a user would type, and is shown as such.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

import click

from kdcmae.cli.common import KdcmaeCommand, note
from kdcmae.data.synthetic import demo_clip
from kdcmae.errors import GateError

__all__ = ["main"]

MODEL = "--preset tiny --random-weights"


@click.command(cls=KdcmaeCommand)
@click.option("--output", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True)
def main(output: Path) -> None:
    """Compile, verify, benchmark and use a model on this machine."""
    start = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    clip = output / "clip.mp4"
    note(f"\nA synthetic clip: {clip}")
    demo_clip(clip)
    fp32, bf16, trt = (output / name for name in ("openvino-fp32", "openvino-bf16", "trt-fp16"))
    _run(f"kdcmae-compile --target openvino {MODEL} --output {fp32}")
    _run(f"kdcmae-compile --target openvino {MODEL} --precision bf16 --output {bf16}")
    _run(f"kdcmae-compile --target trt {MODEL} --precision fp16 --batch 1:8:64 --output {trt}")
    _run(f"kdcmae-bench preset:tiny {fp32} {bf16} {trt} --seconds 3")
    _run(f"kdcmae predict {fp32} {clip}")
    note(f"\nDone in {time.perf_counter() - start:.0f} s. These weights are random, so the labels mean nothing;")
    note("compile your own checkpoint with  kdcmae-compile --target openvino --checkpoint FILE")


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
