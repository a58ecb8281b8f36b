"""What can be built and executed of a target on a processor, and why not where it cannot.

The facts are those of :mod:`kdcmae.runtime.targets` and :mod:`kdcmae.runtime.precisions`; here they meet a machine.
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
        target: its name.
        precision: of the matrix products.
        device: what it is built for; the target's default where empty.
        cpu: the processor that it is built for; this machine's where None.

    Raises:
        ConfigError: says why it cannot and what can.
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
    """What matrix products execute in; the precision itself where a target executes it as such.

    Args:
        target: its name.
        precision: of the products; quantised ones execute as such on every processor.
        cpu: the processor that they execute on.
    """
    return TARGETS[target].load_backend().executed_as(precision, cpu) if precision in FLOATING else precision


def execution_differences(manifest: Manifest, execution: Execution, *, device: str = "") -> list[str]:
    """What an engine executes on this machine otherwise than its manifest claims, in words.

    Another precision of a layer class is one thing; the other is integer products that saturate here and not on the
    processor that the engine is for.

    Args:
        manifest: of the engine.
        execution: what its library tells; where that is nothing, what is known of this processor decides.
        device: it runs on, in the library's words; the processor where empty.

    Raises:
        EngineError: the manifest's claims are not claims.
    """
    on_cpu = device.lower() in ("", "cpu")
    saturates = [SATURATES] if saturates_here(manifest, device=device) else []
    if execution.executed:
        claims = claims_against(manifest.precision, execution)
        return saturates + [str(claim) for claim in claims if claim.holds is False]
    native = not_native(manifest.target, cpu=this_cpu()) if on_cpu else {}
    return saturates + [
        f"{claim.layers} are claimed to execute in {claim.claimed}, which executes as {native[claim.claimed]} here"
        for claim in read_claims(manifest.precision)
        if claim.claimed in native
    ]


def saturates_here(manifest: Manifest, *, device: str = "") -> bool:
    """Integer products of an engine saturate on this processor, and not on the one that its manifest says it is for.

    Args:
        manifest: of the engine.
        device: it runs on, in the library's words; the processor where empty.
    """
    built_for = manifest.precision.get("built_for")
    integer = manifest.precision.get("asked") == "int8" and device.lower() in ("", "cpu")
    if not integer or not isinstance(built_for, Mapping) or not this_cpu().saturates_int8:
        return False
    features = built_for.get("features")
    if not isinstance(features, list) or not all(isinstance(feature, str) for feature in features):
        return False
    return not Cpu(machine=str(built_for.get("machine")), features=frozenset(features)).saturates_int8


def fastest_floating(target: str, *, cpu: Cpu, device: str = "") -> tuple[str, str]:
    """The fastest floating precision that matrix products execute in as such, and the reason in words.

    Args:
        target: its name.
        cpu: the processor that the engine is for.
        device: one of the target's; its default where empty.
    """
    record = TARGETS[target]
    if (device or record.default_device) == "cuda":
        return "fp16", _HALF_BECAUSE
    because = record.auto_because or f"{cpu.described} multiplies no faster floating precision natively"
    return cpu.fastest_of(record.auto), because


def not_native(target: str, *, cpu: Cpu) -> dict[str, str]:
    """What executes in the place of each precision that does not execute as such.

    Args:
        target: its name.
        cpu: the processor that the engine is for.
    """
    found = {name: executed_as(target, name, cpu=cpu) for name in PRECISIONS}
    return {name: executed for name, executed in found.items() if executed != name}


def require_native(target: str, *, precision: str, execute_as: str, cpu: Cpu) -> None:
    """Refuse a precision that does not execute as such, before any work, unless what does is accepted.

    Args:
        target: its name.
        precision: of the matrix products.
        execute_as: the precision that they may execute in instead; empty where none may take its place.
        cpu: the processor that the engine is for.

    Raises:
        DeviceError: says what would execute, and how to accept it.
        ConfigError: another precision was accepted than the one that executes.
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
    """Refuse a target that builds only where its device is, on a machine without.

    Args:
        target: its name.
        device: what it builds for; the target's default where empty.

    Raises:
        DeviceError: names the device.
    """
    if reason := TARGETS[target].cannot_build_here(device):
        raise DeviceError(f"--target {target} cannot build here: {reason}; compile on a machine that has one")


def require_tools(target: str, *, precision: str = "") -> None:
    """Refuse a target on a machine that lacks its library, or what building needs beside it. Imports nothing.

    Args:
        target: its name.
        precision: of the matrix products; what only some of them need is passed over where empty.

    Raises:
        MissingDependencyError: the message has the install line.
    """
    record = TARGETS[target]
    if not is_installed(record.module()):
        raise MissingDependencyError(record.modules[0], install=record.install_compiler)
    require_installed(*record.tools, *record.tools_of.get(precision, ()), install=record.install_compiler)
