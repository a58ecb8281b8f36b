"""Real subjects: checkpoints, presets and engine folders."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from kdcmae.bench.run.sources import Source, check_source, open_subject
from kdcmae.bench.run.subjects import engine_facts
from kdcmae.errors import ConfigError, DeviceError
from kdcmae.runtime import Manifest
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.execution import Execution
from kdcmae.runtime.onnx import ONNXBackend


@pytest.fixture(autouse=True)
def threads_put_back():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_checkpoint_and_its_engine_take_and_give_the_same(checkpoint, engine_folder):
    model, engine = open_subject(str(checkpoint), 1), open_subject(str(engine_folder), 1)
    assert model.facts.inputs == engine.facts.inputs
    assert (model.facts.kind, model.facts.computes_in, model.facts.batch) == ("torch eager", "fp32", None)
    assert (engine.facts.kind, engine.facts.computes_in) == ("onnx", "fp32")
    assert model.facts.is_torch
    assert not engine.facts.is_torch
    inputs = example_inputs(model.facts.inputs, 1, seed=0)
    np.testing.assert_allclose(engine.run(inputs)["logits"], model.run(inputs)["logits"], atol=1e-4)
    assert model.self_test() is None
    assert engine.self_test().passed


def test_threads_reach_pytorch(checkpoint):
    open_subject(str(checkpoint), 2)
    assert torch.get_num_threads() == 2


def test_a_preset_is_the_model_that_the_compiler_draws():
    from kdcmae import KDCMAEClassifier

    torch.manual_seed(0)
    expected = KDCMAEClassifier.from_preset("tiny", num_classes=527).eval()
    torch.manual_seed(1)
    subject = open_subject("preset:tiny", 1)
    inputs = example_inputs(subject.facts.inputs, 1, seed=0)
    with torch.inference_mode():
        logits = expected(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    np.testing.assert_array_equal(subject.run(inputs)["logits"], logits.numpy())


def test_an_unknown_preset_names_the_known():
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        open_subject("preset:tinny", 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device that must be missing")
def test_what_an_engine_computes_in_is_what_executes_here(engine_folder, monkeypatch):
    """Where the library tells; the manifest says what executed on the machine that built the engine."""
    monkeypatch.setattr(ONNXBackend, "execution", lambda backend: Execution(products={"fp16": 3}))
    assert open_subject(str(engine_folder), 1).facts.computes_in == "fp16"


def test_an_engine_for_a_missing_device_says_so(engine_folder):
    """Threads are not passed on: an engine for a GPU would refuse them before it looked for the GPU."""
    library = pytest.importorskip("tensorrt_rtx_bindings")
    as_trt = dataclasses.replace(
        Manifest.read(engine_folder),
        target="trt",
        libraries={"tensorrt_rtx": library.__version__},
        engine={"file": "model.onnx", "flavour": "tensorrt_rtx"},
    )
    as_trt.write(engine_folder)
    with pytest.raises(DeviceError, match="CUDA device"):
        open_subject(str(engine_folder), 2)


@pytest.mark.parametrize(
    ("target", "engine", "device"),
    [
        ("openvino", {"device": "CPU"}, "cpu"),
        ("openvino", {"device": "GPU"}, "gpu"),
        ("onnx", {"device": "CUDA"}, "cuda"),
        ("aoti", {"device": "cpu"}, "cpu"),
        ("trt", {"device": "cuda:0"}, "cuda"),
        ("trt", {}, "cuda"),
    ],
)
def test_what_an_engine_runs_on_is_told_however_its_target_writes_it(engine_folder, target, engine, device):
    manifest = dataclasses.replace(
        Manifest.read(engine_folder), target=target, engine={"file": "model.onnx", "flavour": "tensorrt", **engine}
    )
    assert engine_facts(engine_folder, manifest).device == device


def test_a_missing_source_is_refused_at_once(tmp_path):
    check_source(str(tmp_path))
    check_source("preset:base")
    with pytest.raises(ConfigError, match="nowhere does not exist; give an engine folder, a checkpoint or preset:base"):
        check_source(str(tmp_path / "nowhere"))


def test_a_source_tells_the_engine_behind_a_tool(engine_folder, checkpoint):
    engine = str(engine_folder)
    tool = Source.parse(f"benchmark_app:{engine}@audio")
    assert (tool.peer.name, tool.path, tool.variant) == ("benchmark_app", engine, "audio")
    assert tool.engine == f"{engine}@audio"
    assert Source.parse(engine).engine == engine
    assert Source.parse(f"torch-compile:{checkpoint}").engine is None
    assert Source.parse("preset:tiny").engine is None


def test_facts_name_what_an_engine_was_built_as(engine_folder):
    manifest = Manifest.read(engine_folder)
    kept = {"ratio": 0.5, "by": "merge", "audio_tokens": 4, "video_tokens": 2}
    facts = engine_facts(engine_folder, dataclasses.replace(manifest, model={**manifest.model, "keep": kept}))
    assert (facts.target, facts.precision, facts.keep) == ("onnx", "fp32", 0.5)
