from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcmae.errors import ConfigError
from kdcmae.masking import complementary_views, independent_views, kept_count, structured_views


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=50, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(4, 60),
    views=st.integers(1, 4),
    seed=st.integers(0, 2**31 - 1),
)
def test_views_are_disjoint_and_restore_every_token(batch, length, views, seed):
    made = complementary_views(batch, length, 1 - 1 / views, views, seeded(seed))
    tokens = torch.arange(batch * length).view(batch, length)
    seen = torch.zeros(batch, length)
    for view in made:
        kept = tokens.gather(1, view.ids_keep)
        removed_marker = torch.full((batch, length - kept.shape[1]), -1)
        restored = torch.cat([kept, removed_marker], dim=1).gather(1, view.ids_restore)
        assert torch.equal(restored, torch.where(view.mask.bool(), -1, tokens))
        assert torch.equal(view.ids_restore.sort(dim=1).values, torch.arange(length).expand(batch, -1))
        seen += 1 - view.mask
    assert seen.max() <= 1
    assert seen.sum() == batch * views * kept_count(length, 1 - 1 / views)


def test_counts_of_the_paper():
    assert kept_count(512, 0.75) == 128
    assert kept_count(196, 0.75) == 49
    assert kept_count(10, 0.7) == 3  # 10 * (1 - 0.7) is 3.0000000000000004 or 2.9999999999999996


def test_same_seed_same_views():
    first, second = (complementary_views(2, 20, 0.5, 2, seeded(7)) for _ in range(2))
    assert all(torch.equal(a.ids_restore, b.ids_restore) for a, b in zip(first, second, strict=True))


def test_too_many_complementary_views():
    with pytest.raises(ConfigError, match="3 complementary views of 10 tokens need 30, but there are 20"):
        complementary_views(1, 20, 0.5, 3, seeded())


def test_independent_views_overlap_and_may_be_many():
    views = independent_views(1, 20, 0.5, 5, seeded())
    assert len(views) == 5
    assert sum(1 - view.mask for view in views).max() > 1


@pytest.mark.parametrize(
    ("axes", "removed_columns", "removed_rows"),
    [("time", 48, 0), ("frequency", 0, 6), ("time_frequency", 33, 4)],
)
def test_structured_views(axes, removed_columns, removed_rows):
    for view in structured_views(3, (8, 64), 0.75, 2, seeded(), axes=axes):
        assert view.ids_keep.shape == (3, 128)
        grid = view.mask.view(3, 8, 64)
        full_columns = grid.amin(dim=1).sum(dim=1)
        full_rows = grid.amin(dim=2).sum(dim=1)
        if axes == "time_frequency":  # four of the kept 128 come back out of the removed region
            assert (full_columns >= removed_columns - 4).all()
            assert (full_rows >= removed_rows - 4).all()
        else:
            assert (full_columns == removed_columns).all()
            assert (full_rows == removed_rows).all()


def test_a_generator_per_sample_makes_views_independent_of_the_batch():
    def generators(samples):
        return [torch.Generator().manual_seed(sample) for sample in samples]

    for draw in (
        lambda some: complementary_views(len(some), 16, 0.75, 2, some),
        lambda some: structured_views(len(some), (4, 4), 0.5, 2, some, axes="time_frequency"),
    ):
        together, apart = draw(generators([5, 6, 7])), draw(generators([7, 5]))
        for view, other in zip(together, apart, strict=True):
            assert torch.equal(view.ids_restore[[2, 0]], other.ids_restore)
