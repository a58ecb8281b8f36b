"""What an engine is tested with on a device: inputs and clips beside it, and what its model makes of them.

The clips are made ones, whatever the build was proved on: a user's own do not belong into a folder that is handed on.
They are chosen for what they can tell. A clip that is decided by more than its precision can blur keeps its class in
every engine that is whole, and clips of different classes show a mix-up of classes or of inputs.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.compile import cases, models
from kdcmae.compile.models import EngineModel
from kdcmae.compile.settings import GATES, CompileSettings, Gate
from kdcmae.errors import GateError
from kdcmae.runtime import Engine, feeding, selftest
from kdcmae.runtime.capabilities import CAPABILITIES
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.golden import Clips, Golden
from kdcmae.runtime.metrics import Limits
from kdcmae.runtime.preprocessing import SAMPLE_RATE_HZ

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

        Args:
            engine: as an app loads it.
            golden: what it is tested with.
            settings: of the build.

        Raises:
            GateError: it does not pass.
        """
        on_cpu = (settings.device or CAPABILITIES[settings.target].devices[0]) == "cpu"
        assert golden.clips is not None
        if settings.precision != "fp32":
            every = dataclasses.replace(
                golden.clips, waveforms=self.waveforms, frames=self.frames, reference=self.outputs
            )
            outputs, _ = selftest.outputs_of_clips(engine, engine.manifest, every)
            kept = _chosen(every, selftest.within(outputs, every, engine.manifest))
            built = {name: coarse(array[kept]) for name, array in outputs.items()} if on_cpu else {}
            clips = dataclasses.replace(
                every.of(kept), built=built, products=engine.products(), cpu_class=this_cpu().class_name
            )
            golden = dataclasses.replace(golden, clips=clips)
        result = selftest.summed_up([selftest.examine(engine, golden, "")])
        if not result.passed:
            raise GateError(f"self-test: {result}; no engine was written")
        return golden


def _chosen(clips: Clips, within: NDArray[np.bool_]) -> list[int]:
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
    return sorted(number for *_, number in sorted(order)[:_KEPT])


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
