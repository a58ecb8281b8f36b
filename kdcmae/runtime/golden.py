"""``golden.npz``: what an engine is tested with on a device, the same code for the compiler and for an app.

Two kinds of samples lie there, with what the model makes of them:

- inputs as :meth:`~kdcmae.runtime.Engine.infer` takes them, as a batch where the engine takes several samples
  (``input.NAME``, ``output.NAME``);
- clips as an app has them, which go through the engine's preprocessing (``clip.waveform``, ``clip.frame``,
  ``clip.output.NAME``). Of an engine that rounds also what it gave of them where it was built (``clip.built.NAME``):
  it may be far from the model, but it gives the same again.

``facts`` is JSON: ``labels`` in the order of the logits, the ``limits`` of every precision, the ``precisions`` that the
engine is held to, and the ``products`` that executed where ``clip.built`` was written, on a ``cpu_class``.

Folders built before there were clips hold ``input``, ``output`` and ``tolerance`` (``tolerance.NAME``: the largest
error relative to the largest reference value), which new ones hold too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import EngineError, EngineIntegrityError, cause
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.cpu import CLASSES, Cpu
from kdcmae.runtime.manifest import Manifest
from kdcmae.runtime.metrics import Limits

__all__ = ["GOLDEN_FILE", "Clips", "Golden", "read_golden"]

GOLDEN_FILE = "golden.npz"

_FACTS = "facts"
_WAVEFORM, _FRAME = "clip.waveform", "clip.frame"


@dataclass(frozen=True, kw_only=True, eq=False)
class Clips:
    """Clips as an app has them, and what the model makes of them.

    Args:
        waveforms: (N, S) int16, mono at 16 kHz; None for an engine that takes no sound.
        frames: (N, H, W, 3) uint8, RGB; None for an engine that takes no picture.
        reference: the model's outputs by name, (N, ...).
        labels: class names in the order of the logits; empty for a model that does not classify.
        precisions: that the engine is held to, where it is for and where it was built.
        limits: of every precision, the narrowest first.
        built: the engine's own outputs where it was built, by name; empty unless it rounds, and ran there on a CPU.
        products: matrix products by precision, as they executed there.
        cpu_class: of the processor there, one of :data:`kdcmae.runtime.cpu.CLASSES`.
    """

    waveforms: NDArray[np.int16] | None
    frames: NDArray[np.uint8] | None
    reference: Arrays
    labels: tuple[str, ...]
    precisions: tuple[str, ...]
    limits: Mapping[str, Limits]
    built: Arrays = field(default_factory=dict)
    products: Mapping[str, int] = field(default_factory=dict)
    cpu_class: str = ""

    def __len__(self) -> int:
        """How many."""
        return len(next(iter(self.reference.values())))

    def of(self, numbers: Sequence[int]) -> Clips:
        """Some of them; what an engine gave is left out.

        Args:
            numbers: of the clips, from 0.
        """
        return dataclasses.replace(
            self,
            waveforms=None if self.waveforms is None else self.waveforms[list(numbers)],
            frames=None if self.frames is None else self.frames[list(numbers)],
            reference={name: array[list(numbers)] for name, array in self.reference.items()},
            built={},
        )

    def limits_of(self, executed: Mapping[str, int]) -> Limits:
        """The widest limits of the precisions that the engine is held to and of those that execute.

        Args:
            executed: matrix products by precision.
        """
        order = list(self.limits)
        names = {*self.precisions, *(executed.keys() & self.limits.keys())}
        return self.limits[max(names, key=order.index)]

    def limits_of_repeating(
        self, executed: Mapping[str, int], cpu: Cpu, *, same_libraries: bool = True
    ) -> Limits | None:
        """How closely the engine must give again what it gave where it was built; None where that says nothing.

        One release of a library executes an engine alike on processors of one class: sums in another order round a
        value in thousands another way, which is less than the rounding of fp16. Another class of the same architecture,
        or another release, fuses other layers, computes roots and exponentials otherwise and rounds more values another
        way, each by a step of 8 bits, which is that of bf16. Where other precisions execute, the engine is another one.

        Args:
            executed: matrix products by precision, here.
            cpu: this machine's.
            same_libraries: the engine's library is of the release that built it.
        """
        if not self.built or dict(executed) != dict(self.products) or self.cpu_class not in CLASSES:
            return None
        if self.cpu_class == cpu.class_name and same_libraries:
            return self.limits["fp16"]
        return self.limits["bf16"] if CLASSES[self.cpu_class].machine == cpu.machine else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Golden:
    """The content of the file.

    Args:
        inputs, reference: one batch, by name.
        tolerance: largest error per output, relative to the largest reference value.
        clips: None in a folder that was built before there were any.
    """

    inputs: Arrays
    reference: Arrays
    tolerance: Mapping[str, float]
    clips: Clips | None = None

    def write(self, path: Path) -> None:
        """Write the file; equal content gives equal bytes."""
        arrays: dict[str, Any] = {f"input.{name}": array for name, array in self.inputs.items()}
        arrays |= {f"output.{name}": array for name, array in self.reference.items()}
        arrays |= {f"tolerance.{name}": np.float64(limit) for name, limit in self.tolerance.items()}
        if (clips := self.clips) is not None:
            raw = {_WAVEFORM: clips.waveforms, _FRAME: clips.frames}
            arrays |= {name: array for name, array in raw.items() if array is not None}
            arrays |= {f"clip.output.{name}": array for name, array in clips.reference.items()}
            arrays |= {f"clip.built.{name}": array for name, array in clips.built.items()}
            facts = {
                "labels": clips.labels,
                "precisions": clips.precisions,
                "limits": {name: dataclasses.asdict(limits) for name, limits in clips.limits.items()},
                "products": dict(clips.products),
                "cpu_class": clips.cpu_class,
            }
            arrays[_FACTS] = np.array(json.dumps(facts))
        np.savez_compressed(path, **arrays)


def read_golden(path: Path, manifest: Manifest) -> Golden:
    """Read the file of an engine that was loaded.

    Args:
        path: of the file.
        manifest: of the engine, which says what must be in there, and its digest.

    Raises:
        EngineError: there is none, or it lacks an array that this engine needs.
        EngineIntegrityError: it is not that of the engine that was loaded.
    """
    if path.name not in manifest.files:
        raise EngineError(f"{path.parent} has no {path.name} to test with; rebuild the engine with kdcmae-compile")
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest.files[path.name]:
            raise EngineIntegrityError(f"{path} has changed since the engine was loaded; load it again")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            outputs = [spec.name for spec in manifest.outputs]
            return Golden(
                inputs={spec.name: arrays[f"input.{spec.name}"] for spec in manifest.inputs},
                reference={name: arrays[f"output.{name}"] for name in outputs},
                tolerance={name: float(arrays[f"tolerance.{name}"]) for name in outputs},
                clips=_clips(arrays, outputs) if _FACTS in arrays else None,
            )
    except EngineIntegrityError:
        raise
    except Exception as error:  # a damaged archive makes zipfile, zlib and numpy raise whatever they like
        reason = cause(error)
        raise EngineError(f"{path} is not a self-test of this engine: {reason}; rebuild the engine") from error


def _clips(arrays: Any, outputs: list[str]) -> Clips:
    facts = json.loads(str(arrays[_FACTS]))
    clips = Clips(
        waveforms=arrays.get(_WAVEFORM),
        frames=arrays.get(_FRAME),
        reference={name: arrays[f"clip.output.{name}"] for name in outputs},
        labels=tuple(facts["labels"]),
        precisions=tuple(facts["precisions"]),
        limits={name: Limits(**limits) for name, limits in facts["limits"].items()},
        built={name: arrays[f"clip.built.{name}"] for name in outputs if f"clip.built.{name}" in arrays},
        products=dict(facts["products"]),
        cpu_class=str(facts["cpu_class"]),
    )
    counts = {len(array) for array in (clips.waveforms, clips.frames, *clips.reference.values()) if array is not None}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"its arrays hold {sorted(counts)} clips")
    if missing := {*clips.precisions, "fp16", "bf16"} - clips.limits.keys():
        raise ValueError(f"it has no limits of {sorted(missing)}")
    return clips
