from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcmae.errors import EngineError, EngineIntegrityError, EngineVersionError
from kdcmae.runtime.manifest import SCHEMA_VERSION, BatchRange, Manifest, TensorSpec, verify_files

TEXT = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
LABEL = TEXT.filter(lambda text: text.splitlines() == [text])
SIZE = st.integers(1, 4096)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FACTS = st.dictionaries(st.text(), JSON, max_size=3)


@st.composite
def tensors(draw: st.DrawFn, dtypes: tuple[str, ...]) -> tuple[TensorSpec, ...]:
    names = draw(st.lists(TEXT, min_size=1, max_size=3, unique=True))
    shapes = st.tuples(st.just("batch") | SIZE, SIZE)
    return tuple(TensorSpec(name, draw(shapes), draw(st.sampled_from(dtypes)), draw(st.text())) for name in names)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    labels = tuple(draw(st.lists(LABEL, min_size=1, max_size=5)))
    logits = TensorSpec("logits", ("batch", len(labels)), "float32", draw(st.text()))
    return Manifest(
        kdcmae_version=draw(TEXT),
        created=draw(st.datetimes()).isoformat() + "Z",
        model={
            "name": draw(TEXT),
            "parameters": draw(SIZE),
            "modality": draw(st.sampled_from(["audiovisual", "audio", "video"])),
            "config": draw(FACTS),
            "source": draw(st.text()),
            "random_weights": draw(st.booleans()),
        },
        labels=labels,
        scores=draw(st.sampled_from(["softmax", "sigmoid"])),
        inputs=draw(tensors(("float32", "uint8", "int64"))),
        outputs=(logits,),
        batch=BatchRange(*sorted(draw(st.tuples(SIZE, SIZE, SIZE)))),
        preprocessing=draw(FACTS),
        target="onnx",
        libraries=draw(st.dictionaries(TEXT, TEXT, max_size=3)),
        engine={"file": "model.onnx", "options": draw(JSON)},
        precision=draw(FACTS),
        parity=draw(st.lists(FACTS, max_size=3)),
        build=draw(FACTS),
    )


@given(manifest=manifests())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_what_is_written_is_what_is_read(manifest: Manifest) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.onnx").write_bytes(b"model")
        written = manifest.write(folder)
        read = Manifest.read(folder)
        verify_files(folder, read)
        lines = (Path(folder) / "labels.txt").read_bytes().decode().split("\n")
    assert read == written
    assert dataclasses.replace(read, files={}) == manifest
    assert lines == [*manifest.labels, ""]


def test_every_other_file_is_digested(tiny: Any) -> None:
    folder = tiny.make("openvino")
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    del digests["manifest.json"]
    assert Manifest.read(folder).files == digests
    assert set(digests) == {"model.xml", "model.bin", "labels.txt", "golden.npz"}


