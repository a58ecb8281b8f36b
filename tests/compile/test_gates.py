from __future__ import annotations

from dataclasses import replace

import pytest

from kdcmae.compile.gates import check_claims, claims, require_claims
from kdcmae.compile.settings import CompileSettings
from kdcmae.compile.targets import BuiltEngine
from kdcmae.errors import GateError
from kdcmae.runtime.cpu import CAP_VARIABLE, describe_cpu
from kdcmae.runtime.execution import Claim, Execution, claims_against
from kdcmae.runtime.manifest import BatchRange


def found(target: str, precision: str, executed: dict, products: dict, declared: dict, reported=(), **changes):
    settings = CompileSettings(target=target, precision=precision, batch=BatchRange(1, 1, 1), **changes)
    facts = {"executed": executed, "products": products, "read_from": "a test", **dict(reported)}
    return claims(settings, declared, BuiltEngine(engine={}, libraries={}, run=None, **facts))


def test_fp16_that_ran_fp32_is_refused_and_the_fix_named():
    asked = ("onnx", "fp16", {"LayerNormalization": {"fp32": 4}}, {"fp32": 15}, {"fp16": 14, "fp32": 1})
    with pytest.raises(GateError, match=r"claimed to execute in fp16.* runs 15 in fp32; compile with --precision fp32"):
        require_claims(found(*asked))
    require_claims(found(*asked, execute_as="fp32"))


def test_only_what_the_graph_has_in_float32_may_run_in_float32():
    declared = {"fp16": 14, "fp32": 1}
    require_claims(found("trt", "fp16", {}, {"fp16": 14, "fp32": 1}, declared))
    with pytest.raises(
        GateError, match="products are claimed to execute in fp16, the engine runs 13 in fp16, 2 in fp32"
    ):
        require_claims(found("trt", "fp16", {}, {"fp16": 13, "fp32": 2}, declared))


def test_norms_and_softmax_are_claimed_apart():
    half_norms = {"NORMALIZATION": {"fp16": 1, "fp32": 3}, "SOFTMAX": {"fp32": 2}}
    with pytest.raises(GateError, match="norms are claimed to execute in fp32, the engine runs 1 in fp16, 3 in fp32"):
        require_claims(found("trt", "fp16", half_norms, {"fp16": 2}, {"fp16": 2}))
    # OpenVINO's CPU plugin runs all of them in its hint's precision, and that is what is claimed of it.
    require_claims(found("openvino", "bf16", {"MVN": {"bf16": 4}}, {"bf16": 15}, {"bf16": 14, "fp32": 1}))
    # Some may keep the graph's own float32, but fewer than half of them, and nothing else.
    products = ({"bf16": 15}, {"bf16": 15})
    require_claims(found("openvino", "bf16", {"MVN": {"bf16": 3, "fp32": 2}}, *products))
    for others in ({"fp32": 4}, {"bf16": 1, "fp32": 3}, {"bf16": 2, "fp32": 2}, {"bf16": 3, "fp16": 1}):
        with pytest.raises(GateError, match="norms are claimed to execute in bf16"):
            require_claims(found("openvino", "bf16", {"MVN": others}, *products))


def test_a_frontend_of_its_own_is_float32():
    settings = CompileSettings(target="openvino", precision="bf16", batch=BatchRange(1, 1, 1))
    frontend = {"Convolution": {"fp32": 1}, "Eltwise": {"fp32": 2, "bf16": 1}}
    built = BuiltEngine(
        engine={}, libraries={}, executed={}, read_from="a test", products={"bf16": 4}, run=None, frontend=frontend
    )
    with pytest.raises(
        GateError, match="frontend are claimed to execute in fp32, the engine runs 3 in fp32, 1 in bf16"
    ):
        require_claims(claims(settings, {"bf16": 4}, built))


def test_kept_layers_of_a_quantised_engine_are_counted():
    declared = {"int8": 10, "bf16": 4}
    require_claims(
        found("openvino", "int8", {"MVN": {"bf16": 4}}, {"int8": 10, "bf16": 4}, declared, {"floating": "bf16"})
    )
    with pytest.raises(GateError, match="claimed to execute in int8"):
        require_claims(found("openvino", "int8", {}, {"bf16": 14}, declared))
    with pytest.raises(GateError, match="claimed to execute in int8, the engine runs 9 in int8, 5 in bf16"):
        require_claims(found("openvino", "int8", {}, {"int8": 9, "bf16": 5}, declared))


def test_what_is_not_quantised_has_a_claim_of_its_own():
    asked = ("openvino", "int8", {"MVN": {"bf16": 4}}, {"int8": 10}, {"int8": 10})
    bf16 = {"floating": "bf16"}
    assert {claim.layers: claim.claimed for claim in found(*asked, {**bf16, "attention": {"int8": 3}})} == {
        "products": "int8",
        "attention": "int8",
        "norms": "bf16",
    }  # the softmax is part of the attention: no layer is one
    for attention in ({"int8": 3}, {"int8": 3, "bf16": 3}, {"bf16": 6}):
        require_claims(found(*asked, {**bf16, "attention": attention}))
    with pytest.raises(GateError, match="attention are claimed to execute in bf16, the engine runs 6 in fp16"):
        require_claims(found(*asked, {**bf16, "attention": {"fp16": 6}}))
    with pytest.raises(GateError, match="norms are claimed to execute in fp32, the engine runs 4 in bf16"):
        require_claims(found(*asked))


