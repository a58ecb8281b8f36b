"""Masked views of a token sequence.

A view keeps some tokens and removes the rest. Complementary views of one sample come from one permutation:
view k keeps ranks [k*n, (k+1)*n), so no token is kept twice (paper section 3.1). Every view carries its own
``ids_restore``; the published code reused the first view's for all of them, which put tokens in wrong places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcmae.errors import ConfigError

__all__ = ["Generators", "View", "complementary_views", "independent_views", "kept_count", "structured_views"]

Generators = torch.Generator | Sequence[torch.Generator] | None
"""Source of randomness: one generator for a batch, one per sample, or the global one."""


@dataclass(frozen=True)
class View:
    """Which tokens of each sample are visible.

    Args:
        ids_keep: (B, n) int64, the kept tokens in packed order.
        ids_restore: (B, L) int64; ``cat([kept, removed])`` indexed by it is back in the original order.
    """

    ids_keep: Tensor
    ids_restore: Tensor

    @property
    def mask(self) -> Tensor:
        """(B, L) float32: 1 for a removed token, 0 for a kept one."""
        return (self.ids_restore >= self.ids_keep.shape[1]).float()

    @property
    def ids_removed(self) -> Tensor:
        """(B, L - n) int64, the removed tokens in the order in which ``ids_restore`` ranks them."""
        return self.ids_restore.argsort(dim=1)[:, self.ids_keep.shape[1] :]

    def to(self, device: torch.device) -> View:
        """The same view on a device."""
        return View(ids_keep=self.ids_keep.to(device), ids_restore=self.ids_restore.to(device))

    @classmethod
    def from_ids_restore(cls, ids_restore: Tensor, kept: int) -> View:
        """The view whose first ``kept`` ranks are visible.

        Args:
            ids_restore: (B, L) int64, a permutation per row.
            kept: visible tokens per sample.
        """
        return cls(ids_keep=ids_restore.argsort(dim=1)[:, :kept], ids_restore=ids_restore)


def kept_count(length: int, mask_ratio: float) -> int:
    """Tokens kept of ``length``: int(length * (1 - mask_ratio)), without floating-point error."""
    return int(length * (1.0 - mask_ratio) + 1e-9)


def complementary_views(
    batch: int, length: int, mask_ratio: float, views: int, generator: Generators = None
) -> list[View]:
    """Disjoint random views of one permutation per sample.

    Args:
        batch: samples B.
        length: tokens L.
        mask_ratio: share of tokens removed from each view.
        views: their number; ``views * (1 - mask_ratio)`` must not exceed 1.
        generator: source of randomness; its device is the views' device. With one per sample, a sample's views do
            not depend on the other samples of the batch.

    Raises:
        ConfigError: the views need more tokens than there are, or keep none.
    """
    kept = _checked_count(length, mask_ratio)
    if views * kept > length:
        raise ConfigError(
            f"{views} complementary views of {kept} tokens need {views * kept}, but there are {length}; "
            "use a higher mask_ratio or fewer views"
        )
    ids_shuffle = _noise(batch, length, generator).argsort(dim=1)
    return [_view(ids_shuffle.roll(-index * kept, dims=1), kept) for index in range(views)]


def independent_views(
    batch: int, length: int, mask_ratio: float, views: int, generator: Generators = None
) -> list[View]:
    """Random views that each draw their own permutation; the arguments of :func:`complementary_views`."""
    kept = _checked_count(length, mask_ratio)
    return [_view(_noise(batch, length, generator).argsort(dim=1), kept) for _ in range(views)]


def structured_views(
    batch: int,
    grid: tuple[int, int],
    mask_ratio: float,
    views: int,
    generator: Generators = None,
    *,
    axes: str,
) -> list[View]:
    """Audio views that remove whole time columns, frequency rows, or both, each drawn independently.

    Args:
        batch: samples B.
        grid: (frequency rows, time columns).
        mask_ratio: share of tokens removed.
        axes: ``time``, ``frequency`` or ``time_frequency``. The last removes 0.7 * mask_ratio of the columns
            and of the rows, and then random tokens or none until exactly n are kept.

    Source: CAV-MAE's structured masking (33 of 64 columns and 4 of 8 rows at 0.75).
    """
    rows, columns = grid
    kept = _checked_count(rows * columns, mask_ratio)
    share = {"time": (0.0, 1.0), "frequency": (1.0, 0.0), "time_frequency": (0.7, 0.7)}.get(axes)
    if share is None:
        raise ConfigError(f"axes={axes!r} must be time, frequency or time_frequency")
    result = []
    for _ in range(views):
        removed_rows = _drawn(batch, rows, int(rows * mask_ratio * share[0] + 1e-9), generator)
        removed_columns = _drawn(batch, columns, int(columns * mask_ratio * share[1] + 1e-9), generator)
        removed = removed_rows.unsqueeze(2) | removed_columns.unsqueeze(1)
        # Noise is below 1, so every token of a removed row or column ranks behind every other token.
        rank = _noise(batch, rows * columns, generator) + removed.reshape(batch, -1).float()
        result.append(_view(rank.argsort(dim=1), kept))
    return result


def _checked_count(length: int, mask_ratio: float) -> int:
    kept = kept_count(length, mask_ratio)
    if not 1 <= kept <= length:
        raise ConfigError(f"mask_ratio={mask_ratio} keeps {kept} of {length} tokens; use a value in [0, 1)")
    return kept


def _view(ids_shuffle: Tensor, kept: int) -> View:
    return View(ids_keep=ids_shuffle[:, :kept], ids_restore=ids_shuffle.argsort(dim=1))


def _noise(batch: int, length: int, generator: Generators) -> Tensor:
    if generator is None:
        return torch.rand(batch, length)
    if isinstance(generator, torch.Generator):
        return torch.rand(batch, length, generator=generator, device=generator.device)
    return torch.stack([torch.rand(length, generator=source, device=source.device) for source in generator])


def _drawn(batch: int, length: int, count: int, generator: Generators) -> Tensor:
    """(B, length) bool with exactly ``count`` True per row, at random."""
    return _noise(batch, length, generator).argsort(dim=1).argsort(dim=1) < count
