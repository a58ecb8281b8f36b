"""Check every clip of a manifest before a long run depends on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from kdcmae.data.broken import BrokenClipError, clip_boundary
from kdcmae.data.manifest import ClipRecord, LabelMap
from kdcmae.data.parallel import map_in_processes
from kdcmae.data.reading import read_record
from kdcmae.errors import DataError
from kdcmae.media.frame_numbers import FRAMES_PER_CLIP
from kdcmae.media.resampling import SAMPLE_RATE_HZ

__all__ = ["Problem", "ProblemKind", "check_clips"]

ProblemKind = Literal["missing", "corrupt", "short", "silent", "label", "long"]

LONGEST_S = 60.0
"""Seconds of sound that are decoded of a clip; a longer clip is a warning."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is wrong with a clip.

    Args:
        clip_id: id of the clip.
        kind: ``missing`` files, ``corrupt`` ones, ``short`` or ``silent`` sound, a ``label`` that is missing or
            unknown, or a ``long`` clip.
        detail: one line about it.
    """

    clip_id: str
    kind: ProblemKind
    detail: str

    @property
    def is_warning(self) -> bool:
        """Whether the clip can still be used."""
        return self.kind == "long"


def check_clips(
    records: Sequence[ClipRecord],
    labels: LabelMap | None,
    *,
    shortest_s: float = 1.0,
    silence_db: float = -60.0,
    processes: int = 1,
    on_clip: Callable[[], object] = lambda: None,
) -> list[Problem]:
    """Read every clip to its end; of those longer than :data:`LONGEST_S`, decode the start and ten frames.

    Args:
        labels: the classes; None leaves labels unchecked.
        shortest_s: sound shorter than this is a problem.
        silence_db: sound that nowhere reaches this level, in dB of full scale, is a problem.
        on_clip: called after each clip.
    """
    problems: list[Problem] = []
    check = partial(_check, labels, shortest_s, silence_db)
    for of_clip in map_in_processes(check, records, processes=processes):
        problems += of_clip
        on_clip()
    return problems


def _check(labels: LabelMap | None, shortest_s: float, silence_db: float, record: ClipRecord) -> list[Problem]:
    details = itertools.chain(_label_problems(record, labels), _content_problems(record, shortest_s, silence_db))
    return [Problem(clip_id=record.id, kind=kind, detail=detail) for kind, detail in details]


def _label_problems(record: ClipRecord, labels: LabelMap | None) -> Iterator[tuple[ProblemKind, str]]:
    if labels is None:
        return
    if not record.labels:
        yield "label", "has no labels"
    for label in record.labels:
        try:
            labels.index(label)
        except DataError as error:
            yield "label", str(error)


def _content_problems(record: ClipRecord, shortest_s: float, silence_db: float) -> Iterator[tuple[ProblemKind, str]]:
    """Problems of a clip's files, and whatever stops reading them."""
    try:
        with clip_boundary(record.id):
            yield from _read_problems(record, shortest_s, silence_db)
    except BrokenClipError as error:
        yield "corrupt", error.reason


def _read_problems(record: ClipRecord, shortest_s: float, silence_db: float) -> Iterator[tuple[ProblemKind, str]]:
    if missing := [path for path in _files(record) if not path.exists()]:
        others = f" and {len(missing) - 1} more files" if len(missing) > 1 else ""
        yield "missing", f"{missing[0]}{others}"
        return
    clip = read_record(record, record.modality, range(FRAMES_PER_CLIP), seconds=LONGEST_S)
    if clip.duration_s is not None and clip.duration_s > LONGEST_S:
        yield "long", f"{clip.duration_s:.0f} s; training hears and sees its first seconds alone: cut it up"
    waveform = clip.waveform
    if waveform is None:
        return
    seconds = len(waveform) / SAMPLE_RATE_HZ
    if seconds < shortest_s:
        yield "short", f"{seconds:.2f} s of sound"
    peak_db = 20 * np.log10(max(float(np.abs(waveform).max(initial=0)), 1e-9))
    if peak_db < silence_db:
        yield "silent", f"its loudest sample is at {peak_db:.0f} dB of full scale"


def _files(record: ClipRecord) -> list[Path]:
    return [path for path in (record.video, record.wav, record.mask, *record.frames) if path is not None]
