"""How accurate a model is on AVSynth's held-out clips, whole and in part, and what each engine costs of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.bench.machine.environment import describe_environment
from kdcmae.bench.report.markers import table_row
from kdcmae.bench.run.subjects import VARIANT
from kdcmae.config import MODALITY_INPUTS
from kdcmae.data.avsynth.memory import AVSynth
from kdcmae.data.avsynth.scene import AVSYNTH_VERSION
from kdcmae.data.frame_numbers import MIDDLE_FRAME
from kdcmae.data.reading import RawClip
from kdcmae.errors import DataError
from kdcmae.evaluation.paired import mean_interval
from kdcmae.predictors import EnginePredictor, Predictor, batched_logits, open_model
from kdcmae.runtime.feeding import RAW, from_clip, sources
from kdcmae.runtime.manifest import Manifest
from kdcmae.runtime.preprocessing import SAMPLE_RATE_HZ

__all__ = ["BEGIN", "END", "SCHEMA_VERSION", "USES", "Use", "measure_accuracy", "render"]

SCHEMA_VERSION = 2
BEGIN = "<!-- accuracy: written by `kdcmae-bench accuracy` -->"
END = "<!-- end of accuracy -->"

_ALL = frozenset({"waveform", "frame"})


@dataclass(frozen=True, kw_only=True)
class Use:
    """What a model is given of a clip.

    Args:
        name: in the report.
        given: ``waveform`` and ``frame``, or one of them; the other is absent.
        zeroed: which of those given is silent or black.
    """

    name: str
    given: frozenset[str] = _ALL
    zeroed: str = ""

    def of(self, clip: RawClip) -> tuple[NDArray[np.float32] | None, list[NDArray[np.uint8]] | None]:
        """The waveform and the frames of a clip that has both, as this use leaves them."""
        waveform = clip.waveform if "waveform" in self.given else None
        frames = list(clip.frames) if "frame" in self.given else None
        if self.zeroed == "waveform" and waveform is not None:
            waveform = np.zeros_like(waveform)
        if self.zeroed == "frame" and frames is not None:
            frames = [np.zeros_like(frame) for frame in frames]
        return waveform, frames


USES = (
    Use(name="sound and picture"),
    Use(name="sound alone", given=frozenset({"waveform"})),
    Use(name="picture alone", given=frozenset({"frame"})),
    Use(name="silence and picture", zeroed="waveform"),
    Use(name="sound and black picture", zeroed="frame"),
)


def measure_accuracy(
    reference: Path,
    engines: Sequence[str | Path],
    *,
    clips: int,
    on_subject: Callable[[str], object] = lambda name: None,
) -> dict[str, Any]:
    """Classify the same held-out clips with a checkpoint and with its engines, in every use that each can serve.

    Args:
        reference: the finetuned checkpoint.
        engines: folders of engines with the checkpoint's classes; ``FOLDER@audio`` for a variant in it alone.
        clips: of AVSynth's test split.
        on_subject: told of each one before it runs.

    Returns:
        The report, ready for JSON: a row per model and use, the checkpoint's first.

    Raises:
        DataError: an engine has other classes, or the checkpoint's are not AVSynth's.
        KdcmaeError: a model cannot be opened or run.
    """
    environment = describe_environment()
    data = AVSynth("test", clips=clips)
    raw = [data.read(record, "audiovisual", [MIDDLE_FRAME]) for record in data.records]
    wanted = [record.labels[0] for record in data.records]
    first, *others = (str(source) for source in (reference, *engines))
    on_subject(first)
    whole = _Subject(first)
    known = {use: whole.best(use, raw) for use in USES if use.given in whole.serves}
    labels = np.array(whole.labels_of(wanted))
    rows = [whole.row(use, best, best, labels) for use, best in known.items()]
    for source in others:
        on_subject(source)
        subject = _Subject(source)
        if subject.predictor.facts.labels != whole.predictor.facts.labels:
            raise DataError(f"{source} has other classes than {reference}; compile it from that checkpoint")
        rows += [
            subject.row(use, subject.best(use, raw), best, labels)
            for use, best in known.items()
            if use.given in subject.serves
        ]
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment,
        "avsynth_version": AVSYNTH_VERSION,
        "clips": clips,
        "reference": whole.predictor.facts.name,
        "rows": rows,
    }


def render(report: Mapping[str, Any]) -> str:
    """Markdown of a report: a line per model, a column per use."""
    uses = list(dict.fromkeys(row["use"] for row in report["rows"]))
    headings = ("model", "executes", *uses, f"points lost, {uses[0]} (95 %)")
    lines = [table_row(headings), table_row(["---"] * len(headings))]
    models: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in report["rows"]:
        models.setdefault((row["name"], row["executes"]), {})[row["use"]] = row
    for model, found in models.items():
        shares = [_share(found[use]) if use in found else "" for use in uses]
        lines.append(table_row([*model, *shares, _lost(found[uses[0]]) if uses[0] in found else ""]))
    host = report["environment"]["host"]
    lines += [
        "",
        f"Accuracy in per cent on {report['clips']} held-out clips of AVSynth version {report['avsynth_version']}, on "
        f"{host['cpu']}; in brackets, how many of the answers are PyTorch's in the same use. What is alone comes "
        "without the other, by a path of its own.",
    ]
    return "\n".join(lines)


def _share(row: Mapping[str, Any]) -> str:
    accuracy = f"{100 * row['accuracy']:.2f}"
    return accuracy if row["is_reference"] else f"{accuracy} ({100 * row['agreement']:.2f})"


def _lost(row: Mapping[str, Any]) -> str:
    low, high = (100 * bound for bound in row["drop_interval"])
    return "reference" if row["is_reference"] else f"{100 * row['drop']:.2f} ({low:.2f} to {high:.2f})"


@dataclass(frozen=True)
class _Part:
    """What takes certain inputs: an engine, a variant of it, or a checkpoint's path, which has no manifest."""

    inputs: tuple[str, ...]
    manifest: Manifest | None = None
    variant: str = ""


