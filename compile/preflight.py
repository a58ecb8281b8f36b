"""Reasons why a build cannot end well, found before any work. Importing this module loads no library."""

from __future__ import annotations

from pathlib import Path

from kdcmae.compile import targets
from kdcmae.compile.sessions import require_onnxruntime
from kdcmae.compile.settings import CompileSettings
from kdcmae.errors import ConfigError, MissingDependencyError
from kdcmae.extras import is_installed
from kdcmae.files import publishing
from kdcmae.runtime import capabilities
from kdcmae.runtime.capabilities import require_capable, require_device, require_native
from kdcmae.runtime.precisions import QUANTIZED
from kdcmae.runtime.targets import TARGETS

__all__ = ["preflight", "require_possible", "require_tools"]


def require_possible(settings: CompileSettings) -> None:
    """Fail within a fraction of a second where a build cannot end well; no library is imported.

    Raises:
        ConfigError: the target cannot do what is asked.
        MissingDependencyError: the target's library, or what exports, proves or quantises its graph, is not installed.
        DeviceError: the target builds only where its device is, or the processor multiplies in another precision.
    """
    target, precision = settings.target, settings.precision
    require_capable(target, precision=precision, device=settings.device, cpu=settings.cpu)
    require_native(target, precision=precision, execute_as=settings.execute_as, cpu=settings.cpu)
    record = TARGETS[target]
    if settings.split and (reason := targets.load_target(target).cannot_split):
        able = ", ".join(name for name in TARGETS if not targets.load_target(name).cannot_split)
        raise ConfigError(f"--split cannot be had with --target {target}: {reason}; use {able}, or leave it out")
    if not is_installed(record.module()):
        raise MissingDependencyError(record.modules[0], install=record.install_compiler)
    require_device(target, settings.device)
    capabilities.require_tools(target, precision=precision)


def preflight(settings: CompileSettings, folder: Path) -> targets.Target:
    """Fail before any work is done where a build cannot end well; the libraries it needs are imported.

    Args:
        folder: where the engine would go.

    Returns:
        The target.

    Raises:
        ConfigError, MissingDependencyError, DeviceError: as :func:`require_possible` raises.
        BrokenDependencyError: a library that is needed does not load.
        EngineError: the destination holds something else than an engine.
    """
    require_possible(settings)
    target = targets.load_target(settings.target)
    target.require()
    require_tools(settings)
    publishing.check_destination(folder)
    return target


def require_tools(settings: CompileSettings) -> None:
    """Import what exports, proves or quantises a graph.

    Raises:
        MissingDependencyError: the message has the install line.
        BrokenDependencyError: it is installed and does not load.
    """
    capabilities.require_tools(settings.target, precision=settings.precision)
    target = targets.load_target(settings.target)
    if target.reads_onnx:
        require_onnxruntime()
    if settings.precision in QUANTIZED:
        target.require_quantizer(settings.precision)
