"""Turn a clip, or arrays from a caller, into exactly the arrays that an engine takes.

Engines take prepared inputs (``audio``, ``image``) or raw ones: ``waveform``, ``samples`` (how many samples of each
waveform are sound) and ``frame``. The waveform input has a fixed length. It needs ``samples`` because a filterbank is
padded with zeros after its frames are computed: silence appended to the sound would become frames.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import DataError, EngineInputError
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.manifest import BATCH_AXIS, Manifest, TensorSpec
from kdcmae.runtime.preprocessing import FRAME_LENGTH, Preprocessing, prepare_audio, prepare_image, resample
from kdcmae.runtime.schema import FREE_AXES

__all__ = [
    "FRAME",
    "RAW",
    "SAMPLES",
    "WAVEFORM",
    "check_mapping",
    "checked",
    "completed",
    "from_clip",
    "needed",
    "sources",
]

WAVEFORM, SAMPLES, FRAME = RAW = ("waveform", "samples", "frame")
"""The inputs of an engine that prepares clips itself."""

# The part of a clip that each input is made from.
_SOURCES = {"audio": "waveform", WAVEFORM: "waveform", SAMPLES: "waveform", "image": "frame", FRAME: "frame"}


def needed(names: Iterable[str]) -> frozenset[str]:
    """The inputs that a caller must pass; :func:`completed` adds ``samples``."""
    return frozenset(names) - {SAMPLES}


def sources(names: Iterable[str]) -> frozenset[str]:
    """The parts of a clip that inputs are made from: ``waveform``, ``frame``, or the input's own name if neither."""
    return frozenset(_SOURCES.get(name, name) for name in names)


def from_clip(
    names: Iterable[str],
    preprocessing: Preprocessing,
    waveform: NDArray[Any] | None,
    sample_rate_hz: int,
    frames: Sequence[NDArray[np.uint8]] | None,
) -> dict[str, NDArray[Any]]:
    """The inputs of one clip, one row per frame.

    Args:
        preprocessing: the model's preprocessing.
        waveform: (S,) or (channels, S), floating point in [-1, 1] or integers at full scale; None if no input needs it.
        sample_rate_hz: sample rate of the waveform.
        frames: (H, W, 3) uint8 RGB, all of one size; None if no input needs them, which makes one row.

    Returns:
        An array per input.

    Raises:
        EngineInputError: an input needs a part that is None, or is not made from a clip.
        DataError: a waveform or frame that cannot be used.
    """
    rows = len(frames) if frames is not None else 1
    feed: dict[str, NDArray[Any]] = {}
    for name in names:
        source = _SOURCES.get(name)
        if source is None:
            raise EngineInputError(f"the engine takes {name}, which no clip becomes; use infer()")
        if source == "frame":
            pictures = [_required(name, source, frame) for frame in (frames if frames is not None else (None,))]
            feed[name] = _from_frames(name, pictures, preprocessing)
        else:
            sound = _from_waveform(name, _required(name, source, waveform), sample_rate_hz, preprocessing)
            feed[name] = np.repeat(sound, rows, axis=0)
    return feed


