"""Two-dimensional sin-cos positions, and fitting a stored table to another length.

Source: MAE (He et al., 2022), as used by CAV-MAE and KDC-MAE: the first half of the width encodes the column,
the second half the row; each half is [sin..., cos...] with frequencies 10000^(-i / (D/4)).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["fit_time", "sincos_2d", "trim_time"]


def sincos_2d(dim: int, rows: int, columns: int) -> Tensor:
    """The fixed position table of a rows x columns grid.

    Args:
        dim: width D, a multiple of 4.
        rows, columns: the grid; entries are row-major.

    Returns:
        (1, rows * columns, D) float32.
    """
    frequency = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64), indexing="ij"
    )
    halves = []
    for position in (column, row):
        angle = position.reshape(-1, 1) * frequency
        halves += [angle.sin(), angle.cos()]
    return torch.cat(halves, dim=1).float().unsqueeze(0)


def trim_time(table: Tensor, rows: int, columns: int) -> Tensor:
    """Keep the first ``columns`` time columns of a frequency-major table.

    Args:
        table: (1, rows * stored columns, D).
        rows: frequency rows.
        columns: time columns wanted, at most as many as stored.

    Returns:
        (1, rows * columns, D); the table itself where nothing is cut.
    """
    _, length, dim = table.shape
    if length == rows * columns:
        return table
    return table.view(1, rows, length // rows, dim)[:, :, :columns].reshape(1, rows * columns, dim)


def fit_time(table: Tensor, rows: int, columns: int) -> Tensor:
    """Fit a frequency-major table to another number of time columns: trim, or interpolate linearly.

    Args:
        table: (1, rows * stored columns, D).
        rows: frequency rows.
        columns: time columns wanted.

    Returns:
        (1, rows * columns, D).
    """
    _, length, dim = table.shape
    stored = length // rows
    if columns <= stored:
        return trim_time(table, rows, columns)
    grid = table.view(rows, stored, dim).transpose(1, 2)
    wider = F.interpolate(grid, size=columns, mode="linear", align_corners=False)
    return wider.transpose(1, 2).reshape(1, rows * columns, dim)
