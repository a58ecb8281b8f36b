"""The options that choose a model, shared by the commands that need one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from kdcmae.cli.common import Number, weights_option
from kdcmae.cli.normalisation import statistics_options
from kdcmae.compile.cli.classes import named_classes
from kdcmae.errors import ConfigError
from kdcmae.files.text import name_of
from kdcmae.labels import read_class_names
from kdcmae.predictors import open_model
from kdcmae.presets import PRESETS
from kdcmae.progress import Step
from kdcmae.runtime.manifest import digest

if TYPE_CHECKING:
    from kdcmae.compile.models import EngineModel
    from kdcmae.compile.parity import Rung
    from kdcmae.compile.settings import Expectation
    from kdcmae.keep import TokenKeep

__all__ = ["compared_with_trained", "load_model", "model_options", "require_files"]

Command = TypeVar("Command", bound=Callable[..., Any])

_PATH = click.Path(path_type=Path)
_OPTIONS = (
    click.option(
        "--checkpoint", type=_PATH, help="A CAV-MAE or KDC-MAE checkpoint.", show_default="the model shipped here"
    ),
    click.option(
        "--task",
        type=click.Choice(["classify", "features"]),
        default="classify",
        show_default=True,
        help="Logits of a finetuned model, or pooled features of a pretrained one, for retrieval.",
    ),
    click.option("--preset", type=click.Choice(list(PRESETS)), help="A model size, with --random-weights."),
    click.option("--random-weights", is_flag=True, help="Compile an untrained model of the --preset's size."),
    click.option("--labels", type=_PATH, help="Class names: one per line, or index,mid,display_name."),
    click.option(
        "--modality",
        type=click.Choice(["audiovisual", "audio", "video"]),
        help="Modality that was finetuned.",
        show_default="what the file says",
    ),
    click.option("--multi-label", is_flag=True, help="Scores are independent sigmoids (AudioSet), not one softmax."),
    click.option(
        "--inputs",
        type=click.Choice(["tensor", "raw"]),
        default="tensor",
        show_default=True,
        help="Prepared inputs, or the waveform and the frame themselves, which the engine then prepares.",
    ),
    click.option("--num-heads", type=click.IntRange(min=1), help="Attention heads.", show_default="each 64 wide"),
    weights_option,
    statistics_options,
    click.option(
        "--keep",
        type=Number(0, 1, min_open=True),
        default=1.0,
        show_default="all",
        metavar="SHARE",
        help="Run the encoder on this share of the tokens, such as 0.5.",
    ),
    click.option(
        "--keep-by",
        type=click.Choice(["energy", "uniform", "merge"]),
        default="energy",
        show_default=True,
        help="Keep tokens of the highest contrast or the same ones of every clip, or merge similar ones.",
    ),
)


def model_options(command: Command) -> Command:
    """Add the options; the command gets what :func:`load_model` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def require_files(options: Mapping[str, Any], clips: Iterable[Path], expectation: Expectation | None) -> None:
    """Read what is quickly read of the files that were named, before libraries that take seconds are loaded.

    Args:
        options: what :func:`load_model` takes.
        clips: files to prove an engine on.
        expectation: where the user's outputs come from.

    Raises:
        DataError: labels that are none.
        ConfigError: a file is not there, or the labels are the checkpoint's own in another order.
    """
    expected = None if expectation is None else expectation.path
    for path in (options["checkpoint"], expected, *clips):
        if path is not None:
            try:
                path.stat()
            except OSError as error:
                raise ConfigError(f"{path}: {error.strerror}; check the path") from error
    if options["labels"] is not None:
        named_classes(options["checkpoint"], options["labels"])


def load_model(
    *,
    checkpoint: Path | None,
    task: str,
    preset: str | None,
    random_weights: bool,
    labels: Path | None,
    inputs: Literal["tensor", "raw"],
    keep: float,
    keep_by: Literal["merge", "energy", "uniform"],
    trained: Rung | None = None,
    **settings: Any,
) -> EngineModel:
    """The model that the options choose.

    Args:
        trained: how the model compares with the user's own code, where that is known.
        settings: ``modality``, ``multi_label``, ``num_heads``, ``weights`` and the statistics of the inputs, None or
            False where not given.

    Raises:
        ConfigError: options that contradict each other.
        CheckpointError: a checkpoint that cannot be loaded, or not for this task.
    """
    overrides = {name: value for name, value in settings.items() if value is not None and value is not False}
    named = None if labels is None else read_class_names(labels)
    if named is not None:
        overrides["labels"] = named.names
    from kdcmae.keep import TokenKeep

    tokens = TokenKeep(ratio=keep, by=keep_by)
    model = (_features if task == "features" else _classifier)(checkpoint, preset, overrides, tokens)
    if inputs == "raw":
        from kdcmae.compile.raw import with_raw_inputs

        model = with_raw_inputs(model)
    return dataclasses.replace(model, trained=trained, label_ids=named.ids if named else ())


def compared_with_trained(expectation: Expectation, model_options: Mapping[str, Any], step: Step) -> Rung:
    """The model that the options choose, with all its tokens, against the user's own code.

    Args:
        expectation: where the user's outputs come from.
        model_options: what :func:`load_model` takes.

    Returns:
        The rung "trained", passed.

    Raises:
        GateError: the model computes something else.
        KdcmaeError: the model or the expected outputs cannot be used.
    """
    with step("load PyTorch"):
        from kdcmae.compile.expectation import compare_with_trained
    with step("compare with your own code"):
        model = load_model(**{**model_options, "keep": 1.0, "inputs": "tensor"})
        return compare_with_trained(model, expectation)


def _classifier(
    checkpoint: Path | None, preset: str | None, overrides: dict[str, Any], tokens: TokenKeep
) -> EngineModel:
    from kdcmae.compile.models import classifier_model
    from kdcmae.compile.untrained import untrained_classifier
    from kdcmae.keep import keep_tokens

    if preset is not None:
        return classifier_model(keep_tokens(untrained_classifier(preset, **overrides), tokens), **_untrained(preset))
    path = checkpoint or _shipped("classifier")
    module = open_model(path, engine=False, **overrides).module
    return classifier_model(keep_tokens(module, tokens), **_trained(path, overrides))


def _features(checkpoint: Path | None, preset: str | None, overrides: dict[str, Any], tokens: TokenKeep) -> EngineModel:
    from kdcmae.compile.models import feature_model
    from kdcmae.compile.untrained import untrained_autoencoder
    from kdcmae.keep import keep_tokens

    if preset is not None:
        return feature_model(keep_tokens(untrained_autoencoder(preset, **overrides), tokens), **_untrained(preset))
    path = checkpoint or _shipped("pretrained")
    module = open_model(path, task="features", engine=False, **overrides).module
    return feature_model(keep_tokens(module, tokens), **_trained(path, overrides))


def _shipped(kind: Literal["classifier", "pretrained"]) -> Path:
    from kdcmae.assets import checkpoint

    return checkpoint(kind)


def _untrained(preset: str) -> dict[str, Any]:
    return {"name": preset, "source": f"preset {preset}, seed 0", "random_weights": True}


def _trained(path: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    chosen = f", {overrides['weights']} weights" if "weights" in overrides else ""
    name = name_of(path)
    return {"name": Path(name).stem, "source": f"{name} sha256:{digest(path)}{chosen}", "random_weights": False}
