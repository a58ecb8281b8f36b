"""Resampling of any waveform to 16 kHz mono, in numpy, for training, evaluation, predictions and apps.

The filter, its edges and the number of samples are those of ``ffmpeg -ar 16000``, because the published models were
trained on sound that ffmpeg resampled. Training decodes files at their own rate and resamples here, so that a model in
an app gets exactly the same samples as in training.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kdcmae.errors import DataError

__all__ = ["HIGHEST_RATE_HZ", "LOWEST_RATE_HZ", "MONO", "SAMPLE_RATE_HZ", "Mono", "Resampler", "resample", "to_mono"]

SAMPLE_RATE_HZ = 16_000

Mono = Literal["mean", "left"]
"""How several channels become one: their mean, or the first, which is the left one."""
MONO: tuple[Mono, ...] = get_args(Mono)

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 768_000
_LOUDEST_DITHER = 8 * 256  # of a silent converter of 24 bits, in int32
_LARGEST_SAMPLE = 16.0  # decoders overshoot 1.0 a little; far beyond it the waveform is in integer units

# Defaults of ffmpeg's libswresample: taps at the lower of the two rates, Kaiser window, share of Nyquist.
_FILTER_SIZE = 32
_KAISER_BETA = 9.0
_CUTOFF = 0.97

_PHASES_PER_BLOCK = 64  # of the filter, computed together


def resample(
    waveform: NDArray[Any], sample_rate_hz: int, *, mono: Mono = "mean", samples: int | None = None
) -> NDArray[np.float32]:
    """Any waveform -> 16 kHz mono.

    Args:
        waveform: (S,) or (channels, S); floating point in [-1, 1], or integers at their full scale.
        sample_rate_hz: sample rate of the waveform, 1000 to 768000.
        mono: how several channels become one.
        samples: number of samples to compute, from the start of the result; None for all. They are the same to the bit.

    Returns:
        (ceil(S * 16000 / sample_rate_hz),) float32, in a few cases one less, as with ffmpeg; at most ``samples``.

    Raises:
        DataError: the waveform is empty, not finite or out of range, has a wrong shape, dtype or sample rate, or its
            samples have fewer bits than their integer type.

    Source: see :class:`Resampler`.
    """
    _check_waveform(waveform)
    resampler = Resampler(sample_rate_hz)
    needed = waveform.shape[-1] if samples is None else resampler.needed(samples)
    start = resampler.push(to_mono(waveform[..., :needed], mono))
    if needed < waveform.shape[-1]:
        return start[:samples]
    return np.concatenate([start, resampler.finish()])[:samples]


class Resampler:
    """Resampler from mono of another rate to 16 kHz, piece by piece. The result does not depend on the pieces.

    Args:
        sample_rate_hz: sample rate of the input, 1000 to 768000.

    Raises:
        DataError: another sample rate.

    Source: libswresample of ffmpeg with its default settings: a sinc of 32 taps at the lower rate under a Kaiser
        window of beta 9, cut off at 0.97 of the lower Nyquist frequency; one exact filter per phase, linear phase, no
        delay. The sound before the start mirrors what follows it, and the sound after the end what precedes it.
        From 44.1 kHz it is flat to 0.01 dB up to 6.5 kHz, 3 dB down at 7.5 kHz and 60 dB at 9 kHz.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        if not isinstance(sample_rate_hz, (int, np.integer)) or not LOWEST_RATE_HZ <= sample_rate_hz <= HIGHEST_RATE_HZ:
            raise DataError(
                f"sample rate {sample_rate_hz!r} must be an integer from {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} (Hz)"
            )
        divisor = math.gcd(sample_rate_hz, SAMPLE_RATE_HZ)
        self._up, self._down = SAMPLE_RATE_HZ // divisor, int(sample_rate_hz) // divisor
        self._side = _filter_side(self._up, self._down)
        self._held = np.empty(0, dtype=np.float32)
        self._held_from = 0  # number of the first sample in self._held; those before sample 0 are mirrored
        self._given = 0
        self._next = 0  # sample of the result

    def needed(self, samples: int) -> int:
        """Number of input samples, from the start, that determine the first ``samples`` of the result."""
        if self._up == self._down:
            return samples
        return 0 if samples == 0 else (samples - 1) * self._down // self._up + self._side + 1

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The next part of the result, as far as the input determines it.

        Args:
            samples: (S,) float32, the next input samples, mono.
        """
        self._given += len(samples)
        if self._up == self._down:
            return samples
        self._held = np.concatenate([self._held, samples])
        if self._held_from == 0 and self._given < self._side:
            return np.empty(0, dtype=np.float32)
        self._mirror_start()
        return self._until(self._given - self._side)

    def finish(self) -> NDArray[np.float32]:
        """The rest of the result, at the end of the input."""
        if self._up == self._down or self._given == 0:
            return np.empty(0, dtype=np.float32)
        self._mirror_start()
        self._held = np.pad(self._held, (0, self._side), mode="symmetric")
        # ffmpeg mirrors only the samples that it still holds, so its result may be one sample shorter.
        held = self._given - self._next * self._down // self._up + self._side - 1
        mirrored = (min(2 * self._side, held) + 1) // 2
        return self._until(max(1, self._given - self._side + mirrored))

    def _mirror_start(self) -> None:
        if self._held_from == 0:
            self._held = np.pad(self._held, (self._side - 1, 0), mode="reflect")
            self._held_from = 1 - self._side

    def _until(self, position: int) -> NDArray[np.float32]:
        """The samples of the result before input sample ``position``."""
        end = max(self._next, -(-position * self._up // self._down))
        out = np.empty(end - self._next, dtype=np.float32)
        if len(out):
            windows = sliding_window_view(self._held, 2 * self._side)
            for number in range(min(self._up, len(out))):  # samples number, number + up, ... have the same taps
                first, phase = divmod((self._next + number) * self._down, self._up)
                block, row = divmod(phase, _PHASES_PER_BLOCK)
                taps = _filter_taps(block, self._up, self._down)[row]
                place = first - (self._side - 1) - self._held_from
                rows = windows[place :: self._down][: -(-(len(out) - number) // self._up)]
                np.einsum("nt,t->n", rows, taps, out=out[number :: self._up])
        self._next = end
        spent = end * self._down // self._up - (self._side - 1) - self._held_from
        self._held, self._held_from = self._held[spent:], self._held_from + spent
        return out


def to_mono(
    samples: NDArray[Any], mono: Mono = "mean", *, weights: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """Samples of any type -> mono in [-1, 1].

    Args:
        samples: (S,) or (channels, S): floating point, signed integers at their full scale, or uint8.
        mono: how several channels become one.
        weights: (channels,) weights of the mean; None for equal weights.

    Raises:
        DataError: the samples are not finite, out of range, or of another type.
    """
    scaled = _in_full_scale(samples)
    _require_level(scaled)
    if scaled.ndim == 1:
        mixed = scaled
    elif mono == "left":
        mixed = scaled[0]
    else:
        mixed = scaled.mean(axis=0) if weights is None else weights @ scaled
    return mixed.astype(np.float32, copy=False)


def _in_full_scale(samples: NDArray[Any]) -> NDArray[np.floating[Any]]:
    """Samples of any type as floating point, where 1 is their type's full scale.

    Raises:
        DataError: no sound has this type.
    """
    if samples.dtype.kind == "f":
        return samples
    if samples.dtype.kind == "i":
        exact = np.float32 if samples.dtype.itemsize <= 2 else np.float64
        scaled: NDArray[np.floating[Any]] = np.divide(samples, 2.0 ** (8 * samples.dtype.itemsize - 1), dtype=exact)
        return scaled
    if samples.dtype == np.uint8:  # the only unsigned PCM format, with silence at 128
        return (samples.astype(np.float32) - 128) / 128
    raise DataError(f"waveform of dtype {samples.dtype} must be floating point, signed integers or uint8")


def _filter_side(up: int, down: int) -> int:
    """Filter taps on each side of a sample of the result."""
    return math.ceil(math.ceil(_FILTER_SIZE / _bandwidth(up, down)) / 2)


def _bandwidth(up: int, down: int) -> float:
    """Bandwidth of the filter, as a share of the waveform's Nyquist frequency."""
    return min(1.0, _CUTOFF * up / down)


