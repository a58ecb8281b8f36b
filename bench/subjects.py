"""What can be benchmarked: engine folders, checkpoints and untrained presets, behind one small interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from kdcmae.errors import ConfigError
from kdcmae.runtime import SelfTest, load_engine
from kdcmae.runtime.manifest import BatchRange, Manifest, TensorSpec

if TYPE_CHECKING:
    from kdcmae import KDCMAEClassifier

__all__ = ["Arrays", "Facts", "Subject", "check_source", "open_subject"]

Arrays = Mapping[str, NDArray[Any]]

PRESET = "preset:"
TORCH_EAGER = "torch eager"

_WITHOUT_THREADS = ("trt",)  # these run on a GPU and refuse a number of CPU threads


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known about a subject once it is loaded.

    Args:
        kind: what runs it, such as ``"openvino"`` or :data:`TORCH_EAGER`.
        computes_in: precision of the matrix products, such as ``"bf16"``.
        inputs: what it takes.
        batch: sizes it takes; None for any.
    """

    kind: str
    computes_in: str
    inputs: tuple[TensorSpec, ...]
    batch: BatchRange | None

    @property
    def is_torch(self) -> bool:
        """Whether this is the PyTorch model that engines are compared with."""
        return self.kind == TORCH_EAGER


class Subject(Protocol):
    """Something that is benchmarked: numpy arrays in, numpy arrays out."""

    @property
    def facts(self) -> Facts:
        """What is known about it."""
        ...

    def run(self, inputs: Arrays) -> Arrays:
        """One inference."""
        ...

    def self_test(self) -> SelfTest | None:
        """Its own proof, on data it brings along; None where it brings none."""
        ...


def check_source(source: str) -> None:
    """Refuse what :func:`open_subject` cannot open, before anything is loaded.

    Args:
        source: an engine folder, a checkpoint file or ``preset:NAME``.

    Raises:
        ConfigError: there is no such file or folder.
    """
    if not source.startswith(PRESET) and not Path(source).exists():
        raise ConfigError(f"{source} does not exist; give an engine folder, a checkpoint or {PRESET}base|small|tiny")


def open_subject(source: str, threads: int) -> Subject:
    """Load a subject.

    Args:
        source: an engine folder, a checkpoint file or ``preset:NAME`` (random weights, as kdcmae-compile draws them).
        threads: CPU threads it may use.

    Raises:
        KdcmaeError: it cannot be loaded, or not on this machine.
    """
    if source.startswith(PRESET):
        from kdcmae.compile.untrained import untrained_classifier

        return TorchSubject(untrained_classifier(source.removeprefix(PRESET)), threads)
    if Path(source).is_dir():
        return EngineSubject(Path(source), threads)
    from kdcmae import load_classifier

    return TorchSubject(load_classifier(source), threads)


class TorchSubject:
    """A classifier in PyTorch: eager, float32, on the CPU.

    Args:
        classifier: the model.
        threads: for PyTorch's operators.
    """

    def __init__(self, classifier: KDCMAEClassifier, threads: int) -> None:
        import torch

        from kdcmae.compile.models import classifier_model

        torch.set_num_threads(threads)
        self._torch = torch
        self._classifier = classifier.eval()
        inputs = classifier_model(classifier).inputs
        self.facts = Facts(kind=TORCH_EAGER, computes_in="fp32", inputs=inputs, batch=None)

    def run(self, inputs: Arrays) -> Arrays:
        """One forward pass."""
        with self._torch.inference_mode():
            logits = self._classifier(**{name: self._torch.from_numpy(array) for name, array in inputs.items()})
        return {"logits": logits.numpy()}

    def self_test(self) -> None:
        """None: the model is what others are checked against."""


class EngineSubject:
    """An engine folder, run by :mod:`kdcmae.runtime`.

    Args:
        folder: what kdcmae-compile wrote.
        threads: for engines that run on the CPU.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        manifest = Manifest.read(folder)
        self._engine = load_engine(folder, threads=None if manifest.target in _WITHOUT_THREADS else threads)
        self.facts = Facts(
            kind=manifest.target,
            computes_in=", ".join(manifest.precision.get("products", ())),
            inputs=manifest.inputs,
            batch=manifest.batch,
        )

    def run(self, inputs: Arrays) -> Arrays:
        """One inference."""
        return self._engine.infer(inputs)

    def self_test(self) -> SelfTest:
        """The engine's self-test on its golden data."""
        return self._engine.self_test()
