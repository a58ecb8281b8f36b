"""A broken engine fails its self-test, whatever it computes in and whatever its scores are; a whole one passes."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from breakages import GRAPH, MANIFEST, Graph

from kdcmae import load_classifier
from kdcmae.assets import default_checkpoint
from kdcmae.compile import cases, models, selftest
from kdcmae.compile.export import export_onnx, export_program
from kdcmae.compile.lowering import lower
from kdcmae.compile.models import EngineModel
from kdcmae.compile.quantize import qdq
from kdcmae.compile.quantize.calibration import load_clips
from kdcmae.compile.quantize.ranking import linear_layers
from kdcmae.compile.selftest import coarse
from kdcmae.compile.settings import CompileSettings
from kdcmae.errors import GateError
from kdcmae.runtime import Engine, SelfTest, load_engine
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.execution import differences_known
from kdcmae.runtime.golden import GOLDEN_FILE, read_golden
from kdcmae.runtime.manifest import BatchRange, Manifest
from kdcmae.runtime.openvino import native_precision
from kdcmae.runtime.openvino_library import import_openvino, openvino_core
from kdcmae.runtime.precisions import GATES
from kdcmae.runtime.preprocessing import Preprocessing

BATCH = BatchRange(1, 2, 2)
TARGETS = {"fp32": "onnx", "bf16": "openvino", "int8": "onnx"}
HEADS = ("softmax", "sigmoid")
CHANGES: dict[str, tuple[str, Callable[[Any], None]]] = {
    **{name: ("graph", change) for name, change in GRAPH.items()},
    **{name: ("manifest", change) for name, change in MANIFEST.items()},
}
# Less than the rounding of the precision may do to any model: found by what the engine gave where it was built.
BLURRED = {
    "fp32": (),
    "bf16": ("weights in 4 bits", "another norm of the sound", "positions reversed"),
    "int8": ("weights in 4 bits", "another norm of the sound", "positions reversed", "a class's bias shifted"),
}


@pytest.fixture(scope="module")
def classifier() -> EngineModel:
    """The shipped model."""
    model = load_classifier(default_checkpoint()).eval()
    return models.classifier_model(model, name="shipped", source="the package", random_weights=False)


@pytest.fixture(scope="module")
def graphs(classifier: EngineModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, onnx.ModelProto]:
    """Its graph by precision."""
    folder = tmp_path_factory.mktemp("graphs")
    export_onnx(classifier, export_program(classifier, lower(classifier.module, "fp32"), BATCH), folder / "float.onnx")
    clips = load_clips(classifier, "avsynth:8", BATCH, split="train")
    layers, saturates = linear_layers(classifier.module), this_cpu().saturates_int8
    qdq.quantize(folder / "float.onnx", folder / "int8.onnx", clips, layers, "int8", saturates=saturates)
    floating = onnx.load(folder / "float.onnx")
    return {"fp32": floating, "bf16": floating, "int8": onnx.load(folder / "int8.onnx")}


def write(folder: Path, graph: onnx.ModelProto, precision: str, manifest: Manifest) -> None:
    """Everything but the golden data."""
    if TARGETS[precision] == "onnx":
        onnx.save(graph, folder / "model.onnx")
    else:
        model = openvino_core().read_model(graph.SerializeToString())
        import_openvino().save_model(model, folder / "model.xml", compress_to_fp16=False)
    manifest.write(folder)


def described(model: EngineModel, precision: str) -> Manifest:
    engines = {
        "onnx": {"file": "model.onnx", "device": "CPU"},
        "openvino": {"file": "model.xml", "device": "CPU", "inference_precision": precision},
    }
    target = TARGETS[precision]
    library = {"onnx": "onnxruntime"}.get(target, target)
    return Manifest(
        kdcmae_version="0.1.0",
        created="2026-07-01T12:00:00+00:00",
        model=dict(model.facts),
        labels=model.labels,
        scores=model.scores,
        inputs=model.inputs,
        outputs=model.outputs,
        batch=BATCH,
        preprocessing=model.preprocessing.to_dict(),
        target=target,  # type: ignore[arg-type]
        libraries={library: version(library)},
        engine=engines[target],
        precision={"asked": precision},
        parity=[],
        build={},
    )


@pytest.fixture(scope="module", params=TARGETS)
def engines(
    request: pytest.FixtureRequest,
    classifier: EngineModel,
    graphs: dict[str, onnx.ModelProto],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Whole engines of one precision, by what their scores are."""
    precision = request.param
    settings = CompileSettings(target=TARGETS[precision], precision=precision, batch=BATCH)
    executed = native_precision("bf16", this_cpu()) if precision == "bf16" else precision
    samples = selftest.Samples.of(classifier if precision == "fp32" else cases.on_clips(classifier), settings)
    folders = {}
    for head in HEADS:
        folder = folders[head] = tmp_path_factory.mktemp(f"{precision}-{head}")
        golden = samples.golden(settings, {executed})
        golden.write(folder / GOLDEN_FILE)
        manifest = described(dataclasses.replace(classifier, scores=head), precision)
        write(folder, graphs[precision], precision, manifest)
        with differences_known(), load_engine(folder) as engine:
            samples.proven(engine, golden, settings)[0].write(folder / GOLDEN_FILE)
        manifest.write(folder)
    return folders


