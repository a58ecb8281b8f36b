"""inspect, verify and diff."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from kdcmae.compile.inspection import inspect_engine
from kdcmae.errors import EngineError
from kdcmae.runtime.openvino import HINTS


@pytest.fixture
def copy(engine, tmp_path):
    return shutil.copytree(engine, tmp_path / "copy")


def edit(folder, change):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_inspect_counts_operations_of_an_ir(engine, run):
    result = run("inspect", engine, "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["graph"]["format"] == "OpenVINO IR 11"
    assert facts["graph"]["operations"]["MatMul"]["fp32"] > 10
    assert facts["sizes"]["model.bin"] == (engine / "model.bin").stat().st_size
    table = run("inspect", engine).stdout
    assert "MatMul" in table
    assert "executes 15 in fp32" in table


def test_inspect_loads_neither_pytorch_nor_an_engine_library(engine):
    code = (
        "import sys; from pathlib import Path; from kdcmae.compile.inspection import inspect_engine;"
        f"inspect_engine(Path({str(engine)!r})); sys.exit(bool({{'torch', 'openvino'}} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_inspect_reads_the_release_out_of_a_plan(copy):
    files = {"engine.plan": "0" * 64, "labels.txt": "0" * 64}
    edit(copy, lambda manifest: manifest.update(target="trt", engine={"file": "engine.plan"}, files=files))
    (copy / "engine.plan").write_bytes(b"vtrt" + bytes(20) + bytes([1, 7, 1, 116]) + b"vtrt")
    assert inspect_engine(copy)["graph"]["format"] == "TensorRT for RTX 1.7.1.116 plan"
    (copy / "engine.plan").write_bytes(b"PK\x03\x04")
    with pytest.raises(EngineError, match="is not a TensorRT plan"):
        inspect_engine(copy)


def test_inspect_counts_operations_of_an_onnx_file(engine_of, run, tmp_path):
    folder = shutil.copytree(engine_of("onnx", "fp32"), tmp_path / "engine")
    facts = json.loads(run("inspect", folder, "--json").stdout)
    assert facts["graph"]["operations"]["LayerNormalization"]["float"] > 4
    (folder / "model.onnx").write_bytes(b"not an onnx file")
    result = run("inspect", folder)
    assert result.exit_code == 2
    assert "is not an ONNX file" in result.stderr


def test_inspect_refuses_what_is_no_engine(run, tmp_path):
    result = run("inspect", tmp_path)
    assert result.exit_code == 2
    assert "has no manifest.json" in result.stderr


def test_a_volume_of_kubernetes_is_a_whole_engine(engine, run, tmp_path):
    shutil.copytree(engine, tmp_path / "..2026")
    (tmp_path / "..data").symlink_to("..2026")
    for path in engine.iterdir():
        (tmp_path / path.name).symlink_to(f"..data/{path.name}")
    assert run("verify", tmp_path).exit_code == 0
    sizes = json.loads(run("inspect", tmp_path, "--json").stdout)["sizes"]
    assert sizes == {path.name: path.stat().st_size for path in engine.iterdir()}
    assert run("diff", engine, tmp_path).exit_code == 0


def test_verify_passes_a_whole_engine(engine, run):
    result = run("verify", engine, "--json")
    assert result.exit_code == 0, result.stderr
    checks = {check["check"]: check["status"] for check in json.loads(result.stdout)["checks"]}
    assert checks == {"digests": "passed", "ladder": "passed", "precision": "passed", "self-test": "passed"}


def test_a_claim_that_was_not_checked_has_not_passed(copy, run):
    edit(copy, lambda manifest: manifest["precision"]["claims"][0].update(executed={}, holds=None))
    checks = json.loads(run("verify", copy, "--json").stdout)["checks"]
    found = {check["status"]: check["found"] for check in checks if check["check"] == "precision"}
    assert found["skipped"] == "products: not checked where it was built"
    assert "products" not in found["passed"]
    assert "norms" in found["passed"]
    assert "claimed fp32, not checked on this machine" in " ".join(run("inspect", copy).stdout.split())
    edit(copy, lambda manifest: manifest["precision"]["claims"][1].update(holds=False))
    assert run("verify", copy).exit_code == 1


def test_verify_fails_an_engine_edited_by_one_byte(copy, run):
    path = copy / "model.bin"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    result = run("verify", copy)
    assert result.exit_code == 1
    assert "model.bin has changed" in result.stderr
    assert "Traceback" not in result.stderr


def test_verify_fails_an_engine_that_computes_something_else(copy, run):
    """Digests put right again after an edit of the weights: only running it shows the difference."""
    from kdcmae.runtime.manifest import Manifest

    path = copy / "model.bin"
    content = bytearray(path.read_bytes())
    content[400_000:500_000] = bytes(100_000)
    path.write_bytes(content)
    Manifest.read(copy).write(copy)
    result = run("verify", copy)
    assert result.exit_code == 1
    assert "self-test failed: " in result.stderr


def test_verify_fails_an_engine_with_files_beside_it(copy, run):
    (copy / "notes.txt").write_text("mine")
    result = run("verify", copy)
    assert result.exit_code == 1
    assert "not of this engine: notes.txt" in result.stderr


def test_diff_of_an_engine_with_itself_is_empty(engine, copy, run):
    facts = json.loads(run("diff", engine, copy, "--json").stdout)
    assert facts["differences"] == []
    assert facts["outputs"]["logits"]["error"] == 0.0


def test_diff_names_settings_and_compares_outputs(engine, engine_of, run, native):
    half = engine_of("openvino", "bf16")
    result = run("diff", engine, half, "--json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    rows = {row["field"]: (row["one"], row["other"]) for row in facts["differences"]}
    assert rows["precision.asked"] == ("fp32", "bf16")
    hints = ("f32", HINTS[native["bf16"]])
    assert rows.get("engine.inference_precision", ("f32", "f32")) == hints
    assert "created" not in rows
    assert 0 < facts["outputs"]["logits"]["error"] < 0.04
    assert "precision.asked" in run("diff", engine, half).stdout
