"""Every extra that an error names exists, and brings the module that is missing."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kdcmae import extras
from kdcmae.errors import MissingDependencyError
from kdcmae.runtime.capabilities import require_tools
from kdcmae.runtime.precisions import PRECISIONS
from kdcmae.runtime.targets import TARGETS

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {
    "PIL": "pillow",
    "pynvml": "nvidia-ml-py",
    "tensorrt": "tensorrt-rtx-cu13-bindings",  # the flavour that needs no GPU
    "tensorrt_rtx": "tensorrt-rtx-cu13-bindings",
    "tensorrt_rtx_bindings": "tensorrt-rtx-cu13-bindings",
    "torch_tensorrt": "torch-tensorrt",
}


def brought_by(extra: str) -> set[str]:
    """Distributions that ``pip install`` of an extra brings, the package's own requirements aside."""
    (names,) = re.fullmatch(r"kdcmae\[(.+)\]", extra).groups()
    found = set()
    for name in names.split(","):
        for requirement in PROJECT["optional-dependencies"][name]:
            if requirement.startswith("kdcmae["):
                found |= brought_by(requirement)
            else:
                found.add(re.match(r"[\w-]+", requirement).group())
    return found


def test_the_core_is_numpy_and_click():
    assert sorted(re.match(r"[\w-]+", requirement).group() for requirement in PROJECT["dependencies"]) == [
        "click",
        "numpy",
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_what_runs_a_target_comes_with_the_extra_of_its_name(target):
    assert TARGETS[target].install == f"kdcmae[{target}]"
    assert DISTRIBUTIONS.get(TARGETS[target].modules[-1], TARGETS[target].modules[-1]) in brought_by(
        extras.to_run(target)
    )


@pytest.mark.parametrize("target", TARGETS)
def test_what_builds_a_target_runs_it_and_has_all_tools(target):
    brought = brought_by(extras.to_compile(target))
    assert brought >= brought_by(extras.to_run(target))
    assert brought >= {*TARGETS[target].tools, "av"}
    for precision in PRECISIONS:
        assert brought >= set(TARGETS[target].tools_of.get(precision, ()))


@pytest.mark.parametrize("module", extras._BRINGS)
def test_an_import_that_fails_is_answered_with_what_brings_the_module(module):
    missing = extras.missing_dependency(ModuleNotFoundError(name=f"{module}.part"))
    assert missing is not None
    assert missing.library == module
    assert DISTRIBUTIONS.get(module, module) in brought_by(missing.install)


def test_other_modules_are_nobodys():
    assert extras.missing_dependency(ModuleNotFoundError(name="json.nope")) is None
    assert extras.missing_dependency(ModuleNotFoundError("no name")) is None


@pytest.mark.parametrize("name", ["load_classifier", "KDCMAE"])
def test_the_model_without_torch_is_one_error_with_its_extra(name):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import kdcmae\n"
        f"try: kdcmae.{name}\n"
        "except kdcmae.errors.MissingDependencyError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "torch is not installed; install it with: pip install 'kdcmae[torch]'\n"


@pytest.mark.parametrize(("target", "precision"), [("openvino", "int8"), ("onnx", "fp32"), ("aoti", "fp32")])
def test_tools_that_are_missing_are_told_before_any_import(target, precision, monkeypatch):
    last = [*TARGETS[target].tools, *TARGETS[target].tools_of.get(precision, ())][-1]
    monkeypatch.setitem(sys.modules, last, None)
    with pytest.raises(MissingDependencyError, match=rf"{last} is not installed.*kdcmae\[compile-{target}\]"):
        require_tools(target, precision=precision)
