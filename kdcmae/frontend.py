"""Waveform -> log-mel filterbank and frame -> image, as torch modules that export.

The constants are those of :mod:`kdcmae.runtime.preprocessing`, so an engine with the frontend inside computes what
an app computes in front of one without. Everything here stays float32, also inside a half-precision model and under
autocast: power spectra reach 1e9 and their logarithm amplifies what half precision rounds away.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from kdcmae.runtime.preprocessing import (
    FRAME_LENGTH,
    FRAME_SHIFT,
    LOG_FLOOR,
    Preprocessing,
    fbank_matrices,
    resize_crop_bands,
)

__all__ = ["AnySizeImageFrontend", "AudioFrontend", "Fbank", "ImageFrontend"]


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Disable autocast if it is on; if it is off, do nothing, so that exported graphs get no autocast blocks."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


class _Float32Module(nn.Module):
    """A module of float32 constants: it moves to its model's device and ignores its dtype."""

    def constant(self, name: str, values: ArrayLike) -> None:
        """Register constants: float32, not saved in checkpoints."""
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
        with _without_autocast(waveform.device):
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

    def forward(self, waveform: Tensor, samples: Tensor | None = None) -> Tensor:
        """Filterbank, padded with zeros or cut, then normalised.

        Args:
            waveform: (B, S) in [-1, 1], 16 kHz mono, at least 400 samples.
            samples: (B,) integers, number of samples of each row that are sound: frames beyond them become padding,
                unlike appended silence. None if all samples are sound.

        Returns:
            (B, audio_frames, 128) float32.
        """
        features = self.fbank(waveform)[:, : self.audio_frames]
        if samples is not None:
            ends = torch.arange(features.shape[1], device=waveform.device) * FRAME_SHIFT + FRAME_LENGTH
            features = torch.where((ends <= samples[:, None])[..., None], features, 0.0)
        padded = F.pad(features, (0, 0, 0, self.audio_frames - features.shape[1]))
        return (padded - self.mean) / self.std


class _ImageFrontend(_Float32Module, ABC):
    """Resizing and cropping, along the width and then along the height, then normalisation."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing | None) -> None:
        super().__init__()
        facts = preprocessing or Preprocessing()
        self.image_size = facts.image_size
        self.constant("mean", np.array(facts.image_mean)[:, None, None])
        self.constant("std", np.array(facts.image_std)[:, None, None])

    def forward(self, frames: Tensor) -> Tensor:
        """Resize, crop and normalise.

        Args:
            frames: (B, H, W, 3) uint8, RGB. The cast comes first, because TensorRT requires it for uint8 inputs.

        Returns:
            (B, 3, image_size, image_size) float32.
        """
        pixels = frames.float()
        with _without_autocast(frames.device):
            return (self.square(pixels.permute(0, 3, 1, 2)) / 255 - self.mean) / self.std

    @abstractmethod
    def square(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 3, image_size, image_size), both in [0, 255]."""


class ImageFrontend(_ImageFrontend):
    """RGB frames of one size -> the model's image input.

    Args:
        height, width: of the frames, in pixels.
        preprocessing: the model's; the default is that of the published models.
    """

    def __init__(self, height: int, width: int, preprocessing: Preprocessing | None = None) -> None:
        super().__init__(preprocessing)
        self._rows, self._columns = resize_crop_bands(height, width, self.image_size)
        for name, bands in (("rows", self._rows), ("columns", self._columns)):
            for number, band in enumerate(bands):
                self.constant(f"{name}{number}", band.matrix)

    def square(self, pixels: Tensor) -> Tensor:
        pixels = pixels.contiguous()
        columns = (pixels[..., band.used] @ self._matrix("columns", i).T for i, band in enumerate(self._columns))
        wide = torch.cat(list(columns), dim=3).clamp(0, 255)
        rows = (self._matrix("rows", i) @ wide[:, :, band.used] for i, band in enumerate(self._rows))
        return torch.cat(list(rows), dim=2).clamp(0, 255)

    def _matrix(self, name: str, number: int) -> Tensor:
        return self.get_buffer(f"{name}{number}")


class AnySizeImageFrontend(_ImageFrontend):
    """RGB frames -> the model's image input; the matrices are made from the frames' size, in a traced graph too.

    Args:
        preprocessing: the model's; the default is that of the published models.
    """

    def __init__(self, preprocessing: Preprocessing | None = None) -> None:
        super().__init__(preprocessing)

    def square(self, pixels: Tensor) -> Tensor:
        rows, columns = self.matrices(pixels)
        wide = (pixels @ columns.T).clamp(0, 255)
        return (rows @ wide).clamp(0, 255)

    def matrices(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (image_size, H) and columns (image_size, W), as :func:`resize_crop_matrices` gives them."""
        height, width = pixels.shape[2:]
        device = pixels.device
        short = torch.minimum(_whole_number(height, device), _whole_number(width, device))
        return self._matrix(height, short), self._matrix(width, short)

    def _matrix(self, length: int, short: Tensor) -> Tensor:
        """:func:`resize_crop_matrix`, with positions as whole numbers so that float32 suffices."""
        device = short.device
        size = _whole_number(length, device)
        resized = self.image_size * size // short
        excess = resized - self.image_size
        first = excess // 2 + excess % 2 * (excess // 2 % 2)  # halves round to even
        centres = (2 * (first + torch.arange(self.image_size, device=device)) + 1) * size
        positions = (2 * torch.arange(length, device=device) + 1) * resized
        distance = (positions - centres[:, None]).abs().float() / (2 * torch.maximum(size, resized)).float()
        near = (1.5 * distance - 2.5) * distance.square() + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
        return weights / weights.sum(dim=1, keepdim=True)


def _whole_number(size: int, device: torch.device) -> Tensor:
    """A size as a tensor: exporters know minimum and division of tensors, not of the symbols that stand for sizes."""
    return torch.scalar_tensor(size, dtype=torch.int64, device=device)
