"""The state of a run on disk: complete and replaced atomically, so that a run killed at any moment can resume."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcmae.errors import CheckpointError, cause
from kdcmae.files.disk import writing
from kdcmae.files.replacing import replacing

__all__ = ["load_run_state", "random_state", "restore_random_state", "save_run_state", "stored_identity"]


def save_run_state(state: dict[str, Any], path: Path) -> None:
    """Write a state; it replaces an older one only after all of it is on the disk.

    Raises:
        DiskFullError: there is no space for both; the older one stays.
    """
    with writing(path), replacing(path) as partial, partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load_run_state(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """Read a state back to the CPU.

    Args:
        mapped: read tensors when they are used, from the file, which must not change until then.

    Raises:
        CheckpointError: not a readable state.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not the state of a run: {cause(error)}; remove it to start over") from error


def stored_identity(path: Path) -> dict[str, Any]:
    """Everything that determines the losses of a saved run: its settings, model and clips; no tensor is read.

    Raises:
        CheckpointError: not a readable state.
    """
    state = load_run_state(path, mapped=True)
    try:
        return dict(state["identity"])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise CheckpointError(f"{path} is not the state of a run: {cause(error)}; remove it to start over") from error


def random_state() -> dict[str, Any]:
    """The global generators of Python, NumPy and torch.

    Training itself draws from none of them: masks, order and augmentation follow from the seed and the position.
    """
    numpy_state = dict(np.random.get_state(legacy=False))
    numpy_state["state"] = {name: np.asarray(value).tolist() for name, value in numpy_state["state"].items()}
    return {
        "python": random.getstate(),
        "numpy": numpy_state,
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put the global generators back to :func:`random_state`; those of GPUs only if their number is unchanged."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
