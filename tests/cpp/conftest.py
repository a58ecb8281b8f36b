"""The C++ driver, built plain and with sanitizers, and engines and clips to give it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdcmae import cpp

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Driver:
    """The program ``driver.cpp``."""

    path: Path

    def __call__(self, *words: str | Path, code: int | None = 0, **environment: str) -> Any:
        """The JSON that it answers.

        Args:
            words: of the command line.
            code: the exit code that is expected; None for any.
            environment: variables besides those of this process.
        """
        done = subprocess.run(
            [self.path, *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **environment},
        )
        assert code is None or done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def build_driver(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Driver]:
    missing = [name for name in ("cmake", "g++") if shutil.which(name) is None]
    missing += [name for name in ("nlohmann/json.hpp", "zlib.h") if not (Path("/usr/include") / name).is_file()]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: the C++ header was not tested")

    def build(sanitize: str = "") -> Driver:
        folder = tmp_path_factory.mktemp(f"driver-{sanitize or 'plain'}")
        settings = {
            "kdcmae_DIR": cpp.cmake_dir(),
            "OpenVINO_DIR": cpp.openvino_cmake_dir(),
            "KDCMAE_ONNXRUNTIME_LIBRARY": cpp.onnxruntime_library(),
            "SANITIZE": sanitize,
        }
        options = [f"-D{name}={value}" for name, value in settings.items()]
        for command in (["cmake", "-S", HERE, "-B", folder, *options], ["cmake", "--build", folder]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        return Driver(folder / "driver")

    return build


@pytest.fixture(scope="session")
def driver(build_driver: Callable[..., Driver]) -> Driver:
    return build_driver()


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds engines of the shipped model, each once."""
    from click.testing import CliRunner

    from kdcmae.compile.cli import main

    built: dict[tuple[str, ...], Path] = {}

    def build(target: str, precision: str, inputs: str = "tensor", *more: str) -> Path:
        key = (target, precision, inputs, *more)
        if key not in built:
            folder = tmp_path_factory.mktemp("engine") / "out"
            options = ["--target", target, "--precision", precision, "--inputs", inputs, "--output", str(folder)]
            done = CliRunner().invoke(main, [*options, *more])
            assert done.exit_code == 0, done.output
            built[key] = folder
        return built[key]

    return build


@pytest.fixture
def write_clip(tmp_path: Path) -> Callable[..., Path]:
    def write(waveform: np.ndarray | None, rate: int, frame: np.ndarray | None) -> Path:
        folder = tmp_path / "clip"
        folder.mkdir(exist_ok=True)
        facts: dict[str, Any] = {"rate": rate}
        (folder / "sound.bin").write_bytes(b"")
        (folder / "frame.bin").write_bytes(b"")
        if waveform is not None:
            planes = np.atleast_2d(waveform)
            facts |= {"channels": len(planes), "samples": planes.shape[1], "type": str(planes.dtype)}
            (folder / "sound.bin").write_bytes(np.ascontiguousarray(planes.T).tobytes())
        if frame is not None:
            facts |= {"height": frame.shape[0], "width": frame.shape[1]}
            (folder / "frame.bin").write_bytes(np.ascontiguousarray(frame).tobytes())
        (folder / "clip.json").write_text(json.dumps(facts))
        return folder

    return write
