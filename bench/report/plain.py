"""Conversion of plain data from JSON into the frozen dataclasses of reports and device cards."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["from_plain"]


def from_plain(kind: Any, value: Any, place: str = "") -> Any:
    """Convert a value to the type of a field, and refuse any other.

    Args:
        kind: a dataclass, or the annotation of one of its fields.
        value: from JSON.
        place: path of the value in the document, for messages.

    Raises:
        TypeError: the value is of another type, or a field of a dataclass is unknown or missing.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _of_union(arguments, value, place)
    if dataclasses.is_dataclass(kind):
        return _of_dataclass(kind, value, place)
    if origin is Literal:
        return _required(value in arguments, value, place, f"one of {', '.join(map(repr, arguments))}")
    if origin is tuple:
        _required(isinstance(value, (list, tuple)), value, place, "a list")
        return tuple(from_plain(arguments[0], item, f"{place}[{index}]") for index, item in enumerate(value))
    if origin in (dict, Mapping):
        _required(isinstance(value, Mapping), value, place, "an object")
        return {name: from_plain(arguments[1], item, f"{place}.{name}") for name, item in value.items()}
    if kind is float:  # JSON writes whole ones without a point
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return _required(is_number, value, place, "a number")
    return _required(type(value) is kind, value, place, _WORDS[kind])


_WORDS = {str: "text", int: "a whole number", bool: "true or false"}


def _of_union(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return from_plain(kind, value, place)
            except TypeError as error:
                errors.append(error)
    raise errors[0]


def _of_dataclass(kind: Any, value: Any, place: str) -> Any:
    _required(isinstance(value, Mapping), value, place, "an object")
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(value) - set(hints)):
        raise TypeError(f"{place or 'the file'} has an unknown field {unknown[0]!r}")
    return kind(**{name: from_plain(hints[name], item, f"{place}.{name}".lstrip(".")) for name, item in value.items()})


def _required(condition: bool, value: Any, place: str, wanted: str) -> Any:
    if not condition:
        raise TypeError(f"{place or 'the file'} is {str(value)[:40]!r}, not {wanted}")
    return value
