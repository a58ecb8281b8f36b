"""One face for checkpoints and engines: prepared arrays in, logits out, in batches each can take.

Importing this loads no heavy library, and opening an engine loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kdcmae.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kdcmae.classifier import KDCMAEClassifier
    from kdcmae.config import Modality
    from kdcmae.runtime import Engine
    from kdcmae.runtime.preprocessing import Preprocessing
    from kdcmae.runtime.scores import Scores

    Arrays = Mapping[str, NDArray[Any]]

__all__ = [
    "CheckpointPredictor",
    "EnginePredictor",
    "ModelFacts",
    "Predictor",
    "batched_logits",
    "in_batches",
    "load_predictor",
]


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What the command needs to know about a model.

    Args:
        name: for people.
        runs_on: what computes it, such as ``"openvino"`` or ``"torch"``.
        modality: what it sees: ``"audiovisual"``, ``"audio"`` or ``"video"``.
        labels: in the order of its logits.
        scores: how its logits become scores.
        random_weights: it was never trained.
        preprocessing: of a clip.
        batch: smallest and largest number of samples it takes at once.
    """

    name: str
    runs_on: str
    modality: Modality
    labels: tuple[str, ...]
    scores: Scores
    random_weights: bool
    preprocessing: Preprocessing
    batch: tuple[int, int]


class Predictor(Protocol):
    """A model that turns prepared inputs into logits."""

    facts: ModelFacts

    def prepare(
        self, waveform: NDArray[np.float32] | None, frames: Sequence[NDArray[np.uint8]] | None
    ) -> dict[str, NDArray[Any]]:
        """What :meth:`logits` takes for one clip, one row per frame, from (S,) at 16 kHz and (H, W, 3) RGB."""

    def logits(self, inputs: Arrays) -> NDArray[np.float32]:
        """``audio`` (B, T, 128) and ``image`` (B, 3, S, S), as far as the model sees them -> (B, classes).

        An engine with the preprocessing inside takes what :meth:`prepare` gives instead.
        """


class EnginePredictor:
    """A compiled engine; needs no torch."""

    def __init__(self, engine: Engine) -> None:
        from kdcmae.runtime.preprocessing import Preprocessing

        self.engine = engine
        manifest = engine.manifest
        self.facts = ModelFacts(
            name=manifest.model["name"],
            runs_on=manifest.target,
            modality=manifest.model["modality"],
            labels=manifest.labels,
            scores=manifest.scores,
            random_weights=manifest.model["random_weights"],
            preprocessing=Preprocessing.from_dict(manifest.preprocessing),
            batch=(manifest.batch.min, manifest.batch.max),
        )

    def prepare(
        self, waveform: NDArray[np.float32] | None, frames: Sequence[NDArray[np.uint8]] | None
    ) -> dict[str, NDArray[Any]]:
        from kdcmae.runtime.preprocessing import SAMPLE_RATE_HZ

        return self.engine.prepare(waveform, SAMPLE_RATE_HZ, frames)

    def logits(self, inputs: Arrays) -> NDArray[np.float32]:
        return self.engine.infer(dict(inputs))[self.engine.manifest.outputs[0].name]


class CheckpointPredictor:
    """A finetuned checkpoint in PyTorch, on whatever device the classifier is.

    Args:
        classifier: in evaluation mode.
        name: for people.
        batch_size: the most samples to compute at once.
    """

    def __init__(self, classifier: KDCMAEClassifier, name: str, batch_size: int = 16) -> None:
        self.classifier = classifier
        config = classifier.config
        self.facts = ModelFacts(
            name=name,
            runs_on="torch",
            modality=config.modality,
            labels=classifier.labels,
            scores="sigmoid" if config.multi_label else "softmax",
            random_weights=False,
            preprocessing=config.preprocessing,
            batch=(1, batch_size),
        )

    def prepare(
        self, waveform: NDArray[np.float32] | None, frames: Sequence[NDArray[np.uint8]] | None
    ) -> dict[str, NDArray[Any]]:
        from kdcmae.runtime.feeding import from_clip
        from kdcmae.runtime.preprocessing import SAMPLE_RATE_HZ

        return from_clip(self.classifier.config.inputs, self.facts.preprocessing, waveform, SAMPLE_RATE_HZ, frames)

    def logits(self, inputs: Arrays) -> NDArray[np.float32]:
        import torch

        device = next(self.classifier.parameters()).device
        tensors = {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}
        with torch.inference_mode():
            return self.classifier(**tensors).cpu().numpy()


def load_predictor(path: Path, **overrides: Any) -> Predictor:
    """Open an engine folder or a finetuned checkpoint.

    Args:
        path: a folder is an engine, a file is a checkpoint.
        overrides: for :func:`kdcmae.load_classifier`; an engine takes none.

    Raises:
        KdcmaeError: it cannot be opened.
    """
    if path.is_dir():
        if overrides:
            raise ConfigError(f"{path} is an engine: --{next(iter(overrides)).replace('_', '-')} is for checkpoints")
        from kdcmae.runtime import load_engine

        return EnginePredictor(load_engine(path))
    from kdcmae import load_classifier

    return CheckpointPredictor(load_classifier(path, **overrides), path.stem)


def batched_logits(predictor: Predictor, inputs: Arrays) -> NDArray[np.float32]:
    """Logits (N, classes) of any number of rows, in batches the model takes."""
    return in_batches(lambda feed: {"logits": predictor.logits(feed)}, inputs, predictor.facts.batch)["logits"]


def in_batches(
    run: Callable[[Arrays], Arrays], inputs: Arrays, batch: tuple[int, int]
) -> dict[str, NDArray[np.float32]]:
    """Run any number of rows through a model that takes some batch sizes only.

    Args:
        run: inputs by name -> outputs by name, all of as many rows.
        inputs: arrays by name, of N rows each, at least one.
        batch: smallest and largest number of rows for ``run``; a batch that is too small is filled up.

    Returns:
        Outputs by name, of N rows each.
    """
    import numpy as np

    smallest, largest = batch
    rows = len(next(iter(inputs.values())))
    parts = []
    for start in range(0, rows, largest):
        given = min(largest, rows - start)
        missing = max(0, smallest - given)
        feed = {name: array[start : start + given] for name, array in inputs.items()}
        filled = {name: np.concatenate([array, array[-1:].repeat(missing, axis=0)]) for name, array in feed.items()}
        parts.append({name: array[:given] for name, array in run(filled).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
