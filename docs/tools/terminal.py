"""Draw docs/demo.svg: what `make demo` prints on a terminal, run and recorded here.

The picture shows the steps that make and use one engine. It leaves out the other two builds and the benchmark, whose
figures depend on what else the machine does.

    python docs/tools/terminal.py                   # runs the demo: a minute or more
    python docs/tools/terminal.py --record FILE     # draws what was recorded before
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

PICTURE = Path(__file__).parents[1] / "demo.svg"
_WIDTH = 104
_SHOWN = {"$ kdcmae-compile --target openvino --output": 100, "$ kdcmae predict": 11}
"""The steps in the picture, by how their commands begin, and of how many lines each."""

_HIDDEN = re.compile(
    r"^\[|\.\.\.$|^kdcmae-compile: |^decoded in|^  (program|onnx|engine|artifact).*: |look into the cache"
)
_LAST = re.compile(r"^\d+ of \d+ right|^Done in")
_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # from elsewhere; the viewer's own monospaced font is used
_THEME = TerminalTheme(
    (24, 26, 31),
    (213, 217, 224),
    [(24, 26, 31), (224, 108, 117), (126, 200, 120), (224, 190, 110), *[(150, 170, 210)] * 4],
)


@click.command()
@click.option(
    "--record", type=click.Path(dir_okay=False, path_type=Path), default=Path("out/demo.txt"), show_default=True
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=PICTURE, show_default=True)
def main(record: Path, output: Path) -> None:
    """Draw a recorded demo; without a record, run it first."""
    if not record.is_file():
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(recorded([sys.executable, "-m", "kdcmae.bench.demo"]), encoding="utf-8")
    console = Console(width=_WIDTH, record=True, file=io.StringIO(), legacy_windows=False)
    for line in shown(record.read_text(encoding="utf-8")):
        console.print(Text.from_ansi(line), soft_wrap=False, no_wrap=False, highlight=False)
    picture = console.export_svg(title="make demo", theme=_THEME, unique_id="demo")
    output.write_text(_FONTS.sub("", picture), encoding="utf-8")


def recorded(command: list[str]) -> str:
    """Everything that a command writes to a terminal.

    Raises:
        CalledProcessError: it failed.
    """
    ours, its = pty.openpty()
    with tempfile.TemporaryDirectory() as cache:  # an empty one, so that the engines are built and not copied
        environment = {**os.environ, "TERM": "xterm-256color", "KDCMAE_CACHE": cache}
        with subprocess.Popen(command, stdout=its, stderr=its, env=environment) as process:
            os.close(its)
            parts = []
            while part := _read(ours):
                parts.append(part)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return b"".join(parts).decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux ends a terminal whose programs have ended
        return b""


def shown(text: str) -> Iterator[str]:
    """The lines to draw, in their last state, with their colours."""
    left = 0
    for raw in text.split("\n"):
        line = re.split(r"\r|\x1b\[K", raw.rstrip("\r"))[-1].replace("\x1b[?25h", "").rstrip()
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
        if plain.startswith("$ "):
            left = next((lines for start, lines in _SHOWN.items() if plain.startswith(start)), 0)
            line = f"\x1b[1m{line}\x1b[0m"
        if _LAST.search(plain):
            yield line
        elif left and plain and not _HIDDEN.search(plain):
            yield line
            left -= 1
            if not left:
                yield "..."


if __name__ == "__main__":
    main()
