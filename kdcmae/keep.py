"""Token keep: an encoder that runs on a fixed share of the patches.

The model was pretrained on a quarter of the patches, so it can work without the others. The patches are
chosen by their pixels before the embedding; the others are not read again. Scores are float32 whatever
the model computes in, so that every engine chooses the same patches.

Shapes: B samples, L patches, n kept patches, K pixels per patch.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from kdcmae.classifier import KDCMAEClassifier
from kdcmae.encoder import Encoder
from kdcmae.errors import ConfigError, DataError
from kdcmae.kernels.patch_embed.reference import patch_grid
from kdcmae.layers import PatchEmbed
from kdcmae.masking import kept_count
from kdcmae.merging import MergedClassifier, PatchGroups

__all__ = [
    "EnergyChoice",
    "KeepBy",
    "KeptPatchEmbed",
    "TokenKeep",
    "UniformChoice",
    "keep_tokens",
    "kept_tokens",
    "spread_order",
]

KeepBy = Literal["merge", "energy", "uniform"]
"""Similar patches become one token; patches of the highest contrast; always the same patches, spread over the grid."""

Model = TypeVar("Model", bound=Encoder)

_TIE_BREAK = 1e-6  # of the contrast of normalised pixels: far below what a patch with anything in it has


@dataclass(frozen=True, kw_only=True)
class TokenKeep:
    """Number and choice of the patches that an encoder sees.

    Args:
        ratio: share of the patches, in (0, 1]; 1 is the whole model.
        by: how they are chosen.
    """

    ratio: float
    by: KeepBy = "energy"

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ConfigError(f"keep={self.ratio:g} must be a share of the tokens: above 0, at most 1")
        if self.by not in get_args(KeepBy):
            raise ConfigError(f"keep-by={self.by!r} must be one of {', '.join(get_args(KeepBy))}")

    def count(self, length: int) -> int:
        """How many of ``length`` patches are kept: what pretraining keeps at this ratio, and at least one."""
        return max(1, kept_count(length, 1 - self.ratio))


def keep_tokens(model: Model, keep: TokenKeep) -> Model:
    """A model whose encoder runs on the kept patches only, on every path.

    Args:
        model: not changed.
        keep: number and choice of the patches.

    Returns:
        A model that shares the weights and takes spectrograms of its full length only; ``model`` itself where every
        patch is kept.

    Raises:
        ConfigError: merging in a model that does not classify.
    """
    if keep.ratio == 1:
        return model
    if keep.by == "merge":
        if not isinstance(model, KDCMAEClassifier):
            raise ConfigError("merging tokens is for classifiers; use --keep-by energy")
        return _merged(model, keep)  # type: ignore[return-value]
    shared = {id(parameter): parameter for parameter in model.parameters()}
    kept = copy.deepcopy(model, shared)
    config = model.encoder_config
    for name, grid in (("patch_embed_a", config.audio_grid), ("patch_embed_v", config.image_grid)):
        setattr(kept, name, KeptPatchEmbed(getattr(kept, name), _choice(grid, config.patch_size, keep), keep))
    return kept


def kept_tokens(model: Encoder) -> dict[str, Any] | None:
    """The token keep of a model as plain data; None for a model with all tokens."""
    if isinstance(model, MergedClassifier):
        counts = {"audio_tokens": model.audio_groups.count, "video_tokens": model.video_groups.count}
        return {"ratio": model.ratio, "by": "merge", **counts}
    audio: nn.Module = model.patch_embed_a
    video: nn.Module = model.patch_embed_v
    if not isinstance(audio, KeptPatchEmbed) or not isinstance(video, KeptPatchEmbed):
        return None
    return {**asdict(audio.keep), "audio_tokens": audio.choose.count, "video_tokens": video.choose.count}


class KeptPatchEmbed(nn.Module):
    """A patch embedding that chooses its patches.

    Args:
        choose: (B, T, F) or (B, 3, H, W) float32 -> (B, n) int64.
    """

    def __init__(self, embed: PatchEmbed, choose: UniformChoice | EnergyChoice, keep: TokenKeep) -> None:
        super().__init__()
        self.embed = embed
        self.choose = choose
        self.keep = keep

    def forward(self, pixels: Tensor, pos_embed: Tensor, modality: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """(B, n, D); the arguments of :meth:`kdcmae.layers.PatchEmbed.forward`, given ids go before its own.

        Raises:
            DataError: not the number of patches to choose from.
        """
        if ids_keep is None:
            if pos_embed.shape[1] != self.choose.length:
                raise DataError(
                    f"the input has {pos_embed.shape[1]} patches and this model keeps {self.choose.count} of "
                    f"{self.choose.length}; pad it to the model's full length"
                )
            ids_keep = self.choose(pixels).unsqueeze(0)
        return self.embed(pixels, pos_embed, modality, ids_keep)


class UniformChoice(nn.Module):
    """The same patches of every sample, spread evenly.

    Args:
        grid: patches as (rows, columns).
        count: n.
    """

    ids: Tensor

    def __init__(self, grid: tuple[int, int], count: int) -> None:
        super().__init__()
        self.length = grid[0] * grid[1]
        self.count = count
        self.register_buffer("ids", spread_order(*grid)[:count].sort().values)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.ids.expand(pixels.shape[0], -1)


class EnergyChoice(nn.Module):
    """The patches of the highest contrast: the distance from their lowest to their highest pixel.

    Padding and plain background have none. The distance is exact in float32 whatever order an engine computes in, and
    ties, such as between flat patches, are resolved in the order of :func:`spread_order`, so that all
    engines choose the same patches.

    Args:
        grid: patches as (rows, columns).
        count: n.
        patch_size: side of a patch in pixels.
    """

    late: Tensor

    def __init__(self, grid: tuple[int, int], count: int, patch_size: int) -> None:
        super().__init__()
        self.length = grid[0] * grid[1]
        self.count = count
        self.patch_size = patch_size
        # Whole numbers: lowering a model casts its floating-point buffers.
        self.register_buffer("late", spread_order(*grid).flip(0).argsort())

    def forward(self, pixels: Tensor) -> Tensor:
        patches = patch_grid(pixels.float(), self.patch_size).flatten(3).flatten(1, 2)
        # Halves, because OpenVINO fuses a difference into a layer that does not stay in float32.
        contrast = 0.5 * patches.amax(dim=2) + -0.5 * patches.amin(dim=2)
        scores = contrast + self.late.float() * (_TIE_BREAK / self.length)
        return scores.topk(self.count, dim=1).indices


def spread_order(rows: int, columns: int) -> Tensor:
    """All patches of a grid, in an order of which every prefix is evenly spread over the grid.

    Returns:
        (rows * columns,) int64 patch ids; the first half is a checkerboard, the first quarter every other row and
        column.

    Source: Bayer's recursive matrix for ordered dithering (1973), cut to the grid.
    """
    row, column = torch.arange(rows).unsqueeze(1), torch.arange(columns)
    threshold = torch.zeros(rows, columns, dtype=torch.int64)
    for bit in range(max(rows, columns).bit_length()):
        threshold = threshold * 4 + ((row >> bit & 1) ^ (column >> bit & 1)) * 2 + (row >> bit & 1)
    return threshold.flatten().argsort(stable=True)


def _merged(model: KDCMAEClassifier, keep: TokenKeep) -> MergedClassifier:
    config = model.config
    groups = [
        PatchGroups(grid, keep.count(grid[0] * grid[1]), config.patch_size, spread_order(*grid))
        for grid in (config.audio_grid, config.image_grid)
    ]
    with torch.device("meta"):  # its weights are the model's own
        merged = MergedClassifier(config, *groups, ratio=keep.ratio)
    merged.load_state_dict(model.state_dict(), assign=True)
    merged.assumed = model.assumed
    return merged.train(model.training)


def _choice(grid: tuple[int, int], patch_size: int, keep: TokenKeep) -> UniformChoice | EnergyChoice:
    count = keep.count(grid[0] * grid[1])
    return UniformChoice(grid, count) if keep.by == "uniform" else EnergyChoice(grid, count, patch_size)
