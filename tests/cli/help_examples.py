"""Commands that a person copies: from every command's help, from the README and from docs/."""

from __future__ import annotations

import inspect
import re
import shlex
from dataclasses import dataclass
from glob import glob
from itertools import takewhile
from pathlib import Path

from programs import EVERY, PROGRAMS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*/README.md")])
_REMARK = re.compile(r"\s+#.*$")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_VARIABLE = re.compile(r"^[A-Z_]+=\S+$")


@dataclass(frozen=True)
class Example:
    """One example: the command or the page that has it, and its line as a person would type it, without a remark."""

    path: tuple[str, ...]
    line: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables that are set before the program's name."""
        words = takewhile(_VARIABLE.match, shlex.split(self.line))
        return dict(word.split("=", 1) for word in words)

    def words(self, folder: Path) -> list[str]:
        """The program and its arguments as a shell in a folder hands them over, without what starts several ranks."""
        text, _, _ = self.line.partition(" > ")
        words = shlex.split(text)
        words = words[next(index for index, word in enumerate(words) if word in PROGRAMS) :]
        return [name for word in words for name in (sorted(glob(word, root_dir=folder)) if "*" in word else [word])]

    @property
    def written(self) -> str | None:
        """The file that the shell writes what the program prints into."""
        return self.line.partition(" > ")[2] or None


def examples() -> list[Example]:
    """Every line that starts a program, with its continuation, of all helps and pages, each once."""
    found = []
    for path, command in EVERY.items():
        parts = [part for part in inspect.cleandoc(command.help or "").split("\n\n") if part.startswith("\b\n")]
        found += [Example(path, line) for line in _lines("\n".join(parts)) if _starts_a_program(line)]
    for page in PAGES:
        for block in blocks(page, "sh", "console"):
            found += [Example((page.name,), line) for line in _lines(block) if _starts_a_program(line)]
    unique: dict[str, Example] = {}
    for example in found:
        unique.setdefault(example.line, example)
    return list(unique.values())


def other_lines() -> list[tuple[Path, str]]:
    """Every command of a page that starts none of the three programs."""
    lines = [(page, line) for page in PAGES for block in blocks(page, "sh", "console") for line in _lines(block)]
    return [(page, line) for page, line in lines if not _starts_a_program(line)]


def sessions(page: Path) -> list[tuple[str, str]]:
    """Every Python script that a page starts in a ``console`` block, and what the page says that it prints."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```console\n\$ (python .*)\n([^$`]*)^```", text, re.MULTILINE)


def blocks(page: Path, *kinds: str) -> list[str]:
    """The code blocks of a page that are marked as one of some kinds; of ``console`` only what follows ``$``."""
    found = []
    for kind, text in _FENCE.findall(page.read_text(encoding="utf-8")):
        if kind in kinds:
            typed = re.findall(r"^\$ (.*)", text, re.MULTILINE)
            found.append("\n".join(typed) if kind == "console" else text)
    return found


def _lines(text: str) -> list[str]:
    rows = re.sub(r"\\\n\s*", "", text).splitlines()
    return [line for row in rows if (line := _REMARK.sub("", row.strip())) and not line.startswith("#")]


def _starts_a_program(line: str) -> bool:
    first = next((word for word in line.split() if not _VARIABLE.match(word)), "")
    return first in (*PROGRAMS, "torchrun")
