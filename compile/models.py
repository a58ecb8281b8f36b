"""The model that a build starts from: a module with named inputs and outputs, and facts for the manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdcmae.classifier import KDCMAEClassifier
from kdcmae.compile.parity import Rung
from kdcmae.config import EncoderConfig, Modality
from kdcmae.data.manifest import LabelMap
from kdcmae.encoder import Encoder
from kdcmae.keep import kept_tokens
from kdcmae.predictors import AUDIO_FEATURES, VIDEO_FEATURES
from kdcmae.pretraining import KDCMAE
from kdcmae.runtime import feeding
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.manifest import BATCH_AXIS, TensorSpec
from kdcmae.runtime.metrics import Kind
from kdcmae.runtime.preprocessing import Preprocessing
from kdcmae.runtime.scores import Scores

__all__ = [
    "EngineModel",
    "Parts",
    "classifier_model",
    "examples",
    "feature_model",
    "free_weights",
    "kinds",
    "modality_of",
    "reference",
    "run",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class EngineModel:
    """A model as the compiler takes it.

    Args:
        module: float32, on the CPU, in evaluation mode; takes the inputs by name and returns a tuple of the outputs,
            in order.
        inputs, outputs: of the module and of the engine, the batch axis first.
        preprocessing: how a clip becomes the inputs.
        labels: class names; empty for a model that does not classify.
        scores: how logits become scores.
        facts: of the manifest's ``model`` section.
        reference: what the engine must compute, from inputs to outputs by name; None where that is the module itself.
        examples: (batch, seed) -> realistic inputs; None where standard-normal ones are.
        parts: what a model of raw inputs is made of; None for one of prepared inputs.
        trained: the rung below the ladder: this model against the user's own code; None where that was not asked for.
        label_ids: alternative names of the labels in manifests, one each; empty if there are none.
    """

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    scores: Scores
    facts: Mapping[str, Any]
    reference: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]] | None = None
    examples: Callable[[int, int], dict[str, NDArray[Any]]] | None = None
    parts: Parts | None = None
    trained: Rung | None = None
    label_ids: tuple[str, ...] = ()

    @property
    def classes(self) -> LabelMap:
        """The labels and what else they are called."""
        return LabelMap(self.labels, self.label_ids or self.labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """A model of raw inputs in two, for targets that cannot run both in their own precision within one engine file.

    Args:
        frontend: from raw to prepared inputs; always float32.
        body: from prepared inputs to the model's outputs.
    """

    frontend: EngineModel
    body: EngineModel


def classifier_model(classifier: KDCMAEClassifier, *, given: tuple[str, ...] = (), **facts: Any) -> EngineModel:
    """The logits of a classifier.

    Args:
        classifier: in evaluation mode.
        given: which inputs an engine of an audiovisual model gets, ``audio`` or ``image``: the path for a missing
            modality; by default all that the model was finetuned with.
        facts: ``name``, ``source`` (a sentence) and ``random_weights``, for the manifest.
    """
    config = classifier.config
    specs = _input_specs(config)
    names = given or config.inputs
    logits = TensorSpec(
        name="logits",
        shape=(BATCH_AXIS, config.num_classes),
        dtype="float32",
        description="one logit per line of labels.txt",
    )
    return EngineModel(
        module=_Logits(classifier),
        inputs=tuple(specs[name] for name in names),
        outputs=(logits,),
        preprocessing=config.preprocessing,
        labels=classifier.labels,
        scores="sigmoid" if config.multi_label else "softmax",
        facts={**facts, **_describe(classifier, config), "modality": config.modality},
    )


def feature_model(model: KDCMAE, **facts: Any) -> EngineModel:
    """The pooled, unmasked features of a pretraining model, for retrieval.

    Args:
        model: in evaluation mode.
        facts: ``name``, ``source`` (a sentence) and ``random_weights``, for the manifest.
    """
    config = model.config
    outputs = tuple(
        TensorSpec(
            name=name,
            shape=(BATCH_AXIS, config.embed_dim),
            dtype="float32",
            description=f"{kind} tokens after their final LayerNorm, averaged; compare by cosine",
        )
        for name, kind in ((AUDIO_FEATURES, "audio"), (VIDEO_FEATURES, "video"))
    )
    return EngineModel(
        module=_Features(model),
        inputs=tuple(_input_specs(config).values()),
        outputs=outputs,
        preprocessing=config.preprocessing,
        labels=(),
        scores="softmax",
        facts={**facts, **_describe(model, config), "modality": "audiovisual"},
    )


def run(model: EngineModel, module: nn.Module, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run a module that takes the model's inputs, such as its lowered form.

    Returns:
        The outputs by name.
    """
    with torch.inference_mode():
        outputs = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return {spec.name: output.numpy() for spec, output in zip(model.outputs, outputs, strict=True)}


def reference(model: EngineModel, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What an engine of the model must compute: its outputs by name."""
    return run(model, model.module, inputs) if model.reference is None else model.reference(inputs)


def examples(model: EngineModel, batch: int, *, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Seeded inputs to check an engine of the model with."""
    if model.examples is None:
        return example_inputs(model.inputs, batch, seed=seed)
    made = model.examples(batch, seed)
    return {spec.name: made[spec.name] for spec in model.inputs}


def kinds(model: EngineModel) -> dict[str, Kind]:
    """What each output is for: the logits of a classifier to choose classes, all others are features."""
    return {
        spec.name: model.scores if model.labels and not number else "features"
        for number, spec in enumerate(model.outputs)
    }


def modality_of(model: EngineModel) -> Modality:
    """What of a clip the model's inputs are made of."""
    sources = feeding.sources(spec.name for spec in model.inputs)
    if sources == {"waveform"}:
        return "audio"
    return "video" if sources == {"frame"} else "audiovisual"


def free_weights(model: EngineModel) -> None:
    """Give the memory of the weights back; the model's shapes, labels and facts stay, and it runs no more.

    The preprocessing of raw inputs stays: it is small, and a build that starts again exports it once more.
    """
    body = model if model.parts is None else model.parts.body
    body.module.to("meta")


class _Logits(nn.Module):
    def __init__(self, classifier: KDCMAEClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, audio: Tensor | None = None, image: Tensor | None = None) -> tuple[Tensor]:
        return (self.classifier(audio, image),)


class _Features(nn.Module):
    def __init__(self, model: KDCMAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, audio: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        audio_tokens, video_tokens = self.model.forward_features(audio, image)
        return audio_tokens.mean(dim=1), video_tokens.mean(dim=1)


def _input_specs(config: EncoderConfig) -> dict[str, TensorSpec]:
    audio = TensorSpec(
        name="audio",
        shape=(BATCH_AXIS, config.audio_length, config.mel_bins),
        dtype="float32",
        description="log-mel filterbank (frames of 10 ms, mel bands), normalised with the manifest's mean and std",
    )
    image = TensorSpec(
        name="image",
        shape=(BATCH_AXIS, 3, config.image_size, config.image_size),
        dtype="float32",
        description="RGB frame (channels, rows, columns), normalised with the manifest's mean and std",
    )
    return {"audio": audio, "image": image}


def _describe(module: Encoder, config: EncoderConfig) -> dict[str, Any]:
    settings = dataclasses.asdict(config)
    keep = kept_tokens(module)
    return {
        **({"keep": keep} if keep else {}),
        **({"assumed": module.assumed} if module.assumed else {}),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        # JSON has lists only, and a manifest that was read has to equal the one that was written.
        "config": {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()},
    }
