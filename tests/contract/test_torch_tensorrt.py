"""Every name and keyword that the torch-trt target uses exists in the genuine package's sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Where each public name is defined; Input takes its keywords as **kwargs, which its docstring lists.
DEFINED = {
    "torch_tensorrt.dynamo.compile": ("dynamo/_compiler.py", "compile"),
    "torch_tensorrt.save": ("_compile.py", "save"),
    "torch_tensorrt.load": ("_compile.py", "load"),
    "torch_tensorrt.Input": ("_Input.py", "Input.__init__"),
}


def calls(path: Path) -> dict[str, list[ast.Call]]:
    """Calls into torch_tensorrt, by what they call."""
    found: dict[str, list[ast.Call]] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and re.fullmatch(r"torch_tensorrt(\.[a-zA-Z]+)+", name):
            found.setdefault(name, []).append(node)
    return found


@pytest.mark.parametrize("source", ["compile/targets/torch_trt.py", "kdcmae/runtime/torch_trt.py"])
def test_every_keyword_exists(
    source: str, torch_tensorrt: Path, function_in: Callable[[Path, str], ast.FunctionDef]
) -> None:
    used = calls(ROOT / source)
    assert used
    for name, uses in used.items():
        file, function = DEFINED[name]
        genuine = function_in(torch_tensorrt / file, function)
        parameters = {argument.arg for argument in (*genuine.args.args, *genuine.args.kwonlyargs)}
        documented = ast.get_docstring(genuine) or ""
        for call in uses:
            for keyword in call.keywords:
                known = keyword.arg in parameters or (genuine.args.kwarg and f"{keyword.arg} (" in documented)
                assert known, f"{name} has no {keyword.arg}"
            assert len(call.args) <= len(genuine.args.args)


def test_networks_are_strongly_typed_without_asking(torch_tensorrt: Path) -> None:
    interpreter = (torch_tensorrt / "dynamo" / "conversion" / "_TRTInterpreter.py").read_text(encoding="utf-8")
    assert "flag |= STRONGLY_TYPED" in interpreter
    compiler = (torch_tensorrt / "dynamo" / "_compiler.py").read_text(encoding="utf-8")
    assert "use_explicit_typing" not in compiler


def test_without_the_libraries_its_import_raises_a_bare_exception(torch_tensorrt: Path) -> None:
    """What kdcmae.runtime.torch_trt turns into exit code 3."""
    raised = [
        node.exc
        for node in ast.walk(ast.parse((torch_tensorrt / "__init__.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    assert "_TensorRTProxyModule" in " ".join(ast.unparse(call) for call in raised)
    assert {ast.unparse(call.func) for call in raised} == {"Exception"}
