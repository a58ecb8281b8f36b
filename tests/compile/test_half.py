"""Models whose activations fp16 cannot hold become engines all the same, with what it cannot hold in float32."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from kdcmae.compile.build import CompileSettings, compile_engine
from kdcmae.compile.half import GraphPrecision
from kdcmae.compile.layer_errors import wider
from kdcmae.compile.lowering import InFloat32, layers_of, lower
from kdcmae.compile.models import classifier_model, examples, free_weights, run
from kdcmae.compile.parity import TOLERANCE, Case, Ladder, relative_error
from kdcmae.compile.peaks import Peaks, exceeds, needed, watched
from kdcmae.compile.report.notes import what_stays_float32
from kdcmae.compile.sessions import open_session
from kdcmae.compile.stages import Stage
from kdcmae.errors import EngineError, GateError
from kdcmae.keep import TokenKeep, keep_tokens
from kdcmae.layers import Block
from kdcmae.runtime import load_engine
from kdcmae.runtime.capabilities import executed_as
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.precisions import GATES

BATCH = BatchRange(1, 1, 1)


def blocks_of(classifier):
    return [child for child in classifier.modules() if isinstance(child, Block)]


@torch.no_grad()
def with_outlier_channels(classifier, size=2e5):
    """Two channels of the residual stream far above the others, whose norms make up for them."""
    changed = copy.deepcopy(classifier)
    for pos_embed in (changed.pos_embed_a, changed.pos_embed_v):
        pos_embed[..., 0] += size
        pos_embed[..., 1] -= size
    for norm in (child for child in changed.modules() if isinstance(child, torch.nn.LayerNorm)):
        if norm is not changed.mlp_head[0]:
            norm.weight *= size * (2 / len(norm.weight)) ** 0.5
            norm.weight[:2] = 0
    return changed


@torch.no_grad()
def with_large_hidden(classifier, scale=2.0**17):
    """One MLP whose hidden activations fp16 cannot hold."""
    changed = copy.deepcopy(classifier)
    mlp = changed.blocks_v[0].mlp
    mlp.fc1.weight *= scale
    mlp.fc1.bias *= scale
    mlp.fc2.weight /= scale
    return changed


@torch.no_grad()
def with_large_stream(classifier, scale=2.0**15):
    """The same function: norms take the scale of the whole stream away."""
    changed = copy.deepcopy(classifier)
    embeds = (changed.patch_embed_a, changed.patch_embed_v)
    scaled = [changed.pos_embed_a, changed.pos_embed_v, changed.modality_a, changed.modality_v]
    scaled += [parameter for embed in embeds for parameter in embed.parameters()]
    for block in blocks_of(changed):
        scaled += [*block.attn.proj.parameters(), *block.mlp.fc2.parameters()]
    for parameter in scaled:
        parameter.mul_(scale)
    return changed


@torch.no_grad()
def with_sharp_attention(classifier, scale=24.0):
    """One attention that magnifies the rounding of its queries and keys; nothing overflows."""
    changed = copy.deepcopy(classifier)
    qkv = changed.blocks_a[0].attn.qkv
    qkv.weight[: 2 * qkv.in_features] *= scale
    return changed


MODELS = {
    "outlier channels": with_outlier_channels,
    "large hidden": with_large_hidden,
    "large stream": with_large_stream,
    "sharp attention": with_sharp_attention,
}


OVERFLOWING = ("outlier channels", "large hidden", "large stream")


def engine_model(name, smallest):
    return classifier_model(MODELS[name](smallest), name=name, source="a test", random_weights=True)


def peaks_of(model):
    inputs = examples(model, 2)
    with watched(model.module, "fp16") as peaks:
        reference = run(model, model.module, inputs)["logits"]
    return peaks, inputs, reference


@pytest.mark.parametrize("name", OVERFLOWING)
def test_what_overflows_is_left_in_float32(name, smallest):
    model = engine_model(name, smallest)
    peaks, inputs, reference = peaks_of(model)
    assert np.isfinite(reference).all()
    everything_half = run(model, lower(model.module, "fp16"), inputs)["logits"]
    assert not np.isfinite(everything_half).all()
    kept = needed(peaks)
    if name == "outlier channels":
        assert kept == InFloat32(residual=True)
    if name == "large hidden":
        assert kept == InFloat32(layers=("classifier.blocks_v.0.mlp.fc1", "classifier.blocks_v.0.mlp.fc2"))
    lowered = lower(model.module, "fp16", kept)
    assert relative_error(run(model, lowered, inputs)["logits"], reference) < TOLERANCE["fp16"]
    assert any(parameter.dtype == torch.float16 for parameter in lowered.parameters())


def test_a_model_that_fits_stays_half_throughout(smallest):
    model = classifier_model(smallest, name="smallest", source="a test", random_weights=True)
    peaks, *_ = peaks_of(model)
    assert not needed(peaks)
    assert set(peaks.layers) == set(layers_of(model.module))
    assert 0 < peaks.residual < 100
    assert not any(child._forward_hooks for child in model.module.modules())


def test_scores_that_overflow_keep_their_attention_in_float32(smallest):
    """Neither queries nor keys are large, their products are."""
    changed = copy.deepcopy(smallest)
    with torch.no_grad():
        changed.blocks_a[0].attn.qkv.weight[:128] *= 300
    peaks, *_ = peaks_of(classifier_model(changed, name="scores", source="a test", random_weights=True))
    assert needed(peaks) == InFloat32(layers=("classifier.blocks_a.0.attn",))


def test_only_half_precision_in_fp16_is_watched(smallest):
    with watched(smallest, "bf16") as peaks:
        assert not any(child._forward_hooks for child in smallest.modules())
    assert not needed(peaks)


@pytest.mark.parametrize("kept", [InFloat32(residual=True), InFloat32(residual=True, layers=("blocks_u.0.attn",))])
@torch.inference_mode()
def test_kept_layers_take_what_their_neighbours_give(kept, smallest):
    for by in ("energy", "merge"):
        model = keep_tokens(smallest, TokenKeep(ratio=0.5, by=by))
        inputs = {"audio": torch.randn(2, 64, 128), "image": torch.randn(2, 3, 32, 32)}
        for names in (("audio", "image"), ("audio",)):
            feed = {name: inputs[name] for name in names}
            torch.testing.assert_close(lower(model, "fp16", kept)(**feed), model(**feed), rtol=2e-2, atol=1e-2)


def test_the_ladder_names_what_no_peak_shows(smallest):
    """First the residual stream is float32, then the attention that magnifies what was rounded."""
    model = engine_model("sharp attention", smallest)
    inputs = examples(model, 1)
    kept = InFloat32()
    found = []
    while (more := wider(model, "fp16", kept, inputs, GATES["fp16"])) is not None:
        kept = more
        found.append(kept)
    assert found[0] == InFloat32(residual=True)
    assert all(name.startswith("classifier.blocks_a.0.attn") for name in found[1].layers)
    assert len(kept.layers) <= len(list(layers_of(model.module))) / 2


def built(model, target, folder, **settings):
    native = executed_as(target, "fp16", cpu=this_cpu())
    execute_as = "" if native == "fp16" else native
    chosen = CompileSettings(target=target, precision="fp16", batch=BATCH, execute_as=execute_as, **settings)
    model = dataclasses.replace(model, module=copy.deepcopy(model.module))
    again = dataclasses.replace(model, module=copy.deepcopy(model.module))
    return compile_engine(
        model,
        folder,
        chosen,
        step=lambda name: nullcontext(),
        seconds={},
        exported=lambda: free_weights(model),
        reload=lambda: again,
    )


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("outlier channels", "onnx"),
        ("large hidden", "openvino"),
        ("large stream", "trt"),
        pytest.param("large stream", "aoti", marks=pytest.mark.slow),
    ],
)
def test_engines_of_models_that_overflow(name, target, smallest, tmp_path):
    if target == "trt":
        pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    manifest = built(engine_model(name, smallest), target, tmp_path / "engine")
    found = manifest.precision["in_float32"]
    assert all(part["exceeds"] and part["largest"] > 16376 for part in found["parts"])
    assert found["parts"][0]["name"] == ("classifier.blocks_v.0.mlp.fc1" if "hidden" in name else "the residual stream")
    assert all(claim["holds"] is not False for claim in manifest.precision["claims"])
    assert {rung["status"] for rung in manifest.parity} <= {"passed", "skipped"}
    lines = what_stays_float32(manifest.precision)
    assert "on the inputs of the proof, and fp16 ends at 65504" in lines[0]
    timed = target in ("onnx", "openvino")
    assert ("speed" in found) is timed
    assert ("in fp16 throughout" if timed else "was not measured") in lines[-1]
    assert not list((tmp_path / "engine").glob("throughout*"))


def test_a_rung_out_of_its_gate_starts_again_with_more_in_float32(smallest, tmp_path, monkeypatch):
    """The weights were freed by then, so that the model is made again."""
    sessions = []

    def wrong_at_first(graph, *others, **options):
        sessions.append(open_session(graph, *others, **options))
        if len(sessions) > 1:
            return sessions[-1]
        return lambda feed: {name: np.flip(output, axis=-1) for name, output in sessions[0](feed).items()}

    monkeypatch.setattr("kdcmae.compile.build.open_session", wrong_at_first)
    model = classifier_model(smallest, name="smallest", source="a test", random_weights=True)
    manifest = built(model, "onnx", tmp_path / "engine")
    (part,) = manifest.precision["in_float32"]["parts"]
    assert part["name"] == "the residual stream"
    assert not part["exceeds"]
    assert "out of their gate in fp16" in what_stays_float32(manifest.precision)[0]
    assert [(rung["name"], rung["status"]) for rung in manifest.parity] == [
        (name, "passed") for name in ("program", "onnx", "engine", "artifact")
    ]


def test_an_artifact_out_of_its_gate_starts_again_too(smallest, tmp_path, monkeypatch):
    """Of targets without a rung for the engine it is the first to run larger batches and all clips."""
    engines = []

    def wrong_at_first(folder):
        engine = load_engine(folder)
        engines.append(engine)
        if len(engines) == 1:
            right = engine.backend.infer
            engine.backend.infer = lambda feed: {name: np.flip(output, axis=-1) for name, output in right(feed).items()}
        return engine

    monkeypatch.setattr("kdcmae.compile.build.load_engine", wrong_at_first)
    model = classifier_model(smallest, name="smallest", source="a test", random_weights=True)
    manifest = built(model, "onnx", tmp_path / "engine")
    assert [part["name"] for part in manifest.precision["in_float32"]["parts"]] == ["the residual stream"]
    assert [(rung["name"], rung["status"]) for rung in manifest.parity] == [
        (name, "passed") for name in ("program", "onnx", "engine", "artifact")
    ]


def test_a_build_that_starts_again_holds_no_stage_of_before(smallest, tmp_path, monkeypatch):
    """A stage holds the weights of the model."""
    before = []

    class Twice:
        def __init__(self, *_):
            pass

        def stages(self, exported):
            if before:
                raise EngineError("held" if before[0]() else "free")
            stage = Stage(name="program", gate=GATES["fp16"])
            before.append(weakref.ref(stage))
            yield stage

        def climb(self, stage):
            raise GateError("out")

        def restart(self, error, reload):
            pass

    monkeypatch.setattr("kdcmae.compile.build.Build", Twice)
    model = classifier_model(smallest, name="smallest", source="a test", random_weights=True)
    with pytest.raises(EngineError, match="free"):
        built(model, "onnx", tmp_path / "engine")


def test_what_leaves_the_gate_is_looked_for_in_the_batch_that_does(smallest):
    model = classifier_model(smallest, name="smallest", source="a test", random_weights=True)
    batches = [{"audio": np.full((1, 2), number, dtype=np.float32)} for number in range(3)]
    case = Case(name="your clips", inputs=batches[0], more=batches[1:], reference={"logits": np.eye(3)})
    ladder = Ladder(cases=(case,), kinds={"logits": "softmax"})
    searched = []

    def wider(*known):
        searched.append(known[3])
        return InFloat32()

    for wrong in ([np.nan, 0, 0], [-3, 2, 5]):
        answers = np.array([[1, 0, 0], wrong, [0, 0, 1]])
        ladder.compare(
            "artifact",
            lambda feed, answers=answers: {"logits": answers[[int(feed["audio"][0, 0])]]},
            gate=GATES["fp16"],
        )
        settings = CompileSettings(target="onnx", precision="fp16", batch=BATCH)
        precision = GraphPrecision(model, settings, Peaks(), wider=wider)
        precision.widen(GateError("out"), ladder, GATES["fp16"], behind_frontend=dict, reload=None)
    assert [feed["audio"][0, 0] for feed in searched] == [1, 1]


def test_only_what_is_not_float32_in_every_engine_is_named(smallest):
    """The residual stream is float32 in all of bf16, so that no gate is the reason."""
    model = classifier_model(smallest, name="smallest", source="a test", random_weights=True)
    case = Case(name="golden", inputs={"audio": np.ones((1, 2))}, reference={"logits": np.eye(1, 3)})
    ladder = Ladder(cases=(case,))
    ladder.compare("program", lambda feed: {"logits": -np.eye(1, 3)}, gate=GATES["bf16"])
    more = [InFloat32(residual=True, layers=("classifier.blocks_a.0.attn",)), None]
    settings = CompileSettings(target="onnx", precision="bf16", batch=BATCH)
    precision = GraphPrecision(model, settings, Peaks(), wider=lambda *_: more.pop(0))
    precision.widen(GateError("out"), ladder, GATES["bf16"], behind_frontend=dict, reload=None)
    assert [part["name"] for part in precision.to_dict({})["parts"]] == ["classifier.blocks_a.0.attn"]
    with pytest.raises(
        GateError, match=r"^out; nor does it pass with classifier.blocks_a.0.attn in .* use --precision"
    ):
        precision.widen(GateError("out"), ladder, GATES["bf16"], behind_frontend=dict, reload=None)


def test_a_quarter_of_fp16_is_too_close_to_its_end():
    assert exceeds(16376)
    assert not exceeds(16375)
