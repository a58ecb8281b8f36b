"""Find the weights of one model among the other content of a trainer's checkpoint.

Trainers put weights into containers (``{"model": ..., "optimizer": ...}``), wrap models in other modules, which adds
prefixes to the names (``module.``, ``_orig_mod.``), and may save two sets of weights: the trained ones and
their moving average. Containers and prefixes are removed in any order and nesting; the caller chooses between two sets.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from kdcmae.errors import CheckpointError, ConfigError
from kdcmae.weights.files import listed

__all__ = ["Weights", "as_float32", "choose_weights"]

Weights = Literal["model", "ema"]
"""Which set of weights: the trained ones, or their moving average."""

_AVERAGES = (
    *("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "swa_model"),
    "average",  # in the state of a run of our own, as its "mean"
)
_CONTAINERS = ("model", "state_dict", "model_state_dict", "net", "module", *_AVERAGES)
# Modules that pass everything through (torch.compile, DDP, FSDP, activation checkpointing) may wrap any part of a
# model; no module of ours has such a name. The others are attributes that hold a whole model, and come first.
_PASSED_THROUGH = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_HOLDERS = ("model", "net", "online_model", *_AVERAGES)
# Counters that averaging modules store beside the weights: torch.optim.swa_utils.AveragedModel and ema-pytorch.
_COUNTERS = ("n_averaged", "initted", "step")

_DEEPEST = 8  # nested containers; a pickle can contain itself

_WIDENED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def choose_weights(tree: Any, weights: Weights | None, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of one set of weights, by their names in the model.

    Args:
        tree: the content of a checkpoint file.
        weights: which set, if there are two; None if there is one.
        path: of the file, for messages.

    Raises:
        CheckpointError: the file holds no set of weights, not the one wanted, or several and no choice; the message
            lists what it holds. Or a set has values that are not tensors, or two tensors for one name.
        ConfigError: ``weights`` is neither ``model`` nor ``ema``.
    """
    if weights is not None and weights not in get_args(Weights):
        raise ConfigError(f"weights={weights!r} must be model or ema")
    sets = {place: _without_counters(state) for place, state in _sets(tree, "")}
    if not sets:
        raise CheckpointError(f"{path} is not a state dict: it holds {_described(tree)}, and no tensors by name")
    places = [(kind, place) for place, state in sets.items() for kind in sorted({_renamed(name)[0] for name in state})]
    kinds = [(_kind_of(place, kind), kind, place) for kind, place in places]
    fitting = [(kind, place) for chosen, kind, place in kinds if weights in (None, chosen)]
    if len(fitting) != 1:
        held = listed(
            [f"{place or 'tensors at the top'} ({chosen}, {len(sets[place])} tensors)" for chosen, _, place in kinds]
        )
        raise CheckpointError(f"{path} holds {held}: {_advice([chosen for chosen, *_ in kinds], weights)}")
    kind, place = fitting[0]
    return _named(sets[place], kind, path)


def as_float32(state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Weights as float32; fp16, bf16 and fp64 are widened or rounded.

    Raises:
        CheckpointError: integer, bool, complex, fp8 or sparse weights, or NaN and infinite values (listed).
    """
    other = [
        f"{name} is {_dtype(tensor)}"
        for name, tensor in sorted(state.items())
        if tensor.dtype not in _WIDENED or tensor.layout != torch.strided or tensor.is_meta
    ]
    if other:
        raise CheckpointError(
            f"{path}: {listed(other, 4)}: quantised or converted weights are not what was trained; "
            "give the checkpoint in float32, fp16, bf16 or fp64"
        )
    single = {name: tensor.detach().float() for name, tensor in state.items()}
    if broken := sorted(name for name, tensor in single.items() if not tensor.isfinite().all()):
        raise CheckpointError(f"{path} holds NaN or infinite values in {listed(broken)}; use an earlier checkpoint")
    return single


def _sets(tree: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Sets of weights, each with its path of keys."""
    if not isinstance(tree, Mapping) or place.count(".") >= _DEEPEST:
        return
    known = ("mean",) if place == "average" else _CONTAINERS
    inside = [key for key in tree if key in known and isinstance(tree[key], Mapping)]
    for key in inside:
        yield from _sets(tree[key], f"{place}.{key}" if place else key)
    if not inside and any(map(torch.is_tensor, tree.values())):
        yield place, tree


def _without_counters(state: Mapping[str, Any]) -> dict[str, Any]:
    def counts(name: Any, value: Any) -> bool:
        return str(name).rpartition(".")[2] in _COUNTERS and torch.is_tensor(value) and value.ndim == 0

    return {name: value for name, value in state.items() if not counts(name, value)}


def _renamed(name: Any) -> tuple[Weights, str]:
    """The set that a tensor's name belongs to, and the name without the prefixes of wrappers."""
    parts = [part for part in str(name).split(".") if part not in _PASSED_THROUGH]
    kind: Weights = "model"
    while len(parts) > 1 and parts[0] in _HOLDERS:
        if parts.pop(0) in _AVERAGES:
            kind = "ema"
    return kind, ".".join(parts)


def _kind_of(place: str, kind: Weights) -> Weights:
    return "ema" if set(place.split(".")) & set(_AVERAGES) else kind


def _named(state: Mapping[str, Any], kind: Weights, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of one kind in a set, by their names in the model."""
    other = [f"{name} ({type(value).__name__})" for name, value in state.items() if not torch.is_tensor(value)]
    if other:
        raise CheckpointError(
            f"{path} is not a state dict: {listed(other)} among its tensors; remove what is no tensor"
        )
    origins: dict[str, str] = {}
    for origin in state:
        of, name = _renamed(origin)
        if of == kind and name in origins:
            raise CheckpointError(f"{path} holds {name} twice: as {origins[name]} and as {origin}")
        if of == kind:
            origins[name] = origin
    return {name: state[origin] for name, origin in origins.items()}


def _advice(kinds: list[Weights], weights: Weights | None) -> str:
    if weights is not None and weights not in kinds:
        return f"no {weights} weights are among them"
    if weights is None and sorted(kinds) == ["ema", "model"]:
        return "choose with --weights model or --weights ema (weights= in Python), or save one of them alone"
    return "save the one that is wanted alone, with torch.save(state_dict, path)"


def _described(tree: Any) -> str:
    if not isinstance(tree, Mapping):
        return f"a {type(tree).__name__}"
    if not tree:
        return "an empty mapping"
    return listed([f"{key} ({_kind(value)})" for key, value in tree.items()])


def _kind(value: Any) -> str:
    return f"a mapping of {len(value)}" if isinstance(value, Mapping) else type(value).__name__


def _dtype(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "without data (device meta)"
    layout = "" if tensor.layout == torch.strided else f", {str(tensor.layout).removeprefix('torch.')}"
    return str(tensor.dtype).removeprefix("torch.") + layout
