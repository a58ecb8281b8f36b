from __future__ import annotations

import numpy as np
import pytest

from kdcmae.compile.gates import require_passed
from kdcmae.compile.parity import Case, Ladder, cosine, relative_error
from kdcmae.errors import ConfigError, GateError
from kdcmae.runtime.precisions import GATES, Gate, gate_for

VALUES = np.array([[1.0, -4.0], [0.5, 2.0]], dtype=np.float32)
LOGITS = np.array([[1.0, -4.0, 0.5], [0.5, 2.0, -3.0]], dtype=np.float32)


def gate(**limits: float | None) -> Gate:
    """A gate that lets everything pass but for these limits."""
    loose = {"max_error": None, "min_cosine": 0.0, "min_agreement": 0.0, "tie": 0.0}
    return Gate(**{**loose, "chance": 1e9, "rounding": 0.0, **limits})


EXACT = gate(max_error=0.0, min_cosine=1.0, min_agreement=1.0)


def ladder(kind: str = "softmax") -> Ladder:
    cases = [Case(name=f"case {n}", inputs={"x": LOGITS * n}, reference={"logits": LOGITS * n}) for n in (1, 2)]
    return Ladder(cases=tuple(cases), kinds={"logits": kind})


def echo(feed):
    return {"logits": feed["x"]}


def test_error_inside_a_network_is_relative_to_the_largest_reference_value():
    assert relative_error(np.array([[1.0, -3.0]]), VALUES[:1]) == pytest.approx(0.25)


@pytest.mark.parametrize("outputs", [np.array([[1.0]]), np.array([[np.nan, -4.0]]), np.array([[np.inf, -4.0]])])
def test_wrong_shapes_and_nan_are_infinitely_wrong(outputs):
    assert relative_error(outputs, VALUES[:1]) == float("inf")
    assert cosine(outputs, VALUES[:1]) == -1.0


def test_cosine_is_the_worst_sample_s_and_knows_no_scale():
    assert cosine(VALUES * 3, VALUES) == pytest.approx(1.0)
    assert cosine(VALUES * [[1], [-1]], VALUES) == pytest.approx(-1.0)
    assert cosine(np.zeros((1, 2)), np.zeros((1, 2))) == 1.0


def test_a_rung_passes_fails_or_is_skipped():
    climbed = ladder()
    climbed.compare("program", echo, gate=EXACT)
    climbed.skip("onnx", "no kernels")
    engine = climbed.compare("engine", lambda feed: {"logits": feed["x"] * 1.1}, gate=EXACT)
    climbed.compare("artifact", lambda feed: {}, gate=EXACT)
    climbed.compare("artifact", lambda feed: {"logits": feed["x"][:, :1]}, gate=EXACT)
    assert [rung.status for rung in climbed.rungs] == ["passed", "skipped", *["failed"] * 3]
    assert "logits, centred, differs by 1.0e-01" in engine.problem()


def test_more_is_said_of_the_last_rung():
    climbed = ladder()
    climbed.compare("program", echo, gate=EXACT, note="in fp32")
    climbed.remark("")
    climbed.remark("on two clips")
    assert climbed.rungs[0].note == "in fp32; on two clips"


def test_every_case_counts():
    climbed = ladder()
    rung = climbed.compare("engine", lambda feed: {"logits": np.where(feed["x"] > 3, 0, feed["x"])}, gate=EXACT)
    assert rung.comparisons[0].errors["logits"] == 0
    assert rung.errors["logits"] > 0.4
    assert (rung.agreement, rung.strict) == (0.75, 0.75)
    assert rung.to_dict()["outputs"]["logits"]["samples"] == 4


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        (gate(min_cosine=0.999), "the cosine of logits, centred, is 0."),
        (gate(min_agreement=0.9), "top-1 agreement is 50.0% (strict 50.0%)"),
        (gate(max_distance=0.1), "the probabilities of logits differ by "),
        (gate(min_agreement=0.5), ""),
    ],
)
def test_each_limit_can_fail_a_rung(limits, problem):
    rung = ladder().compare("engine", lambda feed: {"logits": feed["x"] + [[0, 0, 0], [9.0, 0, 0]]}, gate=limits)
    assert rung.problem().startswith(problem)
    assert rung.status == ("failed" if problem else "passed")


