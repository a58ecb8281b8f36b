"""Comparing two runs: a planted slowdown is found, and equal runs are left alone."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner
from reports import full_report, report, row

from kdcmae.bench.cli import main
from kdcmae.bench.report.comparison import compare_reports
from kdcmae.bench.report.history import ALL, last_reports, store_report, stored_documents
from kdcmae.bench.report.records import Case, Row, report_of
from kdcmae.bench.run.timing import summarize
from kdcmae.bench.suite import full
from kdcmae.errors import DataError
from kdcmae.timing import time_window

CASES = 8
TRIALS = 20


class SyntheticTimer:
    """Time in which every call takes as long as it is told, with noise of one percent, and each run its own offset."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self._rng = np.random.default_rng(seed)
        self._offset = self._rng.normal(0, 0.004)

    def __call__(self) -> float:
        return self.now

    def run(self, call_ms: float, name: str) -> Row:
        """Time ten windows of a call."""

        def call() -> None:
            self.now += call_ms / 1e3 * np.exp(self._offset + self._rng.normal(0, 0.01))

        latency = summarize([time_window(call, 0.3, clock=self) for _ in range(10)])
        return Row(case=Case(model="m", subject=name), status="measured", latency=latency)


def timed(seed: int, slowed: int | None = None):
    timer = SyntheticTimer(seed)
    factors = [1.1 if index == slowed else 1.0 for index in range(CASES)]
    return report(*(timer.run(10 * factor * (index + 1), f"case {index}") for index, factor in enumerate(factors)))


@pytest.mark.parametrize("trial", range(TRIALS))
def test_a_tenth_slower_is_found_and_equal_runs_are_the_same(trial):
    old, equal, slow = timed(3 * trial), timed(3 * trial + 1), timed(3 * trial + 2, slowed=trial % CASES)
    assert compare_reports(old, equal).regressions == ()
    assert compare_reports(old, equal).exit_code == 0
    found = compare_reports(old, slow)
    assert [change.case.subject for change in found.regressions] == [f"case {trial % CASES}"]
    low, high = found.regressions[0].ratio[1:]
    assert low < 1.1 < high
    assert found.exit_code == 1


def test_rows_that_are_stable_in_both_runs_agree_within_their_intervals():
    """4 % to either side of each median: intervals touch up to 8 % apart."""
    old = report(row("near", ms=10), row("far", ms=10), row("shaky", ms=10, variation=0.3), row("gone", ms=10))
    gone = Row(case=row("gone", ms=10).case, status="failed")
    new = report(row("near", ms=10.7), row("far", ms=9.1), row("shaky", ms=10), gone)
    comparison = compare_reports(old, new)
    assert [change.agrees for change in comparison.changes] == [True, False, None, None]
    assert comparison.agreeing == (1, 2)


def test_runs_in_two_states_of_the_machine_are_not_compared():
    def in_state(seed, slowed, yardstick_ms):
        rows = [dataclasses.replace(one, yardstick_ms=yardstick_ms) for one in timed(seed, slowed).rows]
        return report(*rows)

    old = in_state(0, None, 2.0)
    assert len(compare_reports(old, in_state(1, 0, 2.05)).regressions) == 1
    found = compare_reports(old, in_state(1, 0, 2.5))
    assert found.regressions == ()
    assert {change.outcome for change in found.changes} == {"unstable"}
    assert "known work took 2.00 ms, now 2.50 ms" in found.changes[0].reason


def test_a_tenth_faster_is_told_and_no_regression():
    comparison = compare_reports(timed(1, slowed=3), timed(2))
    assert [change.outcome for change in comparison.changes].count("faster") == 1
    assert comparison.exit_code == 0


def test_unstable_cases_are_not_judged():
    comparison = compare_reports(report(row("a", ms=10)), report(row("a", ms=30, variation=0.3)))
    assert [change.outcome for change in comparison.changes] == ["unstable"]
    assert comparison.exit_code == 0


def test_what_a_report_calls_unstable_is_not_judged_however_steady_its_windows_are():
    shaken = dataclasses.replace(row("a", ms=30), status="unstable", reason="the machine changed its state")
    comparison = compare_reports(report(row("a", ms=10)), report(shaken))
    assert [(change.outcome, change.reason) for change in comparison.changes] == [("unstable", shaken.reason)]
    assert compare_reports(report(shaken), report(row("a", ms=40))).exit_code == 0


def test_what_the_new_report_leaves_out_is_lost():
    comparison = compare_reports(report(row("a", ms=10), row("b", ms=10)), report(row("a", ms=10)))
    assert [(change.case.subject, change.outcome) for change in comparison.regressions] == [("b", "lost")]
    assert comparison.regressions[0].reason == "the new report has no such case"
    assert comparison.exit_code == 1


