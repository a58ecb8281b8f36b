"""Preprocessing in numpy: waveform to log-mel filterbank, and frame to image.

This module defines the preprocessing for the whole package: apps run it before an engine, the torch modules of
:mod:`kdcmae.frontend` take their constants from it, and an engine's manifest stores its parameters as
:class:`Preprocessing`. Constants are computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from operator import eq
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from kdcmae.errors import ConfigError, DataError
from kdcmae.media.resampling import MONO, SAMPLE_RATE_HZ, Mono, resample
from kdcmae.media.windows import FRAME_LENGTH, FRAME_SHIFT
from kdcmae.runtime.arrays import Float32, Float64
from kdcmae.runtime.blas import one_thread

__all__ = [
    "FRAME_LENGTH",
    "FRAME_SHIFT",
    "LOG_FLOOR",
    "MEL_BINS",
    "SAMPLE_RATE_HZ",
    "Band",
    "Preprocessing",
    "fbank",
    "fbank_matrices",
    "prepare_audio",
    "prepare_image",
    "resample",
    "resize_crop_bands",
    "resize_crop_matrices",
    "resize_crop_matrix",
]

FFT_LENGTH = 512
PREEMPHASIS = 0.97
MEL_BINS = 128
LOW_FREQUENCY_HZ = 20.0
HIGH_FREQUENCY_HZ = SAMPLE_RATE_HZ / 2
LOG_FLOOR = float(np.finfo(np.float32).eps)

_ROWS_PER_BAND = 32
_FRAMES_PER_PRODUCT = 1024  # bounds the memory of a long waveform: 1024 spectra are 4 MB


_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


def _is_number(value: object) -> bool:
    """Whether it is a number in the range of float32, in which everything is computed."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_scale(value: Any) -> bool:
    return _is_number(value) and value >= _SMALLEST_SCALE


def _is_rgb(value: object, of: Callable[[object], bool]) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(map(of, value))


