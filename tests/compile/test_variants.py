"""The choice among variants, from latencies that are made up here."""

from __future__ import annotations

import dataclasses
import json
from itertools import count

import numpy as np
import pytest

from kdcmae.compile.report.notes import variant_lines
from kdcmae.compile.targets import load_target
from kdcmae.compile.tuning import measured_table, time_in_turns
from kdcmae.compile.variants import CONTROL, PLAIN, Tuning, Variant, ranked, timings_of
from kdcmae.runtime.cpu import CLASSES
from kdcmae.runtime.precisions import PRECISIONS
from kdcmae.runtime.targets import TARGETS


def timed(noise: float, seed: int, **means_ms: float):
    """Timings of forms with these mean latencies, on a machine whose windows differ by this share."""
    generator = np.random.default_rng(seed)
    means = {PLAIN: 10.0, CONTROL: 10.0, **means_ms}
    clock = count()
    return time_in_turns(
        {name: (lambda mean=mean: mean) for name, mean in means.items()},
        window=lambda call, _: [call() * (1 + noise * generator.standard_normal())],
        clock=lambda: next(clock),
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_slower_variant_is_never_chosen_and_a_faster_one_always(seed):
    assert ranked(timed(0.02, seed, slower=10.5, same=10.0, hardly_faster=9.9)) == []
    assert ranked(timed(0.02, seed, slower=10.5, faster=8.0)) == ["faster"]


def test_the_same_measurements_give_the_same_choice_and_ties_go_to_the_first():
    timings = timed(0.01, 0, first=8.0, second=7.99, best=6.0)
    assert ranked(timings) == ranked(tuple(timings)) == ["best", "first", "second"]


def test_what_the_control_shows_is_noise():
    turns = {PLAIN: [10.0, 10.0, 10.0], CONTROL: [8.0, 10.0, 12.0], "faster": [9.5, 9.5, 9.5]}
    timings = timings_of(turns)
    assert ranked(timings) == []
    assert Tuning(chosen=PLAIN, origin="measured", cpu_class="avx2", timings=timings).restless
    quiet = timings_of({**turns, CONTROL: [10.0, 10.0, 10.0]})
    assert ranked(quiet) == ["faster"]
    assert not Tuning(chosen="faster", origin="measured", cpu_class="avx2", timings=quiet).restless


def test_a_choice_survives_json_and_is_told_with_the_variant_that_failed():
    timings = timed(0.01, 0, wrong=5.0, faster=8.0)
    timings = tuple(
        dataclasses.replace(timing, problem="out of its gate") if timing.variant == "wrong" else timing
        for timing in timings
    )
    tuning = Tuning(chosen="faster", origin="cache", cpu_class="avx2", timings=timings, measured_on="A CPU")
    assert Tuning.from_dict(json.loads(json.dumps(tuning.to_dict()))) == tuning
    first, second = variant_lines({"variants": tuning.to_dict()})
    assert first.startswith("faster, 1.25 times as fast")
    assert first.endswith("measured before on a CPU of class avx2)")
    assert second == "wrong was faster and is not taken: out of its gate"
    assert variant_lines({}) == []


def test_a_long_measurement_ends():
    clock = iter(range(0, 1000, 10))
    (timing,) = time_in_turns({PLAIN: lambda: None}, window=lambda call, _: [1.0], clock=lambda: next(clock))
    assert timing.speed == 1


def test_every_target_names_its_variants_once_and_for_precisions_that_there_are():
    for name in TARGETS:
        variants: tuple[Variant, ...] = load_target(name).variants
        assert len({variant.name for variant in variants}) == len(variants)
        for variant in variants:
            assert set(variant.precisions) <= set(PRECISIONS)
            assert variant.reason
            assert variant.fits(variant.precisions[0], variant.largest_batch or 64)
            assert not variant.fits(variant.precisions[0], 65) or variant.largest_batch is None


def test_the_committed_table_names_classes_and_variants_that_there_are():
    table = measured_table()
    keys = [(entry["cpu_class"], entry["target"], entry["precision"]) for entry in table]
    assert len(set(keys)) == len(keys)
    for entry in table:
        assert entry["cpu_class"] in CLASSES
        variants = load_target(entry["target"]).variants
        names = {variant.name for variant in variants if entry["precision"] in variant.precisions}
        assert entry["chosen"] in {PLAIN, *names}
        Tuning.from_dict(
            {name: entry[name] for name in ("chosen", "cpu_class", "timings", "measured_on")} | {"origin": "table"}
        )
