from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcmae.data.manifest import ClipRecord, LabelMap
from kdcmae.data.sampling import Balanced, BatchSampler, Draw, InOrder, Order, Shuffled, balance_weights
from kdcmae.data.shard_files import ShardClip
from kdcmae.errors import ConfigError, DataError


def flat(sampler: BatchSampler, epoch: int = 0, start: int = 0) -> list[int]:
    return [draw.clip for batch in sampler.batches(epoch, start) for draw in batch]


@given(
    clips=st.integers(1, 60),
    size=st.integers(1, 7),
    world=st.integers(1, 4),
    drop=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_ranks_together_see_the_order_of_one_process(clips: int, size: int, world: int, drop: bool, epoch: int) -> None:
    order = Shuffled(clips, seed=3)
    if drop and clips < size * world:
        with pytest.raises(ConfigError, match="do not fill one batch"):
            BatchSampler(order, batch_size=size, world_size=world, drop_last=True)
        return
    one = BatchSampler(order, batch_size=size * world, drop_last=drop)
    ranks = [BatchSampler(order, batch_size=size, rank=r, world_size=world, drop_last=drop) for r in range(world)]
    together = [
        [draw for part in parts if part is not None for draw in part]
        for parts in itertools.zip_longest(*(rank.batches(epoch) for rank in ranks))
    ]
    assert together == list(one.batches(epoch))
    assert [len(rank) for rank in ranks] == [len(list(rank.batches(epoch))) for rank in ranks]
    if drop:
        assert len({len(rank) for rank in ranks}) == 1
        assert {len(batch) for rank in ranks for batch in rank.batches(epoch)} == {size}
    else:
        assert sorted(draw.clip for batch in together for draw in batch) == list(range(clips))


@given(start=st.integers(0, 6), epoch=st.integers(0, 3))
def test_a_resumed_epoch_goes_on_where_it_stood(start: int, epoch: int) -> None:
    sampler = BatchSampler(Shuffled(23, seed=1), batch_size=2, rank=1, world_size=2)
    assert list(sampler.batches(epoch, start)) == list(sampler.batches(epoch))[start:]


def test_draws_know_their_place() -> None:
    sampler = BatchSampler(InOrder(8), batch_size=2, rank=1, world_size=2)
    assert list(sampler.batches(4)) == [[Draw(2, 4, 2), Draw(3, 4, 3)], [Draw(6, 4, 6), Draw(7, 4, 7)]]


@pytest.mark.parametrize("order", [Shuffled(50, seed=1), Balanced(np.ones(50), seed=1)])
def test_epochs_and_seeds_differ_and_repeat(order: Order) -> None:
    np.testing.assert_array_equal(order.indices(2), order.indices(2))
    assert not np.array_equal(order.indices(2), order.indices(3))
    assert not np.array_equal(order.indices(2), type(order)(*args_of(order), seed=2).indices(2))  # type: ignore[call-arg]


def args_of(order: Order) -> tuple[object]:
    return (np.ones(50),) if isinstance(order, Balanced) else (50,)


def test_balanced_draws_give_every_class_its_share() -> None:
    records = [ClipRecord(id=str(i), labels=("rare",) if i < 10 else ("common",)) for i in range(1000)]
    labels = LabelMap.of_records(records)
    weights = balance_weights(records, labels)
    assert weights[0] == pytest.approx(1000 / 10.01)
    assert weights[-1] == pytest.approx(1000 / 990.01)
    drawn = np.concatenate([Balanced(weights, seed=0).indices(epoch) for epoch in range(5)])
    assert (drawn < 10).mean() == pytest.approx(0.5, abs=0.03)
    assert len(Balanced(weights, seed=0)) == 1000


def test_weights_add_up_over_labels() -> None:
    records = [ClipRecord(id="a", labels=("x", "y")), ClipRecord(id="b", labels=("x",))]
    weights = balance_weights(records, LabelMap(("x", "y"), ("x", "y")))
    np.testing.assert_allclose(weights, [1000 / 2.01 + 1000 / 1.01, 1000 / 2.01])


def test_balance_needs_labels() -> None:
    damaged = ShardClip(id="some.tar", members={}, flaw="some.tar: is truncated")
    for record, reason in ((ClipRecord(id="a"), "'a': has no labels"), (damaged, "'some.tar': some.tar: is truncated")):
        with pytest.raises(DataError, match=f"{reason}; balanced sampling needs the labels of all clips"):
            balance_weights([record], LabelMap(("x",), ("x",)))


@pytest.mark.parametrize(("batch", "rank", "world"), [(0, 0, 1), (1, 1, 1), (1, -1, 2)])
def test_settings_out_of_range(batch: int, rank: int, world: int) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        BatchSampler(InOrder(4), batch_size=batch, rank=rank, world_size=world)


def test_an_order_is_read_flat() -> None:
    assert flat(BatchSampler(InOrder(5), batch_size=2), start=1) == [2, 3, 4]
