"""What the suite builds and measures, and engines that are compiled once."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from kdcmae.bench.run.peers import all_peers
from kdcmae.bench.run.sources import Source
from kdcmae.bench.suite.building import build_engine
from kdcmae.bench.suite.plan import MODELS, EnginePlan, ModelPlan, plan_model
from kdcmae.runtime.targets import TARGETS, registered

MODEL = ModelPlan(
    name="m",
    options=("--preset", "tiny", "--random-weights"),
    torch="preset:tiny",
    engines=(),
    peers={},
    left_out={},
    seconds=1,
    clips=2,
    largest_batch=1,
)
ENGINE = EnginePlan(target="onnx", precision="fp32")


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [(0, "measured", ""), (3, "not measured", "not measured on this hardware: no"), (1, "failed", "no")],
)
def test_an_engine_that_cannot_be_built_says_why(tool, tmp_path, code, status, reason):
    tool("kdcmae-compile", f"sys.stderr.write('step 1\\nerror: no\\n')\nsys.exit({code})")
    built = build_engine(MODEL, ENGINE, tmp_path / "engine")
    assert built.status == status
    assert built.reason.endswith(reason)


def test_an_engine_is_used_again_until_what_it_is_made_of_changes(tool, tmp_path):
    folder = tmp_path / "engine"
    tool(
        "kdcmae-compile",
        "from pathlib import Path\n"
        "folder = Path(sys.argv[-1]); folder.mkdir(exist_ok=True)\n"
        "(folder / 'manifest.json').touch()\n"
        "with open(folder / 'built', 'a') as log: log.write('x')\n",
    )

    def builds(model=MODEL, plan=ENGINE):
        built = build_engine(model, plan, folder)
        assert (built.status, built.folder) == ("measured", folder)
        return len((folder / "built").read_text())

    assert [builds(), builds()] == [1, 1]
    assert builds(plan=dataclasses.replace(ENGINE, precision="fp16")) == 2
    assert builds(model=dataclasses.replace(MODEL, options=("--preset", "small", "--random-weights"))) == 3
    (folder / "manifest.json").unlink()
    assert builds() == 4


def test_variants_are_subjects_of_their_own():
    plan = EnginePlan(target="openvino", precision="bf16", form="each modality", variants=("audio", "video"))
    assert (plan.name, plan.slug) == ("OpenVINO bf16 each modality", "openvino-bf16-each-modality")
    assert plan.subjects("engine") == {
        "OpenVINO bf16 audio only": "engine@audio",
        "OpenVINO bf16 video only": "engine@video",
    }


@pytest.mark.parametrize("name", MODELS)
def test_every_target_is_planned_or_left_out_with_a_reason(name):
    plan = plan_model(name)
    left_out = {target for target, record in TARGETS.items() if f"{record.label} fp32" in plan.left_out}
    assert set(TARGETS) <= {engine.target for engine in plan.engines} | left_out
    assert bool(plan.left_out) == (name == "base")


@pytest.mark.parametrize("name", MODELS)
def test_the_plan_of_everything_has_all_precisions_and_leaves_nothing_out(name):
    plan, quick = plan_model(name, everything=True), plan_model(name)
    assert plan.left_out == {}
    assert set(quick.engines) < set(plan.engines)
    assert {*quick.peers, *quick.left_out} <= {*plan.peers, *(engine.name for engine in plan.engines)}
    assert len({engine.slug for engine in plan.engines}) == len(plan.engines)
    runnable = {
        (target.name, precision)
        for target in TARGETS.values()
        for precision in target.precisions
        if precision not in target.cannot_run
    }
    assert {(engine.target, engine.precision) for engine in plan.engines if not engine.form} == runnable
    assert {engine.target for engine in plan.engines if engine.form == "raw"} == {"openvino", "trt"}


def test_a_new_target_is_planned_without_further_code():
    toy = dataclasses.replace(TARGETS["onnx"], name="toy", label="Toy", cannot_run={})
    with registered(toy):
        assert "Toy fp32" in [engine.name for engine in plan_model("shipped").engines]
        names = [engine.name for engine in plan_model("shipped", everything=True).engines]
    assert {f"Toy {precision}" for precision in toy.precisions} <= set(names)


def test_an_engine_that_its_machine_refuses_is_built_with_the_fallback(tool, tmp_path):
    tool("kdcmae-compile", "sys.stderr.write('error: runs bf16')\nsys.exit('--execute-as' not in sys.argv)")
    assert build_engine(MODEL, ENGINE, tmp_path / "engine").status == "failed"
    plan = dataclasses.replace(ENGINE, fallback=("--execute-as", "bf16"))
    assert build_engine(MODEL, plan, tmp_path / "engine").status == "measured"


def test_what_cannot_be_built_here_is_not_begun(tool, tmp_path, monkeypatch):
    tool("kdcmae-compile", "sys.exit('it was begun')")
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    built = build_engine(MODEL, dataclasses.replace(ENGINE, target="torch-trt"), tmp_path / "engine")
    assert built.status == "not measured"
    assert built.reason.startswith("not measured on this hardware: torch_tensorrt is not installed; install it with")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("everything", [False, True])
def test_peers_run_engines_of_the_plan(name, everything):
    plan = plan_model(name, everything=everything)
    slugs = {engine.slug for engine in plan.engines}
    sources = [Source.parse(source.format(torch="model", engines="engines")) for source in plan.peers.values()]
    assert {source.peer.name for source in sources if source.peer} | {"torch-compile"} == set(all_peers())
    for source in sources:
        assert source.path == "model" or source.path.removeprefix("engines/") in slugs
