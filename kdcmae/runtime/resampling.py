"""Any waveform -> 16 kHz mono, in numpy."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kdcmae.errors import DataError

__all__ = ["HIGHEST_RATE_HZ", "LOWEST_RATE_HZ", "SAMPLE_RATE_HZ", "resample"]

SAMPLE_RATE_HZ = 16_000

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 768_000
_LOUDEST_DITHER = 8 * 256  # of a silent converter of 24 bits, in int32
_LARGEST_SAMPLE = 16.0  # decoders overshoot 1.0 a little; far beyond it the waveform is in integer units

# 48 zero crossings on each side and this Kaiser window give a transition band of a tenth of the lower Nyquist
# frequency at 80 dB; the roll-off puts that band below Nyquist, so that nothing folds back.
_ZERO_CROSSINGS = 48
_KAISER_BETA = 7.86
_ROLLOFF = 0.9475

Float32 = NDArray[np.float32]


def resample(waveform: NDArray[Any], sample_rate_hz: int) -> Float32:
    """Any waveform -> 16 kHz mono.

    Args:
        waveform: (S,) or (channels, S), averaged over channels; floating point in [-1, 1], or integers at their
            full scale.
        sample_rate_hz: of the waveform, 1000 to 768000.

    Returns:
        (ceil(S * 16000 / sample_rate_hz),) float32.

    Raises:
        DataError: empty, not finite, out of range, an odd shape, dtype or sample rate, or samples of fewer bits than
            their integer type has.

    Source: windowed sinc (Smith, "Digital Audio Resampling"), one exact filter per phase, linear phase, no delay.
        Flat to 0.01 dB up to 0.9 of the lower of the two Nyquist frequencies, 80 dB down from that frequency
        upwards. Beyond its ends the waveform counts as silence.
    """
    mono = _mono(waveform)
    if not isinstance(sample_rate_hz, (int, np.integer)) or not LOWEST_RATE_HZ <= sample_rate_hz <= HIGHEST_RATE_HZ:
        raise DataError(
            f"sample rate {sample_rate_hz!r} must be an integer from {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} (Hz)"
        )
    divisor = math.gcd(sample_rate_hz, SAMPLE_RATE_HZ)
    up, down = SAMPLE_RATE_HZ // divisor, int(sample_rate_hz) // divisor
    if up == down:
        return mono
    side = _filter_side(up, down)
    out = np.empty(-(-len(mono) * up // down), dtype=np.float32)
    windows = sliding_window_view(np.pad(mono, (side - 1, side + down)), 2 * side)
    for phase in range(min(up, len(out))):  # output samples phase, phase + up, ... see one set of filter taps
        samples = out[phase::up]
        first, offset = divmod(phase * down, up)
        np.einsum("nt,t->n", windows[first::down][: len(samples)], _filter_taps(offset, up, down), out=samples)
    return out


def _filter_side(up: int, down: int) -> int:
    """Filter taps on each side of an output sample."""
    return math.ceil(_ZERO_CROSSINGS * max(1.0, down / up))


@lru_cache(maxsize=2048)  # all phases of the usual rates: 44.1 kHz has 160 of them, 11.025 kHz 640
def _filter_taps(offset: int, up: int, down: int) -> Float32:
    """The filter for output samples ``offset / up`` input samples after the tap number ``side - 1``."""
    side = _filter_side(up, down)
    distance = np.arange(1 - side, side + 1) - offset / up
    envelope = np.i0(_KAISER_BETA * np.sqrt(np.maximum(0.0, 1 - (distance / side) ** 2)))
    taps = np.sinc(distance * _ROLLOFF * min(1.0, up / down)) * envelope
    return (taps / taps.sum()).astype(np.float32)


def _mono(waveform: NDArray[Any]) -> Float32:
    """Check a waveform, scale integers to [-1, 1] and average channels."""
    if waveform.ndim not in (1, 2) or waveform.size == 0:
        raise DataError(f"waveform of shape {waveform.shape} must be (S,) or (channels, S), and not empty")
    if waveform.ndim == 2 and waveform.shape[0] > waveform.shape[1]:
        raise DataError(f"waveform of shape {waveform.shape} must be (channels, S): transpose it")
    scaled = _scaled(waveform)
    largest = float(np.abs(scaled).max())
    if not math.isfinite(largest):
        raise DataError("waveform holds NaN or infinite samples")
    if largest > _LARGEST_SAMPLE:
        raise DataError(f"waveform reaches {largest:.6g} but must be in [-1, 1]; divide 16-bit samples by 32768")
    mono = scaled if scaled.ndim == 1 else scaled.mean(axis=0)
    return mono.astype(np.float32, copy=False)


def _scaled(samples: NDArray[Any]) -> NDArray[np.floating[Any]]:
    if samples.dtype.kind == "f":
        return samples
    if samples.dtype.kind == "i":
        _require_full_scale(samples)
        return np.divide(samples, 2.0 ** (8 * samples.dtype.itemsize - 1))
    if samples.dtype == np.uint8:  # the one unsigned format of PCM, with silence at 128
        return (samples.astype(np.float32) - 128) / 128
    raise DataError(f"waveform of dtype {samples.dtype} must be floating point, signed integers or uint8")


def _require_full_scale(samples: NDArray[Any]) -> None:
    """Refuse narrow samples in a wide type, such as 16-bit ones in int32: its full scale would make silence of them."""
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
    """Whether samples of a wide type use its lower bits alone."""
    if bits == 64:  # which nobody records: it is what NumPy makes of a list of narrower samples
        return largest < 2**32
    # Converters of 24 bits write multiples of 256, which may be as quiet as their noise.
    if not (samples & 0xFF).any():
        return _LOUDEST_DITHER < largest <= 2**15
    return largest <= 2**23
