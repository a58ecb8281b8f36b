from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcmae import KDCMAEClassifier, host
from kdcmae.cli.common import Steps
from kdcmae.compile.build import compile_engine
from kdcmae.compile.models import classifier_model
from kdcmae.compile.preflight import preflight
from kdcmae.compile.settings import CompileSettings
from kdcmae.compile.targets import aoti_package as aoti
from kdcmae.compile.targets import load_target
from kdcmae.compile.targets.aoti import TARGET
from kdcmae.compile.targets.aoti_package import executed_precision
from kdcmae.errors import (
    BrokenDependencyError,
    ConfigError,
    DeviceError,
    EngineError,
    EngineIntegrityError,
    EngineVersionError,
)
from kdcmae.runtime import load_engine
from kdcmae.runtime.manifest import BatchRange, Manifest

LABELS = ("dog", "rain", "violin")


def classifier(modality="audio"):
    torch.manual_seed(0)
    settings = {"embed_dim": 64, "num_heads": 1, "specific_depth": 1, "audio_length": 64, "image_size": 32}
    return KDCMAEClassifier.from_preset("tiny", num_classes=3, labels=LABELS, modality=modality, **settings).eval()


def compiled(folder, model, precision, batch):
    engine_model = classifier_model(model, name="smallest", source="a test", random_weights=True)
    settings = CompileSettings(target="aoti", precision=precision, batch=batch)
    steps = Steps()
    compile_engine(engine_model, folder, settings, step=steps, seconds=steps.seconds)
    return folder


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory):
    """bf16, audio and image, batch 1 to 4."""
    folder = tmp_path_factory.mktemp("aoti") / "engine"
    return compiled(folder, classifier("audiovisual"), "bf16", BatchRange(1, 2, 4))


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    """fp32, audio, batch 1."""
    return compiled(
        tmp_path_factory.mktemp("a folder with spaces") / "engine", classifier(), "fp32", BatchRange(1, 1, 1)
    )


def test_a_static_float32_package_agrees_with_the_model(static):
    audio = np.random.default_rng(1).standard_normal((1, 64, 128), dtype=np.float32)
    with load_engine(static) as engine, torch.inference_mode():
        expected = classifier()(audio=torch.from_numpy(audio)).numpy()
        np.testing.assert_allclose(engine.infer({"audio": audio})["logits"], expected, atol=1e-5)
        assert engine.manifest.precision["products"].keys() == {"fp32"}


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_a_dynamic_package_serves_every_batch(dynamic, batch):
    generator = np.random.default_rng(batch)
    audio = generator.standard_normal((batch, 64, 128), dtype=np.float32)
    image = generator.standard_normal((batch, 3, 32, 32), dtype=np.float32)
    with load_engine(dynamic) as engine, torch.inference_mode():
        expected = classifier("audiovisual")(torch.from_numpy(audio), torch.from_numpy(image)).numpy()
        logits = engine.infer({"audio": audio, "image": image})["logits"]
    np.testing.assert_allclose(logits, expected, atol=4e-2 * np.abs(expected).max())


def test_precision_is_read_back_from_the_generated_code(dynamic):
    manifest = Manifest.read(dynamic)
    executed = manifest.precision["executed"]
    assert set(manifest.precision["products"]) == {"bf16", "fp32"}
    assert manifest.precision["products"]["fp32"] == 1  # the head
    assert executed["addmm"]["bf16"] > executed["bmm"]["bf16"] > 0
    assert set(executed["LayerNormalization"]) == set(executed["Softmax"]) == {"fp32"}
    assert [rung["status"] for rung in manifest.parity if rung["name"] == "artifact"] == ["passed"]


@pytest.mark.slow
def test_float16(tmp_path):
    folder = compiled(tmp_path / "engine", classifier(), "fp16", BatchRange(1, 1, 2))
    assert set(Manifest.read(folder).precision["products"]) == {"fp16", "fp32"}
    with load_engine(folder) as engine:
        assert engine.self_test().passed


def test_a_fresh_process_runs_the_package(static):
    code = "import sys, kdcmae.runtime as r; sys.exit(not r.load_engine(sys.argv[1]).self_test().passed)"
    assert subprocess.run([sys.executable, "-c", code, str(static)], check=False).returncode == 0


def test_inspect_reads_the_code_in_the_package(static, tmp_path):
    contents = TARGET.inspect(static / "model.pt2")
    assert contents.format == "AOTInductor package"
    assert contents.operations == executed_precision(static / "model.pt2")
    (tmp_path / "model.pt2").write_bytes(b"no archive")
    with pytest.raises(EngineError, match="is not an AOTInductor package"):
        TARGET.inspect(tmp_path / "model.pt2")


def test_nothing_but_the_engine_is_left(static):
    assert {path.name for path in static.iterdir()} >= {"model.pt2", "golden.npz", "labels.txt", "manifest.json"}
    assert not [path for path in static.iterdir() if path.is_dir()]
    assert [path.name for path in static.parent.iterdir()] == ["engine"]


def edited(static, tmp_path, change):
    """A copy with one change in its manifest."""
    folder = tmp_path / "engine"
    folder.mkdir()
    for path in static.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    assert change[0] in text
    (folder / "manifest.json").write_text(text.replace(*change), encoding="utf-8")
    return folder


