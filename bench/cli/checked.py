"""The self-check on the command line, shared by the commands that time engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kdcmae.cli.common import Steps, note

if TYPE_CHECKING:
    from kdcmae.bench.report.records import SelfCheck

__all__ = ["self_check", "self_check_option"]

Command = TypeVar("Command", bound=Callable[..., Any])


def self_check_option(default: str) -> Callable[[Command], Command]:
    """``--self-check``.

    Args:
        default: ``refuse``, ``mark`` or ``skip``.
    """
    return click.option(
        "--self-check",
        "policy",
        type=click.Choice(["refuse", "mark", "skip"]),
        default=default,
        show_default=True,
        help="If a known sleep and a known matrix product show that the clock is wrong or the machine busy: refuse to "
        "measure, or measure and mark the report. Or skip this check.",
    )


def self_check(step: Steps, threads: int, policy: str) -> SelfCheck | None:
    """Check clock and machine.

    Args:
        step: shows progress.
        threads: CPUs that will be used.
        policy: what :func:`self_check_option` offers.

    Raises:
        GateError: the clock is wrong or the machine busy, and the policy is to refuse.
    """
    from kdcmae import host
    from kdcmae.bench.machine.selfcheck import check_machine, require_sound

    if policy == "skip":
        return None
    with step("check clock and machine"):
        check = check_machine(host.cpu_numbers()[:threads], overridden=policy == "mark")
    require_sound(check)
    for problem in check.problems:
        note(f"  not fit for measuring: {problem}")
    return check
