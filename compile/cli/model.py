"""The options that choose a model, shared by the commands that need one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from kdcmae.errors import ConfigError
from kdcmae.labels import read_labels
from kdcmae.runtime.manifest import digest

if TYPE_CHECKING:
    from kdcmae.compile.models import EngineModel

__all__ = ["load_model", "model_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_PATH = click.Path(path_type=Path)
_OPTIONS = (
    click.option(
        "--checkpoint", type=_PATH, help="A CAV-MAE or KDC-MAE checkpoint.  [default: the model shipped here]"
    ),
    click.option(
        "--task",
        type=click.Choice(["classify", "features"]),
        default="classify",
        show_default=True,
        help="Logits of a finetuned model, or pooled features of a pretrained one, for retrieval.",
    ),
    click.option("--preset", type=click.Choice(["base", "small", "tiny"]), help="A model size, with --random-weights."),
    click.option("--random-weights", is_flag=True, help="Compile an untrained model of the --preset's size."),
    click.option("--labels", type=_PATH, help="Class names: one per line, or index,mid,display_name."),
    click.option("--modality", type=click.Choice(["audiovisual", "audio", "video"]), help="What was finetuned."),
    click.option("--multi-label", is_flag=True, help="Scores are independent sigmoids (AudioSet), not one softmax."),
    click.option("--num-heads", type=int, help="Attention heads, where they are not 64 wide."),
)


def model_options(command: Command) -> Command:
    """Add the options; the command gets what :func:`load_model` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def load_model(
    *,
    checkpoint: Path | None,
    task: str,
    preset: str | None,
    random_weights: bool,
    labels: Path | None,
    modality: str | None,
    multi_label: bool,
    num_heads: int | None,
) -> EngineModel:
    """The model that the options choose.

    Raises:
        ConfigError: options that contradict each other.
        CheckpointError: a checkpoint that cannot be loaded, or not for this task.
    """
    if checkpoint is not None and preset is not None:
        raise ConfigError("give either --checkpoint FILE or --preset base|small|tiny --random-weights, not both")
    if random_weights is not (preset is not None):
        raise ConfigError("--preset has no trained weights and needs --random-weights, which needs --preset")
    overrides: dict[str, Any] = {"multi_label": True} if multi_label else {}
    if labels is not None:
        overrides["labels"] = read_labels(labels)
    overrides |= {
        name: value for name, value in (("modality", modality), ("num_heads", num_heads)) if value is not None
    }
    if task == "features":
        return _features(checkpoint, preset, overrides)
    return _classifier(checkpoint, preset, overrides)


def _classifier(checkpoint: Path | None, preset: str | None, overrides: dict[str, Any]) -> EngineModel:
    from kdcmae import load_classifier
    from kdcmae.compile.models import classifier_model
    from kdcmae.compile.untrained import untrained_classifier

    if preset is not None:
        return classifier_model(untrained_classifier(preset, **overrides), **_untrained(preset))
    path = checkpoint or _shipped("classifier")
    return classifier_model(load_classifier(path, **overrides), **_trained(path))


def _features(checkpoint: Path | None, preset: str | None, overrides: dict[str, Any]) -> EngineModel:
    from kdcmae import load_pretrained
    from kdcmae.compile.models import feature_model
    from kdcmae.compile.untrained import untrained_autoencoder

    if preset is not None:
        return feature_model(untrained_autoencoder(preset, **overrides), **_untrained(preset))
    path = checkpoint or _shipped("pretrained")
    return feature_model(load_pretrained(path, **overrides).eval(), **_trained(path))


def _shipped(kind: Literal["classifier", "pretrained"]) -> Path:
    from kdcmae.assets import checkpoint

    return checkpoint(kind)


def _untrained(preset: str) -> dict[str, Any]:
    return {"name": preset, "source": f"preset {preset}, seed 0", "random_weights": True}


def _trained(path: Path) -> dict[str, Any]:
    return {"name": path.stem, "source": f"{path.name} sha256:{digest(path)}", "random_weights": False}