class _Subject:
    """A model and the uses that it can serve.

    Args:
        source: a checkpoint, an engine folder, or a variant of one.
    """

    def __init__(self, source: str) -> None:
        folder, _, variant = source.partition(VARIANT)
        self.predictor: Predictor = open_model(Path(folder))
        self.serves: Mapping[frozenset[str], _Part] = {
            sources(part.inputs): part for part in _parts(self.predictor, variant)
        }

    def labels_of(self, wanted: Sequence[str]) -> list[int]:
        """The class of each label."""
        labels = self.predictor.facts.labels
        if not set(wanted) <= set(labels):
            name = self.predictor.facts.name
            raise DataError(f"{name} does not know AVSynth's classes; give a model finetuned on AVSynth")
        return [labels.index(label) for label in wanted]

    def best(self, use: Use, raw: Sequence[RawClip]) -> NDArray[np.intp]:
        """(N,) each clip's best class; the clips become what this model takes of them."""
        names, preprocessing = self.serves[use.given].inputs, self.predictor.facts.preprocessing
        given = (use.of(clip) for clip in raw)
        rows = [from_clip(names, preprocessing, sound, SAMPLE_RATE_HZ, frames) for sound, frames in given]
        inputs = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        return batched_logits(self.predictor, inputs).argmax(axis=1)

    def row(
        self, use: Use, best: NDArray[np.intp], reference: NDArray[np.intp], labels: NDArray[np.intp]
    ) -> dict[str, Any]:
        """What the report says of one use."""
        lost = (reference == labels).astype(np.float64) - (best == labels)
        return {
            **_described(self.predictor, self.serves[use.given]),
            "is_reference": best is reference,
            "use": use.name,
            "accuracy": float((best == labels).mean()),
            "drop": float(lost.mean()),
            "drop_interval": mean_interval(lost),
            "agreement": float((best == reference).mean()),
        }


def _parts(predictor: Predictor, variant: str) -> list[_Part]:
    """Of an engine, itself and its variants, or the one named; of a checkpoint, its path for each modality."""
    if isinstance(predictor, EnginePredictor):
        engine = predictor.engine
        names = [variant] if variant else ["", *engine.variants]
        manifests = {name: Manifest.read(engine.folder, name) for name in names}
        return [
            _Part(tuple(spec.name for spec in manifest.inputs), manifest, name) for name, manifest in manifests.items()
        ]
    inputs = MODALITY_INPUTS[predictor.facts.modality]
    alone = [_Part((name,)) for name in inputs]
    return alone if len(inputs) == 1 else [_Part(inputs), *alone]


def _described(predictor: Predictor, part: _Part) -> dict[str, str]:
    """What it is and what it computes in, for people."""
    manifest = part.manifest
    if manifest is None or not isinstance(predictor, EnginePredictor):
        return {"name": f"{predictor.facts.name} (PyTorch)", "executes": "fp32"}
    products = predictor.engine.products(part.variant)
    executes = " + ".join(sorted(products, key=lambda name: -products[name])) or "unknown"
    keep = manifest.model.get("keep")
    kept = f", keep {keep['ratio']:g} by {keep['by']}" if keep else ""
    raw = ", raw inputs" if any(spec.name in RAW for spec in manifest.inputs) else ""
    return {"name": f"{manifest.target}, {manifest.precision['asked']}{kept}{raw}", "executes": executes}
