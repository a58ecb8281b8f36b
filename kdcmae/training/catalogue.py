"""Every setting of a training run with its default, unit and meaning, from the dataclasses that hold them.

A setting is described once, in the docstring of its dataclass: ``name (unit): meaning``. Nothing here needs torch.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from kdcmae.config import PRESETS, ClassifierConfig, PretrainingConfig
from kdcmae.data.augment import Augmentation
from kdcmae.errors import ConfigError
from kdcmae.normalisation import STATISTICS
from kdcmae.runtime.preprocessing import Preprocessing
from kdcmae.training.recipes import Recipe, Stage
from kdcmae.training.settings import DistillationSettings, FinetuningSettings, TrainingSettings, parse_overrides

__all__ = ["Setting", "differences", "kinds_of", "parse_settings", "settings_of", "shown_value"]

_CLASSES = ("num_classes", "labels")
_STATISTICS = tuple(name for names in STATISTICS.values() for name in names)

_TEACHERS = (*_CLASSES, "modality", "multi_label", "audio_length", "mel_bins", "image_size")

TAUGHT = (*_TEACHERS, *_STATISTICS)
"""Fields of a configuration that a student has from its teacher: its inputs and its classes."""

# Fields that no setting changes, by stage, and where they come from.
_FROM_ELSEWHERE: Mapping[Stage, tuple[tuple[str, ...], str]] = {
    "pretrain": ((), ""),
    "finetune": (_CLASSES, "the classes of the data; use --labels FILE"),
    "distill": (_TEACHERS, "the teacher, whose inputs and classes a student has; leave it out"),
}
_ENTRY = re.compile(r"^    (\w+(?:, \w+)*)(?: \(([^)]+)\))?: (.*)")
_ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?(\w+)`")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting.

    Args:
        name: as ``--set`` takes it.
        part: what it belongs to: ``training``, ``model`` or ``augmentation``.
        default: of its dataclass; None also where each recipe has its own.
        takes: values it may have, such as ``ddp, fsdp`` or ``number``.
        unit: such as ``epochs``; empty where it has none.
        meaning: one plain text.
    """

    name: str
    part: str
    default: Any
    takes: str
    unit: str
    meaning: str


def parse_settings(stage: Stage, pairs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Sort ``key=value`` texts by the part of a run that they set; see :func:`parse_overrides`.

    Raises:
        ConfigError: not such a text or setting, a field that comes from elsewhere, or statistics of the inputs that no
            model can have.
    """
    overrides = parse_overrides(pairs, kinds_of(stage))
    names, source = _FROM_ELSEWHERE[stage]
    if stated := [name for name in names if name in overrides["model"]]:
        raise ConfigError(f"{stated[0]} comes from {source}")
    Preprocessing.from_dict({name: value for name, value in overrides["model"].items() if name in _STATISTICS})
    return overrides


def kinds_of(stage: Stage) -> dict[str, type]:
    """The dataclasses whose fields are a stage's settings, by part."""
    training, model = {
        "pretrain": (TrainingSettings, PretrainingConfig),
        "finetune": (FinetuningSettings, ClassifierConfig),
        "distill": (DistillationSettings, ClassifierConfig),
    }[stage]
    return {"training": training, "model": model, "augmentation": Augmentation}


def settings_of(stage: Stage) -> list[Setting]:
    """Every setting of a stage, part by part."""
    kinds, (fixed, _) = kinds_of(stage), _FROM_ELSEWHERE[stage]
    return [setting for part, kind in kinds.items() for setting in _settings(part, kind) if setting.name not in fixed]


def differences(recipe: Recipe) -> dict[str, Any]:
    """What a recipe sets: its values that are not a setting's default, by name."""
    sizes = {**PRESETS[recipe.preset], **recipe.sizes, **recipe.model}
    values: Mapping[str, Any] = {**dataclasses.asdict(recipe.training), **sizes, **recipe.augmentation}
    defaults = {setting.name: setting.default for setting in settings_of(recipe.stage)}
    return {name: value for name, value in values.items() if name in defaults and value != defaults[name]}


def shown_value(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, tuple):
        return ",".join(map(shown_value, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _settings(part: str, kind: type) -> Iterator[Setting]:
    described, hints = _described(kind), get_type_hints(kind)
    for field in dataclasses.fields(kind):
        unit, meaning = described.get(field.name, ("", ""))
        default = None if field.default is dataclasses.MISSING else field.default
        yield Setting(
            name=field.name, part=part, default=default, takes=_takes(hints[field.name]), unit=unit, meaning=meaning
        )


def _described(kind: type) -> dict[str, tuple[str, str]]:
    """Unit and meaning of each field, from the ``Args`` of the class and those that it derives from."""
    found: dict[str, tuple[str, str]] = {}
    for base in reversed(kind.__mro__):
        names: list[str] = []
        _, _, text = (inspect.getdoc(base) or "").partition("Args:\n")
        for line in text.splitlines():
            if line and not line.startswith(" "):
                break  # the next section
            if match := _ENTRY.match(line):
                names = match[1].split(", ")
                found.update(dict.fromkeys(names, (match[2] or "", _plain(match[3]))))
            elif line.strip():
                unit, meaning = found[names[0]]
                found.update(dict.fromkeys(names, (unit, f"{meaning} {_plain(line.strip())}")))
    return found


def _plain(text: str) -> str:
    return _ROLE.sub(r"\1", text).replace("``", "")


def _takes(hint: Any) -> str:
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Union or origin is type(int | None):
        return ", ".join(["none" if choice is type(None) else _takes(choice) for choice in choices])
    if origin is Literal:
        return ", ".join(map(str, choices))
    if origin is tuple:
        return f"several of: {_takes(choices[0])}" if choices[-1] is Ellipsis else f"{len(choices)} numbers"
    return {bool: "true, false", int: "whole number", float: "number"}.get(hint, "text")
