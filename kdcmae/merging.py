"""Token merging: similar patches become one token after the first block.

Groups are chosen by the patches' pixels in float32, as in :mod:`kdcmae.keep`, so that every engine merges the same
patches. No patch is dropped: a token is the mean of its patches, and is weighted by their number in the final mean.

Shapes: B samples, L patches, n groups, m seeds (patches that other patches join), D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdcmae.classifier import KDCMAEClassifier
from kdcmae.config import ClassifierConfig
from kdcmae.kernels.patch_embed.reference import patch_grid
from kdcmae.layers import Block, Norms

__all__ = ["MergedClassifier", "PatchGroups", "merge"]

_NEARNESS = 1e-3  # of the squared distance on the grid, against the mean squared difference of normalised pixels
_TIE_BREAK = 2e-6  # far below a meaningful difference, above float32's rounding


class PatchGroups(nn.Module):
    """Groups of similar patches: each other patch joins its most similar seed, or is a group by itself.

    Args:
        grid: patches as (rows, columns).
        count: n; half of the groups have a seed, and the least similar other patches are groups by themselves.
        patch_size: side of a patch in pixels.
        order: (L,) int64, the patches, seeds first.

    Source: bipartite matching of Bolya et al., Token Merging (ICLR 2023), here on pixels, once, with fixed seeds.
    """

    order: Tensor
    places: Tensor

    def __init__(self, grid: tuple[int, int], count: int, patch_size: int, order: Tensor) -> None:
        super().__init__()
        self.length = grid[0] * grid[1]
        self.count = count
        self.seeds = max(1, count // 2)
        self.patch_size = patch_size
        # Whole numbers: lowering a model casts its floating-point buffers.
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("places", torch.stack([order // grid[1], order % grid[1]], dim=1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, T, F) or (B, 3, H, W) float32 -> (B, n, L) int64: 1 where a patch belongs to a group."""
        patches = patch_grid(pixels.float(), self.patch_size).flatten(3).flatten(1, 2)[:, self.order]
        seeds, others = patches[:, : self.seeds], patches[:, self.seeds :]
        rest = self.count - self.seeds
        # Nearest by |a - b|^2 = |a|^2 - 2ab + |b|^2; |a|^2 is the same for every seed b.
        products = others @ seeds.transpose(1, 2)
        lengths = seeds.square().sum(dim=2).unsqueeze(1)
        likeness = (2 * products + -1.0 * lengths) * (1 / patches.shape[2]) + self._bias()
        best, seed = likeness.max(dim=2)
        best = best + others.square().mean(dim=2) * -1.0
        stay = (best * -1.0).topk(rest, dim=1).indices
        stays = (stay.unsqueeze(2) == torch.arange(others.shape[1], device=pixels.device)).long()  # (B, rest, others)
        joins = seed.unsqueeze(1) == torch.arange(self.seeds, device=pixels.device).unsqueeze(1)
        # A comparison, because OpenVINO miscomputes one minus a sum of whole numbers.
        joins = (joins & (stays.float().sum(dim=1, keepdim=True) < 0.5)).long()
        themselves = torch.eye(self.seeds, dtype=torch.int64, device=pixels.device).expand(pixels.shape[0], -1, -1)
        nobody = torch.zeros(rest, self.seeds, dtype=torch.int64, device=pixels.device).expand(pixels.shape[0], -1, -1)
        groups = torch.cat([torch.cat([themselves, joins], dim=2), torch.cat([nobody, stays], dim=2)], dim=1)
        return groups[:, :, self.order.argsort()]

    def _bias(self) -> Tensor:
        """(others, m) float32: prefers near seeds, and breaks ties."""
        seeds, others = self.places[: self.seeds], self.places[self.seeds :]
        distance = (others.unsqueeze(1) - seeds).square().sum(dim=2)
        index = 2 * torch.arange(len(seeds), device=seeds.device)
        index = index + 3 * torch.arange(len(others), device=seeds.device).unsqueeze(1)
        return distance.float() * -_NEARNESS + index.float() * -_TIE_BREAK


def merge(tokens: Tensor, groups: Tensor) -> Tensor:
    """The mean token of each group: (B, L, D) and (B, n, L) -> (B, n, D) in the dtype of ``tokens``."""
    return (groups.to(tokens.dtype) @ tokens) / groups.sum(dim=2, keepdim=True).to(tokens.dtype)


class MergedClassifier(KDCMAEClassifier):
    """A classifier that merges tokens after the first block of each modality.

    Args:
        config: of the classifier; its weights are loaded afterwards.
        ratio: share of tokens after merging.
    """

    def __init__(
        self, config: ClassifierConfig, audio_groups: PatchGroups, video_groups: PatchGroups, *, ratio: float
    ) -> None:
        super().__init__(config)
        self.ratio = ratio
        self.audio_groups = audio_groups
        self.video_groups = video_groups

    def pooled(self, audio: Tensor | None = None, image: Tensor | None = None) -> Tensor:
        modality = self.config.modality
        parts: list[tuple[Tensor, Tensor]] = []
        if audio is not None and modality != "video":
            parts.append(self._audio(audio))
        if image is not None and modality != "audio":
            parts.append(self._video(image))
        if not parts:
            return super().pooled(audio, image)  # raises the error for the missing input
        tokens = torch.cat([part[0] for part in parts], dim=1)
        sizes = torch.cat([part[1] for part in parts], dim=1)
        if modality != "audiovisual":
            return self._mean(tokens, sizes, modality)
        if len(parts) == 2:
            return self._mean(tokens, sizes, "shared")
        own: Norms = "video" if audio is None else "audio"
        return (self._mean(tokens, sizes, "shared") + self._mean(tokens, sizes, own)) / 2

    def _audio(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.patch_embed_a(audio, self.pos_embed_a, self.modality_a, None)
        return _blocks(self.blocks_a, tokens, self.audio_groups(audio))

    def _video(self, image: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.patch_embed_v(image, self.pos_embed_v, self.modality_v, None)
        return _blocks(self.blocks_v, tokens, self.video_groups(image))

    def _mean(self, tokens: Tensor, sizes: Tensor, norms: Norms) -> Tensor:
        return (self.unified(tokens, norms) * sizes).sum(dim=1) / sizes.sum(dim=1)


def _blocks(blocks: nn.ModuleList, tokens: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """(B, n, D) after all the blocks, and (B, n, 1) float32 patches per token."""
    for index, block in enumerate(blocks):
        assert isinstance(block, Block)
        tokens = block(tokens)
        if index == 0:
            tokens = merge(tokens, groups)
    if not len(blocks):
        tokens = merge(tokens, groups)
    return tokens, groups.sum(dim=2, keepdim=True).float()