def test_a_model_that_does_not_classify_has_no_agreement():
    rung = ladder("features").compare("engine", echo, gate=EXACT)
    assert (rung.agreement, rung.strict, rung.status) == (None, None, "passed")


def test_clips_run_in_batches_and_what_fills_the_last_one_does_not_count():
    logits = np.arange(15, dtype=np.float32).reshape(5, 3) * [1, 0.5, -1]
    batches = [{"x": array} for array in (logits[:2], logits[2:4], logits[[4, 4]])]
    case = Case(
        name="made", inputs=batches[0], more=batches[1:], reference={"logits": logits}, repeated=1, clips="made"
    )
    assert (case.samples, case.first(4).samples, case.first(1).samples, case.first(99)) == (5, 4, 2, case)
    climbed = Ladder(cases=(case,), kinds={"logits": "sigmoid"})
    assert climbed.compare("program", echo, gate=EXACT, cases=[case.first(4)]).outputs["logits"].samples == 4
    rung = climbed.compare("artifact", echo, gate=EXACT)
    (found,) = rung.to_dict()["cases"]
    assert (found["samples"], found["clips"], rung.status) == (5, "made", "passed")


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


def two_rungs(before: float, after: float, *, skipped: bool = False, **limits: float) -> list:
    climbed = ladder("features")
    climbed.compare("first", lambda feed: {"logits": feed["x"] * (1 + before)}, gate=gate())
    if skipped:
        climbed.skip("second", "no kernels")
    climbed.compare("third", lambda feed: {"logits": feed["x"] * (1 + after)}, gate=gate(**limits))
    return climbed.rungs


@pytest.mark.parametrize(
    ("before", "after", "chance", "falls"),
    [
        (0.04, 0.07, 0.01, False),
        (0.04, 0.25, 0.01, True),  # ONNX Runtime's saturating kernels
        (1e-6, 6.5e-6, 2e-5, False),  # chance
        (1e-5, 6.5e-5, 2e-5, True),  # within the gate of float32
        (0.0, float("inf"), 0.01, True),
    ],
)
@pytest.mark.parametrize("skipped", [False, True])
def test_a_rung_much_worse_than_the_last_that_ran_fails_whatever_its_gate(before, after, chance, falls, skipped):
    rung = two_rungs(before, after, skipped=skipped, chance=chance)[-1]
    assert rung.status == ("failed" if falls else "passed")
    assert ("in rung 'first'" in rung.fall) is falls


def test_the_error_names_the_rung_that_fell():
    *_, rung = two_rungs(0.01, 0.2, chance=0.01)
    with pytest.raises(GateError, match=r"rung 'third' is much worse than the one before it: .*20\.0 times as far"):
        require_passed(rung, quantized=False)
    with pytest.raises(GateError, match=r"the engine does not compute what its quantised graph does"):
        require_passed(rung, quantized=True)
    require_passed(two_rungs(0.01, 0.02, chance=0.01)[-1], quantized=True)


def test_rungs_are_compared_on_the_samples_that_both_ran():
    logits = np.tile(LOGITS, (4, 1))
    batches = [{"x": logits[start : start + 2]} for start in range(0, 8, 2)]
    case = Case(name="made", inputs=batches[0], more=batches[1:], reference={"logits": logits})
    climbed = Ladder(cases=(case,))
    climbed.compare("program", echo, gate=gate(), cases=[case.first(2)])
    calls = iter(range(4))
    rung = climbed.compare("artifact", lambda feed: {"logits": feed["x"] * (1 + next(calls))}, gate=gate(chance=0.0))
    assert (rung.errors["logits"], rung.fall) == (3.0, "")
