"""Measured tables: which tiling, or the vendor's kernel, serves a shape on a GPU.

One JSON file per GPU, or per family of GPUs, beside this module::

    {
      "device": "NVIDIA H200*",     pattern for the device name, "*" for any
      "architectures": [90],        compute capabilities it is compiled and checked for
      "timed_on": null,             GPU its choices were timed on; null: only compiled, and chosen by occupancy
      "attention": {...},           one entry per kernel package; its own module says what is in it
      "patch_embed": {...}
    }

A GPU takes each kernel's entry from the first file that fits and has one: files that name the device, then files
for its architecture, then ``default.json``, which suits every architecture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

__all__ = ["ARCHITECTURES", "shipped_tables", "table", "table_of"]

ARCHITECTURES = (80, 86, 87, 89, 90, 120)
"""Compute capabilities the shipped tables are checked for."""

_DEFAULT = "default"


@lru_cache
def table(kernel: str, device: torch.device) -> Mapping[str, Any]:
    """A kernel's table for a device.

    Args:
        kernel: name of the kernel package, such as ``"attention"``.
        device: a CUDA device; any other, which only the interpreter serves, takes the default.
    """
    if device.type != "cuda":
        return _load()[_DEFAULT][kernel]
    major, minor = torch.cuda.get_device_capability(device)
    return table_of(kernel, torch.cuda.get_device_name(device), 10 * major + minor)


def shipped_tables(kernel: str, architecture: int) -> dict[str, Mapping[str, Any]]:
    """Every table of a kernel that some GPU of an architecture gets, by file name without suffix."""
    fitting = {
        name: content
        for name, content in _load().items()
        if kernel in content and architecture in content["architectures"]
    }
    if any(content["device"] == "*" for name, content in fitting.items() if name != _DEFAULT):
        fitting.pop(_DEFAULT, None)
    return {name: content[kernel] for name, content in fitting.items()}


def table_of(
    kernel: str, device_name: str, architecture: int, files: Mapping[str, Mapping[str, Any]] | None = None
) -> Mapping[str, Any]:
    """A kernel's table for a GPU by its name and compute capability, such as 90.

    Args:
        kernel: name of the kernel package.
        architecture: compute capability times ten.
        files: content of table files by name without suffix; None for the shipped ones.
    """
    files = _load() if files is None else files
    fitting = [
        (content["device"] == "*", name)
        for name, content in files.items()
        if name != _DEFAULT
        and kernel in content
        and fnmatch(device_name, content["device"])
        and architecture in content["architectures"]
    ]
    table: Mapping[str, Any] = files[min(fitting)[1] if fitting else _DEFAULT][kernel]
    return table


@lru_cache
def _load() -> dict[str, dict[str, Any]]:
    return {file.stem: json.loads(file.read_text()) for file in sorted(Path(__file__).parent.glob("*.json"))}
