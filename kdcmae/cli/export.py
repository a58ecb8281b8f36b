"""``kdcmae export``: an engine in the form that another program runs."""

from __future__ import annotations

from pathlib import Path

import click

from kdcmae.cli.common import KdcmaeGroup, json_option, note, print_json

__all__ = ["command"]

_PATH = click.Path(path_type=Path)


@click.group(name="export", cls=KdcmaeGroup)
def command() -> None:
    """Write an engine in a form that runs elsewhere than in Python and C++."""


@command.command(name="web")
@click.argument("engine", type=_PATH)
@click.argument("page", type=_PATH)
@click.option(
    "--onnxruntime-web",
    "runtime",
    type=_PATH,
    help="The npm package onnxruntime-web, as an archive or a folder.",
    show_default="the cache's, or else npm fetches it",
)
@json_option
def web(engine: Path, page: Path, runtime: Path | None, as_json: bool) -> None:
    """Write a folder PAGE that runs an ENGINE in a browser, from any static server.

    The engine is an ONNX engine with raw inputs. The page takes a clip or camera and microphone, and sends nothing
    anywhere. It tests itself first. ONNX Runtime for browsers is fetched once, when a page is exported, by npm from
    the registry that npm is configured for.

    \b
    kdcmae-compile --target onnx --inputs raw --output out/raw
    kdcmae export web out/raw out/page
    python -m http.server --bind 127.0.0.1 --directory out/page
    """
    from kdcmae.export.web import export_page

    exported = export_page(engine, page, runtime=runtime, step=lambda line: note(f"  {line}"))
    if as_json:
        print_json({"page": str(page), "files": exported.files, "onnxruntime_web": exported.facts["onnxruntime_web"]})
    else:
        megabytes = sum(exported.files.values()) / 1e6
        note(f"{page}: {megabytes:.1f} MB; serve it with  python -m http.server --bind 127.0.0.1 --directory {page}")
