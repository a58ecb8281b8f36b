"""What an engine in parts saves: the table of docs/compile.md, measured here.

python docs/tools/split.py WHOLE SPLIT [THREADS]

WHOLE and SPLIT are engine folders of the same model; SPLIT was built with --split. Windows of all cases run in turn.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from kdcmae.bench.run.timing import speed_ratio
from kdcmae.compile.parts import encoder_inputs
from kdcmae.runtime import Engine, load_engine
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.examples import example_inputs
from kdcmae.terminal import say
from kdcmae.timing import time_window

_INPUTS = 8  # more than an engine keeps encodings of
_WINDOW_S, _ROUNDS = 0.4, 8

_CASES = {
    "whole": ("audio", "video"),
    "split, both inputs changed": ("audio", "video"),
    "split, only the sound changed": ("audio",),
    "split, only the picture changed": ("video",),
    "split, nothing changed": (),
}
"""What changes from call to call; the first case runs the engine in one piece."""


def feeds(engine: Engine, changing: tuple[str, ...], seed: int) -> Iterator[Arrays]:
    """Inputs without end, of which those of the changing modalities differ from one to the next."""
    specs = engine.manifest.inputs
    made = [example_inputs(specs, engine.manifest.batch.min, seed=seed + number) for number in range(_INPUTS)]
    changed = [name for modality in changing for name in encoder_inputs(specs)[modality]]
    yield from itertools.cycle({**made[0], **{name: feed[name] for name in changed}} for feed in made)


def main(whole: str, split: str, threads: str = "1") -> None:
    """Print the table."""
    with load_engine(whole, threads=int(threads)) as one, load_engine(split, threads=int(threads)) as parts:
        calls: dict[str, Callable[[], object]] = {}
        for number, (name, changing) in enumerate(_CASES.items()):
            engine = one if name == "whole" else parts
            inputs = feeds(engine, changing, number * _INPUTS)  # no case finds what another one has left
            calls[name] = lambda engine=engine, inputs=inputs: engine.infer(next(inputs))
        windows: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(_ROUNDS):
            for name, call in calls.items():
                call()  # what does not change is kept from here on
                windows[name].append(float(np.median(time_window(call, _WINDOW_S))))
    say(f"{Path(split).name} on {this_cpu().described}, {threads} thread(s)\n")
    say("| call | ms | times as fast as whole |\n| --- | --- | --- |")
    for name, medians in windows.items():
        speed = speed_ratio(windows["whole"], medians)
        say(f"| {name} | {np.median(medians):.3g} | {speed.ratio:.2f} ({speed.low:.2f}-{speed.high:.2f}) |")


if __name__ == "__main__":
    main(*sys.argv[1:])
