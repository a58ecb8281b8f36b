"""What is benchmarked: the interface of a subject, and the two of this project, engine folders and PyTorch models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcmae.bench.report.records import Boundary, Parity
from kdcmae.runtime import SelfTest, load_engine
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.facts import read_with_facts
from kdcmae.runtime.folders import file_sizes
from kdcmae.runtime.manifest import BatchRange, Manifest, TensorSpec
from kdcmae.runtime.preprocessing import Preprocessing
from kdcmae.runtime.targets import TARGETS
from kdcmae.timing import time_window

if TYPE_CHECKING:
    from kdcmae import KDCMAEClassifier

__all__ = [
    "FLOAT32_ROUNDING",
    "INDUCTOR_ROUNDING",
    "PRESET",
    "TORCH_EAGER",
    "VARIANT",
    "Arrays",
    "EngineSubject",
    "Facts",
    "Subject",
    "TorchSubject",
    "engine_facts",
    "load_torch_model",
]


PRESET = "preset:"
VARIANT = "@"
TORCH_EAGER = "torch eager"

# Outputs of PyTorch models with the same weights may differ by this: alignment can change the order of a sum.
FLOAT32_ROUNDING = 1e-5
INDUCTOR_ROUNDING = 1e-4  # a compiler that sums in another order: as much as kdcmae-compile allows its own engines

_SEES = {"audio": "audio", "waveform": "audio", "image": "image", "frame": "image"}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts about a subject, known once it is loaded.

    Args:
        kind: what runs it, such as ``"openvino"`` or :data:`TORCH_EAGER`.
        computes_in: precision of the matrix products, such as ``"bf16"``.
        inputs: what it takes.
        batch: sizes it takes; None for any.
        target: of the engine folder that it runs; None where it runs none.
        precision: asked for when it was built or opened.
        keep: share of the tokens that the model keeps; None for all.
        device: what it runs on: ``"cpu"``, ``"cuda"``, or another that its library names.
        preprocessing: how a clip becomes the inputs; None if unknown.
        boundary: of its timings.
        config: sizes of the model, to count its work, as :func:`kdcmae.bench.run.work.count_work` takes them; empty
            where they are unknown.
        tolerance: of its outputs where it has no self-test; None where it promises nothing.
        ladder: the parity that its compiler measured for the artifact.
        artifact_bytes, compile_s: of an engine.
        labels: class names.
        random_weights: it was never trained.
    """

    kind: str
    computes_in: str
    inputs: tuple[TensorSpec, ...]
    batch: BatchRange | None
    target: str | None = None
    precision: str | None = None
    keep: float | None = None
    device: str = "cpu"
    preprocessing: Preprocessing | None = None
    boundary: Boundary = "host to host"
    config: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float | None = FLOAT32_ROUNDING
    ladder: Parity | None = None
    artifact_bytes: int | None = None
    compile_s: float | None = None
    labels: tuple[str, ...] = ()
    random_weights: bool = False

    @property
    def is_torch(self) -> bool:
        """Whether this is the PyTorch model that engines are compared with."""
        return self.kind == TORCH_EAGER

    @property
    def row_fields(self) -> dict[str, Any]:
        """Fields of a report's row that say what was measured."""
        return {
            "kind": self.kind,
            "target": self.target,
            "precision": self.precision,
            "keep": self.keep,
            "computes_in": self.computes_in,
            "modality": self.modality,
            "inputs": self.form,
            "artifact_bytes": self.artifact_bytes,
            "compile_s": self.compile_s,
        }

    @property
    def shows_outputs(self) -> bool:
        """Whether its outputs are visible; tools that only time an engine do not return them."""
        return self.boundary not in ("library call", "tool")

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which of ``audio`` and ``image`` it takes, prepared or raw."""
        return tuple(sorted({_SEES[spec.name] for spec in self.inputs if spec.name in _SEES}))

    @property
    def modality(self) -> str | None:
        """``audiovisual``, ``audio`` or ``video``, as it takes them; None for other inputs."""
        return {("audio", "image"): "audiovisual", ("audio",): "audio", ("image",): "video"}.get(self.modalities)

    @property
    def form(self) -> str:
        """``tensor`` for prepared inputs, ``raw`` for a waveform or a frame."""
        return "raw" if any(spec.name in ("waveform", "frame") for spec in self.inputs) else "tensor"


class Subject(ABC):
    """Something that is benchmarked: numpy arrays in, numpy arrays out.

    Attributes:
        facts: what is known about it.
    """

    facts: Facts

    @abstractmethod
    def run(self, inputs: Arrays) -> Arrays:
        """One inference; empty where its outputs are out of reach."""

    def window(self, inputs: Arrays, seconds: float) -> list[float]:
        """Latencies in ms of inferences for about so many seconds: by the host's clock, from arrays to arrays."""
        return time_window(lambda: self.run(inputs), seconds)

    def self_test(self) -> SelfTest | None:
        """Result of its own self-test; None if it has none."""
        return None


