"""Waveform -> log-mel filterbank and frame -> image, as torch modules that export.

The constants are those of :mod:`kdcmae.runtime.preprocessing`, so an engine with the frontend inside computes what
an app computes in front of one without. Everything here stays float32, also inside a half-precision model and under
autocast: power spectra reach 1e9 and their logarithm amplifies what half precision rounds away.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from kdcmae.runtime.preprocessing import (
    FRAME_SHIFT,
    LOG_FLOOR,
    Preprocessing,
    fbank_matrices,
    resize_crop_matrices,
)

__all__ = ["AudioFrontend", "Fbank", "ImageFrontend"]


class _Float32Module(nn.Module):
    """A module of constants that follows its model to a device, never to another dtype."""

    def constant(self, name: str, values: ArrayLike) -> None:
        """Register constants: float32, and no part of a checkpoint."""
        self.register_buffer(name, torch.from_numpy(np.array(values, dtype=np.float32)), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def same_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(same_dtype, recurse)


class Fbank(_Float32Module):
    """Kaldi-compatible log-mel filterbank, neither normalised nor padded.

    The steps of a frame up to its spectrum are linear and folded into one strided convolution.
    """

    kernel: Tensor
    mel: Tensor

    def __init__(self) -> None:
        super().__init__()
        kernel, mel = fbank_matrices()
        self.constant("kernel", kernel[:, None])
        self.constant("mel", mel)

    def forward(self, waveform: Tensor) -> Tensor:
        """Log-mel features.

        Args:
            waveform: (B, S) in [-1, 1], 16 kHz mono, at least 400 samples.

        Returns:
            (B, frames, 128) float32, frames = 1 + (S - 400) // 160.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = F.conv1d(waveform.float()[:, None], self.kernel, stride=FRAME_SHIFT)
            real, imaginary = spectrum.chunk(2, dim=1)
            power = (real.square() + imaginary.square()).transpose(1, 2)
            return (power @ self.mel).clamp(min=LOG_FLOOR).log()


class AudioFrontend(nn.Module):
    """16 kHz waveform -> the model's audio input.

    Args:
        preprocessing: the model's; the default is that of the published models.
    """

    def __init__(self, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        facts = preprocessing or Preprocessing()
        self.fbank = Fbank()
        self.audio_frames = facts.audio_frames
        self.mean, self.std = facts.fbank_mean, facts.fbank_std

    def forward(self, waveform: Tensor) -> Tensor:
        """Filterbank, padded with zeros or cut, then normalised.

        Args:
            waveform: (B, S) in [-1, 1], 16 kHz mono, at least 400 samples. Its length decides where the padding
                starts: silence appended to it is not padding.

        Returns:
            (B, audio_frames, 128) float32.
        """
        features = self.fbank(waveform)[:, : self.audio_frames]
        padded = F.pad(features, (0, 0, 0, self.audio_frames - features.shape[1]))
        return (padded - self.mean) / self.std


class ImageFrontend(_Float32Module):
    """RGB frames of one size -> the model's image input.

    Args:
        height, width: of the frames, in pixels.
        preprocessing: the model's; the default is that of the published models.
    """

    rows: Tensor
    columns: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, height: int, width: int, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        facts = preprocessing or Preprocessing()
        rows, columns = resize_crop_matrices(height, width, facts.image_size)
        self.constant("rows", rows)
        self.constant("columns", columns.T)
        self.constant("mean", np.array(facts.image_mean)[:, None, None])
        self.constant("std", np.array(facts.image_std)[:, None, None])

    def forward(self, frames: Tensor) -> Tensor:
        """Resize, crop and normalise.

        Args:
            frames: (B, H, W, 3) uint8, RGB. The cast comes first: TensorRT takes uint8 inputs only straight into one.

        Returns:
            (B, 3, image_size, image_size) float32.
        """
        pixels = frames.float()
        with torch.autocast(frames.device.type, enabled=False):
            square = self.rows @ pixels.permute(0, 3, 1, 2) @ self.columns
            return (square.clamp(0, 255) / 255 - self.mean) / self.std
