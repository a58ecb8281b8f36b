"""Lists of clips for calibration and evaluation, and checks of them that read no clip and take less than a second.

Never imports torch, so that a command can refuse clips before it loads libraries.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from kdcmae.data.avsynth.classes import LABELS
from kdcmae.data.avsynth.memory import open_avsynth
from kdcmae.data.avsynth.naming import names_avsynth
from kdcmae.data.manifest import ClipRecord, LabelMap
from kdcmae.data.reading import Reader
from kdcmae.data.shard_files import flaw_of, list_clips
from kdcmae.errors import DataError
from kdcmae.files.text import name_of

__all__ = [
    "CALIBRATED",
    "EVALUATED",
    "ListedClips",
    "calibration_note",
    "choosing_half",
    "list_calibration",
    "list_data",
    "require_labels",
    "spread",
]

Record = TypeVar("Record")

CALIBRATED = 300
"""Clips of a manifest that a graph is calibrated on: more teach no better ranges."""

EVALUATED = 2000
"""Clips of a manifest that accuracy is measured on."""

_UNNAMED = re.compile(r"class_\d+")  # default names of classes without names
_AUDIOSET_ID = re.compile(r"/[a-z]/\w+")


@dataclass(frozen=True, kw_only=True, eq=False)
class ListedClips:
    """Clips that were not read yet.

    Args:
        source: where they come from, for people.
        records: the clips that are used.
        listed: how many the source has.
        read: gets a clip's sound and frames; None for from its files.
    """

    source: str
    records: Sequence[ClipRecord]
    listed: int
    read: Reader | None

    @property
    def made(self) -> bool:
        """Whether they are made, by AVSynth."""
        return self.read is not None


def list_data(data: str | Path, *, split: str, most: int) -> ListedClips:
    """List clips.

    Args:
        data: ``avsynth`` or ``avsynth:CLIPS``, a manifest, a shard, or a folder of shards or of clips.
        most: clips of anything else that are used, spread evenly over it.

    Raises:
        DataError: not such data, or there are no clips.
        ConfigError: no number of clips behind the colon.
    """
    made = open_avsynth(data, split=split)
    if made is not None:
        return ListedClips(source=f"AVSynth {split}", records=made.records, listed=len(made.records), read=made.read)
    records = list_clips(data)
    return ListedClips(source=name_of(data), records=spread(records, most), listed=len(records), read=None)


def list_calibration(data: str | Path, *, split: str, evaluation: str | Path | None) -> ListedClips:
    """List at most :data:`CALIBRATED` clips to calibrate on, none of which reports accuracy.

    Args:
        data: as of :func:`list_data`.
        evaluation: what accuracy is measured on; where it is the same data, the half of it that chooses calibrates.
            None where accuracy is not measured.

    Raises:
        DataError: not such data, or every clip of it reports.
        ConfigError: no number of clips behind the colon.
    """
    clips = list_data(data, split=split, most=CALIBRATED)
    if clips.made or evaluation is None or names_avsynth(evaluation):
        return clips
    if Path(data).resolve() != Path(evaluation).resolve():
        return clips
    measured = list_data(data, split=split, most=EVALUATED).records
    chooses = choosing_half([record.id for record in measured])
    left = [record for record in measured if record.id in chooses]
    if not left:
        raise DataError(
            f"{clips.source}: none of {len(measured)} clips is left to calibrate on, because they report the accuracy; "
            "give --calibration other clips, or --evaluation at least two"
        )
    return dataclasses.replace(clips, records=spread(left, CALIBRATED))


def require_labels(clips: ListedClips, classes: LabelMap | None, *, model: str) -> None:
    """Refuse clips whose labels do not fit a model's classes.

    Args:
        classes: of the model; None if they have no names.

    Raises:
        DataError: clips without labels, or with labels that the model does not have; says how to go on.
    """
    labelled = [record for record in clips.records if record.labels]
    usable = [record for record in clips.records if flaw_of(record) is None]
    if not labelled:
        raise DataError(
            f"{clips.source}: its clips have no labels, and accuracy needs them: give --evaluation a manifest, or "
            "shards, with labels"
        )
    if bare := [record for record in usable if not record.labels]:
        raise DataError(
            f"{clips.source}: {len(bare)} of {len(clips.records)} clips have no labels, such as {bare[0].id!r}; label "
            "them, or leave them out"
        )
    unknown = [(record, label) for record in labelled for label in record.labels if not _knows(classes, label)]
    if not unknown:
        return
    if len({label for _, label in unknown}) == len({label for record in labelled for label in record.labels}):
        raise DataError(_nothing_in_common(clips, classes, unknown[0][1], model))
    record, label = unknown[0]
    reason = "" if classes is None else f": {classes.unknown(label)}"
    raise DataError(
        f"{clips.source}: {len({record.id for record, _ in unknown})} of {len(clips.records)} clips have a label that "
        f"{model} does not have, such as clip {record.id!r}{reason}; leave them out, or name the classes as the clips "
        "do with --labels"
    )


def choosing_half(ids: Sequence[str]) -> frozenset[str]:
    """Ids of the half of the clips that choices are made by; the other half reports.

    A digest of the ids decides, neither the order of the clips nor their content.
    """
    order = sorted(ids, key=lambda text: hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return frozenset(order[: len(order) // 2])


def calibration_note(data: str | Path, names: Sequence[str], *, model: str) -> str:
    """A warning if a model is calibrated on made clips and was trained on others; empty otherwise.

    Args:
        data: the clips that it is calibrated on.
        names: its classes; none of a model that does not classify.
    """
    if not names_avsynth(data) or not set(names).isdisjoint(LABELS.names):
        return ""
    return (
        f"these made clips are not like those that {model} was trained on; give clips of its own: --calibration "
        "MANIFEST, shards or a folder"
    )


def spread(records: Sequence[Record], most: int) -> list[Record]:
    """At most so many of the records, evenly spread over all."""
    places = np.linspace(0, len(records) - 1, min(len(records), most)).astype(int)
    return [records[place] for place in places]


def _knows(classes: LabelMap | None, label: str) -> bool:
    return _UNNAMED.fullmatch(label) is not None if classes is None else label in classes


def _nothing_in_common(clips: ListedClips, classes: LabelMap | None, label: str, model: str) -> str:
    if classes is not None and all(map(_UNNAMED.fullmatch, classes.names)):
        classes = None
    if clips.made:
        known = "whose classes have no names" if classes is None else f"which has {_shown(classes)}"
        also = " and its classes with --labels FILE" if classes is None else ""
        return (
            f"accuracy is measured on made clips (AVSynth), whose labels, such as {label!r}, say nothing of {model}, "
            f"{known}: give clips with its labels as --evaluation MANIFEST{also}"
        )
    wrong = f"{clips.source}: no label of its clips, such as {label!r}, is a class of {model}"
    if classes is None:
        return f"{wrong}, whose classes have no names: name them with --labels FILE, in the order of its outputs"
    if _AUDIOSET_ID.fullmatch(label) and classes.ids == classes.names:
        return f"{wrong}: they are ids; give --labels the CSV index,mid,display_name, which has ids and names"
    return f"{wrong}, which has {_shown(classes)}: give clips with its labels as --evaluation"


def _shown(classes: LabelMap) -> str:
    names = ", ".join(map(repr, classes.names[:3]))
    return f"{names}, ..." if len(classes) > 3 else names
