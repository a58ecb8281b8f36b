"""Write a clip and the scores that every engine gives it here, for the emulated device to compare with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from kdcmae.data.avsynth.scene import FRAME_NUMBERS, draw_scene, frame, sound
from kdcmae.runtime import load_engine
from kdcmae.runtime.preprocessing import SAMPLE_RATE_HZ


def main(work: Path) -> None:
    """Write ``clip.npz`` and ``expected.json`` beside the folder ``engines``."""
    scene = draw_scene("test", 0, seed=0)
    clip = {"waveform": sound(scene), "frame": frame(scene, FRAME_NUMBERS[len(FRAME_NUMBERS) // 2])}
    np.savez(work / "clip.npz", **clip)
    expected = {}
    for folder in sorted((work / "engines").iterdir()):
        with load_engine(folder) as engine:
            found = engine.classify(clip["waveform"], SAMPLE_RATE_HZ, clip["frame"])
        expected[folder.name] = {prediction.label: prediction.score for prediction in found}
    (work / "expected.json").write_text(json.dumps(expected), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
