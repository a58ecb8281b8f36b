"""What this machine can build and run, what prevents the rest, and how to fix it.

Torch is not imported, and nothing is changed.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import kdcmae
from kdcmae import host
from kdcmae.errors import BrokenDependencyError, MissingDependencyError
from kdcmae.extras import is_installed
from kdcmae.runtime.capabilities import not_native, require_device, require_tools
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.cuda import Driver, describe_driver
from kdcmae.runtime.openvino_library import openvino_core
from kdcmae.runtime.precisions import PRECISIONS
from kdcmae.runtime.targets import TARGETS

__all__ = ["Diagnosis", "Problem", "TargetReport", "diagnose", "require_target"]

_DEVELOPMENT = re.compile(r"""extra == ["']dev["']""")

# Modules that a stray file or a second package often hides, besides the targets' own libraries.
_MODULES = ("torch", "triton", "numpy", "onnx", "onnxscript", "tensorrt_bindings")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is broken, and how to fix it."""

    what: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class TargetReport:
    """What this machine can do for one target. Texts are reasons why something is impossible; empty if it is possible.

    Args:
        target: name of the target.
        library: module and version of its library; empty if none is installed.
        builds: reason why engines cannot be built.
        runs: reason why engines cannot run.
        fix: how to install or repair what is missing; empty if nothing is.
        broken: the library is installed but does not load.
        precisions: for each precision, the reason why engines cannot be built on this machine.
        executes: for each precision, the reason why engines do not execute in it on this machine.
    """

    target: str
    library: str
    builds: str
    runs: str
    fix: str
    broken: bool
    precisions: Mapping[str, str]
    executes: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Result of :func:`diagnose`.

    Args:
        kdcmae: version of kdcmae.
        host: system, processor, Python.
        cpu_class: one of :data:`kdcmae.runtime.cpu.CLASSES`; empty for a processor below all of them.
        cpu_features: vector and matrix instructions that engines may use.
        driver: NVIDIA's driver with its devices; None if there is none.
        openvino_devices: full names of OpenVINO's devices, by OpenVINO's short name.
        libraries: installed versions of all libraries that kdcmae can use, by distribution; empty if not installed.
        targets: one report per target.
        problems: what is broken; libraries that are only not installed are no problems.
    """

    kdcmae: str
    host: Mapping[str, str | int]
    cpu_class: str
    cpu_features: tuple[str, ...]
    driver: Driver | None
    openvino_devices: Mapping[str, str]
    libraries: Mapping[str, str]
    targets: tuple[TargetReport, ...]
    problems: tuple[Problem, ...]


def diagnose() -> Diagnosis:
    """Examine this machine and this Python environment."""
    driver, cpu = describe_driver(), this_cpu()
    requirements = _requirements()
    installed = {name: _version(name) for name in requirements}
    reports = tuple(_report(target) for target in TARGETS)
    return Diagnosis(
        kdcmae=kdcmae.__version__,
        host=host.describe_host(),
        cpu_class=cpu.class_name,
        cpu_features=tuple(sorted(cpu.features)),
        driver=driver,
        openvino_devices=_openvino_devices(),
        libraries=installed,
        targets=reports,
        problems=(
            *_shadowed(),
            *_overwritten(),
            *_unpaired(),
            *_too_old(installed, requirements),
            *_driver_too_old(driver),
            *_broken(reports),
        ),
    )


def require_target(target: str) -> None:
    """Check that engines for one target can be built here.

    Args:
        target: one of :data:`kdcmae.runtime.targets.TARGETS`.

    Raises:
        MissingDependencyError: its library is not installed; the message has the install line.
        BrokenDependencyError: it is installed but does not load.
        DeviceError: building needs the target's device, which this machine lacks.
    """
    _import(target)
    _require_tools(target)
    require_device(target)


def _report(target: str) -> TargetReport:
    record = TARGETS[target]
    library, builds, runs, fix, broken = "", record.cannot_build_here(), record.cannot_execute_here(), "", False
    try:
        library = _import(target)
        _require_tools(target)
    except (BrokenDependencyError, MissingDependencyError) as error:
        builds, _, fix = str(error).partition("; ")
        broken = isinstance(error, BrokenDependencyError) and not library
        if not library:
            runs = builds
            if not broken:
                fix = f"pip install '{record.install}' to run engines, '{record.install_compiler}' to build them"
    precisions, executes = _precisions(target, has_library=bool(library))
    return TargetReport(
        target=target,
        library=library,
        builds=builds,
        runs=runs,
        fix=fix,
        broken=broken,
        precisions=precisions,
        executes={name: runs or reason for name, reason in executes.items()},
    )


def _precisions(target: str, *, has_library: bool) -> tuple[dict[str, str], dict[str, str]]:
    """Reasons by precision why engines cannot be built here, and why they do not execute in it here.

    Args:
        has_library: its library loads, so that it can be asked what executes.
    """
    record = TARGETS[target]
    builds = {name: record.cannot_build.get(name, "") for name in PRECISIONS}
    executes = {**builds, **record.cannot_run}
    for name, tools in record.tools_of.items():
        for tool in tools:
            if not is_installed(tool):
                builds[name] = str(MissingDependencyError(tool, install=record.install_compiler))
    for name, native in not_native(target, cpu=this_cpu()).items() if has_library else ():
        executes[name] = f"it executes as {native} on this processor"
        builds[name] = f"{executes[name]}; use --precision {native}, or accept it with --execute-as {native}"
    return builds, executes


def _import(target: str) -> str:
    """Import the library of a target, and return the name of its module and its version.

    Raises:
        MissingDependencyError: the library is not installed.
        BrokenDependencyError: it does not import.
    """
    record = TARGETS[target]
    module = record.module()
    if not is_installed(module):
        raise MissingDependencyError(record.modules[0], install=record.install_compiler)
    version = record.load_backend().library_version(module, install=record.install)
    return f"{module.removesuffix('_bindings')} {version}".strip().partition("-")[0]


def _require_tools(target: str) -> None:
    """Check that everything that building needs besides the library is installed.

    Raises:
        MissingDependencyError: a module is not installed.
        BrokenDependencyError: there is no C++ compiler.
    """
    require_tools(target)
    record = TARGETS[target]
    if record.needs_compiler and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++", "c++"))):
        raise BrokenDependencyError(f"{record.label} found no C++ compiler; install one with: apt-get install g++")


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _requirements() -> dict[str, str]:
    """Oldest supported version of every library that kdcmae can use, by distribution, except for its development."""
    oldest: dict[str, str] = {}
    for requirement in metadata.requires("kdcmae") or ():
        parts = re.match(r"([\w.-]+)(?:\[.*?\])?\s*(?:>=\s*([\d.]+))?", requirement)
        if parts and parts.group(1) != "kdcmae" and not _DEVELOPMENT.search(requirement):
            oldest[parts.group(1)] = parts.group(2) or ""
    return oldest


def _openvino_devices() -> dict[str, str]:
    if not is_installed("openvino"):
        return {}
    try:
        core = openvino_core()
        return {name: core.get_property(name, "FULL_DEVICE_NAME") for name in core.available_devices}
    except (BrokenDependencyError, RuntimeError):
        return {}  # the target's report has the reason


def _modules() -> tuple[str, ...]:
    brought = (module for record in TARGETS.values() for module in record.modules)
    return tuple(dict.fromkeys((*_MODULES, *brought)))


def _shadowed() -> Iterator[Problem]:
    """Files that Python imports instead of a library if it is started in this folder."""
    places = (Path.cwd(), *(Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry))
    for place in dict.fromkeys(place.resolve() for place in places):
        for module in _modules():
            for path in (place / f"{module}.py", place / module / "__init__.py"):
                # A folder with packages that were installed also holds their metadata.
                if path.is_file() and not any(place.glob("*.dist-info")):
                    shown = path if path.suffix == ".py" and path.stem == module else path.parent
                    yield Problem(what=f"{shown} takes the place of the library {module}", fix=f"rename {shown}")


def _overwritten() -> Iterator[Problem]:
    """Packages that contain the same module: the one installed last overwrote the other's files."""
    holders = metadata.packages_distributions()
    for module in _modules():
        names = sorted(set(holders.get(module, ())))
        if len(names) > 1:
            yield Problem(
                what=f"{' and '.join(names)} both hold the module {module}",
                fix=f"pip uninstall {' '.join(names)}, then pip install the one you want",
            )


def _unpaired() -> Iterator[Problem]:
    """TensorRT's bindings with libraries of another version."""
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"] or ""
        libraries = _version(f"{name.removesuffix('-bindings')}-libs") if name.endswith("-bindings") else ""
        if name.startswith("tensorrt") and libraries and libraries != distribution.version:
            yield Problem(
                what=f"{name} {distribution.version} beside libraries {libraries}",
                fix=f"pip install {name.removesuffix('-bindings')}-libs=={distribution.version}",
            )


def _too_old(installed: Mapping[str, str], requirements: Mapping[str, str]) -> Iterator[Problem]:
    for name, oldest in requirements.items():
        if installed[name] and oldest and _numbers(installed[name]) < _numbers(oldest):
            yield Problem(
                what=f"{name} {installed[name]} is older than {oldest}", fix=f"pip install '{name}>={oldest}'"
            )


def _driver_too_old(driver: Driver | None) -> Iterator[Problem]:
    """Libraries for a newer major version of CUDA than the driver runs."""
    if driver is None:
        return
    for distribution in metadata.distributions():
        needed = re.fullmatch(r"tensorrt.*-cu(\d+)-libs", distribution.metadata["Name"] or "")
        if needed and int(needed.group(1)) > driver.cuda[0]:
            runs = ".".join(map(str, driver.cuda))
            yield Problem(
                what=f"{needed.group()} needs CUDA {needed.group(1)}, the driver runs {runs}",
                fix="update the NVIDIA driver",
            )


def _broken(reports: tuple[TargetReport, ...]) -> Iterator[Problem]:
    for report in reports:
        if report.broken:
            yield Problem(what=f"target {report.target}: {report.builds}", fix=report.fix)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])