def self_tests(
    engines: dict[str, Path], graph: onnx.ModelProto, facts: dict[str, Any], folder: Path
) -> dict[str, SelfTest]:
    """Of both heads' engines with another graph and other facts, which are loaded once."""
    manifests = {head: dataclasses.replace(Manifest.read(path), **facts) for head, path in engines.items()}
    first = HEADS[0]
    shutil.copy(engines[first] / GOLDEN_FILE, folder)
    write(folder, graph, manifests[first].precision["asked"], manifests[first])
    with differences_known(), load_engine(folder) as engine:
        preprocessing = Preprocessing.from_dict(manifests[first].preprocessing)
        found = {first: engine.self_test()}
        for head in HEADS[1:]:
            other = Engine(engines[head], {"": manifests[head]}, preprocessing, lambda _: engine.backend)
            found[head] = other.self_test()
    return found


@pytest.mark.parametrize("head", HEADS)
def test_a_whole_engine_passes(engines: dict[str, Path], head: str) -> None:
    with differences_known(), load_engine(engines[head]) as engine:
        result = engine.self_test()
    assert result.passed, str(result)
    assert result.clips >= result.decided >= 4


def test_the_clips_are_of_many_classes_in_little_room(engines: dict[str, Path]) -> None:
    folder = engines[HEADS[0]]
    clips = read_golden(folder / GOLDEN_FILE, Manifest.read(folder)).clips
    assert clips is not None
    assert len(set(clips.reference["logits"].argmax(axis=1).tolist())) >= 4
    assert (folder / GOLDEN_FILE).stat().st_size < 1e6
    assert bool(clips.built) is (clips.precisions != ("fp32",))


@pytest.mark.parametrize("breakage", CHANGES)
def test_a_broken_engine_fails(
    engines: dict[str, Path], graphs: dict[str, onnx.ModelProto], breakage: str, tmp_path: Path
) -> None:
    manifest = Manifest.read(engines[HEADS[0]])
    graph = Graph(graphs[manifest.precision["asked"]])
    facts = {"labels": manifest.labels, "preprocessing": dict(manifest.preprocessing)}
    kind, change = CHANGES[breakage]
    change(graph if kind == "graph" else facts)
    for head, result in self_tests(engines, graph.model, facts, tmp_path).items():
        assert not result.passed, f"{head}: {result}"
        by_model = [problem for problem in result.problems if not problem.startswith("it gave something else")]
        assert by_model or breakage in BLURRED[manifest.precision["asked"]], f"{head}: {result}"


@pytest.mark.parametrize("offset", [0.0, -7.0, 1000.0])
def test_what_an_engine_gave_is_stored_far_more_finely_than_it_is_compared(offset: float) -> None:
    close = offset + 0.05 * np.random.default_rng(0).standard_normal((6, 12)).astype(np.float32)
    assert np.abs(coarse(close) - close).max() < 1e-3 * 0.05 * 1.1


