"""Wheels that the contracts are checked against; ``make test`` downloads them, the repository holds none."""

from __future__ import annotations

import ast
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

WHEELS = Path(__file__).resolve().parents[2] / "build" / "contract"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpacks a wheel whose file name starts with what it is given."""

    def unpack(prefix: str) -> Path:
        found = sorted(WHEELS.glob(f"{prefix}*.whl"))
        if not found:
            pytest.skip(f"no {prefix} wheel in {WHEELS}: `make test` downloads it where there is a network")
        folder = tmp_path_factory.mktemp(prefix)
        with zipfile.ZipFile(found[-1]) as archive:
            archive.extractall(folder)
        return folder

    return unpack


@pytest.fixture(scope="session")
def torch_tensorrt(wheel: Callable[[str], Path]) -> Path:
    """Sources of the genuine torch_tensorrt, which cannot be imported without TensorRT's libraries."""
    return wheel("torch_tensorrt-2.13") / "torch_tensorrt"


@pytest.fixture(scope="session")
def function_in() -> Callable[[Path, str], ast.FunctionDef]:
    """Finds a function or ``Class.method`` in a source file."""

    def find(path: Path, name: str) -> ast.FunctionDef:
        scope: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
        for part in name.split("."):
            scope = next(node for node in ast.iter_child_nodes(scope) if getattr(node, "name", None) == part)
        assert isinstance(scope, ast.FunctionDef)
        return scope

    return find
