"""Engines that take the waveform and the frame, from the raw clip.

On every target that runs here they compute what the torch model computes behind the preprocessing in numpy.
"""

from __future__ import annotations

import copy
import functools
import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from kdcmae import KDCMAEClassifier
from kdcmae.compile import export, models
from kdcmae.compile.lowering import lower
from kdcmae.compile.parity import TOLERANCE, cosine, relative_error
from kdcmae.compile.raw import with_raw_inputs
from kdcmae.compile.sessions import open_session
from kdcmae.compile.targets import BuildRequest, trt
from kdcmae.data.clip import read_clip
from kdcmae.data.synthetic import demo_clip
from kdcmae.runtime import feeding, load_engine
from kdcmae.runtime.manifest import BatchRange, Manifest
from kdcmae.runtime.openvino_library import openvino_core
from kdcmae.runtime.precisions import GATES
from kdcmae.runtime.preprocessing import prepare_audio, prepare_image

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # raised by torch's own exporter

FACTS = {"name": "tiny", "source": "a test", "random_weights": True}
BATCH = BatchRange(1, 2, 3)


@pytest.fixture(scope="module")
def classifier(smallest: KDCMAEClassifier) -> KDCMAEClassifier:
    return smallest


@pytest.fixture(scope="module", params=["fp16", "bf16"])  # engines in float32 are compiled below
def exported(request, classifier, tmp_path_factory):
    """A raw model of one precision as an ONNX file; exporting takes longer than everything that is done with it."""
    model = with_raw_inputs(models.classifier_model(classifier, **FACTS))
    graph = tmp_path_factory.mktemp("raw") / "graph.onnx"
    export.export_onnx(model, export.export_program(model, lower(model.module, request.param), BATCH), graph)
    return SimpleNamespace(model=model, graph=graph, precision=request.param)


@pytest.fixture(params=["demo", "00W1lcxW-WU_40.000.mp4"])
def clip(request, tmp_path):
    if request.param == "demo":
        demo_clip(tmp_path / "clip.mp4", seconds=0.5)  # shorter than the model's 0.655 s: there is padding
        return read_clip(tmp_path / "clip.mp4")
    return read_clip(request.getfixturevalue("clips") / request.param)


def expected(classifier, model, clip, frame) -> np.ndarray:
    audio = torch.from_numpy(prepare_audio(clip.waveform, 16000, model.preprocessing))
    with torch.inference_mode():
        return classifier(audio, torch.from_numpy(prepare_image(frame, model.preprocessing))).numpy()


def from_clip(model, clip, frame) -> dict[str, np.ndarray]:
    names = [spec.name for spec in model.inputs]
    return feeding.from_clip(names, model.preprocessing, clip.waveform, 16000, [frame])


def request_for(exported, folder: Path) -> BuildRequest:
    return BuildRequest(
        program=None,
        graph=exported.graph,
        folder=folder,
        precision=exported.precision,
        inputs=exported.model.inputs,
        outputs=("logits",),
        batch=BATCH,
    )


@pytest.mark.parametrize("frame_size", [None, (97, 211), (64, 48)])
def test_engines_agree_with_the_torch_model_from_the_raw_clip(frame_size, exported, classifier, clip, tmp_path):
    frame = clip.frames[5]
    if frame_size is not None:
        frame = np.ascontiguousarray(frame[: frame_size[0], : frame_size[1]])
    feed = from_clip(exported.model, clip, frame)
    right = expected(classifier, exported.model, clip, frame)
    limit = TOLERANCE[exported.precision]
    graph = exported.graph
    if exported.precision == "bf16":  # ONNX Runtime has no bf16 on CPUs
        graph = tmp_path / "widened.onnx"
        export.widened(exported.graph, graph)
    assert relative_error(open_session(graph)(feed)["logits"], right) < limit


def test_the_reference_is_the_model_behind_numpys_preprocessing(classifier):
    model = with_raw_inputs(models.classifier_model(classifier, **FACTS))
    inputs = models.examples(model, 3, seed=1)
    assert len({*inputs["samples"]}) > 1
    row = SimpleNamespace(waveform=inputs["waveform"][1, : inputs["samples"][1]])
    right = expected(classifier, model, row, inputs["frame"][1])
    np.testing.assert_allclose(models.reference(model, inputs)["logits"][1:2], right, rtol=1e-5, atol=1e-6)
    ran = models.run(model, model.module, inputs)["logits"]
    assert relative_error(ran, models.reference(model, inputs)["logits"]) < TOLERANCE["fp32"]


