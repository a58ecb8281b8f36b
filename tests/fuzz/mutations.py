"""Damage to files, drawn from a seed, and what every reader owes to whoever hands it a damaged one.

A reader takes the file, or refuses it in one line with an error of the package: soon, and in bounded memory.
``KDCMAE_FUZZ`` sets how many mutants each test makes; ``make fuzz`` takes 2000.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from kdcmae.errors import KdcmaeError

MUTANTS = int(os.environ.get("KDCMAE_FUZZ", "60"))
LONGEST_S = 5.0
_HANGS_S = 60  # by the clock, of a machine that has other work too
_MOST_MB = 1000.0

# What people, spreadsheets and other programs put where something else belongs.
_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**63, 1e308, -0.5, float("nan"), float("inf"), "", " ", "0", "a\0b", "a\nb", "\ud800"),
    *("x" * 5000, "../../etc/passwd", "é\u202e", [], {}, [[]], {"": {}}, ["a", 1], [None] * 3, [0] * 400),
)
_DEEP = {"nested 50 times": 50, "nested 5000 times": 5000}
_ODD_TEXT = (
    "\ufeff",
    "\0",
    "\r",
    "\x85",
    "\x0c",
    '"',
    ";",
    ",",
    "\t",
    "\n\n",
    "\\",
    "\u2028",
    "''",
    "{",
    "[",
    "#",
    "nan",
)


def bytes_mutated(content: bytes, rng: random.Random) -> bytes:
    """The content with bytes changed anywhere or in its header, cut off, left out or put in."""
    if not content:
        return rng.randbytes(20)
    damaged, place = bytearray(content), rng.randrange(len(content))
    kind = rng.choice(("anywhere", "header", "cut", "left out", "put in"))
    if kind in ("anywhere", "header"):
        room = len(damaged) if kind == "anywhere" else min(600, len(damaged))
        for _ in range(rng.choice((1, 3, 20))):
            damaged[rng.randrange(room)] = rng.randrange(256)
    elif kind == "cut":
        del damaged[place:]
    elif kind == "left out":
        del damaged[place : place + rng.randrange(1, 2000)]
    else:
        damaged[place:place] = rng.randbytes(rng.randrange(1, 400))
    return bytes(damaged)


def text_mutated(content: bytes, rng: random.Random) -> bytes:
    """The text with odd characters in it, lines repeated, swapped or lost, or in another encoding; or its bytes."""
    text = content.decode()
    kind = rng.choice(("characters", "lines", "encoding", "bytes"))
    if kind == "characters":
        for _ in range(rng.choice((1, 3))):
            place = rng.randrange(len(text) + 1)
            text = text[:place] + rng.choice(_ODD_TEXT) + text[place + rng.randrange(3) :]
    elif kind == "lines":
        lines = text.splitlines(keepends=True)
        rng.choice((lambda: lines.append(rng.choice(lines)), lambda: rng.shuffle(lines), lines.pop))()
        text = "".join(lines)
    elif kind == "encoding":
        return text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32", "cp037")), errors="replace")
    else:
        return bytes_mutated(content, rng)
    return text.encode(errors="surrogatepass")


def json_mutated(content: bytes, rng: random.Random) -> bytes:
    """The document with one to three of its values changed for odd ones, its keys lost, new or renamed; or its text."""
    if rng.random() < 0.2:
        return text_mutated(content, rng)
    document = json.loads(content)
    for _ in range(rng.choice((1, 1, 3))):
        places = list(_places(document))
        if not places:
            return json.dumps(rng.choice(_ODD_VALUES)).encode()
        holder, key = rng.choice(places)
        kind = rng.choice(("value", "value", "lost", "deep", "new"))
        if kind == "lost":
            del holder[key]
        elif kind == "new" and isinstance(holder, dict):
            holder[rng.choice(("unknown", "", "label ", key.upper()))] = holder[key]
        else:
            holder[key] = rng.choice(tuple(_DEEP)) if kind == "deep" else deepcopy(rng.choice(_ODD_VALUES))
    return _dumped(document)


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every value of a document, as what holds it and its key there."""
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in keys:
        yield document, key
        yield from _places(document[key])


def _dumped(document: Any) -> bytes:
    """As JSON, with lists in lists where :data:`_DEEP` stands: deeper than json can write them itself."""
    text = json.dumps(document)
    for mark, depth in _DEEP.items():
        text = text.replace(f'"{mark}"', "[" * depth + "]" * depth)
    return text.encode()


class Refusals:
    """What a reader said to the mutants of one kind."""

    def __init__(self) -> None:
        self.said: list[str | None] = []

    def ask(self, read: Callable[[], object]) -> None:
        """Let a reader have a mutant; anything but an error of the package fails the test."""
        try:
            read()
        except KdcmaeError as error:
            self.said.append(str(error))
        else:
            self.said.append(None)

    def ask_command(self, run: Callable[[], Result]) -> None:
        """Let a command have a mutant; an error that it did not foresee fails the test."""
        result = run()
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "--traceback" not in result.stderr, result.stderr
        self.said.append(result.stderr.strip().splitlines()[-1] if result.exit_code else None)

    @property
    def refused(self) -> list[str]:
        """The refusals."""
        return [said for said in self.said if said is not None]

    def check(self, least: float) -> None:
        """Some mutants were taken and at least this share was refused, each in one line."""
        assert least * len(self.said) <= len(self.refused) < len(self.said), Counter(self.refused).most_common(5)
        for said in self.refused:
            assert "\n" not in said, said
            assert 0 < len(said) < 2000, said


@contextmanager
def bounded(what: object) -> Iterator[None]:
    """A step takes neither long nor much memory; one that hangs is interrupted."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before_mb, start = peak_mb(), time.process_time()
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"hangs: {what}"))
    signal.alarm(_HANGS_S)
    try:
        yield
    finally:
        signal.alarm(0)
    took_s = time.process_time() - start
    assert took_s < LONGEST_S, (what, took_s)
    assert peak_mb() - before_mb < _MOST_MB, (what, peak_mb() - before_mb)


def peak_mb() -> float:
    """Largest resident memory of this process since the peak started anew; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
