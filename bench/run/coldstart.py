"""Run in a new process: load an engine, label one clip, and print when that was done, on the clock that all share."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from kdcmae.errors import KdcmaeError
from kdcmae.runtime import load_engine


def main(folder: str, data: str, threads: int | None) -> None:
    """Print ``time.perf_counter()`` at the first label, and the label.

    Args:
        folder: an engine folder.
        data: clips, as :func:`kdcmae.bench.run.clips.write_clips` wrote them.
        threads: CPU threads of the engine; None for one that takes no number of them.
    """
    with np.load(Path(data)) as arrays:
        waveform, frame = arrays["waveforms"][0], arrays["frames"][0]
    engine = load_engine(folder, threads=threads)
    best = engine.classify(waveform, 16_000, frame, top=1)[0]
    done = time.perf_counter()
    sys.stdout.write(f"{done!r} {best.label}\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
    except KdcmaeError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None
