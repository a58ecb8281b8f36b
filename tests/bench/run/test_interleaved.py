"""Whole benchmarks of fake subjects: what is compared, what fails, what the rest does then."""

from __future__ import annotations

import itertools
from contextlib import nullcontext

import numpy as np
import pytest

from kdcmae.bench.report.records import Settings
from kdcmae.bench.run import interleaved as suite
from kdcmae.bench.run.contender import Entry
from kdcmae.bench.run.timing import summarize
from kdcmae.data.avsynth.classes import LABELS
from kdcmae.data.avsynth.memory import AVSynth
from kdcmae.errors import ConfigError, EngineInputError

# A fake's real timings vary as the machine pleases; whether they are stable is tested on synthetic ones.
TIMED = {"measured", "unstable"}
SETTINGS = Settings(batch=2, threads=1, seconds=0.02, warm_up_s=0.001, timeout_s=60)


@pytest.fixture
def synthetic_latency(monkeypatch):
    """Replaces what was measured: per subject, in the order they finish, its windows of one call each."""

    def replace(*windows_ms: list[float]) -> None:
        left = [summarize([[call] for call in windows]) for windows in windows_ms]
        monkeypatch.setattr("kdcmae.bench.run.contender.summarize", lambda *_, **__: left.pop(0))

    return replace


def test_every_subject_gets_a_row_with_everything(run_fakes):
    report = run_fakes("an engine", "torch model")
    assert [row.is_reference for row in report.rows] == [False, True]
    for row in report.rows:
        assert row.status in TIMED
        assert row.kind in {"fake engine", "torch eager"}
        assert row.computes_in == "fp32"
        assert row.load_ms > 0
        assert row.first_inference_ms > 0
        assert row.peak_rss_bytes > 1_000_000
        assert len(row.latency.window_medians_ms) in range(10, 16)
        assert row.latency.count >= 10
        assert row.latency.p50_ms <= row.latency.p90_ms <= row.latency.p99_ms
        assert row.throughput_samples_per_s == pytest.approx(2 / row.latency.mean_ms * 1e3)
    engine, model = report.rows
    assert engine.self_test.passed
    assert engine.parity.error == 0
    assert engine.speed.low <= engine.speed.ratio <= engine.speed.high
    assert (model.self_test, model.parity, model.speed) == (None, None, None)
    assert report.exit_code == 0


def test_without_a_torch_model_the_first_subject_is_the_reference(run_fakes):
    report = run_fakes("no device", "an engine", "slightly off")
    assert [row.is_reference for row in report.rows] == [False, True, False]
    assert report.rows[2].parity.against == "an engine"
    assert report.rows[2].parity.error == pytest.approx(5e-5, rel=1e-2)
    assert report.rows[2].parity.tolerance == pytest.approx(2e-3)


def test_speed_and_verdict_follow_the_windows(run_fakes, synthetic_latency):
    reference = np.linspace(100, 101, 10)
    synthetic_latency(reference.tolist(), (reference / 2).tolist(), reference.tolist(), [50, 60] * 5)
    report = run_fakes("torch model", "fast", "equal", "shaky")
    _, fast, equal, shaky = report.rows
    assert fast.speed.ratio == pytest.approx(2)
    assert fast.speed.verdict == "faster"
    assert equal.speed.verdict == "no difference"
    assert shaky.status == "unstable"
    assert shaky.speed.verdict == "unstable"


def test_an_unstable_reference_names_no_winner(run_fakes, synthetic_latency):
    synthetic_latency([100, 120] * 5, [10] * 10)
    report = run_fakes("torch model", "fast")
    assert [row.status for row in report.rows] == ["unstable", "measured"]
    assert report.rows[1].speed.verdict == "unstable"


def test_what_cannot_run_here_is_a_row_and_no_failure(run_fakes):
    report = run_fakes("an engine", "no device")
    assert report.rows[1].status == "not measured"
    assert report.rows[1].reason == "not measured on this hardware: it needs a CUDA device"
    assert report.rows[1].latency is None
    assert report.exit_code == 0


def test_where_nothing_can_run_the_exit_code_says_so(run_fakes):
    report = run_fakes("no device")
    assert not report.rows[0].is_reference
    assert report.exit_code == 3


def test_a_failed_self_test_is_not_timed(run_fakes):
    report = run_fakes("failing self-test", "self-test not finite", "an engine")
    *failed, fine = report.rows
    assert [row.status for row in failed] == ["failed", "failed"]
    assert (
        failed[0].reason
        == "its self-test failed: logits differs by 5.0e-01 of its largest value, allowed 1e-03; not timed"
    )
    assert (failed[0].self_test.error, failed[1].self_test.error) == (0.5, None)
    for row in failed:
        assert not row.self_test.passed
        assert (row.latency, row.speed, row.throughput_samples_per_s) == (None, None, None)
    assert fine.status in TIMED
    assert fine.is_reference
    assert report.exit_code == 1


def test_one_that_breaks_leaves_the_others_alone(run_fakes):
    report = run_fakes("torch model", "bug at load", "broken file", "crash when timed", "an engine")
    model, *broken, engine = report.rows
    assert [row.status for row in broken] == ["failed"] * 3
    assert [row.latency for row in broken] == [None] * 3
    assert broken[0].reason.startswith("ZeroDivisionError: a bug")
    assert broken[1].reason == "broken file is truncated"
    assert "exit code 7" in broken[2].reason
    assert model.status in TIMED
    assert engine.speed is not None
    assert report.exit_code == 1


def test_a_reference_that_breaks_leaves_no_ratios(run_fakes):
    report = run_fakes("crash when timed", "an engine")
    assert report.rows[1].status in TIMED
    assert report.rows[1].parity.passed
    assert report.rows[1].speed is None


