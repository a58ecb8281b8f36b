"""``kdcmae doctor``: what this machine can build and run, and how to fix the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import click

from kdcmae.cli.common import KdcmaeCommand, json_option, print_json
from kdcmae.doctor import Diagnosis, TargetReport, diagnose, require_target
from kdcmae.runtime.precisions import PRECISIONS
from kdcmae.runtime.targets import TARGETS
from kdcmae.terminal import say, style, table

__all__ = ["command"]

_SHOWN = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "sve"),
)


@click.command("doctor", cls=KdcmaeCommand)
@click.option(
    "--target", type=click.Choice(TARGETS), help="Exit with 3 unless engines for this target can be built here."
)
@json_option
def command(target: str | None, as_json: bool) -> None:
    """Show what this machine can build and run, what is broken, and how to fix it.

    Exit code 0: nothing is broken, though libraries may not be installed. 1: something is broken. 3: engines for the
    --target cannot be built here.
    """
    diagnosis = diagnose()
    if as_json:
        print_json({"schema_version": 1, **dataclasses.asdict(diagnosis)})
    else:
        _print(diagnosis)
    if target is not None:
        require_target(target)
    if diagnosis.problems:
        raise SystemExit(1)


def _print(diagnosis: Diagnosis) -> None:
    facts = diagnosis.host
    say(f"kdcmae {diagnosis.kdcmae}, Python {facts['python']}, {facts['system']} {facts['machine']}")
    features = [name for name in diagnosis.cpu_features if name in _SHOWN]
    say(
        f"processor: {facts['cpu']}, class {diagnosis.cpu_class or 'below avx2'}, {facts['cpus']} CPUs, "
        f"{' '.join(features) or 'no vectors'}"
    )
    say(f"GPU:       {_gpus(diagnosis)}")
    devices = ", ".join(f"{name} ({full})" for name, full in diagnosis.openvino_devices.items())
    say(f"OpenVINO:  {devices or 'no devices'}")
    say(_targets(diagnosis.targets))
    for line in _reasons(diagnosis.targets):
        say(line)
    installed = [f"{name} {version}" for name, version in diagnosis.libraries.items() if version]
    say(f"\nlibraries: {', '.join(installed)}")
    for problem in diagnosis.problems:
        say(f"{style('broken:', 'red')} {problem.what}\n        fix: {problem.fix}")
    if not diagnosis.problems:
        say(style("nothing is broken", "green"))


def _gpus(diagnosis: Diagnosis) -> str:
    if diagnosis.driver is None:
        return "no NVIDIA driver"
    gpus = ", ".join(
        f"{gpu.name} (compute capability {gpu.compute_capability}, {gpu.memory_bytes / 2**30:.0f} GiB)"
        for gpu in diagnosis.driver.gpus
    )
    return f"{gpus or 'no device'}, driver for CUDA {'.'.join(map(str, diagnosis.driver.cuda))}"


def _targets(reports: tuple[TargetReport, ...]) -> str:
    rows = (
        [
            report.target,
            report.library or style("none", "yellow"),
            *(_cell(report, precision) for precision in PRECISIONS),
        ]
        for report in reports
    )
    title = "Targets; yes: engines build and run here, build or run: only that"
    return table(("target", "library", *PRECISIONS), rows, title=title)


def _cell(report: TargetReport, precision: str) -> str:
    builds, runs = not (report.builds or report.precisions[precision]), not report.executes[precision]
    if builds and runs:
        return style("yes", "green")
    return style("build" if builds else "run" if runs else "no", "yellow")


def _reasons(reports: tuple[TargetReport, ...]) -> list[str]:
    """Lines that say what targets cannot do, why, and how to fix it."""
    lines = []
    for report in reports:
        fix = f"; {report.fix}" if report.fix else ""
        if report.builds:
            cannot = "build or run" if report.runs == report.builds else "build"
            lines.append(f"  {report.target} cannot {cannot}: {report.builds}{fix}")
        if report.runs and report.runs != report.builds:
            lines.append(f"  {report.target} cannot run: {report.runs}")
        for names, reason in _by_reason(report.precisions):
            lines.append(f"  {report.target} has no {names}: {reason}")
        only_built = {name: reason for name, reason in report.executes.items() if not report.precisions[name]}
        for names, reason in _by_reason(only_built):
            if reason != report.runs:
                lines.append(f"  {report.target} cannot run {names}: {reason}")
    return lines


def _by_reason(precisions: Mapping[str, str]) -> list[tuple[str, str]]:
    """Groups of precisions with the same reason, and the reason."""
    return [
        (" or ".join(name for name, other in precisions.items() if other == reason), reason)
        for reason in dict.fromkeys(filter(None, precisions.values()))
    ]
