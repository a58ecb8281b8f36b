"""What a target can build and execute on a processor, with reasons for what it cannot.

The facts are in :mod:`kdcmae.runtime.targets` and :mod:`kdcmae.runtime.precisions`; this module applies them to a
machine.
"""

from __future__ import annotations

from collections.abc import Mapping

from kdcmae.errors import ConfigError, DeviceError, MissingDependencyError
from kdcmae.extras import is_installed, require_installed
from kdcmae.runtime.cpu import Cpu, this_cpu
from kdcmae.runtime.execution import Execution, claims_against, read_claims
from kdcmae.runtime.manifest import Manifest
from kdcmae.runtime.precisions import FLOATING, PRECISIONS
from kdcmae.runtime.targets import TARGETS

__all__ = [
    "SATURATES",
    "executed_as",
    "execution_differences",
    "fastest_floating",
    "not_native",
    "require_capable",
    "require_device",
    "require_native",
    "require_tools",
    "saturates_here",
]

SATURATES = (
    "products in int8 saturate, for this processor adds them in 16 bits and the one that the engine is for does not"
)
_HALF_BECAUSE = "the GPU's tensor cores multiply it as fast as bf16, and it rounds less"


def require_capable(target: str, *, precision: str, device: str = "", cpu: Cpu | None = None) -> None:
    """Refuse a combination that a target cannot build, before any work.

    Args:
        precision: precision of the matrix products.
        device: ``cpu`` or ``cuda``; the target's default if empty.
        cpu: processor that the engine is for; None for this machine's.

    Raises:
        ConfigError: the combination is impossible; the message says why, and what is possible.
    """
    record = TARGETS[target]
    if device and device not in record.devices:
        raise ConfigError(f"--target {target} does not build for --device {device}, only {', '.join(record.devices)}")
    unknown = "" if precision in PRECISIONS else f"use one of {', '.join(PRECISIONS)}"
    problems = {
        f"--precision {precision}": unknown or record.cannot_build.get(precision, ""),
        "--for": record.this_machine_only if cpu not in (None, this_cpu()) else "",
    }
    for option, reason in problems.items():
        if reason:
            raise ConfigError(f"--target {target} cannot build {option}: {reason}")


def executed_as(target: str, precision: str, *, cpu: Cpu) -> str:
    """The precision in which matrix products execute; ``precision`` itself if the target executes it natively.

    Args:
        precision: precision of the products; quantised ones execute natively on every processor.
    """
    return TARGETS[target].load_backend().executed_as(precision, cpu) if precision in FLOATING else precision


def execution_differences(
    manifest: Manifest, execution: Execution, *, device: str = "", cpu: Cpu | None = None
) -> list[str]:
    """Differences between what an engine executes on this machine and what its manifest claims, in words.

    A layer class may execute in another precision, or integer products may saturate on this processor though they do
    not on the one that the engine is for.

    Args:
        execution: what its library reports; if that is nothing, the answer follows from the processor.
        device: device that it runs on, in the library's spelling; the CPU if empty.
        cpu: processor that it runs on; None for this machine's.

    Raises:
        EngineError: the manifest's claims are malformed.
    """
    on_cpu, cpu = device.lower() in ("", "cpu"), cpu or this_cpu()
    saturates = [SATURATES] if saturates_here(manifest, device=device, cpu=cpu) else []
    if execution.executed:
        claims = claims_against(manifest.precision, execution)
        return saturates + [str(claim) for claim in claims if claim.holds is False]
    native = not_native(manifest.target, cpu=cpu) if on_cpu else {}
    return saturates + [
        f"{claim.layers} are claimed to execute in {claim.claimed}, which executes as {native[claim.claimed]} here"
        for claim in read_claims(manifest.precision)
        if claim.claimed in native
    ]


def saturates_here(manifest: Manifest, *, device: str = "", cpu: Cpu | None = None) -> bool:
    """Whether integer products saturate on this processor though they do not on the one that the engine is for.

    Args:
        manifest: manifest of the engine, which names that processor.
        device: device that it runs on, in the library's spelling; the CPU if empty.
        cpu: this processor; None to ask the machine.
    """
    built_for = manifest.precision.get("built_for")
    precision = PRECISIONS.get(str(manifest.precision.get("asked")))
    saturates = precision is not None and precision.saturates and device.lower() in ("", "cpu")
    if not saturates or not isinstance(built_for, Mapping) or not (cpu or this_cpu()).saturates_int8:
        return False
    features = built_for.get("features")
    if not isinstance(features, list) or not all(isinstance(feature, str) for feature in features):
        return False
    return not Cpu(machine=str(built_for.get("machine")), features=frozenset(features)).saturates_int8


def fastest_floating(target: str, *, cpu: Cpu, device: str = "") -> tuple[str, str]:
    """The fastest floating precision that matrix products execute in natively, and the reason in words.

    Args:
        cpu: processor that the engine is for.
        device: ``cpu`` or ``cuda``; the target's default if empty.
    """
    record = TARGETS[target]
    if (device or record.default_device) == "cuda":
        return "fp16", _HALF_BECAUSE
    because = record.auto_because or f"{cpu.described} multiplies no faster floating precision natively"
    return cpu.fastest_of(record.auto), because


def not_native(target: str, *, cpu: Cpu) -> dict[str, str]:
    """Precisions that do not execute natively, each with the precision that executes instead.

    Args:
        cpu: processor that the engine is for.
    """
    executed = {name: executed_as(target, name, cpu=cpu) for name in PRECISIONS}
    return {name: instead for name, instead in executed.items() if instead != name}


def require_native(target: str, *, precision: str, execute_as: str, cpu: Cpu) -> None:
    """Refuse a precision that does not execute natively, before any work, unless ``execute_as`` accepts the substitute.

    Args:
        precision: precision of the matrix products.
        execute_as: precision that they may execute in instead; empty if none is accepted.
        cpu: processor that the engine is for.

    Raises:
        DeviceError: another precision would execute; the message says which, and how to accept it.
        ConfigError: ``execute_as`` is set although the precision executes natively.
    """
    native = executed_as(target, precision, cpu=cpu)
    if execute_as and native == precision:
        raise ConfigError(
            f"--execute-as {execute_as} cannot act, --precision {precision} executes as such; leave it out"
        )
    if execute_as != native != precision:
        where = "this processor" if cpu == this_cpu() else cpu.described
        raise DeviceError(
            f"--target {target} cannot build --precision {precision}: it executes as {native} on {where}; "
            f"use --precision {native}, or accept it with --execute-as {native}"
        )


def require_device(target: str, device: str = "") -> None:
    """Refuse a target that can only be built on a machine with its device, if this machine has none.

    Args:
        device: ``cpu`` or ``cuda``; the target's default if empty.

    Raises:
        DeviceError: the device is missing.
    """
    if reason := TARGETS[target].cannot_build_here(device):
        raise DeviceError(f"--target {target} cannot build here: {reason}; compile on a machine that has one")


def require_tools(target: str, *, precision: str = "") -> None:
    """Refuse a target if its library, or a tool that building needs, is not installed. Imports nothing.

    Args:
        precision: precision of the matrix products; if empty, tools that only some precisions need are not checked.

    Raises:
        MissingDependencyError: a module is missing; the message has the install line.
    """
    record = TARGETS[target]
    if not is_installed(record.module()):
        raise MissingDependencyError(record.modules[0], install=record.install_compiler)
    require_installed(*record.tools, *record.tools_of.get(precision, ()), install=record.install_compiler)
