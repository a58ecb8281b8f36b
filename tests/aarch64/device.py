"""The engines on the emulated device: self-tests, and scores of a clip against those of the machine that built them."""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

import numpy as np

from kdcmae.runtime import load_engine
from kdcmae.runtime.preprocessing import SAMPLE_RATE_HZ
from kdcmae.terminal import say, table

# Largest difference of a score. In int8 the sums are exact but not what is in floating point between them.
ALLOWED = {"fp32": 1e-5, "int8": 2e-2}


def main(work: Path) -> int:
    """Compare with ``expected.json`` and print what was found; the exit code."""
    clip = np.load(work / "clip.npz")
    expected = json.loads((work / "expected.json").read_text(encoding="utf-8"))
    rows, failed = [], 0
    for name, scores in expected.items():
        start = time.perf_counter()
        with load_engine(work / "engines" / name) as engine:
            tested = engine.self_test()
            found = engine.classify(clip["waveform"], SAMPLE_RATE_HZ, clip["frame"])
            allowed = ALLOWED[engine.manifest.precision["asked"]]
        # A label that is in one list and not in the other is at most as likely as the last of the list.
        last = min(scores.values())
        difference = max(abs(prediction.score - scores.get(prediction.label, last)) for prediction in found)
        passed = tested.passed and difference <= allowed and found[0].label == max(scores, key=scores.__getitem__)
        failed += not passed
        rows.append(
            (
                name,
                f"{max(tested.max_error.values()):.1e}",
                f"{difference:.1e}",
                found[0].label,
                f"{time.perf_counter() - start:.0f}",
                "passed" if passed else "FAILED",
            )
        )
    title = f"{platform.machine()} in emulation, Python {platform.python_version()}"
    say(table(("engine", "self-test error", "scores differ by", "label", "s", "result"), rows, title=title))
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
