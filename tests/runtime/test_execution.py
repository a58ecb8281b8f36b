"""Layer classes of an engine, what is claimed of them, and what loading says of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdcmae.errors import EngineError, EnginePrecisionError
from kdcmae.runtime import load_engine
from kdcmae.runtime.execution import Claim, Execution, claims_against, differences_known, read_claims


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


def claimed(precision: str) -> dict[str, Any]:
    """A manifest section that claims all products in one precision."""
    return {"claims": [{"layers": "products", "claimed": precision, "besides": {}, "executed": {}, "holds": None}]}


def test_an_engine_that_executes_as_claimed_loads_without_a_word(tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    load_engine(tiny.make("openvino", precision=claimed("fp32")), strict=True).close()
    assert not caplog.records


def test_another_precision_than_claimed_is_a_warning_or_refused(tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny.make("openvino", precision=claimed("int8"))
    with load_engine(folder) as engine:
        assert engine.self_test().passed
    [record] = caplog.records
    assert (record.name, record.levelname) == ("kdcmae.runtime", "WARNING")
    assert "products are claimed to execute in int8, the engine runs 1 in fp32" in record.getMessage()
    with pytest.raises(EnginePrecisionError, match=r"1 in fp32; .*kdcmae check.*kdcmae-compile") as caught:
        load_engine(folder, strict=True)
    assert caught.value.exit_code == 1


def test_a_library_that_does_not_tell_is_judged_by_the_processor(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.make("onnx", precision=claimed("fp16"))
    executed = {"fp16": "fp32"}
    monkeypatch.setattr("kdcmae.runtime.capabilities.not_native", lambda *args, **kwargs: executed)
    with pytest.raises(EnginePrecisionError, match="claimed to execute in fp16, which executes as fp32 here"):
        load_engine(folder, strict=True)
    executed.clear()
    load_engine(folder, strict=True).close()


def test_nobody_hears_a_warning_that_an_app_did_not_ask_for(tiny: Any) -> None:
    script = "import sys; from kdcmae.runtime import load_engine; load_engine(sys.argv[1])"
    folder = tiny.make("openvino", precision=claimed("int8"))
    finished = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
    assert (finished.stdout, finished.stderr) == ("", "")


def test_claims_that_are_none_are_a_bad_engine(tiny: Any) -> None:
    with pytest.raises(EngineError, match=r"precision\.claims is not a list of claims"):
        load_engine(tiny.make("openvino", precision={"claims": [{"layers": "products"}]}))


def test_what_executes_is_told_by_variant_and_precision(engine_folder: Path) -> None:
    with load_engine(engine_folder) as engine:
        [(variant, execution)] = engine.executions().items()
    assert (variant, execution.products) == ("", {"fp32": 1})
    assert execution.read_from != "nothing on this machine"


def test_a_caller_that_reports_differences_itself_is_not_warned(tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny.make("openvino", precision=claimed("int8"))
    with differences_known():
        load_engine(folder).close()
    assert not caplog.records
    load_engine(folder).close()
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("target", "products"), [("openvino", {"fp32": 1}), ("onnx", {"bf16": 9})])
def test_products_are_those_that_execute_here_where_the_library_tells(
    tiny: Any, target: str, products: dict[str, int]
) -> None:
    with load_engine(tiny.make(target, precision={"products": {"bf16": 9}})) as engine:
        assert engine.products() == products
