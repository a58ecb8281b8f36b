"""One handle for a trained model, whether it is a checkpoint in PyTorch or a compiled engine.

:func:`open_model` opens either. The handle takes prepared arrays and returns arrays: the logits of a classifier, or the
pooled features of a pretrained model. Importing this module loads no heavy library, and opening an engine loads no
torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload

from kdcmae.errors import ConfigError, DeviceError, EngineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kdcmae.classifier import KDCMAEClassifier
    from kdcmae.config import Modality
    from kdcmae.pretraining import KDCMAE
    from kdcmae.runtime import Engine
    from kdcmae.runtime.arrays import Arrays
    from kdcmae.runtime.preprocessing import Preprocessing
    from kdcmae.runtime.scores import Scores

__all__ = [
    "AUDIO_FEATURES",
    "BATCH_SIZE",
    "VIDEO_FEATURES",
    "CheckpointPredictor",
    "EnginePredictor",
    "ModelFacts",
    "Predictor",
    "Task",
    "batched_logits",
    "batched_outputs",
    "is_engine",
    "open_model",
    "refuse_checkpoint_options",
]

Task = Literal["classify", "features"]

AUDIO_FEATURES, VIDEO_FEATURES = "audio_features", "video_features"
"""The outputs (batch, D) of a model opened for its features."""

BATCH_SIZE = 16
"""Samples per call of a checkpoint, and clips per batch of an evaluation, unless somebody asks for another number."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Facts about an open model.

    Args:
        name: shown to people.
        runs_on: what computes it: ``"torch"``, or the target of an engine, such as ``"openvino"``.
        modality: its inputs: ``"audiovisual"``, ``"audio"`` or ``"video"``.
        outputs: names of its outputs, the logits of a classifier first.
        labels: class names in the order of the logits; empty for a model that does not classify.
        scores: how logits become scores.
        random_weights: the model was never trained.
        preprocessing: how a clip becomes inputs.
        batch: smallest and largest number of samples per call.
    """

    name: str
    runs_on: str
    modality: Modality
    outputs: tuple[str, ...]
    labels: tuple[str, ...]
    scores: Scores
    random_weights: bool
    preprocessing: Preprocessing
    batch: tuple[int, int]


class Predictor(Protocol):
    """An open model: prepared inputs in, logits or features out."""

    facts: ModelFacts

    def prepare(
        self, waveform: NDArray[np.float32] | None, frames: Sequence[NDArray[np.uint8]] | None
    ) -> dict[str, NDArray[Any]]:
        """Inputs of :meth:`infer` for one clip, one row per frame, from (S,) at 16 kHz and (H, W, 3) RGB."""

    def infer(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """``audio`` (B, T, 128) and ``image`` (B, 3, S, S), as far as the model uses them -> outputs by name.

        The outputs are ``logits`` (B, classes), or :data:`AUDIO_FEATURES` and :data:`VIDEO_FEATURES` (B, D). An engine
        with built-in preprocessing takes the arrays that :meth:`prepare` returns.
        """


class EnginePredictor:
    """A compiled engine; needs no torch.

    Args:
        task: what it is opened for.

    Raises:
        EngineError: features are wanted and the engine does not compute them.
    """

    def __init__(self, engine: Engine, task: Task = "classify") -> None:
        from kdcmae.runtime.preprocessing import Preprocessing

        self.engine = engine
        manifest = engine.manifest
        outputs = tuple(spec.name for spec in manifest.outputs)
        if task == "features" and not {AUDIO_FEATURES, VIDEO_FEATURES} <= set(outputs):
            raise EngineError(
                f"engine {engine.folder} computes only {', '.join(outputs)}; retrieval needs {AUDIO_FEATURES} and "
                f"{VIDEO_FEATURES}: compile the pretraining checkpoint with --task features"
            )
        self.facts = ModelFacts(
            name=manifest.model["name"],
            runs_on=manifest.target,
            modality=manifest.model["modality"],
            outputs=outputs,
            labels=manifest.labels,
            scores=manifest.scores,
            random_weights=manifest.model["random_weights"],
            preprocessing=Preprocessing.from_dict(manifest.preprocessing),
            batch=(manifest.batch.min, manifest.batch.max),
        )

    def prepare(
        self, waveform: NDArray[np.float32] | None, frames: Sequence[NDArray[np.uint8]] | None
    ) -> dict[str, NDArray[Any]]:
        from kdcmae.media.resampling import SAMPLE_RATE_HZ

        return self.engine.prepare(waveform, SAMPLE_RATE_HZ, frames)

    def infer(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        return self.engine.infer(dict(inputs))


class CheckpointPredictor:
    """A checkpoint in PyTorch: the logits of a classifier, or a pretrained model's features averaged over tokens.

    Args:
        module: in evaluation mode, on any device.
        batch_size: most samples per call.
    """

    def __init__(self, module: KDCMAEClassifier | KDCMAE, name: str, batch_size: int = BATCH_SIZE) -> None:
        self.module: Any = module
        config = module.config
        classifies = hasattr(module, "labels")
        self.facts = ModelFacts(
            name=name,
            runs_on="torch",
            modality=getattr(config, "modality", "audiovisual"),
            outputs=("logits",) if classifies else (AUDIO_FEATURES, VIDEO_FEATURES),
            labels=getattr(module, "labels", ()),
            scores="sigmoid" if getattr(config, "multi_label", False) else "softmax",
            random_weights=False,
            preprocessing=config.preprocessing,
            batch=(1, batch_size),
        )

    def prepare(
        self, waveform: NDArray[np.float32] | None, frames: Sequence[NDArray[np.uint8]] | None
    ) -> dict[str, NDArray[Any]]:
        from kdcmae.media.resampling import SAMPLE_RATE_HZ
        from kdcmae.runtime.feeding import from_clip

        names = getattr(self.module.config, "inputs", ("audio", "image"))
        return from_clip(names, self.facts.preprocessing, waveform, SAMPLE_RATE_HZ, frames)

    def infer(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        import torch

        device = next(self.module.parameters()).device
        tensors = {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}
        with torch.inference_mode():
            if "logits" in self.facts.outputs:
                outputs = (self.module(**tensors),)
            else:
                outputs = tuple(tokens.mean(dim=1) for tokens in self.module.forward_features(**tensors))
        return {name: output.cpu().numpy() for name, output in zip(self.facts.outputs, outputs, strict=True)}


@overload
def open_model(
    path: Path,
    *,
    task: Task = ...,
    device: str = ...,
    batch_size: int = ...,
    engine: Literal[False],
    **overrides: Any,
) -> CheckpointPredictor: ...


@overload
def open_model(
    path: Path, *, task: Task = ..., device: str = ..., batch_size: int = ..., engine: bool = ..., **overrides: Any
) -> CheckpointPredictor | EnginePredictor: ...


def open_model(
    path: Path,
    *,
    task: Task = "classify",
    device: str = "cpu",
    batch_size: int = BATCH_SIZE,
    engine: bool = True,
    **overrides: Any,
) -> CheckpointPredictor | EnginePredictor:
    """Open an engine folder or a checkpoint file.

    Args:
        path: a folder is an engine, a file is a checkpoint.
        task: ``classify`` with a finetuned model, or compute the ``features`` of a pretrained one.
        device: where a checkpoint runs: ``cpu``, ``cuda``, or ``auto`` for CUDA if there is a device.
        batch_size: most samples per call of a checkpoint; an engine's manifest has its own.
        engine: whether an engine is accepted; the module of a checkpoint is needed otherwise.
        overrides: for :func:`kdcmae.load_classifier` or :func:`kdcmae.load_pretrained`; an engine takes none.

    Raises:
        ConfigError: an engine where a checkpoint is needed, or an override beside an engine.
        DeviceError: no CUDA device.
        EngineError: a folder that is no engine.
        KdcmaeError: the model cannot be opened.
    """
    path = Path(path)
    if is_engine(path):
        if not engine:
            raise ConfigError(f"{path} is an engine; this task needs a {_CHECKPOINTS[task]} checkpoint")
        refuse_checkpoint_options(path, overrides)
        from kdcmae.runtime import load_engine

        return EnginePredictor(load_engine(path), task)
    from kdcmae.checkpoints import load_classifier, load_pretrained

    module = (load_classifier if task == "classify" else load_pretrained)(path, **overrides)
    return CheckpointPredictor(module.eval().to(_torch_device(device)), path.stem, batch_size)


def is_engine(path: Path) -> bool:
    """Whether a model is an engine folder; otherwise it is a checkpoint file.

    Raises:
        EngineError: a folder that is no engine.
    """
    if not path.is_dir():
        return False
    from kdcmae.runtime.schema import MANIFEST_FILE

    if not (path / MANIFEST_FILE).is_file():
        raise EngineError(
            f"{path} has no {MANIFEST_FILE}; give a checkpoint file, or an engine folder that kdcmae-compile wrote"
        )
    return True


_CHECKPOINTS: dict[Task, str] = {"classify": "finetuned", "features": "pretraining"}


def refuse_checkpoint_options(path: Path, options: Iterable[str]) -> None:
    """Refuse options of checkpoints beside an engine, whose manifest states them.

    Raises:
        ConfigError: there are some.
    """
    names = [f"--{name.replace('_', '-')}" for name in options]
    if names:
        are, them = ("is", "it") if len(names) == 1 else ("are", "them")
        listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        raise ConfigError(f"{path} is an engine: {listed} {are} for checkpoints; leave {them} out")


def _torch_device(device: str) -> str:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda: PyTorch sees no CUDA device here; use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def batched_logits(predictor: Predictor, inputs: Arrays) -> NDArray[np.float32]:
    """Logits (N, classes) of any number of rows, in batches that the model takes."""
    return batched_outputs(predictor, inputs)[predictor.facts.outputs[0]]


def batched_outputs(predictor: Predictor, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
    """Outputs by name of any number of rows, in batches that the model takes."""
    from kdcmae.runtime.batching import in_batches

    return in_batches(predictor.infer, inputs, predictor.facts.batch)
