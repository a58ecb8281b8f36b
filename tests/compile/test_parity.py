from __future__ import annotations

import numpy as np
import pytest

from kdcmae.compile.parity import Case, Ladder, agreement, cosine, relative_error
from kdcmae.compile.settings import GATES, Gate, gate_for
from kdcmae.errors import ConfigError

LOGITS = np.array([[1.0, -4.0], [0.5, 2.0]], dtype=np.float32)
EXACT = Gate(max_error=0.0, min_cosine=1.0, min_agreement=1.0, tie=0.0)


def ladder(logits: str = "logits") -> Ladder:
    cases = [Case(name=f"case {n}", inputs={"x": LOGITS * n}, reference={"logits": LOGITS * n}) for n in (1, 2)]
    return Ladder(cases, logits=logits)


def echo(feed):
    return {"logits": feed["x"]}


def test_error_is_relative_to_the_largest_reference_value():
    assert relative_error(np.array([[1.0, -3.0]]), LOGITS[:1]) == pytest.approx(0.25)


@pytest.mark.parametrize("outputs", [np.array([[1.0]]), np.array([[np.nan, -4.0]]), np.array([[np.inf, -4.0]])])
def test_wrong_shapes_and_nan_are_infinitely_wrong(outputs):
    assert relative_error(outputs, LOGITS[:1]) == float("inf")
    assert cosine(outputs, LOGITS[:1]) == -1.0
    assert agreement(outputs, LOGITS[:1], tie=1.0) == 0.0


def test_cosine_is_the_worst_sample_s_and_knows_no_scale():
    assert cosine(LOGITS * 3, LOGITS) == pytest.approx(1.0)
    assert cosine(LOGITS * [[1], [-1]], LOGITS) == pytest.approx(-1.0)
    assert cosine(np.zeros((1, 2)), np.zeros((1, 2))) == 1.0


def test_agreement_counts_samples_and_forgives_ties():
    swapped = LOGITS[:, ::-1]
    assert agreement(LOGITS, LOGITS, tie=0.0) == 1.0
    assert agreement(swapped, LOGITS, tie=0.0) == 0.0
    assert agreement(swapped, LOGITS, tie=0.4) == 0.5  # 1.5 apart in the second sample, of 4


def test_a_rung_passes_fails_or_is_skipped():
    climbed = ladder()
    climbed.climb("program", echo, gate=EXACT)
    climbed.skip("onnx", "no kernels")
    engine = climbed.climb("engine", lambda feed: {"logits": feed["x"] * 1.1}, gate=EXACT)
    climbed.climb("artifact", lambda feed: {}, gate=EXACT)
    assert [rung.status for rung in climbed.rungs] == ["passed", "skipped", "failed", "failed"]
    assert "logits differs by 1.0e-01" in engine.problem()


def test_every_case_counts():
    climbed = ladder()
    rung = climbed.climb("engine", lambda feed: {"logits": np.where(feed["x"] > 3, 0, feed["x"])}, gate=EXACT)
    assert [one.errors["logits"] for one in rung.comparisons] == [0.0, 0.5]
    assert rung.errors == {"logits": 0.5}
    assert rung.agreement == 0.75


@pytest.mark.parametrize(
    ("gate", "problem"),
    [
        (Gate(max_error=None, min_cosine=0.999, min_agreement=0.0, tie=0.0), "the cosine of logits is 0."),
        (Gate(max_error=None, min_cosine=0.0, min_agreement=0.9, tie=0.0), "top-1 agreement is 50.0%"),
        (Gate(max_error=None, min_cosine=0.0, min_agreement=0.5, tie=0.0), ""),
    ],
)
def test_each_limit_can_fail_a_rung(gate, problem):
    rung = ladder().climb("engine", lambda feed: {"logits": feed["x"] + [[0.0, 0.0], [9.0, 0.0]]}, gate=gate)
    assert rung.problem().startswith(problem)
    assert rung.status == ("failed" if problem else "passed")


def test_a_model_that_does_not_classify_has_no_agreement():
    rung = ladder(logits="").climb("engine", echo, gate=EXACT)
    assert (rung.agreement, rung.status) == (None, "passed")


def test_a_stage_may_run_some_cases_only():
    climbed = ladder()
    assert len(climbed.climb("program", echo, gate=EXACT, cases=climbed.cases[:1]).comparisons) == 1


def test_the_widest_precision_sets_the_gate():
    assert gate_for({"fp16", "bf16"}) == GATES["bf16"]
    assert gate_for({"int8", "fp32"}) == GATES["int8"]


def test_gates_tighten_and_do_not_loosen():
    assert GATES["fp16"].tightened(max_error=1e-3, min_cosine=None).max_error == 1e-3
    assert GATES["int8"].tightened(max_error=0.1).max_error == 0.1
    with pytest.raises(ConfigError, match=r"--max-error 0.1 is looser than the 0.0001"):
        GATES["fp32"].tightened(max_error=0.1)
    with pytest.raises(ConfigError, match=r"--min-cosine 0.5 is looser"):
        GATES["fp32"].tightened(min_cosine=0.5)
    with pytest.raises(ConfigError, match=r"--min-agreement 1.5 must lie between"):
        GATES["fp32"].tightened(min_agreement=1.5)


@pytest.mark.parametrize(
    ("graph", "engine", "floating", "falls"),
    [
        (0.04, 0.07, "fp32", False),
        (0.04, 0.25, "fp32", True),  # ONNX Runtime's saturating kernels
        (0.001, 0.009, "fp32", False),  # chance
        (0.001, 0.03, "fp32", True),
        (0.001, 0.03, "bf16", False),  # what is not quantised rounds too
        (0.0, float("inf"), "bf16", True),
    ],
)
def test_an_engine_much_worse_than_its_graph_falls(graph, engine, floating, falls):
    climbed = ladder(logits="")
    loose = Gate(max_error=None, min_cosine=0.0, min_agreement=0.0, tie=0.0)
    before, rung = (
        climbed.climb(name, lambda feed, error=error: {"logits": feed["x"] * (1 + error)}, gate=loose)
        for name, error in (("quantized", graph), ("engine", engine))
    )
    assert bool(rung.fall(before, floating=floating)) is falls
