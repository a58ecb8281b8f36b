"""What an engine is tested with on a device: inputs and clips beside it, and what its model makes of them.

The clips are made ones, whatever the build was proved on: a user's own do not belong into a folder that is handed on.
They are chosen for what they can tell. A clip that is decided by more than its precision can blur keeps its class in
every engine that is whole, and clips of different classes show a mix-up of classes or of inputs.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile import cases, models
from kdcmae.compile.models import EngineModel
from kdcmae.compile.settings import CompileSettings
from kdcmae.errors import GateError
from kdcmae.runtime import Engine, feeding, selftest
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.golden import Clips, Golden
from kdcmae.runtime.metrics import Limits
from kdcmae.runtime.precisions import GATES, Gate
from kdcmae.runtime.preprocessing import SAMPLE_RATE_HZ
from kdcmae.runtime.targets import TARGETS

__all__ = ["Samples"]

_DRAWN, _KEPT = 16, 6  # clips: a kept one takes some 80 kB

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
    """

    inputs: Mapping[str, NDArray[Any]]
    reference: Mapping[str, NDArray[Any]]
    waveforms: NDArray[np.int16] | None
    frames: NDArray[np.uint8] | None
    outputs: Mapping[str, NDArray[Any]]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, model: EngineModel, settings: CompileSettings) -> Samples:
        """Make them while the model still has its weights."""
        names = [spec.name for spec in model.inputs]
        seen = feeding.sources(names)
        clips = list(cases.made_clips(cases.affordable_clips(model, _DRAWN)))
        heard = np.stack([clip[: model.preprocessing.audio_samples] for clip, _ in clips])
        waveforms = np.rint(np.clip(heard, -1, 1 - _SOUND_STEP) / _SOUND_STEP).astype(np.int16)
        frames = np.stack([frame for _, frame in clips])
        outputs = [
            models.reference(model, feeding.from_clip(names, model.preprocessing, waveform, SAMPLE_RATE_HZ, [frame]))
            for waveform, frame in zip(waveforms, frames, strict=True)
        ]
        batch = settings.batch
        inputs = _rounded(models.examples(model, min(batch.max, max(batch.min, 2))))
        return cls(
            inputs=inputs,
            reference=models.reference(model, inputs),
            waveforms=waveforms if "waveform" in seen else None,
            frames=frames if "frame" in seen else None,
            outputs={name: np.concatenate([one[name] for one in outputs]) for name in outputs[0]},
            labels=model.labels,
        )

    def golden(self, settings: CompileSettings, executed: set[str]) -> Golden:
        """The content of ``golden.npz``.

        Args:
            settings: of the build.
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

    def proven(self, engine: Engine, golden: Golden, settings: CompileSettings) -> Golden:
        """The same with what an engine that rounds gave here, once it has passed its test.

        Made clips may lie beyond the ranges of a model that was calibrated and proved on a user's own clips. So many of
        them are kept then as it passes with, down to none.

        Args:
            engine: as an app loads it.
            golden: what it is tested with.
            settings: of the build.

        Raises:
            GateError: it does not pass.
        """
        problem = ""
        for choice in self._choices(engine, golden, settings):
            result = selftest.summed_up([selftest.examine(engine, choice, "")])
            if result.passed:
                return choice
            problem = problem or str(result)
            if not all(map(math.isfinite, result.max_error.values())):
                break
        fix = ""
        if settings.precision != "fp32" and not settings.clips:
            fix = "; where your model is for other clips than made ones, prove it on your own: --clips"
        raise GateError(f"self-test on made clips: {problem}; no engine was written{fix}")

    def left_out(self, golden: Golden) -> str:
        """How many clips are too few, in words; empty where none is missing.

        Args:
            golden: what the engine passed with.
        """
        kept, wanted = 0 if golden.clips is None else len(golden.clips), min(_KEPT, len(self))
        if kept == wanted:
            return ""
        held = "" if kept else "; its outputs for the stored inputs are held to twice their error here"
        return f"the self-test has {kept} of {wanted} made clips: others are out of its limits, unlike yours{held}"

    def __len__(self) -> int:
        """How many clips there are to choose from."""
        return len(next(iter(self.outputs.values())))

    def _choices(self, engine: Engine, golden: Golden, settings: CompileSettings) -> Iterator[Golden]:
        """What the engine can be tested with: one choice, or fewer and fewer clips where own ones prove it."""
        if settings.precision == "fp32":
            yield golden
            return
        on_cpu = (settings.device or TARGETS[settings.target].default_device) == "cpu"
        assert golden.clips is not None
        every = dataclasses.replace(golden.clips, waveforms=self.waveforms, frames=self.frames, reference=self.outputs)
        outputs, _ = selftest.outputs_of_clips(engine, engine.manifest, every)
        within = selftest.within(outputs, every, engine.manifest)
        most = min(_KEPT, len(self))
        for count in range(most, 0 if settings.clips else most - 1, -1):
            kept = _chosen(every, within, count)
            built = {name: coarse(array[kept]) for name, array in outputs.items()} if on_cpu else {}
            clips = dataclasses.replace(
                every.of(kept), built=built, products=engine.products(), cpu_class=this_cpu().class_name
            )
            yield dataclasses.replace(golden, clips=clips)
            if settings.clips:
                yield dataclasses.replace(self._batched(engine, kept, golden), clips=clips)
        if settings.clips:
            yield _without_clips(engine, golden)

    def _batched(self, engine: Engine, kept: list[int], golden: Golden) -> Golden:
        """The same with clips for its inputs, as many as it has samples."""
        samples = len(next(iter(golden.inputs.values())))
        numbers = [kept[number % len(kept)] for number in range(samples)]
        prepared = [
            engine.prepare(
                None if self.waveforms is None else self.waveforms[number],
                SAMPLE_RATE_HZ,
                None if self.frames is None else [self.frames[number]],
            )
            for number in numbers
        ]
        return dataclasses.replace(
            golden,
            inputs={name: np.concatenate([one[name] for one in prepared]) for name in golden.inputs},
            reference={name: array[numbers] for name, array in self.outputs.items()},
        )


def _without_clips(engine: Engine, golden: Golden) -> Golden:
    """The stored inputs alone, on which the engine may err twice as much as here where that is out of its limits."""
    bare = dataclasses.replace(golden, clips=None)
    found = selftest.examine(engine, bare, "").max_error
    tolerance = {name: max(limit, 2 * found[name]) for name, limit in golden.tolerance.items()}
    return dataclasses.replace(bare, tolerance=tolerance)


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
