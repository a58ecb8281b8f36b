"""How a model is trained: frozen settings, and how ``key=value`` overrides reach the right ones."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from kdcmae.data.broken import BROKEN_LIMIT
from kdcmae.errors import ConfigError

__all__ = [
    "HELD_OUT",
    "DistillationSettings",
    "FinetuningSettings",
    "Parallelism",
    "Precision",
    "TrainingSettings",
    "changed",
    "parse_overrides",
]

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Parallelism = Literal["ddp", "fsdp"]
TrainedPart = Literal["all", "head"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """One training run; the defaults are what the published recipes share.

    Args:
        learning_rate: of Adam, after the warm-up and before it decays.
        betas: how slowly Adam's running means of the gradient and of its square change.
        weight_decay: of Adam, added to the gradient.
        epochs (epochs): passes over the data.
        decay_start_epoch (epochs): before the learning rate is first multiplied by ``decay_factor``.
        decay_every_epochs (epochs): from then on between one such step and the next.
        decay_factor: what each step multiplies the learning rate by.
        warmup_steps (optimiser steps): over which the learning rate rises from zero; the published code has none.
        batch_size (clips): per optimiser step, over all ranks and accumulated batches together.
        accumulation_steps (batches): whose gradients are added up for one optimiser step. The negatives of the
            contrastive loss are those of one such batch.
        clip_grad_norm: largest norm of the gradient; none for no limit.
        average_from_epoch (epoch): the first one, counted from 1, whose weights are averaged into the final ones;
            none to average nothing.
        early_stop_epochs (epochs): in a row without a better validation metric after which the run stops; none to
            train to the end.
        precision: of the matrix products: ``auto`` is bf16 (or fp16) on a GPU and fp32 on a CPU.
        compile: run the model through ``torch.compile``.
        parallel: across ranks, ``ddp`` replicates the model and ``fsdp`` shards it.
        seed: of the weights, the order of the clips, their augmentation and the masks.
        workers (processes): per rank that read clips; 0 reads them in the training process.
        broken_limit (share of clips): that may be unusable before the run stops.
        checkpoint_every_steps (optimiser steps): between two saved states of the run; an epoch's end saves too.
        log_every_steps (optimiser steps): between two lines of ``metrics.jsonl``.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.95, 0.999)
    weight_decay: float = 5e-7
    epochs: int
    decay_start_epoch: int
    decay_every_epochs: int
    decay_factor: float = 0.5
    warmup_steps: int = 0
    batch_size: int
    accumulation_steps: int = 1
    clip_grad_norm: float | None = None
    average_from_epoch: int | None = None
    early_stop_epochs: int | None = None
    precision: Precision = "auto"
    compile: bool = False
    parallel: Parallelism = "ddp"
    seed: int = 0
    workers: int = 2
    broken_limit: float = BROKEN_LIMIT
    checkpoint_every_steps: int = 500
    log_every_steps: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        for name in (
            *("epochs", "decay_every_epochs", "batch_size", "accumulation_steps"),
            *("checkpoint_every_steps", "log_every_steps"),
        ):
            _require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        for name in ("decay_start_epoch", "warmup_steps", "seed", "workers", "weight_decay"):
            _require(getattr(self, name) >= 0, f"{name}={getattr(self, name)} must not be negative")
        _require(self.learning_rate > 0, f"learning_rate={self.learning_rate} must be positive")
        _require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"betas={self.betas} must be two numbers in [0, 1)",
        )
        _require(
            self.batch_size % self.accumulation_steps == 0,
            f"batch_size={self.batch_size} is not a multiple of accumulation_steps={self.accumulation_steps}",
        )
        _require(
            self.clip_grad_norm is None or self.clip_grad_norm > 0,
            f"clip_grad_norm={self.clip_grad_norm} must be positive; leave it out for no limit",
        )
        _require(
            self.average_from_epoch is None or 1 <= self.average_from_epoch <= self.epochs,
            f"average_from_epoch={self.average_from_epoch} must be an epoch from 1 to epochs={self.epochs}, or none",
        )
        _require(
            self.early_stop_epochs is None or self.early_stop_epochs >= 1,
            f"early_stop_epochs={self.early_stop_epochs} must be at least 1, or none",
        )
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal:
                value, choices = getattr(self, name), get_args(kind)
                _require(value in choices, f"{name}={value!r} must be one of {', '.join(choices)}")
        _require(
            not (self.parallel == "fsdp" and self.precision == "fp16"),
            "parallel=fsdp does not scale fp16 gradients; use precision=bf16",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuningSettings(TrainingSettings):
    """One finetuning run.

    Args:
        head_learning_rate_factor: the new head learns this many times as fast as the encoder.
        label_smoothing (share): of a target's mass that is spread over all classes.
        balanced: draw clips of rare classes more often.
        trained: ``all``, or the ``head`` alone over a frozen encoder (a linear probe).
    """

    head_learning_rate_factor: float = 1.0
    label_smoothing: float = 0.1
    balanced: bool = False
    trained: TrainedPart = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            self.head_learning_rate_factor > 0,
            f"head_learning_rate_factor={self.head_learning_rate_factor} must be positive",
        )
        _require(0 <= self.label_smoothing < 1, f"label_smoothing={self.label_smoothing} must be in [0, 1)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationSettings(FinetuningSettings):
    """One distillation run: a student learns what its teacher answers.

    Args:
        teacher_weight (share of the loss): that compares answers with the teacher's; the rest compares them with the
            labels, which 1 does not need.
        teacher_temperature: divides both models' logits before they are compared; above 1 the classes that the teacher
            holds unlikely count more.
        feature_weight: in the loss, of how differently the two models see which clips are alike.
    """

    teacher_weight: float = 0.9
    teacher_temperature: float = 1.0
    feature_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(0 < self.teacher_weight <= 1, f"teacher_weight={self.teacher_weight} must be above 0 and at most 1")
        _require(
            self.teacher_temperature > 0, f"teacher_temperature={self.teacher_temperature} must be a positive number"
        )
        _require(self.feature_weight >= 0, f"feature_weight={self.feature_weight} must not be negative")


HELD_OUT = "validation.clips"
"""Which clips a run is measured on, among what identifies it."""

# What a resumed run may change: none of these changes the loss of a step.
_FREE = {
    *("epochs", "early_stop_epochs", "workers", "broken_limit", "checkpoint_every_steps", "log_every_steps"),
    HELD_OUT,
}


def changed(stored: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """What differs between two runs' settings and would change the losses, as ``key: before -> now``."""
    sides = [defaultdict(lambda: "no such setting", values) for values in (stored, present)]
    keys = sorted((stored.keys() | present.keys()) - _FREE)
    return [f"{key}: {sides[0][key]} -> {sides[1][key]}" for key in keys if stored.get(key) != present.get(key)]


def parse_overrides(pairs: Iterable[str], kinds: Mapping[str, type]) -> dict[str, dict[str, Any]]:
    """Sort ``key=value`` texts by the dataclass that has the key.

    Args:
        pairs: such as ``"learning_rate=1e-4"``.
        kinds: dataclasses by name; a key belongs to every one that has such a field.

    Returns:
        Under each name of ``kinds``, the parsed values.

    Raises:
        ConfigError: no ``=``, an unknown key (with the nearest match), a value of the wrong type, or two for one key.
    """
    hints = {name: get_type_hints(kind) for name, kind in kinds.items()}
    known = {key for fields in hints.values() for key in fields}
    overrides: dict[str, dict[str, Any]] = {name: {} for name in kinds}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--set {pair!r}: write key=value")
        if key not in known:
            nearest = difflib.get_close_matches(key, sorted(known), n=1)
            hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
            raise ConfigError(f"unknown setting {key!r}{hint}; --set help lists all")
        for name, fields in hints.items():
            if key in fields:
                value = _parsed(key, text, fields[key])
                if overrides[name].setdefault(key, value) != value:
                    raise ConfigError(f"{key} is set twice, to {overrides[name][key]} and to {value}; set it once")
    return overrides


def _parsed(key: str, text: str, hint: Any) -> Any:
    """A text as a value of the type ``hint``."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if text.lower() in ("none", "null", ""):
            return None
        return _parsed(key, text, next(choice for choice in choices if choice is not type(None)))
    if origin is tuple:
        return tuple(_parsed(key, part.strip(), choices[0]) for part in text.split(",") if part.strip())
    if hint is str or origin is Literal:
        return text
    try:
        value = json.loads(text.lower())
    except json.JSONDecodeError:
        value = text
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{key}={text} is not {_described(hint)}")
    return value


def _described(hint: type) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false"}
    return names.get(hint, f"a {hint.__name__}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
