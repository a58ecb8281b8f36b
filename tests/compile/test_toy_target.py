"""A new target is two files and one row: a made-up one builds, is verified, diagnosed, cached and benchmarked.

Its engines are the exported program itself, which PyTorch runs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from kdcmae.bench.cli import main as bench
from kdcmae.compile.cli import main as compiler
from kdcmae.compile.targets import load_target
from kdcmae.errors import ConfigError
from kdcmae.progress import Progress, observed
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.targets import TARGETS, registered

ROW = """
from kdcmae.runtime.targets import TargetRecord

RECORD = TargetRecord(
    name="toy",
    label="Toy",
    backend="toy.backend:ToyBackend",
    compiler="toy.compiler",
    modules=("torch",),
    distributions=("torch",),
    tools=("torch", "safetensors"),
    devices=("cpu",),
    upper_devices=True,
    cannot_build={"int8": "it has no integers", "fp8": "it has no integers"},
    auto=("fp32",),
    auto_because="it knows nothing else",
)
"""
BACKEND = """
from kdcmae.runtime.backend import Backend, import_library, require_same_release
from kdcmae.runtime.execution import Execution


class ToyBackend(Backend):
    def __init__(self, folder, manifest, *, device, threads):
        self._torch = import_library("torch", install="torch")
        require_same_release(manifest, "torch", self._torch.__version__, packages=("torch",))
        self._names = [spec.name for spec in manifest.outputs]
        self._module = self._torch.export.load(str(folder / manifest.engine["file"])).module()

    def infer(self, feed):
        with self._torch.inference_mode():
            outputs = self._module(**{name: self._torch.from_numpy(array) for name, array in feed.items()})
        return {name: output.numpy() for name, output in zip(self._names, outputs, strict=True)}

    def close(self):
        del self._module
"""
COMPILER = """
from kdcmae.compile.targets import BuiltEngine, Contents, Target


class Toy(Target):
    name = "toy"
    reads_onnx = False
    searched = ("fp32",)

    def build(self, request):
        import torch

        from kdcmae.compile.gates import declared_products

        torch.export.save(request.program, str(request.folder / "model.pt2"))
        products = declared_products(request.program)
        return BuiltEngine(
            engine={"file": "model.pt2", "device": "CPU"},
            libraries={"torch": torch.__version__.partition("+")[0]},
            executed={"product": products},
            read_from="the program",
            products=products,
            run=None,
        )

    def inspect(self, path):
        return Contents(format="Toy program", operations={"product": {"fp32": 1}})

    def layer_values(self, request):
        from kdcmae.compile.layers import module_values

        return module_values(request.model, request.lowered)

    def hidden(self, settings):
        return ""


TARGET = Toy()
"""
# Whatever process starts with this folder on its path knows the target.
STARTS = """
from kdcmae.runtime.targets import registered
from toy.row import RECORD

