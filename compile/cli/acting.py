"""Options that act only together with others, in one table: an option without effect is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from click.core import ParameterSource

from kdcmae.errors import ConfigError
from kdcmae.runtime.precisions import QUANTIZED

__all__ = ["BUILD_RULES", "ENGINE_RULES", "Rule", "require_acting"]

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When an option acts.

    Args:
        options: names of parameters.
        acts: whether they do, beside the values of all parameters.
        because: what is said where they do not.
    """

    options: tuple[str, ...]
    acts: Callable[[Values], bool]
    because: str


def _searches(values: Values) -> bool:
    return values.get("budget_ms") is not None


def _quantises(values: Values) -> bool:
    return _searches(values) or values["precision"] in QUANTIZED


def _classifies(values: Values) -> bool:
    return bool(values["task"] == "classify")


BUILD_RULES = (
    Rule(
        options=("checkpoint",),
        acts=lambda values: values["preset"] is None,
        because="give either --checkpoint FILE or --preset base|small|tiny --random-weights, not both",
    ),
    Rule(
        options=("preset", "random_weights"),
        acts=lambda values: values["random_weights"] and values["preset"] is not None,
        because="--preset has no trained weights and needs --random-weights, which needs --preset",
    ),
    Rule(
        options=("weights",),
        acts=lambda values: values["checkpoint"] is not None,
        because="it chooses among the weights of a --checkpoint, and none is given",
    ),
    Rule(
        options=("labels", "modality", "modalities", "multi_label", "min_agreement"),
        acts=_classifies,
        because="--task features has no classes and no paths to choose from; leave it out",
    ),
    Rule(
        options=("max_drop", "evaluation", "budget_ms"),
        acts=_classifies,
        because="it is about the accuracy of a classifier, and --task features has no classes; leave it out",
    ),
    Rule(
        options=("no_stored_clips",),
        acts=lambda values: bool(values["clips"]),
        because="no clips of yours are read; give --clips too, or leave it out",
    ),
    Rule(
        options=("keep_by",),
        acts=lambda values: _searches(values) or values["keep"] < 1,
        because="all tokens are kept; give --keep SHARE too, or leave it out",
    ),
    Rule(
        options=("calibration", "max_drop"),
        acts=_quantises,
        because="it is for --precision int8 and fp8, and for --budget-ms; leave it out",
    ),
    Rule(
        options=("evaluation",),
        acts=lambda values: _searches(values) or (_quantises(values) and values["max_drop"] is not None),
        because="accuracy is measured for --max-drop and for --budget-ms alone; give one of them, or leave it out",
    ),
    Rule(
        options=("execute_as",),
        acts=lambda values: _searches(values) or values["precision"] not in ("auto", "fp32", *QUANTIZED),
        because="it is for a --precision fp16 or bf16 that the processor does not multiply; leave it out",
    ),
    Rule(
        options=("precision", "machine", "keep", "batch", "device", "split", "modalities", "execute_as"),
        acts=lambda values: not _searches(values),
        because="it is for one engine, and --budget-ms searches many on this machine: leave one of them out",
    ),
)
"""Of every command that builds an engine or walks through a build."""

ENGINE_RULES = (
    Rule(
        options=(
            *("target", "precision", "machine", "batch", "device", "split", "execute_as", "output", "modalities"),
            *("no_cache", "calibration", "max_drop", "evaluation", "proof_clips", "no_stored_clips"),
        ),
        acts=lambda values: False,
        because="an ENGINE says itself how it was built; leave it out",
    ),
)
"""Of a command that looks at an engine instead of building one."""


def require_acting(rules: Sequence[Rule]) -> None:
    """Refuse the options of the running command that cannot act.

    Raises:
        ConfigError: options that were given and would be passed over, and why.
    """
    context = click.get_current_context()
    default = (ParameterSource.DEFAULT, None)
    flags = {param.name: param.opts[-1] for param in context.command.params}
    used = [name for name in flags if name and context.get_parameter_source(name) not in default]
    for rule in rules:
        idle = [name for name in used if name in rule.options]
        if idle and not rule.acts(context.params):
            raise ConfigError(f"{' and '.join(flags[name] for name in idle)} cannot act: {rule.because}")
