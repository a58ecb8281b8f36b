"""Engines in parts: what is reused, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdcmae.errors import ConfigError, EngineError, EngineIntegrityError
from kdcmae.runtime import load_engine
from kdcmae.runtime.execution import Execution, summed
from kdcmae.runtime.facts import require_one_piece
from kdcmae.runtime.manifest import BatchRange, Manifest, TensorSpec
from kdcmae.runtime.openvino_library import import_openvino, openvino_core

NAMES = ("audio", "image")
ONE = BatchRange(1, 1, 1)
PARTS = {"audio": ("audio",), "video": ("image",), "joint": ("audio_tokens", "video_tokens")}


@pytest.fixture(params=["onnx", "openvino"])
def folder(request: pytest.FixtureRequest, tiny: Any) -> Path:
    """The tiny engine of sound and picture in three parts."""
    return make(tiny, request.param)


def make(tiny: Any, target: str, batch: BatchRange = ONE) -> Path:
    folder: Path = tiny.make(target, NAMES, batch)
    whole = Manifest.read(folder)
    model = tiny.onnx_model(NAMES, batch)
    for path in folder.glob("model.*"):
        path.unlink()
    size: int | str = batch.min if batch.min == batch.max else "batch"
    specs = {spec.name: spec for spec in (*whole.inputs, *whole.outputs)}
    specs |= {f"{part}_tokens": TensorSpec(f"{part}_tokens", ("batch", 3), "float32", "") for part in PARTS}
    parts = []
    for part, inputs in PARTS.items():
        output = "logits" if part == "joint" else f"{part}_tokens"
        file = f"model-{part}{Path(whole.engine['file']).suffix}"
        write(folder / file, piece(model, inputs, output, size))
        described = {"inputs": [plain(specs[name]) for name in inputs], "outputs": [plain(specs[output])]}
        parts.append({"name": part, "file": file, **described})
    engine = {**whole.engine, "file": parts[-1]["file"], "parts": parts}
    tiny.manifest(target, NAMES, batch, engine=engine).write(folder)
    return folder


def plain(spec: TensorSpec) -> dict[str, Any]:
    return {**asdict(spec), "shape": list(spec.shape)}


def piece(model: onnx.ModelProto, inputs: tuple[str, ...], output: str, size: int | str) -> onnx.ModelProto:
    """One part of the tiny graph, whose last node adds what its branches give."""
    nodes, tensors = list(model.graph.node), {tensor.name: tensor for tensor in model.graph.input}
    if output == "logits":
        nodes = [helper.make_node("Sum", list(inputs), [output])]
    else:
        nodes = [node for node in nodes if node.name or node.output[0].startswith(inputs[0])]
        nodes.append(helper.make_node("Identity", [f"{inputs[0]}.term"], [output]))
    handed = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, 3]) for name in (*inputs, output)}
    read = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in read]
    graph = helper.make_graph(
        nodes, "part", [tensors.get(name, handed[name]) for name in inputs], [handed[output]], constants
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def write(path: Path, model: onnx.ModelProto) -> None:
    if path.suffix == ".onnx":
        onnx.save(model, path)
    else:
        import_openvino().save_model(
            openvino_core().read_model(model.SerializeToString()), path, compress_to_fp16=False
        )


def test_it_computes_what_the_whole_does_and_says_what_executes(folder: Path, tiny: Any) -> None:
    feed = tiny.feed(NAMES, 1)
    with load_engine(folder) as engine:
        np.testing.assert_allclose(engine.infer(feed)["logits"], tiny.logits(feed), atol=1e-5)
        assert engine.self_test().passed
        assert engine.executions()[""].products


def test_an_unchanged_input_costs_no_encoder_and_changes_no_bit(folder: Path, tiny: Any) -> None:
    feed, other = tiny.feed(NAMES, 1), tiny.feed(NAMES, 1, seed=1)
    with load_engine(folder) as engine, load_engine(folder) as anew:
        anew.reuse_encodings(False)
        for inputs, runs in (
            (feed, (1, 1)),
            (feed, (1, 1)),
            ({**feed, "image": other["image"]}, (1, 2)),
            (other, (2, 2)),
            ({name: array.copy() for name, array in feed.items()}, (2, 2)),
        ):
            np.testing.assert_array_equal(engine.infer(inputs)["logits"], anew.infer(inputs)["logits"])
            assert engine.encoder_runs == {"audio": runs[0], "video": runs[1]}
        assert anew.encoder_runs == {"audio": 5, "video": 5}


def test_an_array_that_was_written_to_again_is_another_input(folder: Path, tiny: Any) -> None:
    feed = tiny.feed(NAMES, 1)
    with load_engine(folder) as engine:
        engine.infer(feed)
        feed["audio"][0, 700, 3] = np.nextafter(feed["audio"][0, 700, 3], 9, dtype=np.float32)
        engine.infer(feed)
        feed["image"] *= -1.0
        np.testing.assert_allclose(engine.infer(feed)["logits"], tiny.logits(feed), atol=1e-5)
        assert engine.encoder_runs == {"audio": 2, "video": 2}


def test_few_encodings_are_kept(folder: Path, tiny: Any) -> None:
    feeds = [tiny.feed(NAMES, 1, seed=seed) for seed in range(5)]
    with load_engine(folder) as engine:
        for feed in (*feeds, feeds[4], feeds[1]):
            engine.infer(feed)
        assert engine.encoder_runs == {"audio": 5, "video": 5}
        engine.infer(feeds[0])
        assert engine.encoder_runs == {"audio": 6, "video": 6}


def test_of_large_encodings_the_last_one_is_kept(folder: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcmae.runtime.parts._MOST_BYTES", 1000)
    feeds = [tiny.feed(NAMES, 1, seed=seed) for seed in range(2)]
    with load_engine(folder) as engine:
        for feed in (feeds[0], feeds[0], feeds[1], feeds[1], feeds[0]):
            engine.infer(feed)
        assert engine.encoder_runs == {"audio": 3, "video": 3}


def test_threads_share_it(folder: Path, tiny: Any) -> None:
    feeds = [tiny.feed(NAMES, 1, seed=seed) for seed in range(6)]
    right = [tiny.logits(feed) for feed in feeds]
    with load_engine(folder, streams=2, threads=2) as engine:
        assert engine.streams == 2
        results = list(engine.infer_many(feeds[number % 6] for number in range(60)))
    for number, result in enumerate(results):
        np.testing.assert_allclose(result["logits"], right[number % 6], atol=1e-5)


def test_every_size_of_a_batch_has_its_own_encodings(tiny: Any) -> None:
    feed = tiny.feed(NAMES, 4)
    with load_engine(make(tiny, "onnx", BatchRange(1, 2, 4))) as engine:
        for rows in (4, 2, 4):
            part = {name: array[:rows] for name, array in feed.items()}
            np.testing.assert_allclose(engine.infer(part)["logits"], tiny.logits(part), atol=1e-5)
        assert engine.encoder_runs == {"audio": 2, "video": 2}


def test_a_stale_encoding_fails_the_self_test(folder: Path, monkeypatch: pytest.MonkeyPatch, tiny: Any) -> None:
    """A cache that does not look at the content gives the last encoding for any input."""

    def stale(self: Any, key: Any) -> Any:
        return self._known[0][1] if self._known else None

    monkeypatch.setattr("kdcmae.runtime.parts._Encodings._find", stale)
    with load_engine(folder) as engine:
        engine.infer(tiny.feed(NAMES, 1, seed=1))
        assert not engine.self_test().passed


@pytest.mark.parametrize("part", PARTS)
def test_damage_of_any_part_is_refused(folder: Path, part: str) -> None:
    for path in folder.glob(f"model-{part}.*"):
        content = path.read_bytes()
        path.write_bytes(content + b"x")
        with pytest.raises(EngineIntegrityError, match=f"{path.name} has changed"):
            load_engine(folder)
        path.write_bytes(content)


def test_parts_in_each_others_place_are_refused(folder: Path) -> None:
    for audio in folder.glob("model-audio.*"):
        video, aside = folder / audio.name.replace("audio", "video"), folder / "aside"
        audio.rename(aside), video.rename(audio), aside.rename(video)
    with pytest.raises(EngineIntegrityError, match="has changed"):
        load_engine(folder)
    Manifest.read(folder).write(folder)  # with digests of the files as they lie
    with pytest.raises(EngineError, match=r"model-audio.* has the inputs image, but the manifest says audio"):
        load_engine(folder)


def _drop_file(content: dict[str, Any]) -> None:
    del content["files"][content["engine"]["parts"][0]["file"]]


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "one part": (lambda content: content["engine"]["parts"].__delitem__(slice(1, None)), "two parts or more"),
    "no list": (lambda content: content["engine"].update(parts={}), "two parts or more"),
    "no digest": (_drop_file, "files does not list model-audio"),
    "a path": (lambda content: content["engine"]["parts"][0].update(file="../x"), "plain name"),
    "one name twice": (lambda content: content["engine"]["parts"][1].update(name="audio"), "different names"),
    "a field too many": (lambda content: content["engine"]["parts"][1].update(fil="x"), "parts.1..fil is unknown"),
    "another order": (lambda content: content["engine"]["parts"].reverse(), "an output of a part before"),
    "another shape": (
        lambda content: content["engine"]["parts"][2]["inputs"][0].update(shape=["batch", 4]),
        "an output of a part before",
    ),
    "no logits": (
        lambda content: content["engine"]["parts"][2]["outputs"][0].update(name="other"),
        "every output of the engine",
    ),
    "another file": (lambda content: content["engine"].update(file="model.onnx"), "the file of the last part"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_manifest_whose_parts_do_not_fit_is_refused(change: str, tiny: Any) -> None:
    folder = make(tiny, "onnx")
    edit, message = CHANGES[change]
    tiny.edit(folder, edit)
    with pytest.raises(EngineError, match=message):
        load_engine(folder)


def test_the_manifest_is_read_as_it_was_written(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert manifest.is_in_parts
    assert list(manifest.parts()) == list(PARTS)
    assert json.loads((folder / "manifest.json").read_text())["engine"] == manifest.engine
    assert [Path(name).stem for name in manifest.graphs] == ["model-audio", "model-video", "model-joint"]


def test_tools_that_open_the_file_themselves_refuse_it(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"is in parts .*model-video.*built without --split"):
        require_one_piece(folder, Manifest.read(folder))


def test_an_engine_in_one_piece_has_no_encoders(tiny: Any) -> None:
    with load_engine(tiny.make("onnx")) as engine:
        engine.reuse_encodings(False)
        assert engine.encoder_runs == {}


def test_a_part_that_its_library_cannot_load_is_named(folder: Path) -> None:
    name = Manifest.read(folder).graphs[-1]
    (folder / name).write_bytes(b"no model")
    Manifest.read(folder).write(folder)
    with pytest.raises(EngineError, match=f"cannot load .*{name}"):
        load_engine(folder)


def test_what_parts_execute_is_added_up() -> None:
    first = Execution(executed={"MatMul": {"fp32": 2}}, read_from="a run", products={"fp32": 2}, attention={"bf16": 1})
    second = Execution(executed={"MatMul": {"fp32": 1, "int8": 4}, "MVN": {"fp32": 1}}, products={"int8": 4})
    assert summed([first, second]) == Execution(
        executed={"MVN": {"fp32": 1}, "MatMul": {"fp32": 3, "int8": 4}},
        read_from="a run",
        products={"fp32": 2, "int8": 4},
        attention={"bf16": 1},
    )


def test_a_stream_runs_the_encoders_of_what_changed(folder: Path) -> None:
    with load_engine(folder) as engine, engine.stream(hop=0.25, window=1.0, backlog=100) as stream:
        for second in range(4):  # a frame per second, and silence
            stream.push_frame(np.full((32, 40, 3), 50 * second, np.uint8), float(second))
            stream.push_audio(np.zeros(16000, np.float32), float(second))
        stream.finish()
        assert len(list(stream)) == 13
        assert engine.encoder_runs == {"audio": 1, "video": 4}