@lru_cache(maxsize=256)  # all phases of any rate: 160 of 44.1 kHz, and at most 16000, which take 6 MB there
def _filter_taps(block: int, up: int, down: int) -> NDArray[np.float32]:
    """(64, 2 side) filter taps of the phases from ``64 * block`` on.

    Samples of the result with phase p lie ``p / up`` input samples after tap number ``side - 1``.
    """
    side = _filter_side(up, down)
    phases = np.arange(_PHASES_PER_BLOCK * block, min(up, _PHASES_PER_BLOCK * (block + 1)))
    scale = _unscaled_taps(np.zeros(1), side, up, down).sum()
    taps: NDArray[np.float32] = (_unscaled_taps(phases / up, side, up, down) / scale).astype(np.float32)
    return taps


def _unscaled_taps(delay: NDArray[np.float64], side: int, up: int, down: int) -> NDArray[np.float64]:
    distance = np.arange(1 - side, side + 1) - delay[:, None]
    envelope = np.i0(_KAISER_BETA * np.sqrt(np.maximum(0.0, 1 - (distance / side) ** 2)))
    return np.asarray(np.sinc(distance * _bandwidth(up, down)) * envelope)


def _check_waveform(waveform: NDArray[Any]) -> None:
    """Refuse what is not a waveform. All samples are checked, because the start may be silent."""
    if waveform.ndim not in (1, 2) or waveform.size == 0:
        raise DataError(f"waveform of shape {waveform.shape} must be (S,) or (channels, S), and not empty")
    if waveform.ndim == 2 and waveform.shape[0] > waveform.shape[1]:
        raise DataError(f"waveform of shape {waveform.shape} must be (channels, S): transpose it")
    if waveform.dtype.kind == "i":
        _require_full_scale(waveform)
    elif waveform.dtype.kind == "f":
        _require_level(waveform)