def test_a_changed_package_is_not_executed(static, tmp_path):
    folder = edited(static, tmp_path, ("smallest", "smallest"))
    content = bytearray((folder / "model.pt2").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.pt2").write_bytes(content)
    with pytest.raises(EngineIntegrityError, match=r"model\.pt2 has changed"):
        load_engine(folder)


def test_another_processor_is_refused(static, tmp_path):
    assert Manifest.read(static).engine["cpu_features"] == sorted(host.cpu_features())
    folder = edited(static, tmp_path, ('"cpu_features": [', '"cpu_features": ["abacus", '))
    with pytest.raises(DeviceError, match="a processor with abacus, which this one lacks; compile it on this machine"):
        load_engine(folder)


def test_another_release_of_torch_is_refused(static, tmp_path):
    version = torch.__version__.partition("+")[0]
    folder = edited(static, tmp_path, (f'"torch": "{version}"\n', '"torch": "2.1.0"\n'))
    with pytest.raises(EngineVersionError, match=r"built with torch 2\.1\.0 .*pip install torch==2\.1\.0"):
        load_engine(folder)


def test_an_impossible_precision_is_refused_before_any_work(tmp_path):
    settings = CompileSettings(target="aoti", precision="int8", batch=BatchRange(1, 1, 1))
    with pytest.raises(ConfigError, match=r"--target aoti cannot build --precision int8: .*use --target openvino"):
        preflight(settings, tmp_path / "engine")


def test_no_compiler_is_said_before_any_work(fails):
    fails("torch._inductor.cpp_builder.get_cpp_compiler", aoti.InvalidCxxCompiler())
    with pytest.raises(BrokenDependencyError, match=r"no C\+\+ compiler; install one with: apt-get install") as error:
        load_target("aoti").require()
    assert error.value.exit_code == 3
    with pytest.raises(BrokenDependencyError, match=r"no C\+\+ compiler"):
        load_target("aoti").layer_values(None)  # compiles too


@pytest.mark.slow
def test_weights_are_mapped_while_compiled_and_given_back_before_they_are_packed(tmp_path, monkeypatch):
    mapped = {}

    def looking(name):
        honest = getattr(aoti, name)

        def look(*args, **kwargs):
            mapped[name] = "weights.pt" in Path("/proc/self/maps").read_text()
            return honest(*args, **kwargs)

        return look

    for name in ("aot_compile", "package_aoti"):
        monkeypatch.setattr(aoti, name, looking(name))
    module = torch.nn.Sequential(torch.nn.Linear(64, 64))
    inputs = (torch.ones(1, 64),)
    paths = [tmp_path / "one.pt2", tmp_path / "other.pt2"]
    for path in paths:
        aoti.compile_package(torch.export.export(module, inputs), path, "cpu")
        with torch.inference_mode():
            torch.testing.assert_close(torch._inductor.aoti_load_package(str(path))(*inputs), module(*inputs))
        assert mapped == {"aot_compile": True, "package_aoti": False}
    assert {path.name for path in tmp_path.iterdir()} == {"one.pt2", "other.pt2"}
    assert len({weights_at_the_end(path) for path in paths}) == 1


def test_no_room_for_the_weights_is_one_line(tmp_path):
    program = torch.export.export(torch.nn.Linear(4, 4), (torch.ones(1, 4),))
    with pytest.raises(EngineError, match=r"the weights cannot be written to .*; is the disk full\?$"):
        aoti._map_weights(program, tmp_path / "missing" / "weights.pt")


def weights_at_the_end(package):
    """Of the library, and after them the number that it knows them by."""
    with zipfile.ZipFile(package) as archive:
        (library,) = (name for name in archive.namelist() if name.endswith(".so"))
        return archive.read(library)[-4 * (64 * 64 + 64) - 8 :]


def test_a_failed_compilation_is_one_line(tmp_path, fails):
    name = "kdcmae.compile.targets.aoti_package.aot_compile"
    fails(name, RuntimeError("CppCompileError: no space\nand a page of output"))
    with pytest.raises(EngineError, match=r"engine: CppCompileError: no space; and a page of output$"):
        aoti.compile_package(torch.export.export(torch.nn.Identity(), (torch.ones(1),)), tmp_path / "model.pt2", "cpu")


WRAPPER = """
    aoti_torch_empty_strided(2, int_array_4, int_array_5, cached_torch_dtype_{written}, cpu, 0, &buf2_handle);
    auto buf3 = std::move(buf2);  // reuse
    auto buf4 = wrap_with_raii_handle_if_needed(reinterpret_tensor_wrapper(buf3, 2, int_array_4, int_array_5, 0L));
    aoti_torch_{device}_mm_out(buf4, a, b);
    aoti_torch_{device}_bmm_out(buf9, a, b);
"""
KERNEL = """
extern "C"  void  cpp_fused__softmax_1(const at::Half* in_ptr0, float* out_ptr0)
{{
    auto tmp0 = at::vec::Vectorized<at::Half>::loadu(in_ptr0 + x, 16);
    auto tmp1 = {use};
}}
"""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_product_computes_in_the_type_it_writes(device, tmp_path):
    package = tmp_path / "model.pt2"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("model/x.wrapper.cpp", WRAPPER.format(written="float16", device=device))
    assert executed_precision(package) == {"mm": {"fp16": 1}, "bmm": {"unknown": 1}}


@pytest.mark.parametrize(("use", "precision"), [("at::vec::convert<float>(tmp0)", "fp32"), ("tmp0 + tmp0", "fp16")])
def test_loops_compute_in_what_they_do_not_widen(use, precision, tmp_path):
    package = tmp_path / "model.pt2"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("model/x.kernel.cpp", KERNEL.format(use=use))
    assert executed_precision(package) == {"Softmax": {precision: 1}}
