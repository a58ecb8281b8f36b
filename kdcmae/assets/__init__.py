"""The small model that ships in the package: trained on AVSynth, used where no checkpoint is named."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from kdcmae.errors import CheckpointError

__all__ = ["FOLDER", "checkpoint", "default_checkpoint"]

FOLDER = Path(__file__).parent


def checkpoint(kind: Literal["classifier", "pretrained"], folder: Path = FOLDER) -> Path:
    """The file of the finetuned classifier, or of the pretrained model that it started from.

    Raises:
        CheckpointError: this installation has no such file.
    """
    path = folder / f"{kind}.safetensors"
    if not path.is_file():
        raise CheckpointError(f"this installation ships no {path.name}; name a checkpoint")
    return path


def default_checkpoint() -> Path:
    """The finetuned model that is used where none is named.

    Raises:
        CheckpointError: this installation lacks it.
    """
    return checkpoint("classifier")