def test_writing_again_keeps_the_manifest_out_of_its_own_digests(tiny: Any) -> None:
    folder = tiny.make("onnx")
    first = Manifest.read(folder)
    assert first.write(folder) == first


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda m: m.pop("batch"), "batch is missing"),
        (lambda m: m.pop("schema_version"), "schema_version is missing"),
        (lambda m: m.update(schema_version="1"), "schema_version"),
        (lambda m: m.update(schema_version=True), "schema_version"),
        (lambda m: m.update(kdcmae_version=""), "kdcmae_version"),
        (lambda m: m.update(created="yesterday"), "created"),
        (lambda m: m.update(created="2026-07-01T12:00:00+02:00"), "created"),
        (lambda m: m.update(model=[]), "model"),
        (lambda m: m["model"].pop("source"), "model.source is missing"),
        (lambda m: m["model"].update(parameters="many"), "model.parameters"),
        (lambda m: m["model"].update(random_weights=0), "model.random_weights"),
        (lambda m: m["model"].update(modality="smell"), "model.modality"),
        (lambda m: m.update(labels="barking"), "labels"),
        (lambda m: m["labels"].append("one too many"), "labels has 4 labels, but output logits has 3"),
        (lambda m: m["labels"].__setitem__(1, "two\nlines"), r"labels\[1\]"),
        (lambda m: m["labels"].__setitem__(1, "line end\n"), r"labels\[1\]"),
        (lambda m: m["labels"].__setitem__(1, None), r"labels\[1\]"),
        (lambda m: m.update(scores="softmin"), "scores"),
        (lambda m: m.update(scores=["softmax"]), "scores"),
        (lambda m: m.update(inputs=[]), "inputs"),
        (lambda m: m.update(inputs={"x": 1}), "inputs"),
        (lambda m: m["inputs"].append(m["inputs"][0]), "inputs must be tensors of different names"),
        (lambda m: m["inputs"].append("audio"), r"inputs\[1\]"),
        (lambda m: m["inputs"][0].pop("name"), r"inputs\[0\]\.name is missing"),
        (lambda m: m["inputs"][0].update(unit="dB"), r"inputs\[0\]\.unit is unknown"),
        (lambda m: m["inputs"][0].update(dtype="float31"), r"inputs\[0\]\.dtype"),
        (lambda m: m["inputs"][0].update(dtype="bfloat16"), r"inputs\[0\]\.dtype"),
        (lambda m: m["inputs"][0].update(shape=["batch", 0]), r"inputs\[0\]\.shape"),
        (lambda m: m["inputs"][0].update(shape=[4, "batch"]), r"inputs\[0\]\.shape"),
        (lambda m: m["inputs"][0].update(shape=[]), r"inputs\[0\]\.shape"),
        (lambda m: m["inputs"][0].update(shape=7), r"inputs\[0\]\.shape"),
        (lambda m: m["inputs"][0].update(description=None), r"inputs\[0\]\.description"),
        (lambda m: m["batch"].update(max="4"), "batch.max"),
        (lambda m: m["batch"].update(min=0), "batch.min"),
        (lambda m: m["batch"].update(opt=9), "batch must be ordered"),
        (lambda m: m["batch"].pop("opt"), "batch.opt is missing"),
        (lambda m: m.update(target="tpu"), "target"),
        (lambda m: m["libraries"].update(onnxruntime=1.22), "libraries.onnxruntime"),
        (lambda m: m["engine"].pop("file"), "engine.file"),
        (lambda m: m.update(engine="model.onnx"), "engine must be an object"),
        (lambda m: m.update(parity={}), "parity"),
        (lambda m: m["files"].update({"model.onnx": "0" * 63}), "files.model.onnx"),
        (lambda m: m["files"].update({"model.onnx": "A" * 64}), "files.model.onnx"),
        (lambda m: m["files"].pop("model.onnx"), "files does not list model.onnx"),
        (lambda m: m["files"].pop("labels.txt"), "files does not list labels.txt"),
        (lambda m: m.update(lables=[]), "lables is unknown, did you mean labels"),
        (lambda m: m.update(zzz=0), "zzz is unknown; known are"),
    ],
)
def test_a_bad_field_is_named(tiny: Any, change: Any, field: str) -> None:
    folder = tiny.make("onnx")
    tiny.edit(folder, change)
    with pytest.raises(EngineError, match=rf"manifest\.json: field {field}"):
        Manifest.read(folder)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../model.onnx", "/etc/passwd", "a/b", "a\\b", "C:model.onnx", "a\0b", "manifest.json", 7]
)
def test_file_names_stay_inside_the_folder(tiny: Any, name: Any) -> None:
    folder = tiny.make("onnx")
    tiny.edit(folder, lambda m: m["engine"].update(file=name))
    with pytest.raises(EngineError, match=r"engine\.file must be the plain name"):
        Manifest.read(folder)
    tiny.edit(folder, lambda m: m["engine"].update(file="model.onnx"))
    tiny.edit(folder, lambda m: m["files"].update({str(name): "0" * 64} if name != 7 else {"/7": "0" * 64}))
    with pytest.raises(EngineError, match=r"files must be the plain name"):
        Manifest.read(folder)


def test_a_later_schema_is_a_version_error_whatever_else_it_holds(tiny: Any) -> None:
    folder = tiny.make("onnx")
    later = SCHEMA_VERSION + 1
    tiny.edit(folder, lambda m: m.update(schema_version=later, something_new={}))
    with pytest.raises(EngineVersionError, match=f"version {later}.*reads version {SCHEMA_VERSION}; update kdcmae"):
        Manifest.read(folder)


