"""The whole suite on a tiny classifier: every case, from engines to the kept report."""

from __future__ import annotations

import dataclasses
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from reports import row

from kdcmae.bench.cli import main
from kdcmae.bench.report.history import store_report
from kdcmae.bench.report.page import render_page
from kdcmae.bench.report.records import Ceilings, Settings, read_report
from kdcmae.bench.report.rendering import render_markdown
from kdcmae.bench.report.summary import published
from kdcmae.bench.run.sources import open_subject
from kdcmae.bench.suite import full
from kdcmae.bench.suite.building import Built
from kdcmae.bench.suite.plan import EnginePlan, ModelPlan
from kdcmae.checkpoints import save_checkpoint

CASES = ("batch", "threads", "cold start", "clip to label")


@pytest.fixture(scope="module")
def unrunnable(compiled, tmp_path_factory):
    """An engine that is built, for a device that is not there."""
    folder = Path(shutil.copytree(compiled, tmp_path_factory.mktemp("suite") / "unrunnable"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"target": "trt", "engine": {**manifest["engine"], "flavour": "tensorrt_rtx", "device": "cuda:0"}}
    manifest["libraries"]["tensorrt_rtx"] = "1.7.1"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def report(classifier, compiled, unrunnable):
    """Of one engine that is there, one that cannot be built here, and one that cannot run here."""
    work = unrunnable.with_name("work")
    save_checkpoint(classifier, unrunnable.with_name("model.safetensors"))
    plan = ModelPlan(
        name="m",
        options=(),
        torch=str(unrunnable.with_name("model.safetensors")),
        engines=(
            EnginePlan(target="onnx", precision="fp32", cases=CASES),
            EnginePlan(target="trt", precision="fp16"),
            EnginePlan(target="trt", precision="bf16"),
        ),
        peers={"PyTorch eager": "{torch}", "trtexec fp16": "trtexec:{engines}/tensorrt-fp16"},
        left_out={"torch.compile": "left out of the suite: it takes minutes"},
        seconds=0.02,
        clips=2,
        largest_batch=2,
        solo_seconds=0.02,
        cold_starts=(2, 1),
    )

    def build(model, engine, folder):
        if engine.name == "TensorRT bf16":
            return Built(plan=engine, folder=unrunnable, status="measured")
        if engine.target == "trt":
            return Built(
                plan=engine, folder=folder, status="not measured", reason="not measured on this hardware: no GPU"
            )
        return Built(plan=engine, folder=compiled, status="measured")

    ceilings = [Ceilings(flop_per_s={"fp32": rate}, copy_bytes_per_s=1e12, how={}) for rate in (1e10, 1e11)]
    settings = Settings(batch=1, threads=1, seconds=0, warm_up_s=0, timeout_s=120)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr(full, "build_engine", build)
        patch.setattr(full, "measure_ceilings", lambda cpus, seconds: ceilings.pop(0))
        patch.setattr(full, "open_yardstick", lambda threads: nullcontext(lambda: 1.0))
        return full.run_suite([plan], settings, work, step=nullcontext, self_check=None)


def test_every_case_is_a_row_of_one_report(report):
    assert report.exit_code == 0, [row.reason for row in report.rows]
    timed = {row.case.subject: row for row in report.rows if row.case.kind == "latency"}
    assert set(timed) == {
        *("PyTorch eager", "ONNX Runtime fp32", "TensorRT fp16", "TensorRT bf16", "trtexec fp16", "torch.compile")
    }
    for name in ("TensorRT fp16", "TensorRT bf16", "trtexec fp16", "torch.compile"):
        assert timed[name].status == "not measured"
        assert timed[name].reason
    tool = timed["trtexec fp16"]
    assert (tool.tool, tool.engine, tool.target, tool.precision) == ("trtexec", "TensorRT fp16", "trt", "fp16")
    assert (timed["TensorRT fp16"].engine, timed["PyTorch eager"].engine) == ("TensorRT fp16", None)
    built = timed["TensorRT bf16"]
    assert built.artifact_bytes > 0
    assert built.parity.passed
    assert built.parity.against == "its own ladder"
    engine = timed["ONNX Runtime fp32"]
    assert engine.parity.passed
    assert engine.parity.against == "PyTorch eager"
    assert engine.floor.precision == "fp32"
    assert 0 < engine.floor.fraction < 1
    assert report.ceilings.flop_per_s == {"fp32": 1e11}
    assert engine.floor.floor_ms == pytest.approx(engine.floor.flop / 1e11 * 1e3)
    assert engine.artifact_bytes > 0
    assert engine.compile_s is None or engine.compile_s > 0
    assert engine.accuracy is None  # its labels are none of AVSynth's
    assert {row.case.kind for row in report.rows if row.latency} == {"latency", *CASES}
    (agreement,) = report.agreement
    assert agreement.subjects == ("PyTorch eager", "ONNX Runtime fp32")
    assert agreement.cosine[0][1] == pytest.approx(1, abs=1e-4)


def test_the_report_is_stored_and_shown(report, tmp_path):
    path = store_report(report, tmp_path / "results")
    assert read_report(path) == report
    assert "<h2>Throughput over the batch</h2>" in render_page(report)
    assert "- no GPU: TensorRT fp16" in render_markdown(published(report)).splitlines()
    shown = CliRunner().invoke(main, ["report", str(path)])
    assert "m: latency in ms" in shown.stdout
    page = tmp_path / "page.html"
    assert CliRunner().invoke(main, ["report", str(path), "--html", str(page)]).exit_code == 0
    assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(("device", "known"), [("cpu", True), ("cuda", False)])
def test_only_what_runs_on_the_cpu_has_the_cpu_s_floor(checkpoint, device, known):
    facts = dataclasses.replace(open_subject(str(checkpoint), torch.get_num_threads()).facts, device=device)
    ceilings = Ceilings(flop_per_s={"fp32": 1e11}, copy_bytes_per_s=1e10, how={})
    assert (full.floor_of(row("a", ms=1), facts, ceilings) is not None) is known