def listed(frames: Iterable[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """The frames of a clip as a list.

    Raises:
        EngineInputError: there is no frame, or ``frames`` is not iterable.
    """
    try:
        frames = list(frames)
    except TypeError as error:
        raise EngineInputError(f"frames must be a sequence of numpy arrays, got {_kind(frames)}") from error
    if not frames:
        raise EngineInputError("frames must hold at least one frame; give None for a clip without picture")
    return frames


def completed(feed: Arrays, inputs: tuple[TensorSpec, ...]) -> Arrays:
    """Pad a waveform that is shorter than its input, and add ``samples``, the number of samples that are sound.

    Returns:
        The completed feed; the same object if there is nothing to add.
    """
    room = next((int(spec.shape[1]) for spec in inputs if spec.name == WAVEFORM), None)
    waveform = feed.get(WAVEFORM)
    if room is None or not isinstance(waveform, np.ndarray) or waveform.ndim != 2:
        return feed
    batch, length = waveform.shape
    added = {SAMPLES: np.full(batch, length, dtype=np.int32), **feed}
    if length < room:
        added[WAVEFORM] = np.pad(waveform, ((0, 0), (0, room - length)))
    return added


def check_mapping(feed: Any) -> None:
    """Refuse a feed that is not a mapping.

    Raises:
        EngineInputError: it is not a mapping.
    """
    if not isinstance(feed, Mapping):
        raise EngineInputError(f"the inputs must be a mapping from name to array, got {_kind(feed)}")


def checked(feed: Arrays, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """The feed in C order, after checking it against the engine's inputs.

    Raises:
        EngineInputError: a name, dtype, shape, batch size or number of samples that the engine does not take.
    """
    _check_names(feed, [spec.name for spec in manifest.inputs])
    for spec in manifest.inputs:
        _check_array(feed[spec.name], spec)
    _check_batch(feed, manifest)
    if SAMPLES in feed and WAVEFORM in feed:
        _check_samples(feed[SAMPLES], feed[WAVEFORM].shape[1])
    return {name: np.ascontiguousarray(array) for name, array in feed.items()}


def _from_waveform(
    name: str, waveform: NDArray[Any], sample_rate_hz: int, preprocessing: Preprocessing
) -> NDArray[Any]:
    """One row of an input that is made from the waveform."""
    if name == "audio":
        return prepare_audio(waveform, sample_rate_hz, preprocessing)
    sound = resample(waveform, sample_rate_hz, mono=preprocessing.mono, samples=preprocessing.audio_samples)
    if len(sound) < FRAME_LENGTH:
        raise DataError(f"waveform of {len(sound)} samples at 16 kHz is too short: the filterbank needs {FRAME_LENGTH}")
    if name == SAMPLES:
        return np.array([len(sound)], dtype=np.int32)
    return np.pad(sound, (0, preprocessing.audio_samples - len(sound)))[None]


def _from_frames(name: str, frames: list[NDArray[np.uint8]], preprocessing: Preprocessing) -> NDArray[Any]:
    """An input that is made from frames, one row per frame."""
    if name == "image":
        return np.concatenate([prepare_image(frame, preprocessing) for frame in frames])
    if len({frame.shape for frame in frames}) > 1:
        raise DataError(f"frames of one call must have one size, got {', '.join(str(frame.shape) for frame in frames)}")
    return np.stack(frames)


def _required(name: str, source: str, array: NDArray[Any] | None) -> NDArray[Any]:
    if not isinstance(array, np.ndarray):
        raise EngineInputError(f"input {name} needs a {source} as a numpy array, got {_kind(array)}")
    return array


def _check_names(feed: Arrays, names: list[str]) -> None:
    for name in feed:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the engine takes {', '.join(names)}"
            raise EngineInputError(f"unexpected input {name!r}; {hint}")
    for name in names:
        if name not in feed:
            hint = "; to leave it out, rebuild the engine with --modalities" if name in _SOURCES and feed else ""
            raise EngineInputError(f"input {name} is missing; the engine takes {', '.join(names)}{hint}")


def _check_array(array: NDArray[Any], spec: TensorSpec) -> None:
    if not isinstance(array, np.ndarray):
        raise EngineInputError(f"input {spec.name} must be a numpy array, got {_kind(array)}")
    if array.dtype != np.dtype(spec.dtype):
        raise EngineInputError(
            f"input {spec.name} must be {spec.dtype}, got {array.dtype}; convert it with .astype('{spec.dtype}')"
        )
    if array.ndim != len(spec.shape):
        raise EngineInputError(
            f"input {spec.name} must have {len(spec.shape)} axes {_shape(spec)}, got {array.ndim} axes {array.shape}"
        )
    for axis, (size, expected) in enumerate(zip(array.shape, spec.shape, strict=True)):
        if isinstance(expected, str) and expected in FREE_AXES:
            smallest, _, largest = FREE_AXES[expected]
            if not smallest <= size <= largest:
                raise EngineInputError(
                    f"axis {axis} of input {spec.name} ({expected}) must be {smallest} to {largest}, got {size}; "
                    f"resize the frame first"
                )
        elif expected not in (BATCH_AXIS, size):
            raise EngineInputError(
                f"axis {axis} of input {spec.name} must be {expected}, got {size}; "
                f"the engine takes {_shape(spec)}, not {array.shape}"
            )


def _check_batch(feed: Arrays, manifest: Manifest) -> None:
    sizes = {spec.name: len(feed[spec.name]) for spec in manifest.inputs if spec.shape[0] == BATCH_AXIS}
    if len(set(sizes.values())) > 1:
        listing = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise EngineInputError(f"all inputs must have one batch size, got {listing}")
    low, high = manifest.batch.min, manifest.batch.max
    for name, size in sizes.items():
        if not low <= size <= high:
            accepted = f"{low} only" if low == high else f"{low} to {high}"
            raise EngineInputError(
                f"input {name} has batch size {size}, the engine takes {accepted}; rebuild it with --batch for more"
            )


def _check_samples(samples: NDArray[Any], room: int) -> None:
    """Check the values, because an engine does not: they only decide where the padding starts."""
    if samples.min() < FRAME_LENGTH or samples.max() > room:
        raise EngineInputError(
            f"input {SAMPLES} must be {FRAME_LENGTH} to {room}, the length of {WAVEFORM}; "
            f"got {samples.min()} to {samples.max()}"
        )


def _shape(spec: TensorSpec) -> str:
    return f"({', '.join(map(str, spec.shape))})"


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__
