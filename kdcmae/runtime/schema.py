"""Checks of the fields of ``manifest.json``, the same for the compiler and for an app.

Each check raises an :class:`EngineError` with the name of the field, the expected value and the actual one.
"""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from kdcmae.errors import EngineError, EngineVersionError

if TYPE_CHECKING:
    from kdcmae.runtime.manifest import BatchRange, TensorSpec

SCHEMA_VERSION = 1
BATCH_AXIS: Final = "batch"
MANIFEST_FILE = "manifest.json"

# Axes of variable size, by name: the smallest size, the one that an engine is tuned for, and the largest.
FREE_AXES: Mapping[str, tuple[int, int, int]] = {"height": (16, 360, 1920), "width": (16, 640, 1920)}

SCORES = ("softmax", "sigmoid")
MODALITIES = ("audiovisual", "audio", "video")
INPUT_DTYPES = ("float32", "float16", "uint8", "int8", "int16", "int32", "int64")
OUTPUT_DTYPES = ("float32", "float16", "bfloat16")
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2  # more levels make messages of thousands of characters

MODEL_FACTS: dict[str, type] = {
    "name": str,
    "parameters": int,
    "modality": str,
    "config": dict,
    "source": str,
    "random_weights": bool,
}


def keys(field: str, content: Any, names: Iterable[str]) -> dict[str, Any]:
    """The object, after checking that it has exactly these keys."""
    check_mapping(field, content)
    prefix = f"{field}." if field else ""
    names = tuple(names)
    for name in names:
        if name not in content:
            raise EngineError(f"field {prefix}{name} is missing; rebuild the engine with kdcmae-compile")
    for name in content:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f", did you mean {near[0]}?" if near else f"; known are {', '.join(names)}"
            raise EngineError(f"field {prefix}{name} is unknown{hint}")
    return dict(content)


def sequence(field: str, value: Any) -> tuple[Any, ...]:
    require(isinstance(value, list), field, "a list", value)
    return tuple(value)


def require(condition: bool, field: str, expected: str, value: Any) -> None:
    if not condition:
        raise EngineError(f"field {field} must be {expected}, got {_SHORT.repr(value)}")


def check_schema_version(version: Any) -> None:
    if version is None:
        raise EngineError("field schema_version is missing; rebuild the engine with kdcmae-compile")
    require(is_count(version), "schema_version", "a positive whole number", version)
    if version != SCHEMA_VERSION:
        fix = "update kdcmae" if version > SCHEMA_VERSION else "rebuild the engine with kdcmae-compile"
        raise EngineVersionError(
            f"the manifest has schema version {version}, this kdcmae reads version {SCHEMA_VERSION}; {fix}"
        )


def check_mapping(field: str, value: Any) -> None:
    require(isinstance(value, Mapping), field, "an object", value)


def check_text(field: str, value: Any) -> None:
    require(isinstance(value, str) and value.strip() != "", field, "a text that is not empty", value)


def check_choice(field: str, value: Any, choices: Collection[str]) -> None:
    require(isinstance(value, str) and value in choices, field, f"one of {', '.join(choices)}", value)


def check_file_name(field: str, value: Any) -> None:
    """Refuse anything but a bare file name, which is safe to join to the folder on any operating system."""
    plain = isinstance(value, str) and value not in ("", ".", "..", MANIFEST_FILE)
    plain = plain and not any(character in "/\\:" or ord(character) < 32 for character in value)
    require(plain, field, "the plain name of a file in the folder", value)


def check_model(model: Any) -> None:
    check_mapping("model", model)
    for fact, kind in MODEL_FACTS.items():
        if fact not in model:
            raise EngineError(f"field model.{fact} is missing; rebuild the engine with kdcmae-compile")
        require(type(model[fact]) is kind, f"model.{fact}", f"of type {kind.__name__}", model[fact])
    check_choice("model.modality", model["modality"], MODALITIES)


def check_tensors(field: str, tensors: Any, dtypes: tuple[str, ...]) -> None:
    require(isinstance(tensors, tuple) and len(tensors) > 0, field, "one tensor or more", tensors)
    for index, tensor in enumerate(tensors):
        where = f"{field}[{index}]"
        check_text(f"{where}.name", tensor.name)
        require(is_shape(tensor.shape), f"{where}.shape", 'positive sizes, "batch" first or nowhere', tensor.shape)
        check_choice(f"{where}.dtype", tensor.dtype, dtypes)
        require(isinstance(tensor.description, str), f"{where}.description", "a text", tensor.description)
    names = [tensor.name for tensor in tensors]
    require(len(set(names)) == len(names), field, "tensors of different names", names)


def check_labels(labels: Any, logits: TensorSpec) -> None:
    require(isinstance(labels, tuple), "labels", "a list of texts", labels)
    for index, label in enumerate(labels):
        check_text(f"labels[{index}]", label)
        require(label.splitlines() == [label], f"labels[{index}]", "a single line", label)
    classes = logits.shape[-1]
    if labels and len(labels) != classes:
        raise EngineError(f"field labels has {len(labels)} labels, but output {logits.name} has {classes} classes")


def check_batch(batch: BatchRange) -> None:
    for bound in ("min", "opt", "max"):
        size = getattr(batch, bound)
        require(is_count(size), f"batch.{bound}", "a positive whole number", size)
    require(batch.min <= batch.opt <= batch.max, "batch", "ordered as min <= opt <= max", dataclasses.astuple(batch))


def is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def is_shape(shape: Any) -> bool:
    if not isinstance(shape, tuple) or not shape:
        return False
    sizes = shape[1:] if shape[0] == BATCH_AXIS else shape
    return all(is_count(size) or (isinstance(size, str) and size in FREE_AXES) for size in sizes)


def is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def is_utc(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).utcoffset() == timedelta(0)
    except (AttributeError, TypeError, ValueError):
        return False


def reject_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")
