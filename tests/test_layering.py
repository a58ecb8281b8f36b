"""Who may import whom: bench -> compile -> kdcmae -> kernels, and kdcmae.runtime stands alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What each layer may import of the package, most specific prefix first.
LAYERS = {
    "kdcmae.runtime": {"kdcmae.runtime", "kdcmae.errors", "kdcmae.extras", "kdcmae.host"},
    "kdcmae.kernels": {"kdcmae.kernels", "kdcmae.errors"},
    "kdcmae.compile": {"kdcmae.compile", "kdcmae", "kdcmae.runtime"},
    "kdcmae.bench": {"kdcmae.bench", "kdcmae.compile", "kdcmae.kernels", "kdcmae", "kdcmae.runtime"},
    "kdcmae": {"kdcmae", "kdcmae.runtime", "kdcmae.kernels"},
}


def sources() -> Iterator[tuple[str, Path]]:
    for folder, prefix in (
        ("kdcmae", "kdcmae"),
        ("kernels", "kdcmae.kernels"),
        ("compile", "kdcmae.compile"),
        ("bench", "kdcmae.bench"),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT / folder).with_suffix("")
            yield ".".join([prefix, *relative.parts]).removesuffix(".__init__"), path


def layer_of(module: str) -> str:
    return next(layer for layer in LAYERS if module == layer or module.startswith(f"{layer}."))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("module", "path"), list(sources()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_follow_the_arrows(module, path):
    allowed = LAYERS[layer_of(module)]
    for imported in imports(path):
        assert imported.split(".")[0] not in {"kernels", "compile", "bench"}, f"{module} imports {imported}"
        if imported.split(".")[0] == "kdcmae" and imported != "kdcmae":
            exact = imported in allowed or any(imported.startswith(f"{name}.") for name in allowed - {"kdcmae"})
            assert exact or layer_of(imported) in allowed, f"{module} imports {imported}"


def test_a_wrong_import_would_be_found():
    assert layer_of("kdcmae.runtime.engine") == "kdcmae.runtime"
    assert layer_of("kdcmae.compile.cli") not in LAYERS["kdcmae"]
    assert layer_of("kdcmae.classifier") not in LAYERS["kdcmae.runtime"]


HEAVY = ("av", "nncf", "onnx", "onnxruntime", "openvino", "rich", "safetensors", "torch")


@pytest.mark.parametrize("module", ["kdcmae", "kdcmae.runtime", "kdcmae.cli", "kdcmae.compile.cli", "kdcmae.bench.cli"])
def test_these_load_without_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("main", ["kdcmae.cli", "kdcmae.compile.cli", "kdcmae.bench.cli"])
def test_every_command_loads_where_numpy_and_click_are_alone(main):
    code = (
        f"import sys\nfor name in {HEAVY}: sys.modules[name] = None\n"
        f"from {main} import main\n"
        "for name in main.list_commands(None): main.get_command(None, name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