def _require_level(samples: NDArray[np.floating[Any]]) -> None:
    largest = max(float(samples.max(initial=0)), -float(samples.min(initial=0)))
    if not math.isfinite(largest):
        raise DataError("waveform holds NaN or infinite samples")
    if largest > _LARGEST_SAMPLE:
        raise DataError(f"waveform reaches {largest:.6g} but must be in [-1, 1]; divide 16-bit samples by 32768")


def _require_full_scale(samples: NDArray[Any]) -> None:
    """Refuse narrow samples in a wide type, such as 16-bit samples in int32: its full scale makes them silent."""
    bits = 8 * samples.dtype.itemsize
    if bits <= 16:
        return
    largest = max(abs(int(samples.min())), abs(int(samples.max())))
    if largest and _is_narrow(samples, largest, bits):
        held = next(width for width in (16, 24, 32) if largest <= 2 ** (width - 1) or width == 32)
        raise DataError(
            f"waveform of dtype {samples.dtype} reaches only {largest}, as samples of {held} bits do: divide it by "
            f"{2 ** (held - 1)}, or by whatever its full scale is, to get floating point in [-1, 1]"
        )


def _is_narrow(samples: NDArray[Any], largest: int, bits: int) -> bool:
    """Whether samples of a wide type use only its lower bits."""
    if bits == 64:  # no recording has 64 bits, but NumPy turns a list of narrower samples into int64
        return largest < 2**32
    # 24-bit converters write multiples of 256, which may be as quiet as their noise.
    if not (samples & 0xFF).any():
        return _LOUDEST_DITHER < largest <= 2**15
    return largest <= 2**23
