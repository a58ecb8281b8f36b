"""What ``pip install`` gives: the sdist and its wheel, on a machine that builds engines and on one that runs them.

No network is needed: the environments see folders of packages that are installed where the tests run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[1]
SOURCES = ("kdcmae", "kernels", "compile", "bench")
DOCUMENTS = ("docs", "examples")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "constraints.txt")
FILES += ("CHANGELOG.md", "CONTRIBUTING.md")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

APP = """
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.runtime import Engine, load_engine


def best(engine: Engine, waveform: NDArray[np.float32], frame: NDArray[np.uint8]) -> str:
    return engine.classify(waveform, 16_000, frame)[0].label


with load_engine(sys.argv[1]) as engine:
    assert engine.self_test().passed
    zeros: dict[str, NDArray[Any]] = {}
    for spec in engine.manifest.inputs:
        zeros[spec.name] = np.zeros([1 if isinstance(size, str) else size for size in spec.shape], spec.dtype)
    assert set(engine.infer(zeros)) == {spec.name for spec in engine.manifest.outputs}
    label = best(engine, np.zeros(32_000, np.float32), np.zeros((64, 64, 3), np.uint8))
print(label)
"""

HELP = """
import importlib.util, sys
from contextlib import redirect_stdout
from io import StringIO
from kdcmae.bench.cli import main as bench
from kdcmae.cli import main as kdcmae
from kdcmae.compile.cli import main as compiler

def help_of(command, *path):
    with redirect_stdout(StringIO()) as text:
        try:
            command([*path, "--help"])
        except SystemExit as end:
            assert not end.code, path
    assert "Usage:" in text.getvalue(), path
    found = command
    for name in path:
        found = found.get_command(None, name)
    for name in getattr(found, "list_commands", lambda context: ())(None):
        help_of(command, *path, name)

for command in (kdcmae, compiler, bench):
    help_of(command)