def test_attention_has_the_precision_of_the_products():
    asked = ("openvino", "bf16", {"MVN": {"bf16": 4}}, {"bf16": 15}, {"bf16": 15})
    require_claims(found(*asked, {"attention": {"bf16": 6}}))
    with pytest.raises(GateError, match="attention are claimed to execute in bf16, the engine runs 6 in fp32"):
        require_claims(found(*asked, {"attention": {"fp32": 6}}))


def test_what_a_library_does_not_report_neither_holds_nor_fails():
    (products, *_) = found("aoti", "bf16", {}, {}, {"bf16": 3})
    assert products.holds is None
    require_claims([products])
    assert products.to_dict()["executed"] == {}


def test_a_plan_has_kernels_in_the_precision_claimed():
    built = ("trt", "fp16", {}, {"fp16": 14}, {"fp16": 14})
    require_claims(found(*built, {"kernels": {"fp16": 20, "fp32": 9}}))
    with pytest.raises(GateError, match="kernels are claimed to execute in fp16, the engine runs 29 in fp32"):
        require_claims(found(*built, {"kernels": {"fp32": 29}}))
    unknown = found(*built, {"kernels": {}})
    require_claims(unknown)
    assert {claim.layers: claim.holds for claim in unknown}["kernels"] is None
    assert "kernels" not in {claim.layers for claim in found(*built)}


@pytest.fixture
def capped(monkeypatch):
    """A machine without bfloat16, whichever this is."""
    monkeypatch.setenv(CAP_VARIABLE, "AVX2")


def built(products: dict[str, int], norms: dict[str, int]) -> BuiltEngine:
    return BuiltEngine(
        engine={},
        libraries={},
        executed={"MVN": norms},
        read_from="a test",
        products=products,
        floating="bf16",
        run=None,
    )


def settings_for(name: str, precision: str) -> CompileSettings:
    return CompileSettings(target="openvino", precision=precision, batch=BatchRange(1, 1, 1), cpu=describe_cpu(name))


@pytest.mark.parametrize(
    ("precision", "declared", "products"),
    [
        ("bf16", {"bf16": 14, "fp32": 1}, {"fp32": 15}),
        ("int8", {"int8": 12, "bf16": 3}, {"int8": 12, "fp32": 3}),
    ],
)
def test_what_another_processor_executes_is_to_be_checked_there(precision, declared, products, capped):
    products_claim, norms, softmax = check_claims(
        settings_for("amx", precision), declared, built(products, {"fp32": 4})
    )
    assert (products_claim.claimed, products_claim.executed) == (precision, products)
    assert (norms.claimed, norms.executed, norms.checked) == ("bf16", {"fp32": 4}, "to be checked on amx")
    assert (softmax.claimed, softmax.executed, softmax.checked) == ("bf16", {}, norms.checked)
    assert products_claim.holds is norms.holds is softmax.holds is None


def on_device(built_here: list[Claim], executed: dict, products: dict, attention: dict) -> dict[str, bool | None]:
    """What a device says of the claims of an engine that was built elsewhere."""
    section = {"claims": [claim.to_dict() for claim in built_here]}
    there = claims_against(section, Execution(executed=executed, products=products, attention=attention))
    return {claim.layers: claim.holds for claim in there}


def test_float32_of_the_machine_that_built_excuses_none_on_the_device(capped):
    here = replace(built({"fp32": 15}, {"fp32": 20}), attention={"fp32": 9})
    found = check_claims(settings_for("amx", "bf16"), {"bf16": 14, "fp32": 1}, here)
    products = {"bf16": 15}
    assert on_device(found, {"MVN": {"bf16": 20}, "Softmax": {"bf16": 9}}, products, {"bf16": 18}) == {
        "products": True,
        "attention": True,
        "norms": True,
        "softmax": True,  # compiled into the attention where it was built
    }
    # The library keeps a few norms in float32, behind a float32 branch of the model.
    few = {"MVN": {"bf16": 18, "fp32": 2}, "Softmax": {"bf16": 9}}
    assert all(on_device(found, few, products, {"bf16": 18}).values())
    most = {"MVN": {"bf16": 1, "fp32": 19}, "Softmax": {"fp32": 9}}
    assert on_device(found, most, products, {"bf16": 2, "fp32": 7}) == {
        "products": True,
        "attention": False,
        "norms": False,
        "softmax": False,
    }


def test_part_of_a_quantised_attention_may_be_in_floating_point_on_the_device(capped):
    here = replace(built({"int8": 12, "fp32": 3}, {"fp32": 20}), attention={"int8": 9, "fp32": 9})
    found = check_claims(settings_for("amx", "int8"), {"int8": 12, "bf16": 3}, here)
    products, norms = {"int8": 12, "bf16": 3}, {"MVN": {"bf16": 20}}
    for attention in ({"int8": 9}, {"int8": 9, "bf16": 9}):
        assert on_device(found, norms, products, attention)["attention"] is True
    for attention in ({"bf16": 9}, {"int8": 9, "fp32": 9}):
        assert on_device(found, norms, products, attention)["attention"] is False


def test_what_this_machine_executes_alike_is_checked_here(capped):
    found = check_claims(settings_for("avx512", "fp32"), {"fp32": 15}, built({"fp32": 15}, {"fp32": 4}))
    assert [claim.holds for claim in found if claim.layers == "products"] == [True]


def test_an_engine_for_another_processor_executes_here_what_this_one_multiplies(capped):
    with pytest.raises(GateError, match="claimed to execute in fp32, the engine runs 15 in bf16"):
        check_claims(settings_for("amx", "bf16"), {"bf16": 15}, built({"bf16": 15}, {"fp32": 4}))
