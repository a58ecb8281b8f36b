"""Layer classes of an engine, and what is claimed of them."""

from __future__ import annotations

import pytest

from kdcmae.errors import EngineError
from kdcmae.runtime.execution import Claim, Execution, claims_against, read_claims


def claim(**executed: int) -> Claim:
    return Claim(layers="products", claimed="bf16", besides={"fp32": 1}, executed=executed)


@pytest.mark.parametrize(
    ("executed", "holds"),
    [
        ({"bf16": 4}, True),
        ({"bf16": 4, "fp32": 1}, True),
        ({"bf16": 3, "fp32": 2}, False),
        ({"fp32": 1}, False),
        ({"bf16": 4, "fp16": 1}, False),
        ({}, None),
    ],
)
def test_a_claim_holds_beside_what_the_graph_has_on_purpose(executed: dict[str, int], holds: bool | None) -> None:
    assert claim(**executed).holds is holds


def test_layers_are_told_by_class_whatever_the_library_calls_them() -> None:
    execution = Execution(
        executed={"MVN": {"bf16": 4}, "LayerNormalization": {"fp32": 1}, "Softmax": {"bf16": 2}, "Split": {"bf16": 9}},
        products={"bf16": 5},
        attention={"bf16": 4},
        frontend={"Convolution": {"fp32": 1}, "Eltwise": {"fp32": 2}},
    )
    assert execution.by_class() == {
        "products": {"bf16": 5},
        "frontend": {"fp32": 3},
        "attention": {"bf16": 4},
        "norms": {"bf16": 4, "fp32": 1},
        "softmax": {"bf16": 2},
    }


def test_claims_are_held_against_what_executes_here() -> None:
    built = [claim(bf16=5).to_dict(), {**claim().to_dict(), "layers": "norms"}]
    [products, norms] = claims_against(
        {"claims": built}, Execution(executed={"FullyConnected": {"fp32": 5}}, products={"fp32": 5})
    )
    assert (products.holds, norms.holds) == (False, None)  # norms are compiled into other layers here
    assert str(products) == "products are claimed to execute in bf16, the engine runs 5 in fp32"
    assert [claim.holds for claim in claims_against({"claims": built}, Execution())] == [None, None]


@pytest.mark.parametrize("claims", [5, ["bf16"], [{"layers": "products"}], [{**claim().to_dict(), "besides": 3}]])
def test_claims_of_another_shape_are_a_bad_engine(claims: object) -> None:
    with pytest.raises(EngineError, match=r"precision\.claims is not a list of claims"):
        read_claims({"claims": claims})
