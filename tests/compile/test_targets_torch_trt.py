from __future__ import annotations

import sys
import zipfile
from types import SimpleNamespace

import pytest
import torch

from kdcmae import KDCMAEClassifier
from kdcmae.compile import targets
from kdcmae.compile.export import export_program
from kdcmae.compile.lowering import lower
from kdcmae.compile.models import classifier_model
from kdcmae.compile.preflight import preflight
from kdcmae.compile.settings import CompileSettings
from kdcmae.compile.targets import BuildRequest, load_target
from kdcmae.errors import DeviceError, EngineError, MissingDependencyError
from kdcmae.runtime.manifest import BatchRange


class Library:
    """Records what torch_tensorrt is asked for; tests/contract holds the keywords against the genuine one."""

    __version__ = "2.13.0+cu130"

    def __init__(self):
        self.compiled = {}
        self.saved = {}
        self.dynamo = SimpleNamespace(compile=self.compile)
        self.failure = None

    def Input(self, **facts):  # noqa: N802
        return facts

    def compile(self, program, **options):
        if self.failure:
            raise self.failure
        self.compiled = options
        return "module"

    def save(self, module, path, **options):
        assert module == "module"
        self.saved = options
        with open(path, "wb") as file:
            file.write(b"program")


@pytest.fixture
def library(monkeypatch):
    found = Library()
    monkeypatch.setitem(sys.modules, "torch_tensorrt", found)
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.0.0.5"))
    monkeypatch.setattr("torch.export.passes.move_to_device_pass", lambda program, device: program)
    return found


def request(folder, precision, batch):
    torch.manual_seed(0)
    settings = {"embed_dim": 64, "num_heads": 1, "specific_depth": 1, "audio_length": 64, "image_size": 32}
    classifier = KDCMAEClassifier.from_preset("tiny", num_classes=3, modality="audio", **settings).eval()
    model = classifier_model(classifier, name="smallest", source="a test", random_weights=True)
    return BuildRequest(
        program=export_program(model, lower(model.module, precision), batch),
        graph=None,
        folder=folder,
        precision=precision,
        inputs=model.inputs,
        outputs=("logits",),
        batch=batch,
    )


def test_a_range_of_batches_is_one_shared_axis(library, tmp_path):
    built = load_target("torch-trt").build(request(tmp_path, "fp16", BatchRange(1, 2, 4)))
    assert library.compiled["kwarg_inputs"] == library.saved["kwarg_inputs"] == {
        "audio": {
            "min_shape": (1, 64, 128),
            "opt_shape": (2, 64, 128),
            "max_shape": (4, 64, 128),
            "dtype": torch.float32,
            "name": "audio",
        }
    }  # fmt: skip
    assert library.compiled["require_full_compilation"]
    assert library.compiled["disable_tf32"]
    axis = library.saved["dynamic_shapes"]["audio"][0]
    assert (axis.min, axis.max) == (1, 4)
    assert built.libraries["torch_tensorrt"] == "2.13.0"
    assert (tmp_path / built.engine["file"]).read_bytes() == b"program"


def test_precision_is_that_of_the_strongly_typed_program(library, tmp_path):
    built = load_target("torch-trt").build(request(tmp_path, "fp16", BatchRange(1, 1, 1)))
    assert library.compiled["kwarg_inputs"]["audio"]["shape"] == (1, 64, 128)
    assert library.saved["dynamic_shapes"] is None
    assert set(built.products) == {"fp16", "fp32"}
    assert built.products["fp32"] == 1  # the head
    assert set(built.executed["LayerNormalization"]) == set(built.executed["Softmax"]) == {"fp32"}


def test_another_tensorrt_is_another_engine(monkeypatch):
    installed = {"torch-tensorrt": "2.13.0", "tensorrt": "11.0.0.5", "tensorrt-cu13-bindings": "11.0.0.5"}
    monkeypatch.setattr(targets, "version", installed.__getitem__)
    before = load_target("torch-trt").identity()
    for name in installed:
        with monkeypatch.context() as patch:
            patch.setitem(installed, name, "12.0.0")
            assert load_target("torch-trt").identity() != before


@pytest.mark.parametrize("failure", [RuntimeError("no converter for erf\nand more"), AssertionError()])
def test_a_refused_program_is_one_line(library, tmp_path, failure):
    library.failure = failure
    with pytest.raises(EngineError, match=r"torch_tensorrt 2\.13\.0\+cu130 could not build the engine: \w.*$") as error:
        load_target("torch-trt").build(request(tmp_path, "fp32", BatchRange(1, 1, 1)))
    assert "\n" not in str(error.value)


def test_a_missing_library_gives_the_install_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    settings = CompileSettings(target="torch-trt", precision="fp16", batch=BatchRange(1, 1, 1))
    with pytest.raises(MissingDependencyError, match=r"pip install 'kdcmae\[compile-torch-trt\]'"):
        preflight(settings, tmp_path / "engine")


def test_without_a_gpu_nothing_is_begun(library, no_gpu, tmp_path):
    settings = CompileSettings(target="torch-trt", precision="fp16", batch=BatchRange(1, 1, 1))
    with pytest.raises(DeviceError, match="--target torch-trt cannot build here: no CUDA device"):
        preflight(settings, tmp_path / "engine")


def test_inspect_knows_a_saved_program_from_anything_else(tmp_path):
    path = tmp_path / "model.ep"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive_format", "pt2")
    assert load_target("torch-trt").inspect(path).format == "exported program with TensorRT plans"
    path.write_bytes(b"program")
    with pytest.raises(EngineError, match="is not an exported program"):
        load_target("torch-trt").inspect(path)
