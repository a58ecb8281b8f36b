"""Metadata of our own checkpoints, read without their tensors and without PyTorch."""

from __future__ import annotations

import json
import os
from typing import Any

__all__ = ["CONFIG_KEY", "KIND_KEY", "stored_labels"]

CONFIG_KEY = "kdcmae_config"
KIND_KEY = "kdcmae_kind"
"""Texts in the metadata of the safetensors file: the resolved configuration as JSON, and the kind of model."""


def stored_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The class names in a checkpoint of ours; empty for any other file, or without labels.

    Errors in a file are reported by :func:`~kdcmae.load_classifier`, which reads all of it.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            config: Any = json.loads((file.metadata() or {})[CONFIG_KEY])
        return tuple(map(str, config["labels"]))
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return ()
