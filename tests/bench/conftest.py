"""Subjects for the benchmark's tests: fakes, and one real classifier as checkpoint and engine."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import stat
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcmae import KDCMAEClassifier
from kdcmae.bench.report.records import Report, Settings
from kdcmae.bench.run.interleaved import run_benchmark
from kdcmae.bench.run.worker import OpenSubject
from kdcmae.checkpoints import save_checkpoint
from kdcmae.compile.build import CompileSettings, compile_engine
from kdcmae.compile.models import classifier_model
from kdcmae.runtime.manifest import BatchRange

sys.path.insert(0, str(Path(__file__).parent))  # tests share the made-up reports of reports.py

SETTINGS = Settings(batch=2, threads=1, seconds=0.02, warm_up_s=0.001, timeout_s=60)


@pytest.fixture
def open_fake(monkeypatch: pytest.MonkeyPatch) -> OpenSubject:
    """Opens a subject that behaves as its name says; the workers find its module on the path they inherit."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("fake_subjects").open_fake


@pytest.fixture
def run_fakes(open_fake: OpenSubject) -> Callable[..., Report]:
    """Benchmarks fakes by name, in windows of milliseconds; keywords change the settings."""

    def run(*sources: str, **changes: Any) -> Report:
        settings = dataclasses.replace(SETTINGS, **changes)
        return run_benchmark(sources, settings, step=nullcontext, open_subject=open_fake, yardstick=lambda: 1.0)

    return run


@pytest.fixture(scope="session")
def classifier() -> KDCMAEClassifier:
    """A classifier that runs in a millisecond."""
    torch.manual_seed(0)
    return KDCMAEClassifier.from_preset(
        "tiny", num_classes=3, embed_dim=64, num_heads=1, specific_depth=1, audio_length=64, image_size=32
    ).eval()


@pytest.fixture
def checkpoint(classifier: KDCMAEClassifier, tmp_path: Path) -> Path:
    """That classifier as a file."""
    path = tmp_path / "model.safetensors"
    save_checkpoint(classifier, path)
    return path


@pytest.fixture(scope="session")
def compiled(quick_builds: None, classifier: KDCMAEClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That classifier as an ONNX Runtime engine; tests change a copy of it."""
    folder = tmp_path_factory.mktemp("compiled") / "engine"
    model = classifier_model(classifier, name="tiny", source="a test", random_weights=True)
    settings = CompileSettings(target="onnx", precision="fp32", batch=BatchRange(1, 1, 1))
    compile_engine(model, folder, settings, step=nullcontext, seconds={})
    return folder


@pytest.fixture
def engine_folder(compiled: Path, tmp_path: Path) -> Path:
    """An engine of the classifier in this test's own folder."""
    return Path(shutil.copytree(compiled, tmp_path / "engine"))


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a Python program on the path under some name."""

    def tool(name: str, body: str) -> None:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\nimport json, pathlib, sys\n{body}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(path.with_name("python")))
        monkeypatch.setenv("PATH", str(path.parent))

    return tool