def test_what_is_not_an_engine_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not exist"):
        Manifest.read(tmp_path / "nowhere")
    with pytest.raises(EngineError, match=r"has no manifest\.json"):
        Manifest.read(tmp_path)
    file = tmp_path / "model.onnx"
    file.touch()
    with pytest.raises(EngineError, match="is not a folder"):
        Manifest.read(file)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xff", b"[" * 100_000, b'{"batch": NaN}'])
def test_what_is_not_json_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(EngineError, match=r"manifest\.json is not valid JSON"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("content", ["[]", "null", '"manifest"'])
def test_json_that_is_no_object_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(EngineError, match="the whole file must be an object"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("name", ["model.xml", "model.bin", "labels.txt", "golden.npz"])
def test_one_changed_byte_in_any_file_is_found(tiny: Any, name: str) -> None:
    folder = tiny.make("openvino")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(EngineIntegrityError, match=f"{name} has changed"):
        verify_files(folder, Manifest.read(folder))


def test_a_missing_file_is_named(tiny: Any) -> None:
    folder = tiny.make("openvino")
    (folder / "model.bin").unlink()
    with pytest.raises(EngineIntegrityError, match=r"model\.bin is missing"):
        verify_files(folder, Manifest.read(folder))


@pytest.mark.parametrize("change", ["content", "nothing", "itself", "folder", "pipe"])
def test_a_link_is_what_it_leads_to(tiny: Any, tmp_path: Path, change: str) -> None:
    folder = tiny.make("onnx")
    outside, file = tmp_path / "outside.onnx", folder / "model.onnx"
    file.rename(outside)
    file.symlink_to(outside)
    verify_files(folder, Manifest.read(folder))
    if change == "content":
        outside.write_bytes(outside.read_bytes() + b"\0")
    elif change == "nothing":
        outside.unlink()
    elif change == "itself":
        file.unlink()
        file.symlink_to(file.name)
    else:
        outside.unlink()
        outside.mkdir() if change == "folder" else os.mkfifo(outside)
    with pytest.raises(EngineIntegrityError, match=r"model\.onnx (has changed|is missing|is not a file)"):
        verify_files(folder, Manifest.read(folder))


def test_files_that_may_not_be_read_are_said(tiny: Any, fails: Any) -> None:
    folder = tiny.make("onnx")
    manifest, refused = Manifest.read(folder), PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    fails("pathlib.Path.open", refused)
    with pytest.raises(EngineIntegrityError, match=r"model\.onnx cannot be read: Permission denied; copy"):
        verify_files(folder, dataclasses.replace(manifest, files={"model.onnx": manifest.files["model.onnx"]}))
    fails("pathlib.Path.read_bytes", refused)
    with pytest.raises(EngineError, match=r"manifest\.json cannot be read: Permission denied"):
        Manifest.read(folder)


def test_openvino_weights_need_a_digest(tiny: Any) -> None:
    folder = tiny.make("openvino")
    tiny.edit(folder, lambda m: m["files"].pop("model.bin"))
    with pytest.raises(EngineError, match=r"files does not list model\.bin"):
        Manifest.read(folder)


def test_writing_without_the_engine_file_is_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"files does not list model\.onnx"):
        tiny.manifest("onnx").write(tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_only_plain_files_are_packaged(tiny: Any) -> None:
    folder = tiny.make("onnx")
    (folder / "cache").mkdir()
    with pytest.raises(EngineError, match="cache is not a plain file"):
        Manifest.read(folder).write(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), "\ud800"])
def test_values_json_lacks_are_refused_when_writing(tiny: Any, value: object) -> None:
    folder = tiny.make("onnx")
    before = (folder / "manifest.json").read_bytes()
    labels = (value, "b", "c") if isinstance(value, str) else tiny.labels
    manifest = tiny.manifest("onnx", parity=[{"max_error": value}], labels=labels)
    with pytest.raises(EngineError, match="cannot be written"):
        manifest.write(folder)
    assert (folder / "manifest.json").read_bytes() == before


def test_the_compiler_meets_the_same_checks(tiny: Any) -> None:
    with pytest.raises(EngineError, match="field batch must be ordered"):
        tiny.manifest("onnx", batch=BatchRange(4, 2, 1))


def test_the_file_is_for_people_too(tiny: Any) -> None:
    text = (tiny.make("onnx") / "manifest.json").read_text()
    assert text.startswith('{\n  "schema_version": 1,\n')
    assert json.loads(text)["labels"] == list(tiny.labels)


def test_a_refusal_shows_little_of_a_large_value(tiny: Any) -> None:
    folder = tiny.make("onnx")
    large = [[[{str(key): ["x" * 50] * 50 for key in range(9)}] * 9] * 9] * 9
    tiny.edit(folder, lambda manifest: manifest.update(batch=large))
    with pytest.raises(EngineError, match="field batch must be an object") as refused:
        Manifest.read(folder)
    assert len(str(refused.value)) < 1000
