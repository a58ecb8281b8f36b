"""``kdcmae export web``: which engines it takes, what it writes, and that an earlier page survives a failure."""

from __future__ import annotations

import json
import re
import shlex
from importlib import resources

import numpy as np
import pytest
from click.testing import CliRunner
from loudness_engine import PREPROCESSING, write_engine

from kdcmae.assets import default_checkpoint
from kdcmae.cli import main
from kdcmae.compile.cli import main as compiler
from kdcmae.export import web
from kdcmae.export.onnxruntime_web import FILES
from kdcmae.runtime.golden import read_golden
from kdcmae.runtime.manifest import Manifest, digest


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """Files in the place of ONNX Runtime's; no test here runs them."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text(name)
    monkeypatch.setattr(web, "onnxruntime_web", lambda path: path or folder)
    return folder


def export(*arguments):
    return CliRunner().invoke(main, ["export", "web", *map(str, arguments)])


def test_a_page_has_the_engine_and_the_digest_of_every_file_that_it_loads(raw_engine, runtime, tmp_path):
    result = export(raw_engine, tmp_path / "page", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "page" / "page.json").read_text())
    wasm = f"onnxruntime/{next(name for name in FILES if name.endswith('.wasm'))}"
    assert facts["files"].keys() == {wasm, "model.onnx", "selftest.bin"} == json.loads(result.stdout)["files"].keys()
    for name, file in facts["files"].items():
        path = tmp_path / "page" / name
        assert (digest(path), path.stat().st_size) == (file["sha256"], file["bytes"])
    assert facts["files"]["model.onnx"]["sha256"] == Manifest.read(raw_engine).files["model.onnx"]
    assert (facts["window"], facts["batch"], facts["output"]) == (PREPROCESSING.audio_samples, 1, "logits")


def test_the_arrays_of_the_self_test_are_those_of_the_engine(raw_engine, runtime, tmp_path):
    export(raw_engine, tmp_path / "page")
    test = json.loads((tmp_path / "page" / "page.json").read_text())["selftest"]
    content = (tmp_path / "page" / test["file"]).read_bytes()
    golden = read_golden(raw_engine / "golden.npz", Manifest.read(raw_engine))
    expected = {f"input.{name}": array for name, array in golden.inputs.items()}
    expected |= {"output.logits": golden.reference["logits"], "clip.output.logits": golden.clips.reference["logits"]}
    expected |= {"clip.waveform": golden.clips.waveforms, "clip.frame": golden.clips.frames}
    assert test["arrays"].keys() == expected.keys()
    for name, place in test["arrays"].items():
        size = int(np.prod(place["shape"]))
        array = np.frombuffer(content, place["dtype"], size, place["offset"]).reshape(place["shape"])
        np.testing.assert_array_equal(array, expected[name])
        assert place["offset"] % array.itemsize == 0  # or JavaScript refuses a view of it
    assert test["limits"]["max_error"] == 1e-4


@pytest.mark.parametrize("shipped", [True, False])
def test_another_engine_is_refused_with_the_command_that_builds_one(shipped, raw_engine, runtime, tmp_path):
    manifest = Manifest.read(raw_engine)
    source = f"model.pth sha256:{digest(default_checkpoint()) if shipped else '0' * 64}"
    model = {**manifest.model, "source": source}
    engine = write_engine(tmp_path / "prepared", model=model, target="aoti")
    result = export(engine, tmp_path / "page")
    assert result.exit_code == 2
    (message,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
    command = message.partition("build it with: ")[2]
    assert ("--checkpoint model.pth" in command) is not shipped
    program, *words = shlex.split(command)
    assert program == "kdcmae-compile"
    assert compiler.get_command(None, "build").make_context("build", words, resilient_parsing=True).params
    assert not (tmp_path / "page").exists()


def test_an_engine_in_parts_is_refused(raw_engine, tmp_path):
    manifest = Manifest.read(raw_engine)
    *sound, frame = ({**vars(spec), "shape": list(spec.shape)} for spec in manifest.inputs)
    (logits,) = ({**vars(spec), "shape": list(spec.shape)} for spec in manifest.outputs)
    tokens = {**logits, "name": "tokens"}
    parts = [
        {"name": "audio", "file": "model.onnx", "inputs": sound, "outputs": [tokens]},
        {"name": "joint", "file": "model.onnx", "inputs": [tokens, frame], "outputs": [logits]},
    ]
    engine = write_engine(tmp_path / "engine", engine={**manifest.engine, "parts": parts})
    result = export(engine, tmp_path / "page")
    assert (result.exit_code, "give an engine that was built without --split" in result.stderr) == (2, True)


def test_a_damaged_engine_and_a_folder_of_other_files_are_refused(runtime, tmp_path):
    engine = write_engine(tmp_path / "engine")
    (engine / "model.onnx").write_bytes(b"damaged")
    result = export(engine, tmp_path / "page")
    assert (result.exit_code, "has changed: its SHA-256" in result.stderr) == (2, True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    result = export(engine, tmp_path / "thesis")
    assert result.exit_code == 2
    assert re.search(r"thesis holds files that are not a page; choose another PAGE", result.stderr)


def test_an_earlier_page_survives_a_failure_and_is_replaced_by_a_new_one(raw_engine, runtime, tmp_path, monkeypatch):
    page = tmp_path / "page"
    assert export(raw_engine, page).exit_code == 0
    before = {path.name: path.stat().st_mtime_ns for path in page.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(web, "_write_arrays", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert export(raw_engine, page).exit_code != 0
    assert {path.name: path.stat().st_mtime_ns for path in page.iterdir()} == before
    (page / "page.js").write_text("old")
    assert export(raw_engine, page).exit_code == 0
    assert (page / "page.js").read_text() != "old"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_page_names_no_other_host_and_stays_small():
    files = list((resources.files("kdcmae.export") / "page").iterdir())
    assert {"index.html", "page.js", "worker.js"} <= {file.name for file in files}
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"https?://", text), file.name
        assert len(text.splitlines()) < 400, file.name