def test_one_that_hangs_is_stopped(run_fakes):
    (row,) = run_fakes("hang at load", timeout_s=0.5).rows
    assert row.status == "failed"
    assert "no answer within 0.5 s" in row.reason


def test_different_outputs_fail_the_gate_but_are_timed(run_fakes):
    report = run_fakes("torch model", "wrong", "not a number", "other outputs")
    rows = report.rows[1:]
    assert [row.parity.error for row in rows] == [pytest.approx(0.25), None, None]
    for row in rows:
        assert row.status in TIMED
        assert not row.parity.passed
    assert report.exit_code == 1


def test_different_inputs_are_refused(run_fakes):
    with pytest.raises(EngineInputError, match=r"an engine takes x \(batch, 4\).*other inputs takes x \(batch, 5\)"):
        run_fakes("an engine", "other inputs")


def test_a_batch_that_a_subject_does_not_take_is_refused(run_fakes):
    with pytest.raises(ConfigError, match="batch of 8 takes batches of 8 to 8, not --batch 2"):
        run_fakes("an engine", "batch of 8")
    assert run_fakes("batch of 8", batch=8).exit_code == 0


def test_a_peer_that_promises_nothing_is_compared_without_a_gate(run_fakes):
    report = run_fakes("torch model", "promises nothing")
    assert report.rows[1].parity.tolerance is None
    assert report.rows[1].parity.passed


def test_nothing_is_compared_with_what_only_times(run_fakes):
    report = run_fakes("only times", "an engine")
    assert [row.is_reference for row in report.rows] == [True, False]
    assert [row.parity for row in report.rows] == [None, None]
    assert report.rows[1].speed is not None
    assert report.exit_code == 0
    tool, engine = report.rows  # what the tool's own process takes is not known
    assert (tool.load_ms, tool.first_inference_ms, tool.peak_rss_bytes) == (None, None, None)
    assert engine.peak_rss_bytes > 0


def test_accuracy_stands_beside_the_latency_of_what_knows_avsynth(run_fakes, monkeypatch):
    """The fake says the first class of every clip."""
    monkeypatch.setattr(suite, "_CLIPS", 24)
    knowing, other = run_fakes("sees clips of AVSynth", "sees clips").rows
    expected = [record.labels[0] for record in AVSynth("test", clips=24).records].count(LABELS.names[0]) / 24
    assert knowing.accuracy.top1 == pytest.approx(expected)
    assert 0 < expected < 1
    assert knowing.accuracy.data == "AVSynth test, 24 clips"
    assert other.accuracy is None


def test_subjects_of_one_model_may_take_different_inputs(open_fake):
    entries = [Entry(source=name, subject=name, model="m") for name in ("torch model", "other inputs")]
    rows = suite.measure_group(entries, SETTINGS, step=nullcontext, yardstick=lambda: 1.0, open_subject=open_fake)
    assert [row.case.model for row in rows] == ["m", "m"]
    assert rows[1].speed is not None
    assert rows[1].parity is None  # it has no ladder of its own


def test_the_state_of_the_machine_is_told_before_and_after(run_fakes):
    environment = run_fakes("an engine").environment
    assert set(environment["before"]) == set(environment["after"])


class SteadyAfter:
    """Stands in for a contender whose windows settle after some turns."""

    running = True

    def __init__(self, name, call_s, turns, steady_after=0):
        self.name = name
        self.call_s = call_s
        self.turns = turns
        self.steady_after = steady_after

    def warm_up(self):
        self.turns.append(f"warm {self.name}")

    def take_turn(self, window_s):
        self.turns.append((self.name, window_s))

    def settled(self, rounds):
        return max(rounds) + 1 >= self.steady_after

    def finish(self, rounds):
        self.turns.append(f"end {self.name}")
        self.counted = list(rounds)


def test_turns_go_back_and_forth():
    turns = []
    suite.take_turns([SteadyAfter("a", 0.1, turns), SteadyAfter("b", 1.0, turns)], 12, nullcontext, lambda: 1.0)
    back_and_forth = [(name, 1.0) for name in "abba" * 6]
    assert turns == ["warm a", "warm b", *back_and_forth, "end a", "end b"]


@pytest.mark.parametrize(("steady_after", "rounds"), [(5, 10), (13, 13), (99, 15)])
def test_windows_go_on_until_they_settle_or_the_time_is_up(steady_after, rounds):
    turns = []
    suite.take_turns([SteadyAfter("a", 0.001, turns, steady_after)], 1, nullcontext, lambda: 1.0)
    assert turns.count(("a", 0.1)) == rounds


@pytest.mark.parametrize(
    ("slow", "counted", "state_ms"),
    [
        ({}, range(10), 1.0),
        (
            {3, 4},
            (0, 1, 5, 6, 7, 8, 9, 10, 11, 12),
            1.0,
        ),  # readings before rounds 3 and 4: rounds 2, 3 and 4 are spoilt
        ({0, 1, 2, 3}, range(4, 14), 1.0),
        ({*range(8)}, range(15), 1.7),  # seven rounds in one state are too few
        (set(range(0, 99, 2)), range(15), 1.7),  # it never keeps still: all rounds, for what they are worth
    ],
)
def test_rounds_in_which_the_machine_was_slower_do_not_count(slow, counted, state_ms):
    readings = (1.7 if number in slow else 1.0 for number in itertools.count())
    subject = SteadyAfter("a", 0.001, [])
    assert suite.take_turns([subject], 1, nullcontext, lambda: next(readings)) == state_ms
    assert subject.counted == list(counted)