kept = registered(RECORD)
kept.__enter__()
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The target ``toy``, in this process and in those that it starts; gives the folder of its package."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy").mkdir()
    files = {"__init__": "", "row": ROW, "backend": BACKEND, "compiler": COMPILER}
    for name, text in files.items():
        (folder / "toy" / f"{name}.py").write_text(text)
    (folder / "sitecustomize.py").write_text(STARTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
        from toy.row import RECORD

        with registered(RECORD):
            for command in (compiler.get_command(None, name) for name in ("build", "diagnose")):
                for option in command.params:
                    if option.name == "target":  # commands were made from the table before the row was there
                        patch.setattr(option.type, "choices", tuple(TARGETS))
            yield folder


@pytest.fixture(scope="module")
def built(toy: Path, checkpoint: Path, run: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory):
    """The engine of a small classifier in its folder, the cache that has a copy, and what the build printed."""
    cache, engine = tmp_path_factory.mktemp("toy-cache"), tmp_path_factory.mktemp("toy-engine") / "engine"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDCMAE_CACHE", str(cache))
        result = run("--target", "toy", "--checkpoint", checkpoint, "--output", engine, "--json")
    assert result.exit_code == 0, result.stderr
    return SimpleNamespace(cache=cache, engine=engine, manifest=json.loads(result.stdout)["manifest"])


def test_it_builds_and_climbs_the_ladder(built):
    manifest = built.manifest
    assert manifest["target"] == "toy"
    assert manifest["precision"]["chosen"] == "it knows nothing else"
    assert [claim["holds"] for claim in manifest["precision"]["claims"] if claim["layers"] == "products"] == [True]
    rungs = {rung["name"]: rung["status"] for rung in manifest["parity"]}
    assert rungs == {"program": "passed", "engine": "skipped", "artifact": "passed"}


def test_it_is_verified(built, run):
    result = run("verify", built.engine, "--json")
    assert result.exit_code == 0, result.stderr
    assert {"self-test": "passed", "digests": "passed"}.items() <= {
        check["check"]: check["status"] for check in json.loads(result.stdout)["checks"]
    }.items()


def test_it_is_inspected(built, run):
    facts = json.loads(run("inspect", built.engine, "--json").stdout)
    assert facts["graph"] == {"format": "Toy program", "operations": {"product": {"fp32": 1}}}


def test_it_is_diagnosed(built, run, checkpoint):
    result = run("diagnose", built.engine, "--checkpoint", checkpoint, "--json")
    assert result.exit_code == 0, result.stderr
    diagnosis = json.loads(result.stdout)
    assert [stage["stage"] for stage in diagnosis["stages"]] == ["lowered", "onnx", "toy"]
    assert (diagnosis["first"], diagnosis["blind"]) == (None, "")


def test_the_same_engine_comes_from_the_cache(built, run, checkpoint, monkeypatch, tmp_path):
    """Where an engine is there already, its build says how long this one will take."""
    monkeypatch.setenv("KDCMAE_CACHE", str(built.cache))
    folder = shutil.copytree(built.engine, tmp_path / "again")
    told: list[Progress] = []
    with observed(told.append):
        result = run("--target", "toy", "--checkpoint", checkpoint, "--output", folder, "--json")
    assert "taken from the cache" in result.stderr
    assert json.loads(result.stdout)["manifest"] == built.manifest
    seconds = built.manifest["build"]["seconds"]
    assert (told[0].name, told[0].count) == ("look into the cache", len(seconds))
    assert told[0].remaining_s == pytest.approx(sum(seconds.values()))


def test_its_own_files_are_part_of_the_cache_key(toy):
    before = load_target("toy").identity()
    assert before.keys() == {"torch", "toy.compiler", "toy.backend"}
    path = toy / "toy" / "backend.py"
    path.write_text(f"{BACKEND}\n# edited\n")
    try:
        assert load_target("toy").identity()["toy.backend"] != before["toy.backend"]
    finally:
        path.write_text(BACKEND)


def test_it_is_benchmarked(built):
    result = CliRunner().invoke(
        bench, [str(built.engine), "--seconds", "0.02", "--warm-up", "0", "--threads", "1", "--self-check", "skip",
                "--json"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["rows"]
    assert row["status"] in {"measured", "unstable"}
    assert row["self_test"]["passed"]


def test_it_can_be_searched_for_a_latency(toy):
    from kdcmae.compile.settings import CompileSettings, SearchSettings

    settings = CompileSettings(target="toy", precision="fp32", batch=BatchRange(1, 1, 1))
    assert SearchSettings(build=settings, budget_ms=1.0, max_drop=1.0).precisions == ("fp32",)
    with pytest.raises(ConfigError, match="searches openvino, onnx, aoti, toy on this machine, not trt"):
        SearchSettings(build=dataclasses.replace(settings, target="trt"), budget_ms=1.0, max_drop=1.0)
