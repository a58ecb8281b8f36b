"""AVSynth in files: MP4 clips, masks, manifests and labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from kdcmae.data.avsynth.classes import LABELS
from kdcmae.data.avsynth.scene import AVSYNTH_VERSION, FPS, FRAMES, clip_id, draw_scene, frame, mask, sound
from kdcmae.data.images import write_image
from kdcmae.data.manifest import ClipRecord, write_manifest
from kdcmae.data.parallel import map_in_processes
from kdcmae.data.synthetic import write_clip
from kdcmae.media.resampling import SAMPLE_RATE_HZ

__all__ = ["generate"]


def generate(
    folder: str | os.PathLike[str],
    *,
    clips: int,
    seed: int = 0,
    split: str = "train",
    processes: int = 1,
    on_clip: Callable[[], object] = lambda: None,
) -> Path:
    """Write one split: ``SPLIT/ID.mp4``, ``masks/ID.png``, ``labels.csv`` and, last of all, ``SPLIT.jsonl``.

    Args:
        folder: created if missing; files of an earlier run are replaced.
        clips: number of clips; a larger number begins with the same clips.
        split: ``train``, ``valid`` or ``test``.
        on_clip: called after each clip.

    Returns:
        The manifest, whose every line also names the version and the seed.
    """
    folder = Path(folder)
    for name in (split, "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    records = []
    for record in map_in_processes(partial(_write, folder, split, seed), range(clips), processes=processes):
        records.append(record)
        on_clip()
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("index", "mid", "display_name"))
        writer.writerows((index, *label) for index, label in enumerate(zip(LABELS.ids, LABELS.names, strict=True)))
    manifest = folder / f"{split}.jsonl"
    write_manifest(manifest, records, avsynth_version=AVSYNTH_VERSION, seed=seed)
    return manifest


def _write(folder: Path, split: str, seed: int, index: int) -> ClipRecord:
    scene = draw_scene(split, index, seed=seed)
    name = clip_id(split, index)
    record = ClipRecord(
        id=name,
        labels=(scene.kind.name,),
        video=folder / split / f"{name}.mp4",
        mask=folder / "masks" / f"{name}.png",
    )
    assert record.video is not None
    assert record.mask is not None
    write_clip(record.video, sound(scene), SAMPLE_RATE_HZ, (frame(scene, number) for number in range(FRAMES)), FPS)
    write_image(record.mask, 255 * mask(scene).astype(np.uint8))
    return record