@pytest.fixture(scope="module")
def quantized(
    classifier: EngineModel, graphs: dict[str, onnx.ModelProto], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, selftest.Samples]:
    """An exact engine that is held to the limits of int8, and what it is tested with."""
    folder = tmp_path_factory.mktemp("quantized")
    samples = selftest.Samples.of(cases.on_clips(classifier), own_proof(()))
    samples.golden(own_proof(()), {"int8"}).write(folder / GOLDEN_FILE)
    write(folder, graphs["fp32"], "int8", described(classifier, "int8"))
    return folder, samples


def own_proof(clips: tuple[Path, ...]) -> CompileSettings:
    return CompileSettings(target="onnx", precision="int8", batch=BATCH, clips=clips)


def beyond(samples: selftest.Samples, fit: int, own: bool = False) -> selftest.Samples:
    """The same of a model whose ranges hold the last clips alone, and not the seeded inputs.

    Args:
        samples: of an exact engine.
        fit: how many of the clips are computed as the model does.
        own: the user's own clips may be stored, of which all are.
    """
    outputs = {name: np.concatenate([-array[: 16 - fit], array[16 - fit :]]) for name, array in samples.outputs.items()}
    reference = {name: -array for name, array in samples.reference.items()}
    yours = samples if own else None
    return dataclasses.replace(samples, outputs=outputs, reference=reference, yours=yours)


PROVED_ON_OWN = {
    "some made clips": (4, True, "the self-test has 4 of 6 made clips"),
    "own clips": (0, True, "the self-test stores 6 of your clips in golden.npz"),
    "own clips refused": (0, False, "the self-test holds the engine to what it computed here for made clips"),
}


@pytest.mark.parametrize("case", PROVED_ON_OWN)
def test_an_engine_that_is_proved_on_own_clips_is_held_to_its_limits(
    quantized: tuple[Path, selftest.Samples], graphs: dict[str, onnx.ModelProto], case: str, tmp_path: Path
) -> None:
    """Never to what the build measured, however few made clips it computes as the model does."""
    fit, own, told = PROVED_ON_OWN[case]
    folder, samples = shutil.copytree(quantized[0], tmp_path / "engine"), beyond(quantized[1], fit, own)
    settings = own_proof((Path("mine"),))
    with differences_known(), load_engine(folder) as engine:
        golden, note = samples.proven(engine, samples.golden(settings, {"int8"}), settings)
    assert note.startswith(told)
    assert golden.clips is not None
    assert len(golden.clips) == (fit or 6)
    assert set(golden.tolerance.values()) == {GATES["int8"].rounding}
    golden.write(folder / GOLDEN_FILE)
    Manifest.read(folder).write(folder)
    with differences_known(), load_engine(folder) as engine:
        assert engine.self_test().passed
    broken = Graph(graphs["fp32"])
    CHANGES["a row of the head zeroed"][1](broken)
    write(folder, broken.model, "int8", Manifest.read(folder))
    with differences_known(), load_engine(folder) as engine:
        assert not engine.self_test().passed


def test_made_clips_that_a_proof_is_made_of_are_needed(quantized: tuple[Path, selftest.Samples]) -> None:
    folder, samples = quantized[0], beyond(quantized[1], 4)
    with (
        differences_known(),
        load_engine(folder) as engine,
        pytest.raises(GateError, match=r"^self-test on made clips: .* prove it on your own: --clips$"),
    ):
        samples.proven(engine, samples.golden(own_proof(()), {"int8"}), own_proof(()))


def test_an_engine_that_is_not_finite_is_refused_whatever_it_was_proved_on(
    quantized: tuple[Path, selftest.Samples],
) -> None:
    folder, samples = quantized
    settings = own_proof((Path("mine"),))
    with differences_known(), load_engine(folder) as engine:
        infer = engine.infer
        engine.infer = lambda feed: {name: out * np.nan for name, out in infer(feed).items()}  # type: ignore[method-assign]
        with pytest.raises(GateError, match="not finite"):
            samples.proven(engine, samples.golden(settings, {"int8"}), settings)