absent = [name for name in ("av", "nncf", "onnx", "onnxruntime", "rich", "safetensors", "torch")]
assert not any(map(importlib.util.find_spec, absent)), sys.path
"""


class Environment:
    """A Python environment outside the checkout, which nothing of this process's reaches.

    Args:
        folder: where it is; commands run in a folder of their own in it.
    """

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site = folder / "lib" / version / "site-packages"
        self.work = folder / "work"
        self.work.mkdir()

    def link(self, *distributions: str) -> None:
        """Show what these distributions and all that they require are made of."""
        for path in packages_of(*distributions):
            (self.site / path.name).symlink_to(path)

    def install(self, wheel: Path) -> None:
        options = ("--no-deps", "--no-index", "--no-compile", "--quiet", "--disable-pip-version-check")
        subprocess.run([sys.executable, "-m", "pip", "--python", self.python, "install", *options, wheel], check=True)

    def run(self, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        return subprocess.run(
            [self.bin / name, *map(str, arguments)],
            cwd=self.work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def output(self, name: str, *arguments: object) -> str:
        done = self.run(name, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


def packages_of(*distributions: str) -> set[Path]:
    """Files and folders in site-packages that these and all that they require are made of."""
    found, wanted, seen = set(), list(distributions), set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        distribution = metadata.distribution(name)
        tops = {path.parts[0] for path in distribution.files or () if path.parts[0] not in ("..", "__pycache__")}
        found |= {Path(distribution.locate_file(top)) for top in tops}
        wanted += [
            re.match(r"[\w.-]+", requirement).group()
            for requirement in distribution.requires or ()
            if "extra" not in requirement and "platform_system" not in requirement
        ]
    return found


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a test session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def distributions(shared: Path) -> Path:
    """The folder of the sdist and of the wheel made from it, as ``python -m build`` makes them."""
    folder = shared / "distributions"
    with FileLock(shared / "distributions.lock"):
        if not folder.is_dir():
            checkout = shared / "checkout"
            for name in (*SOURCES, *DOCUMENTS):
                shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
            for name in FILES:
                shutil.copy(ROOT / name, checkout / name)
            subprocess.run(
                [sys.executable, "-m", "build", "--no-isolation", "--outdir", shared / "built", checkout],
                check=True,
                capture_output=True,
            )
            (shared / "built").rename(folder)
    return folder


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def engine(wheel: Path, shared: Path) -> Path:
    """An engine of the shipped model with a clip beside it, made by the wheel outside the checkout."""
    folder = shared / "builds"
    with FileLock(shared / "builds.lock"):
        if not (folder / "work" / "engine").is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            pytest.importorskip("openvino", reason="OpenVINO is not installed")
            builds = Environment(folder)
            (builds.site / "shared.pth").write_text("\n".join({sysconfig.get_path("purelib"), *map(str, _roots())}))
            builds.install(wheel)
            builds.output("kdcmae", "data", "synth", "clips", "--clips", 12)
            builds.output("kdcmae-compile", "--target", "openvino", "--precision", "fp32", "--output", "engine")
            told = builds.output("kdcmae", "predict", "engine", *(builds.work / "clips").rglob("*0.mp4"), "--json")
            assert json.loads(told)["clips"][0]["predictions"]
    return folder / "work" / "engine"


def _roots() -> set[Path]:
    """Folders that what is installed here lies in."""
    return {Path(metadata.distribution(name).locate_file("")) for name in ("numpy", "torch", "openvino", "av")}


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """numpy, click, OpenVINO and the wheel: ``pip install 'kdcmae[openvino]'``."""
    found = Environment(tmp_path_factory.mktemp("device"))
    found.link("numpy", "click", "openvino")
    found.install(wheel)
    return found


def test_the_sdist_and_its_wheel_hold_every_file_of_the_packages(distributions, wheel):
    expected = {
        f"kdcmae/{'' if folder == 'kdcmae' else f'{folder}/'}{path.relative_to(ROOT / folder)}"
        for folder in SOURCES
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", "results"} & set(path.parts)
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert tops == {*SOURCES, *DOCUMENTS, *FILES, "PKG-INFO", "setup.cfg", "kdcmae.egg-info"}


def test_an_app_runs_an_engine_with_numpy_and_its_library_alone(device, engine):
    code = "import sys, kdcmae.runtime; print(sorted({'click', 'openvino', 'torch'} & set(sys.modules)))"
    assert device.output("python", "-c", code) == "[]\n"
    app = device.work / "app.py"
    app.write_text(APP)
    assert device.output("python", app, engine).strip() in (engine / "labels.txt").read_text().splitlines()


def test_the_commands_of_a_device_need_no_more(device, engine):
    assert device.output("python", "-c", HELP) == ""
    assert json.loads(device.output("kdcmae", "doctor", "--json"))["problems"] == []
    assert "passed" in device.output("kdcmae-compile", "verify", engine)
    assert "classifier" in device.output("kdcmae-compile", "inspect", engine)
    card = json.loads(device.output("kdcmae", "check", engine, "--seconds", 0.05, "--json"))
    assert card["verdicts"]


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("kdcmae predict {engine} {clip}", "av is not installed; install it with: pip install 'kdcmae[video]'"),
        (
            "kdcmae evaluate classification --data {clip}",
            "torch is not installed; install it with: pip install 'kdcmae[train]'",
        ),
        (
            "kdcmae-compile --target openvino --precision fp32",
            "torch is not installed; install it with: pip install 'kdcmae[compile-openvino]'",
        ),
    ],
)
def test_what_a_command_lacks_is_one_line(device, engine, command, missing):
    clip = next((engine.parent / "clips").rglob("*.mp4"))
    name, *arguments = command.format(engine=engine, clip=clip).split()
    done = device.run(name, *arguments)
    assert done.returncode == 3
    assert done.stderr.splitlines() == [f"error: {missing}"]
    assert not done.stdout


def test_clips_are_classified_without_torch_where_they_can_be_decoded(wheel, engine, tmp_path):
    device = Environment(tmp_path / "device")
    device.link("numpy", "click", "openvino", "av")
    device.install(wheel)
    clips = list((engine.parent / "clips").rglob("*0.mp4"))
    told = json.loads(device.output("kdcmae", "predict", engine, *clips, "--json"))
    assert all(clip["predictions"] for clip in told["clips"])


def test_an_app_is_typed_as_strictly_as_mypy_can(device):
    app = device.work / "app.py"
    app.write_text(APP)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", device.python, "--cache-dir", os.devnull]
    done = subprocess.run([*mypy, app], cwd=device.work, capture_output=True, text=True, check=False)
    assert done.stdout == "Success: no issues found in 1 source file\n", done.stdout
