"""``kdcmae demo``: an engine in the browser of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import webbrowser
from pathlib import Path

import click

from kdcmae.cli.common import KdcmaeCommand, note
from kdcmae.terminal import say

__all__ = ["command"]

_PATH = click.Path(path_type=Path)


@click.command("demo", cls=KdcmaeCommand)
@click.argument("engine", type=_PATH, required=False)
@click.option(
    "--output", type=_PATH, default=Path("out/demo"), show_default=True, help="Where the page and the engine go."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Another one if taken.")
@click.option("--open/--no-open", "opens", default=True, help="Open the page in a browser, where there is one.")
@click.option(
    "--onnxruntime-web",
    "runtime",
    type=_PATH,
    help="The npm package onnxruntime-web, as an archive or a folder.",
    show_default="the cache's, or else npm fetches it",
)
def command(engine: Path | None, output: Path, port: int, opens: bool, runtime: Path | None) -> None:
    """Show an ENGINE in a browser of this machine: a clip, or camera and microphone, with labels as they come.

    Without ENGINE, the model that ships with the package is compiled for browsers the first time. The page is served
    on loopback only, until Ctrl-C. Prints its address on stdout.
    """
    from kdcmae.export.onnxruntime_web import onnxruntime_web
    from kdcmae.export.serving import served
    from kdcmae.export.web import export_page

    files = onnxruntime_web(runtime)  # before a build, which takes longer
    page = output / "page"
    export_page(engine or _shipped(output / "onnx-raw"), page, runtime=files)
    with served(page, port) as server:
        url = f"http://localhost:{server.server_port}/"
        say(url)
        note(f"{page} is served at that address, for this machine alone. Ctrl-C ends it.")
        sys.stdout.flush()
        if opens and _has_browser():
            webbrowser.open(url)
        server.serve_forever()


def _shipped(folder: Path) -> Path:
    """The engine of the shipped model for browsers, built where there is none; a failed build ends the command."""
    if not (folder / "manifest.json").is_file():
        note(f"$ kdcmae-compile --target onnx --inputs raw --output {folder}")
        program = [sys.executable, "-m", "kdcmae.compile", "--target", "onnx", "--inputs", "raw"]
        done = subprocess.run([*program, "--output", str(folder)], check=False, stdout=sys.stderr)
        if done.returncode:
            raise SystemExit(done.returncode)  # it has said why
    return folder


def _has_browser() -> bool:
    """Whether there is a screen for one: a browser of the terminal would take the terminal."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
