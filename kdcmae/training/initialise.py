"""Initial weights of a run: random, an earlier pretraining, or an ImageNet MAE."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kdcmae import config as configs
from kdcmae.checkpoints import Transfer, init_classifier, load_pretrained, read_tensors, transfer
from kdcmae.classifier import KDCMAEClassifier
from kdcmae.config import ClassifierConfig, PretrainingConfig
from kdcmae.errors import CheckpointError
from kdcmae.normalisation import STATISTICS
from kdcmae.pretraining import KDCMAE
from kdcmae.training.catalogue import TAUGHT
from kdcmae.weights.sets import Weights

__all__ = ["start_distillation", "start_finetuning", "start_pretraining", "tensors_from_mae"]


def start_pretraining(
    path: str | os.PathLike[str] | None,
    *,
    preset: str,
    sizes: Mapping[str, Any],
    overrides: Mapping[str, Any],
    weights: Weights | None = None,
) -> tuple[KDCMAE, Transfer | None]:
    """A model to pretrain.

    Args:
        path: an earlier pretraining, whose sizes and objective are taken over; an ImageNet MAE with its decoder; or
            None for fresh weights.
        preset, sizes: of the model, unless an earlier pretraining gives them; ``sizes`` differ from the preset's.
        overrides: fields of :class:`~kdcmae.config.PretrainingConfig` that differ from all that.
        weights: ``"model"`` or ``"ema"``, if the file has both.

    Returns:
        The model in float32 on the CPU, and a record of what came from the file.

    Raises:
        CheckpointError: not such a file, or tensors that do not fit (listed).
        ConfigError: an unknown preset or field, or a value out of range.
    """
    mae = None if path is None else _read_mae(path, weights)
    if path is None or mae is not None:
        model = KDCMAE.from_preset(preset, **{**sizes, **overrides})
        return model, None if mae is None else transfer(tensors_from_mae(mae, model.config), model)
    earlier = load_pretrained(path, weights=weights, **_unstated(overrides))
    model = KDCMAE(configs.replace(earlier.config, **overrides))
    model.reset_parameters()
    return model, transfer(earlier.state_dict(), model)


def start_finetuning(
    path: str | os.PathLike[str] | None,
    *,
    preset: str,
    sizes: Mapping[str, Any],
    overrides: Mapping[str, Any],
    weights: Weights | None = None,
) -> tuple[KDCMAEClassifier, Transfer | None]:
    """A classifier to finetune, its head fresh.

    Args:
        path: a pretraining checkpoint, or None for fresh weights.
        preset, sizes: of the model, unless a checkpoint gives them; ``sizes`` differ from the preset's.
        overrides: fields of :class:`~kdcmae.config.ClassifierConfig`, ``num_classes`` among them.
        weights: ``"model"`` or ``"ema"``, if the file has both.

    Returns:
        The classifier in float32 on the CPU, and a record of what came from the file.

    Raises:
        CheckpointError: not such a file, or tensors that do not fit (listed).
        ConfigError: an unknown preset or field, or a value out of range.
    """
    if path is None:
        return KDCMAEClassifier.from_preset(preset, **{**sizes, **overrides}), None
    return init_classifier(load_pretrained(path, weights=weights, **_unstated(overrides)), **overrides)


def start_distillation(
    teacher: ClassifierConfig,
    path: str | os.PathLike[str] | None,
    *,
    preset: str,
    sizes: Mapping[str, Any],
    overrides: Mapping[str, Any],
    weights: Weights | None = None,
) -> tuple[KDCMAEClassifier, Transfer | None]:
    """A student, with the inputs and classes of its teacher.

    Args:
        teacher: configuration of the teacher.
        path, preset, sizes, weights: as :func:`start_finetuning` takes them.
        overrides: other fields of :class:`~kdcmae.config.ClassifierConfig`.

    Returns:
        The student in float32 on the CPU, and a record of what came from the file.

    Raises:
        CheckpointError: not such a file, or tensors that do not fit (listed).
        ConfigError: an unknown preset or field, or a value out of range.
    """
    taught = {name: getattr(teacher, name) for name in TAUGHT}
    return start_finetuning(path, preset=preset, sizes=sizes, overrides={**overrides, **taught}, weights=weights)


def _unstated(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that published files do not state: numbers of attention heads, and input statistics."""
    unstated = ("num_heads", "decoder_num_heads", *(name for names in STATISTICS.values() for name in names))
    return {name: overrides[name] for name in unstated if name in overrides}


def _read_mae(path: str | os.PathLike[str], weights: Weights | None) -> dict[str, Tensor] | None:
    tensors = read_tensors(path, weights=weights)
    return tensors if "patch_embed.proj.weight" in tensors else None


def tensors_from_mae(mae: Mapping[str, Tensor], config: PretrainingConfig) -> dict[str, Tensor]:
    """The tensors of an image MAE, under the names of the modules that start from them.

    Args:
        mae: a ViT masked autoencoder with its decoder; one block per specific and unified block of the model.
        config: of the model.

    Raises:
        CheckpointError: no decoder, or another number of blocks.

    Source: CAV-MAE's ImageNet initialisation. Both modalities start from the same blocks; the last ones are the
    unified blocks, and each of their three pairs of LayerNorms starts from the MAE's pair. Audio patches have one
    channel: their weights are the sum over the three colours.
    """
    depth = len({name.split(".")[1] for name in mae if name.startswith("blocks.")})
    if depth != config.specific_depth + config.unified_depth:
        raise CheckpointError(
            f"the MAE has {depth} blocks, the model {config.specific_depth} specific and {config.unified_depth} unified"
        )
    needed = ("pos_embed", "decoder_pos_embed", "decoder_pred.weight", "decoder_pred.bias")
    if missing := [name for name in needed if name not in mae]:
        raise CheckpointError(f"the MAE has no {', '.join(missing)}; use the pretraining checkpoint with its decoder")
    tensors: dict[str, Tensor] = {}
    for name, tensor in mae.items():
        for place in _places(name, config.specific_depth):
            tensors[place] = tensor
    tensors["patch_embed_a.proj.weight"] = mae["patch_embed.proj.weight"].sum(dim=1, keepdim=True)
    tensors["pos_embed_v"] = mae["pos_embed"][:, 1:]  # the first position is the class token's
    tensors["decoder_pos_embed_v"] = mae["decoder_pos_embed"][:, 1:]
    for part in ("weight", "bias"):
        tensors[f"decoder_pred_a.{part}"] = mae[f"decoder_pred.{part}"][: config.patch_size**2]
    return tensors


def _places(name: str, specific_depth: int) -> list[str]:
    """Names under which the model holds a tensor of the MAE unchanged."""
    head, _, rest = name.partition(".")
    if head == "blocks":
        number, _, rest = rest.partition(".")
        if int(number) < specific_depth:
            return [f"blocks_a.{number}.{rest}", f"blocks_v.{number}.{rest}"]
        block = f"blocks_u.{int(number) - specific_depth}"
        layer, _, part = rest.partition(".")
        norms = [f"{block}.{layer}_{modality}.{part}" for modality in "av"] if layer in ("norm1", "norm2") else []
        return [f"{block}.{rest}", *norms]
    return {
        "patch_embed": ["patch_embed_v." + rest] + (["patch_embed_a." + rest] if rest == "proj.bias" else []),
        "norm": [f"norm{suffix}.{rest}" for suffix in ("", "_a", "_v")],
        "decoder_pred": [f"decoder_pred_v.{rest}"],
        "pos_embed": [],
        "decoder_pos_embed": [],
    }.get(head, [name])