# Fields that vary from model to model: the requirement in words, and its test.
_VARIABLE: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "mono": (" or ".join(MONO), lambda value: isinstance(value, str) and value in MONO),
    "audio_frames": ("a positive integer", _is_size),
    "fbank_mean": ("a number", _is_number),
    "fbank_std": ("a positive number", _is_scale),
    "image_size": ("a positive integer", _is_size),
    "image_mean": ("three numbers", partial(_is_rgb, of=_is_number)),
    "image_std": ("three positive numbers", partial(_is_rgb, of=_is_scale)),
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The preprocessing of waveforms and frames, as data.

    The last seven fields vary from model to model. The others describe the Kaldi filterbank and the resizing of this
    module. Other values for them are refused, so that a manifest never names another preprocessing than the one that
    runs.

    Args:
        sample_rate_hz: sample rate of the mono waveform, in [-1, 1].
        frame_length, frame_shift: length and distance of the filterbank's frames, in samples.
        fft_length: in samples; frames are padded to it with zeros.
        window: symmetric Hann.
        preemphasis: coefficient; the first sample of a frame is its own predecessor.
        mel_bins: HTK mel triangles from ``low_frequency_hz`` to ``high_frequency_hz``.
        log_floor: smallest mel energy, float32 epsilon.
        interpolation: antialiased, a = -0.5; the short side becomes ``image_size``, then the centre is cropped.
        mono: how a waveform of several channels becomes one: their ``mean``, or only the ``left`` one, as in the
            published extraction. The two differ by 0.14 of ``fbank_std`` on a real clip.
        audio_frames: number of filterbank frames of the model; shorter sound is padded with zeros, longer sound is cut.
        fbank_mean, fbank_std: log-mel statistics, applied after the padding.
        image_size: side of the square image in pixels.
        image_mean, image_std: statistics per RGB channel of an image in [0, 1].

    Raises:
        ConfigError: a value is out of range or not supported.
    """

    sample_rate_hz: int = SAMPLE_RATE_HZ
    frame_length: int = FRAME_LENGTH
    frame_shift: int = FRAME_SHIFT
    fft_length: int = FFT_LENGTH
    window: str = "hann"
    preemphasis: float = PREEMPHASIS
    mel_bins: int = MEL_BINS
    low_frequency_hz: float = LOW_FREQUENCY_HZ
    high_frequency_hz: float = HIGH_FREQUENCY_HZ
    log_floor: float = LOG_FLOOR
    interpolation: str = "bicubic"
    mono: Mono = "mean"
    audio_frames: int = 1024
    fbank_mean: float = -5.081
    fbank_std: float = 4.4849
    image_size: int = 224
    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    image_std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            wanted, valid = _VARIABLE.get(field.name, (repr(field.default), partial(eq, field.default)))
            if not valid(value):
                raise ConfigError(f"preprocessing {field.name}={value!r} is not supported; it must be {wanted}")

    @property
    def audio_samples(self) -> int:
        """Number of waveform samples in ``audio_frames`` frames."""
        return self.frame_length + self.frame_shift * (self.audio_frames - 1)

    @property
    def window_s(self) -> float:
        """Duration of the sound that the model takes at once, in seconds."""
        return self.audio_samples / self.sample_rate_hz

    def check_fits(self, shapes: Mapping[str, tuple[int | str, ...]]) -> None:
        """Refuse sizes that differ from those of an engine's inputs, before arrays of such a size are created.

        Args:
            shapes: shapes of the inputs by name.

        Raises:
            ConfigError: a prepared clip would have another shape than the input.
        """
        sizes = (
            ("audio", 1, "audio_frames", self.audio_frames),
            ("waveform", 1, "audio_frames", self.audio_samples),
            ("image", 2, "image_size", self.image_size),
            ("image", 3, "image_size", self.image_size),
        )
        for name, axis, fact, size in sizes:
            shape = shapes.get(name, ())
            if axis < len(shape) and shape[axis] != size:
                raise ConfigError(
                    f"preprocessing {fact}={getattr(self, fact)!r} makes axis {axis} of input {name} {size} long, "
                    f"the engine takes {shape[axis]}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Preprocessing:
        """Read the result of :meth:`to_dict`; missing fields take their default.

        Raises:
            ConfigError: an unknown field, or a value that is out of range or not supported.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(facts) - set(known))
        if unknown:
            raise ConfigError(f"unknown preprocessing facts {unknown}; known: {', '.join(known)}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
        return cls(**values)


@lru_cache(maxsize=1)
def fbank_matrices() -> tuple[Float64, Float64]:
    """The linear parts of the filterbank.

    Returns:
        The kernel (514, 400): DC removal, pre-emphasis, window and DFT of one frame in one matrix, 257 real rows and
        then 257 imaginary rows; and the mel triangles (257, 128), which multiply the power spectrum. Both are
        read-only.

    Source: Kaldi's ``compute-fbank-feats`` with ``--htk-compat``; a frame's steps up to its spectrum are linear.
    """
    taps = np.arange(FRAME_LENGTH)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * taps / (FRAME_LENGTH - 1))
    bins = np.arange(FFT_LENGTH // 2 + 1)
    angles = 2 * np.pi * np.outer(bins, taps) / FFT_LENGTH
    kernel = np.concatenate([np.cos(angles), -np.sin(angles)]) * window
    # Of each sample, pre-emphasis takes a part of the one before it away; the first has only itself.
    before = kernel[:, 1:].copy()
    kernel[:, 0] *= 1 - PREEMPHASIS
    kernel[:, :-1] -= PREEMPHASIS * before
    kernel -= kernel.mean(axis=1, keepdims=True)  # a frame's own mean has no effect

    corners = np.linspace(_mel(LOW_FREQUENCY_HZ), _mel(HIGH_FREQUENCY_HZ), MEL_BINS + 2)
    position = _mel(bins * SAMPLE_RATE_HZ / FFT_LENGTH)[:, None]
    rising = (position - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - position) / (corners[2:] - corners[1:-1])
    mel = np.maximum(0.0, np.minimum(rising, falling))
    kernel.flags.writeable = mel.flags.writeable = False
    return kernel, mel


def _mel(frequency_hz: ArrayLike) -> Float64:
    return 1127.0 * np.log1p(np.asarray(frequency_hz, dtype=np.float64) / 700.0)


def fbank(waveform: NDArray[Any]) -> Float32:
    """Kaldi-compatible log-mel filterbank, neither normalised nor padded.

    Args:
        waveform: (S,) in [-1, 1], 16 kHz mono, at least 400 samples (25 ms). Its mean need not be removed, because the
            mean of each frame is.

    Returns:
        (frames, 128) float32 natural logarithms, frames = 1 + (S - 400) // 160.

    Raises:
        DataError: the waveform is not one-dimensional, or shorter than one frame.

    Source: Kaldi's ``compute-fbank-feats``, snip-edges, no dither, no energy; see :class:`Preprocessing`.
        Computed in float64, where Kaldi has float32: the result is the same on every machine.
    """
    if waveform.ndim != 1 or len(waveform) < FRAME_LENGTH:
        raise DataError(
            f"waveform of shape {waveform.shape} is too short: the filterbank needs (S,) with S >= {FRAME_LENGTH} "
            f"samples ({1000 * FRAME_LENGTH // SAMPLE_RATE_HZ} ms at {SAMPLE_RATE_HZ} Hz)"
        )
    kernel, mel = fbank_matrices()
    windows = sliding_window_view(waveform, FRAME_LENGTH)[::FRAME_SHIFT]
    out = np.empty((len(windows), MEL_BINS), dtype=np.float32)
    for start in range(0, len(windows), _FRAMES_PER_PRODUCT):
        chunk = slice(start, start + _FRAMES_PER_PRODUCT)
        with one_thread():
            real, imaginary = np.split(windows[chunk].astype(np.float64) @ kernel.T, 2, axis=1)
            energies = (real**2 + imaginary**2) @ mel
        out[chunk] = np.log(np.maximum(energies, LOG_FLOOR))
    return out


def prepare_audio(waveform: NDArray[Any], sample_rate_hz: int, preprocessing: Preprocessing) -> Float32:
    """Turn any waveform into the model's audio input.

    Args:
        waveform: (S,) or (channels, S); floating point in [-1, 1], or integers at their full scale.
        sample_rate_hz: sample rate of the waveform.
        preprocessing: the model's preprocessing.

    Returns:
        (1, audio_frames, 128) float32, normalised.

    Raises:
        DataError: the waveform is empty, not finite, out of range or shorter than 25 ms, or has a wrong shape, dtype or
            sample rate.
    """
    features = fbank(resample(waveform, sample_rate_hz, mono=preprocessing.mono, samples=preprocessing.audio_samples))
    padded = np.zeros((1, preprocessing.audio_frames, MEL_BINS), dtype=np.float32)
    padded[0, : len(features)] = features
    return (padded - np.float32(preprocessing.fbank_mean)) / np.float32(preprocessing.fbank_std)


def prepare_image(frame: NDArray[np.uint8], preprocessing: Preprocessing) -> Float32:
    """Turn an RGB frame into the model's image input.

    Args:
        frame: (H, W, 3) uint8, RGB.
        preprocessing: the model's preprocessing.

    Returns:
        (1, 3, image_size, image_size) float32, normalised.

    Raises:
        DataError: another shape or dtype.

    Source: bicubic as PIL and torchvision do it: along the width first, then along the height, each kept to [0, 255].
        PIL also rounds to 8 bits after each direction; here nothing is rounded, so that every machine computes the
        same. Over many sizes and contents, including extreme ones, the largest measured difference from PIL's picture
        is 1.11 of 255; rounding the same pixels to 8 bits once makes a difference of 0.5.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise DataError(f"frame of shape {frame.shape} and dtype {frame.dtype} must be (H, W, 3) uint8, RGB")
    height, width, _ = frame.shape
    rows, columns = resize_crop_bands(height, width, preprocessing.image_size)
    planes = frame.transpose(2, 0, 1).astype(np.float32, order="C")
    with one_thread():
        wide = np.concatenate([planes[:, :, band.used] @ band.matrix.T for band in columns], axis=2).clip(0, 255)
        square = np.concatenate([band.matrix @ wide[:, band.used] for band in rows], axis=1).clip(0, 255)
    mean = np.array(preprocessing.image_mean, dtype=np.float32)[:, None, None]
    std = np.array(preprocessing.image_std, dtype=np.float32)[:, None, None]
    return np.asarray(((square / 255 - mean) / std)[None], dtype=np.float32)


class Band(NamedTuple):
    """Some rows of a resizing matrix, without the columns in which all of them are zero.

    Args:
        used: the pixels in which these rows are not zero.
        matrix: (rows, pixels used) float32.
    """

    used: slice
    matrix: Float32


@lru_cache(maxsize=16)
def resize_crop_bands(height: int, width: int, size: int) -> tuple[tuple[Band, ...], tuple[Band, ...]]:
    """The matrices of :func:`resize_crop_matrices` in bands, which need a tenth of the products.

    Args:
        height, width: size of the frame in pixels.
        size: side of the square, in pixels.

    Returns:
        The bands of the rows, and those of the columns, in order.
    """
    rows, columns = resize_crop_matrices(height, width, size)
    return _bands(rows), _bands(columns)


def _bands(matrix: Float64) -> tuple[Band, ...]:
    bands = []
    for start in range(0, len(matrix), _ROWS_PER_BAND):
        rows = matrix[start : start + _ROWS_PER_BAND]
        seen = np.flatnonzero(rows.any(axis=0))
        used = slice(int(seen[0]), int(seen[-1]) + 1)
        bands.append(Band(used, rows[:, used].astype(np.float32)))
        bands[-1].matrix.flags.writeable = False
    return tuple(bands)


@lru_cache(maxsize=16)
def resize_crop_matrices(height: int, width: int, size: int) -> tuple[Float64, Float64]:
    """Matrices that resize the short side to ``size`` and crop the centre square, one per direction.

    Args:
        height, width: size of the frame in pixels.
        size: side of the square, in pixels.

    Returns:
        rows (size, height) and columns (size, width), read-only: ``rows @ channel @ columns.T`` is the square.

    Source: torchvision's ``Resize`` and ``CenterCrop``, rounding of the long side and the crop's corner included.
    """
    short = min(height, width)
    rows = resize_crop_matrix(height, size * height // short, size)
    columns = resize_crop_matrix(width, size * width // short, size)
    rows.flags.writeable = columns.flags.writeable = False
    return rows, columns


def resize_crop_matrix(size_in: int, size_resized: int, size_out: int) -> Float64:
    """Matrix of antialiased bicubic resizing (a = -0.5) and centre crop in one direction.

    Args:
        size_out: pixels kept in the centre.

    Returns:
        (size_out, size_in); each row sums to 1.

    Source: PIL's ``Image.resize`` with ``BICUBIC``: the kernel widens by the scale where the image shrinks.
    """
    scale = size_in / size_resized
    first = round((size_resized - size_out) / 2)
    centres = (np.arange(first, first + size_out) + 0.5) * scale
    distance = np.abs(np.arange(size_in) + 0.5 - centres[:, None]) / max(scale, 1.0)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights: Float64 = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights
