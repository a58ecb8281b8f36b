from __future__ import annotations

import torch

from kdcmae.pos_embed import fit_time, sincos_2d, trim_time


def test_first_half_encodes_the_column_second_half_the_row():
    table = sincos_2d(16, 3, 5).view(3, 5, 16)
    assert torch.equal(table[0, :, :8], table[2, :, :8])
    assert torch.equal(table[:, 0, 8:], table[:, 4, 8:])
    torch.testing.assert_close(table[1, 0, 8:12], torch.tensor([1.0, 0.1, 0.01, 0.001]).sin())


def test_trimming_keeps_the_first_columns():
    table = sincos_2d(16, 3, 5)
    assert torch.equal(trim_time(table, 3, 2).view(3, 2, 16), table.view(3, 5, 16)[:, :2])
    assert trim_time(table, 3, 5) is table


def test_interpolation_keeps_the_ends_near():
    table = sincos_2d(16, 3, 8)
    wider = fit_time(table, 3, 16).view(3, 16, 16)
    torch.testing.assert_close(wider[:, 0], table.view(3, 8, 16)[:, 0])
    torch.testing.assert_close(wider[:, -1], table.view(3, 8, 16)[:, -1])
