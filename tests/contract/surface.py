"""Check what some source files use of TensorRT against a genuine module: ``python surface.py CASE.json``.

Nothing is listed by hand. Starting from the name ``trt``, types are followed through assignments, calls and returns,
with the signatures that pybind11 writes into every docstring. The case names the module, where it is, libraries to
load before it, the source files and functions to leave out; one JSON object comes back.
"""

from __future__ import annotations

import ast
import ctypes
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

MODULE = object()  # the type of the name trt


class Surface:
    """What one source file uses of TensorRT, as far as types can be followed."""

    def __init__(self, module: Any, tree: ast.Module) -> None:
        self.module = module
        self.tree = tree
        self.types: dict[str, Any] = {"trt": MODULE}
        self.used: set[str] = set()
        self.problems: set[str] = set()

    def check(self) -> None:
        while True:
            known = len(self.types)
            for node in ast.walk(self.tree):
                self._learn(node)
            if len(self.types) == known:
                break
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute):
                self.type_of(node)
            elif isinstance(node, ast.Call):
                self._check_call(node)
            elif isinstance(node, ast.ClassDef):
                self._check_overrides(node)

    def _learn(self, node: ast.AST) -> None:
        """Types of names, from assignments and from what functions are called with."""
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name | ast.Attribute):
                    self._bind(ast.unparse(target), self.type_of(node.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            for function in ast.walk(self.tree):
                if isinstance(function, ast.FunctionDef) and function.name == node.func.id:
                    for parameter, value in zip(function.args.args, node.args, strict=False):
                        self._bind(parameter.arg, self.type_of(value))

    def _bind(self, name: str, kind: Any) -> None:
        if kind is not None:
            self.types.setdefault(name, kind)

    def type_of(self, node: ast.expr) -> Any:
        """The class an expression is an instance of or names; None where it is not TensorRT's."""
        if isinstance(node, ast.Await | ast.Starred):
            return self.type_of(node.value)
        if isinstance(node, ast.Name):
            return self.types.get(node.id)
        if isinstance(node, ast.Call):
            return self._returned(node)
        if not isinstance(node, ast.Attribute):
            return None
        if (named := self.types.get(ast.unparse(node))) is not None:
            return named
        owner = self.type_of(node.value)
        if owner is None:
            return None
        place = self.module if owner is MODULE else owner
        label = f"{'' if owner is MODULE else owner.__name__ + '.'}{node.attr}"
        self.used.add(label)
        if not hasattr(place, node.attr):
            self.problems.add(f"{label} does not exist")
            return None
        found = getattr(place, node.attr)
        if isinstance(found, property):
            return self._class((found.fget.__doc__ or "").partition("->")[2])
        return found if isinstance(found, type) else None

    def _returned(self, node: ast.Call) -> Any:
        if isinstance(node.func, ast.Attribute) and (owner := self.type_of(node.func.value)) is not None:
            found = getattr(self.module if owner is MODULE else owner, node.func.attr, None)
            if isinstance(found, type):
                return found
            return self._class((getattr(found, "__doc__", None) or "").partition("->")[2])
        return None

    def _class(self, text: str) -> Any:
        """The class of the module that a return annotation names, in Python or as pybind11 leaves it, in C++."""
        name = re.match(r"[\w.:]*?(\w+)(?![\w.:])", text.strip())
        if name is None:
            return None
        found = getattr(self.module, name.group(1), None) or getattr(self.module, name.group(1)[1:] or "-", None)
        return found if isinstance(found, type) else None

    def _check_call(self, node: ast.Call) -> None:
        if not isinstance(node.func, ast.Attribute) or (owner := self.type_of(node.func.value)) is None:
            return
        place = self.module if owner is MODULE else owner
        found = getattr(place, node.func.attr, None)
        if isinstance(found, type):
            found = found.__init__
        bound = owner is not MODULE or isinstance(getattr(place, node.func.attr, None), type)
        signatures = _signatures(getattr(found, "__doc__", None) or "")
        if signatures and not any(_accepts(names, node, bound) for names in signatures):
            self.problems.add(f"{ast.unparse(node)} does not fit {' or '.join(map(str, signatures))}")

    def _check_overrides(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            kind = self.type_of(base)
            for method in node.body:
                if kind is not None and isinstance(method, ast.FunctionDef) and method.name == "log":
                    self.used.add(f"{kind.__name__}.{method.name}")
                    if not hasattr(kind, method.name):
                        self.problems.add(f"{kind.__name__}.{method.name} cannot be overridden")


def _signatures(doc: str) -> list[list[tuple[str, bool]]]:
    """Per overload, each parameter's name and whether it has a default."""
    found = []
    for text in re.findall(r"^\s*(?:\d+\. )?\w+\((self: .*)\) ->", doc, re.MULTILINE):
        depth, parts = 0, [""]
        for character in text:
            depth += (character in "[(<{") - (character in "])>}")
            if character == "," and depth == 0:
                parts.append("")
            else:
                parts[-1] += character
        found.append([(part.partition(":")[0].strip(), "=" in part) for part in parts])
    return found


def _accepts(parameters: list[tuple[str, bool]], node: ast.Call, bound: bool) -> bool:
    """Whether a call's positional and keyword arguments fit one signature, whose first parameter is self."""
    named = parameters[1:] if bound else parameters
    if ast.unparse(node.func).endswith("__init__"):
        named = parameters
    keywords = {keyword.arg for keyword in node.keywords}
    if not keywords <= {name for name, _ in named}:
        return False
    if any(isinstance(argument, ast.Starred) for argument in node.args):
        return True
    required = [name for name, has_default in named[len(node.args) :] if not has_default]
    return len(node.args) <= len(named) and set(required) <= keywords


def _without(tree: ast.Module, functions: list[str]) -> ast.Module:
    tree.body = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name in functions)]
    return tree


def main(case: dict[str, Any]) -> dict[str, Any]:
    for library in case["libraries"]:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    sys.path[:0] = case["path"]
    module = importlib.import_module(case["module"])
    used, problems = set(), set()
    for source in case["sources"]:
        tree = ast.parse(Path(source).read_text(encoding="utf-8"))
        surface = Surface(module, _without(tree, case["leave_out"]))
        surface.check()
        used |= surface.used
        problems |= {f"{Path(source).name}: {problem}" for problem in surface.problems}
    members = {kind: sorted(getattr(module, kind).__members__) for kind in ("DataType", "LayerType")}
    version = getattr(module, "__version__", "")
    return {"version": version, "used": sorted(used), "problems": sorted(problems), "members": members}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))  # noqa: T201
