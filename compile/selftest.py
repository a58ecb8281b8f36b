"""What an engine is tested with on a device: inputs and clips beside it, and what its model makes of them.

The clips are made ones, because a user's own do not belong into a folder that is handed on. Only an engine that
computes no made clip within its limits, because it was calibrated for a user's own, stores some of those; where the
user refuses that too, it is held to what it computed itself where it was built.

Clips are chosen for what they can tell. A clip that is decided by more than its precision can blur keeps its class in
every engine that is whole, and clips of different classes show a mix-up of classes or of inputs.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile import cases, models
from kdcmae.compile.models import EngineModel
from kdcmae.compile.references import digests, outputs_of
from kdcmae.compile.settings import CompileSettings
from kdcmae.errors import GateError
from kdcmae.runtime import Engine, feeding, selftest
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.backend import Backend, Lane
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.golden import Clips, Golden
from kdcmae.runtime.metrics import Limits
from kdcmae.runtime.precisions import GATES, Gate
from kdcmae.runtime.preprocessing import SAMPLE_RATE_HZ, Preprocessing, prepare_image
from kdcmae.runtime.targets import TARGETS

__all__ = ["Samples", "remembering"]

_DRAWN, _KEPT = 16, 6  # clips: a kept one takes some 80 kB of the shipped model, 500 kB of the base model

# Seeded inputs are whole numbers of these steps: rounded so, they take a quarter of the room in the folder.
_STEP, _SOUND_STEP = 2.0**-5, 2.0**-15


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Inputs and clips to choose from, with what the model makes of them.

    Args:
        inputs, reference: one batch of seeded inputs, by name: two samples where the engine takes them, since one would
            not show a batch axis that got mixed up.
        waveforms: (N, S) int16, mono at 16 kHz; None for a model without sound.
        frames: (N, H, W, 3) uint8; None for a model without picture.
        outputs: of the clips, by name.
        labels: of the classes; empty for a model that does not classify.
        yours: the same of the user's own clips; None where none may be stored.
    """

    inputs: Mapping[str, NDArray[Any]]
    reference: Mapping[str, NDArray[Any]]
    waveforms: NDArray[np.int16] | None
    frames: NDArray[np.uint8] | None
    outputs: Mapping[str, NDArray[Any]]
    labels: tuple[str, ...]
    yours: Samples | None = None

    @classmethod
    def of(cls, model: EngineModel, settings: CompileSettings) -> Samples:
        """Make them while the model still has its weights."""
        batch = settings.batch
        inputs = _rounded(models.examples(model, min(batch.max, max(batch.min, 2))))
        reference = models.reference(model, inputs)
        affordable = cases.affordable_clips(model, 2 * _DRAWN)
        drawn = max(affordable // 2, min(_KEPT, affordable))
        samples = cls._of_clips(model, cases.made_clips(drawn), inputs, reference)
        if settings.clips and settings.store_clips and settings.precision != "fp32":
            own = [_stored(clip, model.preprocessing) for clip in cases.own_clips(model, settings.clips, drawn)]
            return dataclasses.replace(samples, yours=cls._of_clips(model, own, inputs, reference))
        return samples

    @classmethod
    def _of_clips(
        cls,
        model: EngineModel,
        clips: Sequence[cases.RawClip],
        inputs: Mapping[str, NDArray[Any]],
        reference: Mapping[str, NDArray[Any]],
    ) -> Samples:
        names = [spec.name for spec in model.inputs]
        seen = feeding.sources(names)
        sounds = [sound[: model.preprocessing.audio_samples] for sound, _ in clips if sound is not None]
        frames = [frame for _, frame in clips if frame is not None]
        rows = [
            feeding.from_clip(
                names,
                model.preprocessing,
                sounds[number] if "waveform" in seen else None,
                SAMPLE_RATE_HZ,
                [frames[number]] if "frame" in seen else None,
            )
            for number in range(len(clips))
        ]
        return cls(
            inputs=inputs,
            reference=reference,
            waveforms=np.stack(sounds) if "waveform" in seen else None,
            frames=np.stack(frames) if "frame" in seen else None,
            outputs=outputs_of(model, rows),
            labels=model.labels,
        )

    def golden(self, settings: CompileSettings, executed: set[str]) -> Golden:
        """The content of ``golden.npz``.

        Args:
            executed: precisions of this machine and of the one that the engine is for.
        """
        limits = {name: _limits(gate) for name, gate in GATES.items()}
        precisions = tuple(name for name in limits if name == settings.precision or name in executed)
        limits[precisions[-1]] = own = _limits(settings.gate(executed))
        every = Clips(
            waveforms=self.waveforms,
            frames=self.frames,
            reference=self.outputs,
            labels=self.labels,
            precisions=precisions,
            limits=limits,
        )
        return Golden(
            inputs=self.inputs,
            reference=self.reference,
            tolerance=dict.fromkeys(self.reference, selftest.tolerance(own)),
            clips=every.of(_chosen(every, np.ones(len(every), dtype=bool))),
        )

    def proven(self, engine: Engine, golden: Golden, settings: CompileSettings) -> tuple[Golden, str]:
        """The same with what an engine that rounds gave here, once it has passed its test.

        Made clips may lie beyond the ranges of a model that was calibrated and proved on a user's own clips. So many of
        them are kept then as it passes with; where it passes with none, own clips, or none but what it gave itself.

        Args:
            engine: as an app loads it, or :func:`remembering` what it computed before.
            golden: what it is tested with.

        Returns:
            What it passed with, and how that differs from six made clips, in words; empty where it does not.

        Raises:
            GateError: it does not pass.
        """
        problem = ""
        for choice, note in self._choices(engine, golden, settings):
            result = selftest.summed_up([selftest.examine(engine, choice, "")])
            if result.passed:
                return choice, note
            problem = problem or str(result)
            if not all(map(math.isfinite, result.max_error.values())):
                break
        fix = ""
        if settings.precision != "fp32" and not settings.clips:
            fix = "; where your model is for other clips than made ones, prove it on your own: --clips"
        raise GateError(f"self-test on made clips: {problem}; no engine was written{fix}")

    def __len__(self) -> int:
        """How many clips there are to choose from."""
        return len(next(iter(self.outputs.values())))

    def _choices(self, engine: Engine, golden: Golden, settings: CompileSettings) -> Iterator[tuple[Golden, str]]:
        """What the engine can be tested with, the most telling first, and how it differs from six made clips."""
        if settings.precision == "fp32":
            yield golden, ""
            return
        on_cpu = (settings.device or TARGETS[settings.target].devices[0]) == "cpu"
        made = _Computed.of(engine, golden, self, on_cpu)
        most = min(_KEPT, len(self))
        yield made.kept(golden, most), ""
        if not settings.clips:
            return
        yield made.batched(golden, most), ""
        for count in range(min(most - 1, made.passing), 0, -1):
            note = f"the self-test has {count} of {most} made clips: others are out of its limits, unlike yours"
            yield made.kept(golden, count), note
            yield made.batched(golden, count), note
        why = "it computes no made clip within its limits, unlike yours"
        if self.yours is not None:
            own = _Computed.of(engine, golden, self.yours, on_cpu)
            for count in range(min(_KEPT, own.passing), 0, -1):
                note = f"the self-test stores {count} of your clips in golden.npz, cut to what the model hears and sees"
                yield own.batched(golden, count), f"{note}, because {why}; --no-stored-clips leaves them out"
        note = "the self-test holds the engine to what it computed here for made clips, and not to the model"
        yield made.itself(golden, most), f"{note}, because {why}"


def remembering(engine: Engine) -> Engine:
    """The same engine, which runs no batch again that it has run before.

    Args:
        engine: stays the one to close.
    """
    manifest = engine.manifest
    backend = cast(Backend, _Remembering(engine.backend))
    preprocessing = Preprocessing.from_dict(manifest.preprocessing)
    return Engine(engine.folder, {"": manifest}, preprocessing, lambda _: backend, device=engine.device)


class _Remembering:
    """A backend whose results are remembered by the content of the batch."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._results: dict[tuple[bytes, ...], Arrays] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    @property
    def lanes(self) -> Sequence[Lane]:
        return (self.infer,)

    def infer(self, feed: Arrays) -> Arrays:
        batch = tuple(digests(feed))
        if batch not in self._results:
            self._results[batch] = {name: np.array(result) for name, result in self._backend.infer(feed).items()}
        return self._results[batch]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Computed:
    """Samples, and what an engine computes for their clips.

    Args:
        engine, samples: the two.
        clips: of the samples, with their limits.
        outputs: of the engine, by name.
        within: (N,) whether those of a clip are within the limits.
        on_cpu: the engine runs on a CPU, which gives the same again.
    """

    engine: Engine
    samples: Samples
    clips: Clips
    outputs: Mapping[str, NDArray[Any]]
    within: NDArray[np.bool_]
    on_cpu: bool

    @classmethod
    def of(cls, engine: Engine, golden: Golden, samples: Samples, on_cpu: bool) -> _Computed:
        """Run the engine on every clip."""
        assert golden.clips is not None
        clips = dataclasses.replace(
            golden.clips, waveforms=samples.waveforms, frames=samples.frames, reference=samples.outputs
        )
        outputs, _ = selftest.outputs_of_clips(engine, engine.manifest, clips)
        within = selftest.within(outputs, clips, engine.manifest)
        return cls(engine=engine, samples=samples, clips=clips, outputs=outputs, within=within, on_cpu=on_cpu)

    @property
    def passing(self) -> int:
        """How many clips are within the limits."""
        return int(self.within.sum())

    def kept(self, golden: Golden, count: int) -> Golden:
        """So many clips beside the stored inputs, with what the engine computed for them."""
        kept = _chosen(self.clips, self.within, count)
        built = {name: coarse(array[kept]) for name, array in self.outputs.items()} if self.on_cpu else {}
        products, cpu = self.engine.products(), this_cpu().class_name
        clips = dataclasses.replace(self.clips.of(kept), built=built, products=products, cpu_class=cpu)
        return dataclasses.replace(golden, clips=clips)

    def batched(self, golden: Golden, count: int) -> Golden:
        """The same with clips for its inputs, as many as it has samples."""
        kept = _chosen(self.clips, self.within, count)
        samples = len(next(iter(golden.inputs.values())))
        numbers = [kept[number % len(kept)] for number in range(samples)]
        waveforms, frames = self.samples.waveforms, self.samples.frames
        prepared = [
            self.engine.prepare(
                None if waveforms is None else waveforms[number],
                SAMPLE_RATE_HZ,
                None if frames is None else [frames[number]],
            )
            for number in numbers
        ]
        return dataclasses.replace(
            self.kept(golden, count),
            inputs={name: np.concatenate([clip[name] for clip in prepared]) for name in golden.inputs},
            reference={name: array[numbers] for name, array in self.samples.outputs.items()},
        )

    def itself(self, golden: Golden, count: int) -> Golden:
        """The same clips and inputs with the engine's own outputs for the model's."""
        kept = self.kept(golden, count)
        assert kept.clips is not None
        numbers = _chosen(self.clips, self.within, count)
        reference = {**kept.clips.reference, **{name: _single(rows[numbers]) for name, rows in self.outputs.items()}}
        outputs = self.engine.infer(dict(golden.inputs))
        return dataclasses.replace(
            kept,
            reference={name: _single(outputs[name]) for name in golden.reference},
            clips=dataclasses.replace(kept.clips, reference=reference),
        )


def _chosen(clips: Clips, within: NDArray[np.bool_], most: int = _KEPT) -> list[int]:
    """Numbers of the clips to keep.

    Those that the engine computes within its limits, since a few may lie beyond the ranges that it was calibrated for;
    of these decided ones first, and each class once before any is there twice.
    """
    logits = next(iter(clips.reference.values()))
    clear, classes = within, np.arange(len(clips))
    if clips.labels:
        clear, classes = selftest.decided(logits, clips.limits_of({})), logits.argmax(axis=1)
    before: Counter[int] = Counter()
    order = []
    for number in np.lexsort((~clear, ~within)).tolist():
        order.append((not within[number], not clear[number], before[classes[number]], number))
        before[classes[number]] += 1
    return sorted(number for *_, number in sorted(order)[:most])


def _stored(clip: cases.RawClip, preprocessing: Preprocessing) -> cases.RawClip:
    """A clip at the model's own sizes: (audio_samples,) with silence at the end, and a square frame."""
    sound, frame = clip
    if sound is not None:
        heard = sound[: preprocessing.audio_samples]
        sound = np.pad(cases.as_int16(heard), (0, preprocessing.audio_samples - len(heard)))
    if frame is not None:
        mean, std = (np.array(values)[:, None, None] for values in (preprocessing.image_mean, preprocessing.image_std))
        pixels = np.rint((prepare_image(frame, preprocessing)[0] * std + mean) * 255)
        frame = pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    return sound, frame


def _single(array: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(array, dtype=np.float32)


def coarse(array: NDArray[Any]) -> NDArray[np.float32]:
    """In steps of a thousandth of its spread, wherever it lies: threads may change the last bits, and files stay."""
    step = 2.0 ** np.floor(np.log2(array.std() or 1.0) - 10)
    return np.asarray(np.rint(array / step) * step, dtype=np.float32)


def _limits(gate: Gate) -> Limits:
    """The limits of a gate; where it limits no error of a single sample, the one that rounding may add."""
    limits = {limit.name: getattr(gate, limit.name) for limit in dataclasses.fields(Limits)}
    return Limits(**{**limits, "max_error": gate.rounding if gate.max_error is None else gate.max_error})


def _rounded(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    rounded = {}
    for name, array in inputs.items():
        step = np.float32(_SOUND_STEP if name == feeding.WAVEFORM else _STEP)
        rounded[name] = np.rint(array / step) * step if array.dtype == np.float32 else array
    return rounded
