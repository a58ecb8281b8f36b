"""Engines with variants for clips of one modality: one folder, one file of weights, the right one for what is given."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdcmae.checkpoints import save_checkpoint
from kdcmae.compile import modalities, models
from kdcmae.compile.cli.options import parse_modalities
from kdcmae.compile.modalities import compile_modalities, with_input_of
from kdcmae.compile.models import classifier_model, feature_model
from kdcmae.compile.parity import TOLERANCE, relative_error
from kdcmae.compile.raw import with_raw_inputs
from kdcmae.compile.settings import CompileSettings
from kdcmae.compile.targets.onnx import OnnxRuntime
from kdcmae.compile.untrained import untrained_autoencoder
from kdcmae.errors import CheckpointError, ConfigError, EngineError, EngineInputError, EngineIntegrityError
from kdcmae.evaluation.classification import score_clips
from kdcmae.predictors import CheckpointPredictor, EnginePredictor
from kdcmae.runtime import load_engine
from kdcmae.runtime.manifest import BatchRange, Manifest
from kdcmae.runtime.preprocessing import Preprocessing, prepare_audio, prepare_image

GIVEN = {"audiovisual": ("audio", "image"), "audio": ("audio",), "video": ("image",)}


@pytest.fixture(scope="module", params=["openvino", "onnx"])
def folder(request, checkpoint, run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("variants") / request.param
    result = run("--target", request.param, "--precision", "fp32", "--checkpoint", checkpoint, "--modalities",
                 "audiovisual,audio,video",
                 "--output", folder, "--no-cache", "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["manifest"]["variants"] == ["audio", "video"]
    return folder


def clip() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, 8000).astype(np.float32), rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)


def test_each_computes_the_path_of_its_modality(folder, smallest):
    facts = Preprocessing(audio_frames=64, image_size=32)
    waveform, frame = clip()
    feed = {"audio": prepare_audio(waveform, 16000, facts), "image": prepare_image(frame, facts)}
    with load_engine(folder) as engine:
        for names in GIVEN.values():
            given = {name: feed[name] for name in names}
            with torch.inference_mode():
                right = smallest(**{name: torch.from_numpy(array) for name, array in given.items()}).numpy()
            np.testing.assert_allclose(engine.infer(given)["logits"], right, atol=1e-4)


def test_no_more_than_one_model_has_its_weights(smallest, tmp_path, monkeypatch):
    loaded: list[models.EngineModel] = []
    built = []

    def load() -> models.EngineModel:
        assert all(parameter.is_meta for model in loaded for parameter in model.module.parameters())
        loaded.append(classifier_model(copy.deepcopy(smallest), name="smallest", source="a test", random_weights=True))
        return loaded[-1]

    def build(model, folder, settings, *, exported, **_):
        models.run(model, model.module, models.examples(model, 1))
        exported()
        built.append((folder.name, [spec.name for spec in model.inputs]))
        return SimpleNamespace(engine={}, graphs=(), target="onnx")

    def share(self, graphs):
        raise EngineError("far enough")

    monkeypatch.setattr(modalities, "compile_engine", build)
    monkeypatch.setattr(OnnxRuntime, "share", share)
    settings = CompileSettings(target="onnx", precision="fp32", batch=BatchRange(1, 1, 1))
    with pytest.raises(EngineError, match="far enough"):
        compile_modalities(
            load(), ("audio", "video"), tmp_path / "engine", settings, reload=load, step=nullcontext, seconds={}
        )
    assert built == [("audiovisual", ["audio", "image"]), ("audio", ["audio"]), ("video", ["image"])]


def test_a_model_that_changes_meanwhile_is_refused(smallest, tmp_path, monkeypatch):
    def model(source):
        return classifier_model(copy.deepcopy(smallest), name="smallest", source=source, random_weights=True)

    monkeypatch.setattr(modalities, "compile_engine", lambda *_, **__: None)
    settings = CompileSettings(target="onnx", precision="fp32", batch=BatchRange(1, 1, 1))
    with pytest.raises(CheckpointError, match="smallest has changed while it was compiled"):
        compile_modalities(
            model("one"), ("audio",), tmp_path / "engine", settings,
            reload=lambda: model("other"), step=nullcontext, seconds={},
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_an_app_leaves_out_what_it_does_not_have(folder):
    waveform, frame = clip()
    with load_engine(folder) as engine:
        answers = [engine.classify(waveform, 16000, frame), engine.classify(waveform, 16000, None),
                   engine.classify(None, 16000, frame)]  # fmt: skip
        assert len({tuple(answer) for answer in answers}) == 3
        with pytest.raises(EngineInputError, match="needs a waveform"):
            engine.classify(None, 16000, None)


def test_each_is_proved_by_itself(folder):
    for variant in ("", "audio", "video"):
        manifest = Manifest.read(folder, variant)
        assert {rung["status"] for rung in manifest.parity} == {"passed"}
        assert tuple(spec.name for spec in manifest.inputs) == GIVEN[variant or "audiovisual"]
    with load_engine(folder) as engine:
        result = engine.self_test()
        assert result.passed
        assert set(result.max_error) == {"logits", "audio-logits", "video-logits"}


def test_weights_are_there_once(folder, smallest):
    weights = sum(parameter.nbytes for parameter in smallest.parameters())
    size = (folder / "weights.bin").stat().st_size
    assert 0.8 * weights < size < 1.2 * weights  # each apart, they would be 2.5 times as much
    others = [path for path in folder.iterdir() if path.suffix in (".bin", ".data")]
    assert others == [folder / "weights.bin"]
    assert sum(path.stat().st_size for path in folder.glob("*model.onnx")) < 0.5 * weights


@pytest.mark.parametrize("name", ["audio-manifest.json", "weights.bin"])
def test_a_changed_variant_is_found(name, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[-3] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(EngineIntegrityError, match=f"{name} has changed"):
        load_engine(copy)


def test_only_audiovisual_classifiers_have_them(smallest):
    facts = {"name": "tiny", "source": "a test", "random_weights": True}
    audio = with_input_of(classifier_model(smallest, **facts), "audio")
    assert [spec.name for spec in audio.inputs] == ["audio"]
    features = feature_model(untrained_autoencoder("tiny", audio_length=64, image_size=32), **facts)
    with pytest.raises(ConfigError, match="--modalities is for audiovisual classifiers"):
        with_input_of(features, "audio")


def test_raw_models_have_them_too(smallest):
    raw = with_raw_inputs(classifier_model(smallest, name="tiny", source="a test", random_weights=True))
    for modality, names in (("audio", ["waveform", "samples"]), ("video", ["frame"])):
        model = with_input_of(raw, modality)
        inputs = models.examples(model, 2)
        assert list(inputs) == names
        reference = models.reference(model, inputs)["logits"]
        assert relative_error(models.run(model, model.module, inputs)["logits"], reference) < TOLERANCE["fp32"]


def test_raw_engines_share_the_weights_of_their_frontends_too(checkpoint, run, tmp_path):
    folder = tmp_path / "raw"
    result = run("--target", "openvino", "--precision", "fp32", "--checkpoint", checkpoint, "--modalities",
                 "audiovisual,audio", "--inputs",
                 "raw", "--output", folder, "--no-cache")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in folder.glob("*.bin")] == ["weights.bin"]
    waveform, frame = clip()
    with load_engine(folder) as engine:
        assert engine.self_test().passed
        assert engine.classify(waveform, 16000, frame) != engine.classify(waveform, 16000, None)


def test_weights_beside_their_graphs_are_shared_too(checkpoint, smallest, run, tmp_path, small_files):
    folder = tmp_path / "engine"
    result = run("--target", "onnx", "--checkpoint", checkpoint, "--modalities", "audiovisual,audio,video", "--output",
                 folder, "--no-cache")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in folder.glob("*weights*")] == ["weights.bin"]
    assert not list(folder.glob("*.data"))
    weights = sum(parameter.nbytes for parameter in smallest.parameters())
    assert (folder / "weights.bin").stat().st_size < 1.2 * weights
    with load_engine(folder) as engine:
        assert engine.self_test().passed


@pytest.mark.parametrize("target", ["onnx", "trt"])
def test_each_is_quantised(target, smallest, run, tmp_path):
    """A model without one modality runs some blocks twice; their weights are in the graph once, and quantised."""
    if target == "trt":
        pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    trained = copy.deepcopy(smallest)
    for module in trained.modules():
        if isinstance(module, torch.nn.LayerNorm):  # untrained ones are all the same, and libraries merge what they do
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    save_checkpoint(trained, tmp_path / "model.safetensors")
    result = run("--target", target, "--checkpoint", tmp_path / "model.safetensors", "--modalities",
                 "audiovisual,audio", "--precision", "int8", "--calibration", "avsynth:4", "--output",
                 tmp_path / "engine")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    for variant in ("", "audio"):
        assert Manifest.read(tmp_path / "engine", variant).precision["products"]["int8"] > 4


def test_evaluation_withholds_a_modality(folder, smallest):
    rng = np.random.default_rng(0)
    batch = {
        "audio": rng.standard_normal((2, 64, 128), dtype=np.float32),
        "image": rng.standard_normal((2, 3, 32, 32), dtype=np.float32),
        "target": np.eye(3)[:2],
    }
    with load_engine(folder) as engine:
        for missing in (None, "audio", "video"):
            by_torch, by_engine = (
                score_clips(predictor, [batch], missing=missing).scores
                for predictor in (CheckpointPredictor(smallest, "tiny"), EnginePredictor(engine))
            )
            np.testing.assert_allclose(by_engine, by_torch, atol=1e-4)


def test_modalities_are_read_from_text():
    assert parse_modalities("") == ()
    assert parse_modalities("audiovisual,audio,video") == ("audio", "video")
    assert parse_modalities("audiovisual,video") == ("video",)
    for text in ("audio", "audiovisual,audio,audio", "audiovisual,smell", "audiovisual,"):
        with pytest.raises(ConfigError, match="must be audiovisual, then"):
            parse_modalities(text)