def test_the_frontend_can_be_exported_again_after_the_weights_are_freed(smallest):
    model = with_raw_inputs(models.classifier_model(copy.deepcopy(smallest), **FACTS))
    feed = model.examples(1, 0)
    models.free_weights(model)
    assert {weight.device.type for weight in model.parts.body.module.parameters()} == {"meta"}
    frontend = model.parts.frontend
    prepared = frontend.reference(feed)
    for name, array in models.run(frontend, frontend.module, feed).items():
        assert relative_error(array, prepared[name]) < 1e-3, name


def test_what_follows_the_sound_is_not_read(classifier):
    model = with_raw_inputs(models.classifier_model(classifier, **FACTS))
    quiet = models.examples(model, 1)
    quiet["samples"][:] = 5000
    noisy = {**quiet, "waveform": quiet["waveform"].copy()}
    noisy["waveform"][:, 5000:] = 1.0
    shorter = {**quiet, "samples": quiet["samples"] - 400}
    logits = [models.run(model, model.module, feed)["logits"] for feed in (quiet, noisy, shorter)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert not np.array_equal(logits[0], logits[2])


def test_the_frontend_is_float32_in_the_graph(exported):
    graph = onnx.load(exported.graph, load_external_data=False).graph
    readers = [node for node in graph.node if "frame" in node.input and node.op_type != "Shape"]
    assert [node.op_type for node in readers] == ["Cast"]  # TensorRT takes uint8 straight into a cast only
    types = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.input, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    found = defaultdict(set)
    for node in graph.node:
        found[node.op_type] |= {types[name] for name in (*node.input[:1], *node.output) if name in types}
    assert found["Conv"] == found["Log"] == {onnx.TensorProto.FLOAT}  # the patch embeddings are products


@pytest.fixture(scope="module")
def engines(checkpoint, run, accepted, tmp_path_factory):
    """OpenVINO engines by precision, each compiled when it is first asked for, and their options."""

    @functools.cache
    def compiled(precision):
        folder = tmp_path_factory.mktemp("openvino") / precision
        options = ("--target", "openvino", "--checkpoint", checkpoint, *accepted[precision],
                   "--batch", "1:2:3", "--no-cache")  # fmt: skip
        result = run(*options, "--inputs", "raw", "--output", folder)
        assert result.exit_code == 0, result.stderr
        return SimpleNamespace(folder=folder, precision=precision, options=options)

    return compiled


@pytest.fixture(params=["fp32", "bf16", "int8"])  # a CPU without float16 executes that as one of these
def openvino(request, engines):
    return engines(request.param)


@pytest.mark.parametrize("frame_size", [None, (97, 211), (64, 48)])
def test_openvino_agrees_with_the_torch_model_from_the_raw_clip(frame_size, openvino, smallest, clip):
    frame = clip.frames[5]
    if frame_size is not None:
        frame = np.ascontiguousarray(frame[: frame_size[0], : frame_size[1]])
    model = models.classifier_model(smallest, **FACTS)
    right = expected(smallest, model, clip, frame)
    with load_engine(openvino.folder) as engine:
        sound = clip.waveform[None, : engine.manifest.inputs[0].shape[1]]
        logits = engine.infer({"waveform": sound, "frame": frame[None]})["logits"]
        assert cosine(logits, right) > GATES[openvino.precision].min_cosine
        if openvino.precision in TOLERANCE:
            assert relative_error(logits, right) < TOLERANCE[openvino.precision]
        assert len(engine.classify(clip.waveform, 16000, frame)) == 3
        twice = engine.infer({"waveform": sound.repeat(2, axis=0), "frame": frame[None].repeat(2, axis=0)})["logits"]
        np.testing.assert_array_equal(twice[0], twice[1])
        assert engine.self_test().passed


def test_openvino_runs_the_frontend_in_float32_and_the_rest_as_asked(openvino, native):
    manifest = Manifest.read(openvino.folder)
    claims = {claim["layers"]: claim for claim in manifest.precision["claims"]}
    assert all(claim["holds"] for claim in claims.values())
    assert set(claims["frontend"]["executed"]) == {"fp32"}
    kinds = manifest.precision["frontend"]
    assert kinds["Convolution"] == kinds["FullyConnected"] == {"fp32": 1}  # the spectrum, the mel bands
    assert kinds["MatMul"] == {"fp32": 2}  # the resizing
    quantised = {"int8"} if openvino.precision == "int8" else set()
    assert set(manifest.precision["products"]) == quantised | {native[openvino.precision]}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_openvino_has_the_same_file_behind_its_frontend_as_without_one(precision, engines, run, tmp_path):
    """Whatever loads engines of prepared inputs loads it too."""
    openvino, folder = engines(precision), tmp_path / "prepared"
    assert run(*openvino.options, "--output", folder).exit_code == 0
    core = openvino_core()
    models = [core.read_model(one / "model.xml") for one in (folder, openvino.folder)]
    assert (folder / "model.bin").read_bytes() == (openvino.folder / "model.bin").read_bytes()
    for ports in ("inputs", "outputs"):
        with_frontend, without = ([port.get_any_name() for port in getattr(model, ports)] for model in models)
        assert with_frontend == without


def test_openvino_is_looked_into_with_its_frontend(openvino, checkpoint, run):
    facts = json.loads(run("inspect", openvino.folder, "--json").stdout)
    assert facts["frontend"]["operations"]["Convolution"] == {"fp32": 1}
    assert "Convolution" not in facts["graph"]["operations"]
    if openvino.precision == "fp32":
        result = run("diagnose", openvino.folder, "--checkpoint", checkpoint, "--inputs", "raw", "--json")
        assert result.exit_code == 0, result.stderr
        stages = [stage["stage"] for stage in json.loads(result.stdout)["stages"]]
        assert stages == [*(f"{name}, frontend" for name in ("lowered", "onnx", "openvino")), "lowered", "onnx",
                          "openvino"]  # fmt: skip
    checks = json.loads(run("verify", openvino.folder, "--json").stdout)["checks"]
    assert {check["status"] for check in checks} == {"passed"}


def test_golden_inputs_are_raw(openvino):
    with np.load(openvino.folder / "golden.npz") as golden:
        assert golden["input.waveform"].shape == (2, Manifest.read(openvino.folder).inputs[0].shape[1])
        assert golden["input.frame"].dtype == np.uint8


def test_tensorrt_builds_a_raw_engine(exported, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    built = trt.TARGET.build(request_for(exported, tmp_path))
    assert (tmp_path / "engine.plan").stat().st_size > 0
    assert built.executed["CONVOLUTION"] == {"fp32": 1}
    assert set(built.products) == {exported.precision, "fp32"}
    assert built.products["fp32"] == 4  # two of the resizing, the mel bands and the head


@pytest.mark.parametrize("target", ["onnx", "aoti"])
def test_other_targets_that_run_here_agree_with_the_torch_model_too(target, checkpoint, run, smallest, clips, tmp_path):
    clip = read_clip(clips / "00W1lcxW-WU_40.000.mp4")
    result = run("--target", target, "--precision", "fp32", "--checkpoint", checkpoint, "--inputs", "raw", "--output",
                 tmp_path / "engine")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    right = expected(smallest, models.classifier_model(smallest, **FACTS), clip, clip.frames[5])
    with load_engine(tmp_path / "engine") as engine:
        sound = clip.waveform[None, : engine.manifest.inputs[0].shape[1]]
        logits = engine.infer({"waveform": sound, "frame": clip.frames[5][None]})["logits"]
    assert relative_error(logits, right) < TOLERANCE["fp32"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_tensorrt_is_built_from_raw_inputs(precision, checkpoint, run, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    calibration = ("--calibration", "avsynth:4") if precision == "int8" else ()
    result = run("--target", "trt", "--checkpoint", checkpoint, "--inputs", "raw", "--precision", precision,
                 *calibration, "--output", tmp_path / "engine")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    manifest = Manifest.read(tmp_path / "engine")
    assert [spec.name for spec in manifest.inputs] == ["waveform", "samples", "frame"]
    assert manifest.precision["executed"]["CONVOLUTION"] == {"fp32": 1}  # the spectrum
    holds = {claim["layers"]: claim["holds"] for claim in manifest.precision["claims"]}
    if precision == "fp32" and not torch.cuda.is_available():
        assert holds.pop("kernels") is None  # only the loaded plan tells
    assert set(holds.values()) == {True}