def test_a_tool_that_fails_before_its_boundary_is_known_is_lost_for_its_reason():
    timed = row("benchmark_app bf16", ms=10)
    timed = dataclasses.replace(timed, case=dataclasses.replace(timed.case, boundary="tool"))
    failed = Row(case=row("benchmark_app bf16", ms=10).case, status="failed", reason="it crashed")
    comparison = compare_reports(report(row("a", ms=10), timed), report(row("a", ms=10), failed))
    assert [(change.outcome, change.reason) for change in comparison.regressions] == [("lost", "it crashed")]


def test_a_batch_beyond_the_saturation_of_the_new_run_is_not_lost():
    def swept(*batches):
        cases = [Case(model="", subject="a", kind="batch", batch=batch) for batch in batches]
        return report(*(dataclasses.replace(row("a", ms=10), case=case) for case in cases))

    assert compare_reports(swept(1, 2, 4), swept(1, 2)).regressions == ()
    lost = compare_reports(report(row("a", ms=10), *swept(1, 2).rows), report(row("a", ms=10))).regressions
    assert [change.case.batch for change in lost] == [1, 2]


def test_what_is_not_measured_any_more_is_lost():
    gone = Row(case=row("a", ms=10).case, status="failed", reason="it crashed")
    comparison = compare_reports(report(row("a", ms=10)), report(gone))
    assert [(change.outcome, change.reason) for change in comparison.regressions] == [("lost", "it crashed")]


def test_a_drop_of_accuracy_beyond_its_interval_is_a_regression():
    comparison = compare_reports(report(row("a", ms=10, top1=0.95)), report(row("a", ms=10, top1=0.7)))
    assert [change.outcome for change in comparison.regressions] == ["less accurate"]
    comparison = compare_reports(report(row("a", ms=10, top1=0.95)), report(row("a", ms=10, top1=0.92)))
    assert comparison.regressions == ()


def test_runs_of_different_machines_or_cases_are_refused():
    old = report(row("a", ms=10))
    host = {**old.environment["host"], "cpu": "another"}
    other = dataclasses.replace(old, environment={**old.environment, "host": host})
    with pytest.raises(DataError, match="different machines: 'A CPU"):
        compare_reports(old, other)
    with pytest.raises(DataError, match="share no measured case"):
        compare_reports(old, report(row("b", ms=10)))


def test_the_history_grows_and_the_command_compares_the_last_two(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "bench" / "results"
    first = store_report(full_report(), results)
    with pytest.raises(DataError, match="no two runs"):
        last_reports(results)
    second = store_report(full_report(), results)
    assert first.name == "0001-2026-07-01-0123abc.json"
    assert second.name == "0002-2026-07-01-0123abc.json"
    assert first.parent.name == "a-cpu-fast-4-cpus"
    assert (results / "a-cpu-fast-4-cpus.html").is_file()
    (newest,) = stored_documents(results)["benchmark"]
    assert report_of(newest) == full_report()
    result = CliRunner().invoke(main, ["compare"])
    assert result.exit_code == 0, result.output
    assert "0 regressions" in result.stdout
    assert "13 of 13 stable rows agree within their intervals" in result.stdout


def test_runs_of_everything_are_a_history_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "bench" / "results"
    monkeypatch.setattr(full, "run_suite", lambda plans, *_, **__: full_report())
    arguments = ["suite", "--self-check", "skip", "--threads", "1"]
    assert CliRunner().invoke(main, arguments).exit_code == full_report().exit_code
    for _ in range(2):
        assert CliRunner().invoke(main, [*arguments, "--all"]).exit_code == full_report().exit_code
    assert len(stored_documents(results)["benchmark"]) == 1
    with pytest.raises(DataError, match="no two runs"):
        last_reports(results)
    result = CliRunner().invoke(main, ["compare", "--all"])
    assert result.exit_code == 0, result.output
    assert f"bench/results/{ALL}/a-cpu-fast-4-cpus/0002" in result.stdout
    report_file = str(next(results.rglob("0001-*.json")))
    assert CliRunner().invoke(main, ["compare", report_file, report_file, "--all"]).exit_code == 2


def test_the_command_exits_1_on_a_regression(tmp_path):
    paths = []
    for name, ms in (("old", 10.0), ("new", 12.0)):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(report(row("a", ms=ms)).to_dict()))
    result = CliRunner().invoke(main, ["compare", *map(str, paths), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["regressions"] == ["a, latency, batch 4"]
    result = CliRunner().invoke(main, ["compare", str(paths[0])])
    assert result.exit_code == 2
    assert "two reports" in result.stderr
