"""``golden.npz``: inputs, clips and reference outputs for an engine's self-test.

The compiler and apps read and write it with this code. It holds two kinds of samples, with the model's outputs:

- inputs as :meth:`~kdcmae.runtime.Engine.infer` takes them, as a batch where the engine takes several samples
  (``input.NAME``, ``output.NAME``);
- clips as an app has them, which go through the engine's preprocessing (``clip.waveform``, ``clip.frame``,
  ``clip.output.NAME``). For an engine that rounds, also its own outputs where it was built (``clip.built.NAME``): they
  may be far from the model's, but the engine must reproduce them.

``facts`` is JSON: ``labels`` in the order of the logits, the ``limits`` of every precision, the ``precisions`` whose
limits the engine must meet, and the ``products`` that executed on the machine of class ``cpu_class`` that wrote
``clip.built``.

Folders built by releases without clips hold ``input``, ``output`` and ``tolerance`` (``tolerance.NAME``: the largest
error relative to the largest reference value). New folders hold these too.
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
    """Clips as an app has them, and the model's outputs for them.

    Args:
        waveforms: (N, S) int16, mono at 16 kHz; None for an engine that takes no sound.
        frames: (N, H, W, 3) uint8, RGB; None for an engine that takes no picture.
        reference: the model's outputs by name, (N, ...).
        labels: class names in the order of the logits; empty for a model that does not classify.
        precisions: precisions whose limits the engine must meet: those of the machine that it is for and of the machine
            that built it.
        limits: limits of every precision, the narrowest first.
        built: the engine's own outputs on the machine that built it, by name; empty unless the engine rounds and ran
            there on a CPU.
        products: number of matrix products by precision, as they executed there.
        cpu_class: class of that machine's processor, one of :data:`kdcmae.runtime.cpu.CLASSES`.
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
        """Number of clips."""
        return len(next(iter(self.reference.values())))

    def of(self, numbers: Sequence[int]) -> Clips:
        """A selection of the clips, without the engine's own outputs."""
        return dataclasses.replace(
            self,
            waveforms=None if self.waveforms is None else self.waveforms[list(numbers)],
            frames=None if self.frames is None else self.frames[list(numbers)],
            reference={name: array[list(numbers)] for name, array in self.reference.items()},
            built={},
        )

    def limits_of(self, executed: Mapping[str, int]) -> Limits:
        """The widest limits among the engine's precisions and those that execute.

        Args:
            executed: number of matrix products by precision.
        """
        order = list(self.limits)
        names = {*self.precisions, *(executed.keys() & self.limits.keys())}
        return self.limits[max(names, key=order.index)]

    def limits_of_repeating(
        self, executed: Mapping[str, int], cpu: Cpu, *, same_libraries: bool = True
    ) -> Limits | None:
        """Limits for reproducing the outputs on the machine that built the engine; None if they cannot be compared.

        The same release of a library executes an engine almost identically on processors of one class: sums in another
        order change the rounding of one value in thousands, which is less than the rounding of fp16. On another class
        of the same architecture, or with another release, other layers are fused, roots and exponentials are computed
        differently and more values change, each by a step of 8 bits, which is that of bf16. If other precisions
        execute, the outputs are not comparable.

        Args:
            executed: number of matrix products by precision on this machine.
            same_libraries: the engine's library is the release that built it.
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
        inputs, reference: one batch of inputs and of the model's outputs, by name.
        tolerance: largest error per output, relative to the largest reference value.
        clips: the clips; None in a folder built by a release without them.
    """

    inputs: Arrays
    reference: Arrays
    tolerance: Mapping[str, float]
    clips: Clips | None = None

    def write(self, path: Path) -> None:
        """Write the file; equal content makes equal bytes."""
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
    """Read the file of a loaded engine.

    Args:
        manifest: manifest of the engine, with the names of its tensors and the digest of the file.

    Raises:
        EngineError: the file is missing, or it lacks an array that this engine needs.
        EngineIntegrityError: the file does not belong to the engine that was loaded.
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
    except Exception as error:  # zipfile, zlib and numpy raise exceptions of many types for a damaged archive
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
