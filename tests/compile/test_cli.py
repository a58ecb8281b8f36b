from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from types import ModuleType

import numpy as np
import pytest
import torch

from kdcmae import load_classifier
from kdcmae.compile.cli.options import parse_batch
from kdcmae.errors import ConfigError
from kdcmae.runtime import load_engine
from kdcmae.runtime.capabilities import executed_as
from kdcmae.runtime.cpu import CAP_VARIABLE, this_cpu
from kdcmae.runtime.manifest import BatchRange, Manifest, verify_files
from kdcmae.runtime.openvino_library import openvino_core


@pytest.mark.parametrize(("precision", "batch"), [("fp32", "1"), ("fp16", "1:2:4"), ("bf16", "2")])
def test_openvino(precision, batch, checkpoint, tmp_path, run, native, accepted):
    executed = native[precision]
    folder = tmp_path / "engine"
    result = run("--target", "openvino", "--checkpoint", checkpoint, *accepted[precision], "--batch", batch,
                 "--output", folder, "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    manifest = json.loads(result.stdout)["manifest"]
    assert [rung["name"] for rung in manifest["parity"]] == ["program", "onnx", "engine", "artifact"]
    assert {claim["claimed"] for claim in manifest["precision"]["claims"]} == {executed}
    assert {rung["status"] for rung in manifest["parity"]} == {"passed"}
    assert manifest["precision"]["asked"] == precision
    assert manifest["labels"] == ["dog", "rain", "violin"]
    assert {path.name for path in folder.iterdir()} == {
        "model.xml", "model.bin", "manifest.json", "labels.txt", "golden.npz", "report.html"
    }  # fmt: skip
    with load_engine(folder) as engine:
        assert engine.self_test().passed
    if precision == "fp16":
        assert element_types(folder / "model.xml") == {
            "MVN": "f32",
            "Softmax": "f32",
            "ReduceMean": "f32",
            "Gelu": "f16",
        }


def element_types(path):
    """Of the norms, the softmax, the pooling and the activations; a set of several where they differ."""
    types = {}
    for node in openvino_core().read_model(path).get_ops():
        if node.get_type_name() in ("MVN", "Softmax", "ReduceMean", "Gelu"):
            types.setdefault(node.get_type_name(), set()).add(node.get_output_element_type(0).to_string())
    return {name: found.pop() if len(found) == 1 else found for name, found in types.items()}


def test_a_rung_is_one_line_and_how_it_ran_stands_below(checkpoint, tmp_path, run, native, accepted, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = run("--target", "openvino", "--checkpoint", checkpoint, *accepted["bf16"], "--output", tmp_path / "engine")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines if "  passed  " in line] == ["program", "onnx", "engine", "artifact"]
    assert f"  engine, artifact: matrix products in {native['bf16']}" in lines
    assert any(line.startswith("  onnx: bfloat16 widened to float32") for line in lines)


def test_every_rung_says_that_the_largest_batch_was_left_out(checkpoint, tmp_path, run, monkeypatch):
    monkeypatch.setattr("kdcmae.compile.cases._WORK", 1)
    folder = tmp_path / "engine"
    arguments = ("--target", "openvino", "--checkpoint", checkpoint, "--precision", "fp32", "--batch", "1:2:4")
    assert run(*arguments, "--output", folder).exit_code == 0
    rungs = Manifest.read(folder).parity
    assert len(rungs) == 4
    assert all("largest batch run here: 1 of 4" in rung["note"] for rung in rungs)


def test_fp32_engine_agrees_with_the_checkpoint(checkpoint, engine):
    generator = np.random.default_rng(1)
    audio = generator.standard_normal((1, 64, 128), dtype=np.float32)
    image = generator.standard_normal((1, 3, 32, 32), dtype=np.float32)
    with load_engine(engine) as loaded, torch.inference_mode():
        expected = load_classifier(checkpoint)(torch.from_numpy(audio), torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(loaded.infer({"audio": audio, "image": image})["logits"], expected, atol=1e-4)


@pytest.mark.parametrize(("precision", "batch"), [("fp32", "1"), ("fp16", "1:8:64"), ("bf16", "2")])
def test_tensorrt_is_built_and_everything_before_execution_verified(precision, batch, checkpoint, tmp_path, run):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    folder = tmp_path / "engine"
    result = run("--target", "trt", "--checkpoint", checkpoint, "--precision", precision, "--batch", batch,
                 "--output", folder)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    manifest = Manifest.read(folder)
    verify_files(folder, manifest)
    status = {rung["name"]: rung["status"] for rung in manifest.parity}
    assert status["program"] == status["onnx"] == "passed"
    if not torch.cuda.is_available():
        assert status["engine"] == status["artifact"] == "skipped"
        assert "built, not executed: no CUDA device" in result.stdout
    executed = manifest.precision["executed"]
    assert set(executed["MATRIX_MULTIPLY"]) == {precision, "fp32"} if precision != "fp32" else {"fp32"}
    assert set(executed["NORMALIZATION"]) == {"fp32"}
    assert set(executed["SOFTMAX"]) == {"fp32"}
    assert (folder / "engine.plan").read_bytes()[:4] in (b"ftrt", b"vtrt")  # raw: full TensorRT or TensorRT for RTX


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnx(precision, checkpoint, tmp_path, run):
    executed = executed_as("onnx", precision, cpu=this_cpu())
    accepted = () if executed == precision else ("--execute-as", executed)
    result = run("--target", "onnx", "--checkpoint", checkpoint, "--precision", precision, "--output", tmp_path / "e",
                 *accepted, "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["manifest"]["precision"]["products"].keys() == {executed}
    with load_engine(tmp_path / "e") as engine:
        assert engine.self_test().passed


@pytest.mark.parametrize(("target", "precision"), [("onnx", "int8"), ("trt", "int8"), ("trt", "fp8")])
def test_pairs_make_products_of_eight_bits(target, precision, checkpoint, tmp_path, run):
    if target == "trt":
        pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    result = run("--target", target, "--checkpoint", checkpoint, "--precision", precision, "--calibration", "avsynth:4",
                 "--output", tmp_path / "e")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    precisions = Manifest.read(tmp_path / "e").precision
    assert precisions["products"][precision] >= 12  # four linear layers in each of three blocks
    assert {claim["layers"]: claim["claimed"] for claim in precisions["claims"] if claim["holds"]} == {
        "products": precision,
        "norms": "fp32",
        "softmax": "fp32",
    }
    if target == "onnx":
        with load_engine(tmp_path / "e") as engine:
            assert engine.self_test().passed


def test_what_cannot_be_read_here_is_not_called_checked(checkpoint, tmp_path, run):
    result = run("--target", "onnx", "--checkpoint", checkpoint, "--precision", "bf16", "--output", tmp_path / "e")
    assert result.exit_code == 0, result.stderr
    assert "matrix products were not checked on this machine" in result.stdout
    assert "not checked on this machine" in (tmp_path / "e" / "report.html").read_text()


def test_a_failing_rung_is_named_and_nothing_is_written(checkpoint, tmp_path, monkeypatch, run):
    import kdcmae.compile.build as build

    honest = build.open_session
    monkeypatch.setattr(
        build, "open_session", lambda path: lambda feed: {"logits": honest(path)(feed)["logits"] * 1.01}
    )
    folder = tmp_path / "engine"
    result = run("--target", "openvino", "--checkpoint", checkpoint, "--precision", "fp32", "--output", folder)
    assert result.exit_code == 1
    assert "first rung out of tolerance is 'onnx'" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_failed_build_keeps_the_old_engine(checkpoint, engine, tmp_path, fails, run):
    folder = shutil.copytree(engine, tmp_path / "engine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    fails("openvino.save_model", OSError(28, "No space left on device", "model.bin"))
    result = run("--target", "openvino", "--checkpoint", checkpoint, "--output", folder, "--batch", "2")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "error: model.bin: No space left on device"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_random_weights_are_named_as_such(tmp_path, run):
    result = run("--target", "openvino", "--preset", "tiny", "--output", tmp_path / "e")
    assert result.exit_code == 2
    assert "--preset has no trained weights and needs --random-weights" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "tiny", "--checkpoint", "x.pth"], "give either --checkpoint FILE or --preset"),
        (["--checkpoint", "absent.pth"], "absent.pth: No such file"),
        (["--weights", "ema"], "--weights cannot act: it chooses among the weights of a --checkpoint, and none"),
        (["--preset", "tiny", "--random-weights", "--batch", "8:1"], "--batch '8:1'"),
        (["--preset", "tiny", "--random-weights", "--labels", "absent.txt"], "absent.txt: cannot be read"),
    ],
)
def test_wrong_use(arguments, message, run):
    result = run("--target", "openvino", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("target", ["openvino", "trt"])
def test_a_missing_library_gives_the_install_line(target, checkpoint, tmp_path):
    """A None in sys.modules makes an import fail the way an absent package does."""
    blocked = ("openvino", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
    code = (
        f"import sys\nfor name in {blocked}: sys.modules[name] = None\n"
        "from kdcmae.compile.cli import main\n"
        f"main(['--target', {target!r}, '--checkpoint', {str(checkpoint)!r}, '--output', {str(tmp_path / 'e')!r}])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 3
    assert f"pip install 'kdcmae[compile-{target}]'" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("module", "arguments", "install"),
    [
        ("onnxruntime", ("--target", "openvino"), "kdcmae[compile-openvino]"),
        ("onnxscript", ("--target", "trt"), "kdcmae[compile-trt]"),
        ("nncf", ("--target", "openvino", "--precision", "int8"), "kdcmae[compile-openvino]"),
    ],
)
def test_what_a_build_needs_later_is_asked_for_before_any_work(
    module, arguments, install, checkpoint, tmp_path, run, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, None)
    result = run(*arguments, "--checkpoint", checkpoint, "--output", tmp_path / "e")
    assert result.exit_code == 3
    assert result.stderr.splitlines()[-1].endswith(
        f"{module} is not installed; install it with: pip install '{install}'"
    )
    assert "load model" not in result.stderr


def test_full_tensorrt_without_a_gpu_is_refused_before_any_work(checkpoint, tmp_path, run, no_gpu, monkeypatch):
    library = ModuleType("tensorrt")
    library.Runtime = object
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    result = run("--target", "trt", "--checkpoint", checkpoint, "--output", tmp_path / "e")
    assert result.exit_code == 3
    assert "--target trt cannot build here: no CUDA device" in result.stderr
    assert "load model" not in result.stderr


@pytest.mark.parametrize("refused", ["onnx", "openvino"])
def test_a_precision_that_this_processor_does_not_multiply_is_refused_before_any_work(
    refused, checkpoint, tmp_path, run, monkeypatch
):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv(CAP_VARIABLE, "AVX2")
    result = run("--target", refused, "--checkpoint", checkpoint, "--precision", "fp16", "--output", tmp_path / "e")
    assert result.exit_code == 3
    assert "executes as fp32 on this processor; use --precision fp32, or accept it with --execute-as" in result.stderr
    assert "load model" not in result.stderr


def test_batches():
    assert parse_batch("8") == BatchRange(8, 8, 8)
    assert parse_batch("1:8:64") == BatchRange(1, 8, 64)
    for text in ("", "0", "1:2", "8:4:2", "a"):
        with pytest.raises(ConfigError, match="neither a size"):
            parse_batch(text)
    for text in ("99999999999", "1:8:5000"):
        with pytest.raises(ConfigError, match="too large: an engine is proven on batches of at most 4096"):
            parse_batch(text)


def test_a_terminated_build_leaves_nothing_behind(checkpoint, tmp_path):
    folder = tmp_path / "engines" / "engine"
    arguments = ["--target", "openvino", "--checkpoint", str(checkpoint), "--output", str(folder)]
    code = f"from kdcmae.compile.cli import main; main({arguments!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob("engines/.engine.partial-*")):
        time.sleep(0.01)
    process.terminate()
    assert process.wait(timeout=60) == 143
    assert list((tmp_path / "engines").iterdir()) == []


@pytest.mark.parametrize("cap", ["AVX2", "AVX512_CORE"])
def test_an_engine_for_another_processor_says_what_is_to_be_checked_there(cap, checkpoint, tmp_path, run, monkeypatch):
    monkeypatch.setenv(CAP_VARIABLE, cap)  # no bfloat16 here, whichever machine this is
    folder = tmp_path / "engine"
    result = run("--target", "openvino", "--for", "amx", "--checkpoint", checkpoint, "--output", folder)
    assert result.exit_code == 0, result.stderr
    assert "bf16, because a CPU of class amx multiplies no faster floating precision natively" in result.stderr
    manifest = Manifest.read(folder)
    assert manifest.engine["inference_precision"] == "bf16"
    assert manifest.precision["asked"] == "bf16"
    assert manifest.precision["built_for"]["class"] == "amx"
    assert not manifest.precision["built_for"]["here"]
    assert manifest.precision["products"].keys() == {"fp32"}
    claim = manifest.precision["claims"][0]
    assert (claim["layers"], claim["claimed"], claim["holds"]) == ("products", "bf16", None)
    assert claim["checked"] == "to be checked on amx"
    assert "to be checked on amx" in (folder / "report.html").read_text()
    assert "claimed bf16, to be checked on amx; where it was built: " in " ".join(run("inspect", folder).stdout.split())
    artifact = manifest.parity[-1]
    assert artifact["note"].startswith("matrix products in fp32; products, ")
    assert "in bf16 to be checked on amx" in artifact["note"]
    with load_engine(folder) as engine:
        assert engine.self_test().passed


def test_an_engine_for_a_lesser_processor_executes_here_as_there(checkpoint, tmp_path, run):
    folder = tmp_path / "engine"
    result = run("--target", "openvino", "--for", "avx2", "--checkpoint", checkpoint, "--output", folder)
    assert result.exit_code == 0, result.stderr
    precision = Manifest.read(folder).precision
    assert (precision["asked"], precision["products"].keys()) == ("fp32", {"fp32"})
    assert {claim["holds"] for claim in precision["claims"]} == {True}


def test_what_the_machine_multiplies_best_is_the_default(checkpoint, tmp_path, run, monkeypatch):
    monkeypatch.setenv(CAP_VARIABLE, "AVX2")
    monkeypatch.chdir(tmp_path)
    result = run("--target", "openvino", "--checkpoint", checkpoint)
    assert result.exit_code == 0, result.stderr
    precision = Manifest.read(tmp_path / "out" / "openvino-fp32").precision
    assert precision["asked"] == "fp32"
    assert "multiplies no faster floating precision natively" in precision["chosen"]
    assert precision["built_for"]["here"]