def load_torch_model(source: str) -> KDCMAEClassifier:
    """A classifier in evaluation mode from a checkpoint file or ``preset:NAME``."""
    if source.startswith(PRESET):
        from kdcmae.compile.untrained import untrained_classifier

        return untrained_classifier(source.removeprefix(PRESET))
    from kdcmae.predictors import open_model

    classifier: KDCMAEClassifier = open_model(Path(source), engine=False).module
    return classifier


class TorchSubject(Subject):
    """A classifier in PyTorch: eager, float32, on the CPU."""

    kind = TORCH_EAGER

    def __init__(self, classifier: KDCMAEClassifier, threads: int) -> None:
        import torch

        from kdcmae.compile.models import classifier_model

        torch.set_num_threads(threads)
        self._torch = torch
        self._call: Any = classifier
        model = classifier_model(classifier)
        self.facts = Facts(
            kind=self.kind,
            computes_in="fp32",
            precision="fp32",
            inputs=model.inputs,
            batch=None,
            preprocessing=model.preprocessing,
            config=model.facts["config"],
            labels=model.labels,
        )

    def run(self, inputs: Arrays) -> Arrays:
        """One forward pass."""
        with self._torch.inference_mode():
            logits = self._call(**{name: self._torch.from_numpy(array) for name, array in inputs.items()})
        return {"logits": logits.numpy()}


class EngineSubject(Subject):
    """An engine folder, run by :mod:`kdcmae.runtime`.

    Args:
        folder: what kdcmae-compile wrote.
        threads: for engines that run on the CPU.
        variant: which of the folder's variants is benchmarked; empty for the engine itself.
    """

    def __init__(self, folder: Path, threads: int, variant: str = "") -> None:
        manifest = read_with_facts(folder, variant)
        self._engine = load_engine(folder, threads=threads if TARGETS[manifest.target].runs_on_cpu else None)
        self._engine.reuse_encodings(False)  # it gets the same inputs again and again
        self.facts = engine_facts(folder, manifest)
        if not variant:  # a variant is loaded when it first runs, which must not count as loading
            self.facts = replace(self.facts, computes_in=", ".join(self._engine.products()))

    def run(self, inputs: Arrays) -> Arrays:
        """One inference."""
        return self._engine.infer(inputs)

    def self_test(self) -> SelfTest:
        """The engine's self-test on its golden data."""
        return self._engine.self_test()


def engine_facts(folder: Path, manifest: Manifest) -> Facts:
    """Facts about an engine from its manifest."""
    seconds = manifest.build.get("seconds", {})
    return Facts(
        kind=manifest.target,
        target=manifest.target,
        precision=manifest.precision.get("asked"),
        keep=manifest.model["keep"]["ratio"] if manifest.model.get("keep") else None,
        computes_in=", ".join(manifest.precision.get("products", ())),
        inputs=manifest.inputs,
        batch=manifest.batch,
        device=_device(manifest),
        preprocessing=Preprocessing.from_dict(manifest.preprocessing),
        config={**manifest.model["config"], **_kept(manifest.model)},
        ladder=_ladder(manifest),
        artifact_bytes=sum(file_sizes(folder).values()),
        compile_s=sum(seconds.values()) if seconds else None,
        labels=manifest.labels,
        random_weights=manifest.model["random_weights"],
    )


def _device(manifest: Manifest) -> str:
    """The kind of device an engine runs on, however its target writes it."""
    default = TARGETS[manifest.target].default_device
    return str(manifest.engine.get("device", default)).partition(":")[0].lower()


def _kept(model: Mapping[str, Any]) -> dict[str, Any]:
    """How many tokens of each input a model sees that was built with ``--keep``."""
    keep = model.get("keep")
    return {"kept_tokens": {"audio": keep["audio_tokens"], "image": keep["video_tokens"]}} if keep else {}


def _ladder(manifest: Manifest) -> Parity | None:
    """Errors of the last rung that ran."""
    rungs = [rung for rung in manifest.parity if rung.get("errors")]
    if not rungs:
        return None
    last = rungs[-1]
    errors = list(last["errors"].values())
    return Parity(
        against="its own ladder",
        error=None if None in errors else max(errors),
        tolerance=last["tolerance"],
        passed=last["status"] == "passed",
    )
