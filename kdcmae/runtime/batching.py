"""Any number of rows, of one clip or of several, through a model that takes only some batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.runtime.arrays import Arrays

__all__ = ["by_clip", "in_batches"]


def in_batches(
    run: Callable[[Arrays], Arrays], inputs: Arrays, batch: tuple[int, int]
) -> dict[str, NDArray[np.float32]]:
    """Run any number of rows through a model that takes only some batch sizes.

    Args:
        run: inputs by name -> outputs by name, with the same number of rows.
        inputs: arrays by name, of N rows each, at least one.
        batch: smallest and largest number of rows for ``run``; a batch that is too small is padded with its last row.

    Returns:
        Outputs by name, of N rows each.
    """
    smallest, largest = batch
    rows = len(next(iter(inputs.values())))
    parts = []
    for start in range(0, rows, largest):
        count = min(largest, rows - start)
        padding = max(0, smallest - count)
        feed = {name: array[start : start + count] for name, array in inputs.items()}
        padded = {name: np.concatenate([array, array[-1:].repeat(padding, axis=0)]) for name, array in feed.items()}
        parts.append({name: array[:count] for name, array in run(padded).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def by_clip(
    run: Callable[[Arrays], Arrays], clips: Sequence[Arrays], batch: tuple[int, int]
) -> list[dict[str, NDArray[np.float32]]]:
    """Run clips together, as many rows at once as the model takes.

    Args:
        run: inputs by name -> outputs by name, with the same number of rows.
        clips: inputs by name of each clip, a row per frame. Clips with other inputs, or with frames of another size,
            run apart from each other.
        batch: smallest and largest number of rows for ``run``.

    Returns:
        Outputs by name of each clip, a row per frame.
    """
    alike: dict[Any, list[int]] = {}
    for number, clip in enumerate(clips):
        alike.setdefault(tuple((name, array.shape[1:]) for name, array in clip.items()), []).append(number)
    outputs: dict[int, dict[str, NDArray[np.float32]]] = {}
    for numbers in alike.values():
        together = {name: np.concatenate([clips[number][name] for number in numbers]) for name in clips[numbers[0]]}
        results = in_batches(run, together, batch)
        ends = np.cumsum([len(next(iter(clips[number].values()))) for number in numbers])
        for number, end in zip(numbers, ends, strict=True):
            rows = len(next(iter(clips[number].values())))
            outputs[number] = {name: array[end - rows : end] for name, array in results.items()}
    return [outputs[number] for number in range(len(clips))]
