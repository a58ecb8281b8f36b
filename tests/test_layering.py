"""Which module may import which: the layers of the package, from the runtime up to the benchmarks."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Folders of the repository and the package that each one is installed as.
FOLDERS = {"kdcmae": "kdcmae", "kernels": "kdcmae.kernels", "compile": "kdcmae.compile", "bench": "kdcmae.bench"}

# Layer -> the parts of kdcmae that it consists of, and the layers that it may import besides itself. A part is a module
# or a package with everything in it. This table is the only place that says who may import whom.
LAYERS = {
    "base": ("errors extras host", ""),
    "media": ("media", "base"),
    "runtime": ("runtime", "base media"),
    "kernels": ("kernels", "base"),
    "tools": ("cards drawing files progress terminal timing", "base runtime"),
    "model": (
        "assets checkpoints classifier collectives config decoder encoder frontend keep layers linear losses masking "
        "merging normalisation ops pos_embed predictors presets pretraining weights",
        "base media runtime kernels tools",
    ),
    "data": ("data labels", "base media runtime tools model"),
    "evaluation": ("evaluation", "base media runtime tools model data"),
    "training": ("training", "base media runtime tools model data evaluation"),
    "export": ("export", "base runtime tools model"),
    "cli": ("__main__ check cli cpp doctor", "base media runtime tools model data evaluation training export"),
    "compile": ("compile", "base media runtime tools model data evaluation training cli"),
    "bench": ("bench", "base media runtime kernels tools model data evaluation training export cli compile"),
}


def sources(root: Path) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module."""
    for folder, package in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            relative = path.relative_to(root / folder).with_suffix("")
            yield ".".join([package, *relative.parts]).removesuffix(".__init__"), path


def layers_of(module: str) -> list[str]:
    """Layers that list a module; ``kdcmae`` itself and the names that it exports belong to the model."""
    part = [*module.split("."), ""][1]
    layers = [layer for layer, (parts, _) in LAYERS.items() if part in parts.split()]
    exported = part not in {path.stem for path in (ROOT / "kdcmae").iterdir()}
    return layers or (["model"] if exported else [])


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        yield from imported_by(node)


def imported_by(node: ast.AST) -> Iterator[str]:
    """Modules that one statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        yield from (module if module != "kdcmae" else f"kdcmae.{alias.name}" for alias in node.names)


def wrong_imports(root: Path) -> list[str]:
    """Imports against the table, as ``MODULE imports MODULE``."""
    wrong = []
    for module, path in sources(root):
        (layer,) = layers_of(module)
        allowed = {layer, *LAYERS[layer][1].split()}
        for imported in imports(path):
            top = imported.split(".")[0]
            uninstalled = top in {"", "kernels", "compile", "bench"}  # relative, or by the folder's name
            if uninstalled or (top == "kdcmae" and not allowed & set(layers_of(imported))):
                wrong.append(f"{module} imports {imported}")
    return wrong


def test_every_module_belongs_to_one_layer():
    assert {module: layers_of(module) for module, _ in sources(ROOT) if len(layers_of(module)) != 1} == {}


def test_every_part_of_the_table_exists():
    parts = {part for parts, _ in LAYERS.values() for part in parts.split()}
    assert parts == {[*module.split("."), ""][1] for module, _ in sources(ROOT)} - {""}


def test_imports_follow_the_table():
    assert wrong_imports(ROOT) == []


@pytest.mark.parametrize(
    ("file", "statement"),
    [
        ("kdcmae/runtime/planted.py", "from kdcmae.classifier import KDCMAEClassifier"),
        ("kdcmae/runtime/planted.py", "from kdcmae import load_classifier"),
        ("kernels/planted.py", "from kdcmae import layers"),
        ("kdcmae/layers.py", "from kdcmae.data.clip import read_clip"),
        ("kdcmae/data/planted.py", "import kdcmae.evaluation.metrics"),
        ("kdcmae/evaluation/planted.py", "def late():\n    from kdcmae.training import loop"),
        ("kdcmae/training/planted.py", "from kdcmae.cli import common"),
        ("kdcmae/cli/planted.py", "from kdcmae import compile"),
        ("compile/planted.py", "from kdcmae.bench.run import timing"),
        ("bench/planted.py", "import kernels.attention.op"),
        ("kdcmae/data/planted.py", "from . import clip"),
    ],
)
def test_a_planted_wrong_import_is_reported(file, statement, tmp_path):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(f"from kdcmae.errors import KdcmaeError\n{statement}\n", encoding="utf-8")
    (wrong,) = wrong_imports(tmp_path)
    assert wrong.startswith(f"kdcmae.{file.removeprefix('kdcmae/').removesuffix('.py').replace('/', '.')} imports ")
    assert "errors" not in wrong


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


# What tests of the runtime may import before they run: the other Pythons of tests/runtime/pythons have no more.
ON_A_DEVICE = {"click", "hypothesis", "kdcmae", "numpy", "onnx", "onnxruntime", "openvino", "pytest", "tests"}


@pytest.mark.parametrize("path", sorted((ROOT / "tests/runtime").rglob("*.py")), ids=lambda path: path.stem)
def test_tests_of_the_runtime_can_be_collected_on_a_device(path):
    first = {name.split(".")[0] for node in ast.parse(path.read_bytes()).body for name in imported_by(node)}
    assert first - ON_A_DEVICE - set(sys.stdlib_module_names) == set()
