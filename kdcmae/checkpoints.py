"""Reading and writing checkpoints.

Our own are one safetensors file whose metadata holds the resolved configuration. Published CAV-MAE and KDC-MAE
files are PyTorch state dicts; their architecture is inferred from tensor shapes. No file is ever unpickled
beyond plain tensors, and nothing loads silently: a tensor that is missing, left over or misshapen is an error. The
format of a file and the model's weights in it are handled by :mod:`kdcmae.weights.files` and
:mod:`kdcmae.weights.sets`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from kdcmae import config as configs
from kdcmae.classifier import KDCMAEClassifier
from kdcmae.config import MODALITY_INPUTS, ClassifierConfig, EncoderConfig, Modality, PretrainingConfig
from kdcmae.errors import CheckpointError
from kdcmae.files.replacing import replacing
from kdcmae.normalisation import PUBLISHED, assumed_statistics
from kdcmae.pos_embed import fit_time
from kdcmae.pretraining import KDCMAE
from kdcmae.weights.files import listed, read_file
from kdcmae.weights.header import CONFIG_KEY, KIND_KEY
from kdcmae.weights.sets import Weights, as_float32, choose_weights

__all__ = [
    "Transfer",
    "init_classifier",
    "load_classifier",
    "load_pretrained",
    "read_tensors",
    "save_checkpoint",
    "transfer",
]

logger = logging.getLogger(__name__)

_MEL_BINS = 128

# Left in published KDC-MAE files by experiments; no forward pass reads them.
_UNUSED = re.compile(
    r"(decoder_embed_(audio|video)|mask_token_(audio|video)|latent_projection|kld_mlp|pos_embed_probs_[av]"
    r"|probability_network|get_token_probs|log_noise_\w+|dw_fc\w*|fc)(\..*)?$"
)


def load_pretrained(path: str | os.PathLike[str], *, weights: Weights | None = None, **overrides: Any) -> KDCMAE:
    """Load a pretraining checkpoint: our own, or a published CAV-MAE / KDC-MAE file.

    Args:
        path: a safetensors or PyTorch file; containers and prefixes that trainers add are removed.
        weights: ``"model"`` or ``"ema"``, if a file has both the trained weights and their moving average.
        overrides: fields of :class:`~kdcmae.config.PretrainingConfig` that differ from what the file says or its
            shapes imply: ``num_heads=`` and ``decoder_num_heads=`` where heads are not 64 and 32 wide,
            ``audio_length=`` to trim or interpolate the audio positions; ``fbank_mean=``, ``fbank_std=``,
            ``image_mean=``, ``image_std=`` and ``mono=`` if the inputs of the training differed from the published
            ones.

    Returns:
        The model in float32 on the CPU, in training mode.

    Raises:
        CheckpointError: not readable, not a pretraining checkpoint, or tensors that do not fit (listed).
        ConfigError: an unknown override or one that contradicts the file.
    """
    state, stored = _read(Path(path), kind="pretraining", weights=weights)
    inferred = stored or _with_heads(
        {**PUBLISHED, **_infer_encoder(state, path), **_infer_decoder(state, path)}, overrides, path
    )
    config = configs.from_mapping(PretrainingConfig, {**inferred, **overrides})
    model: KDCMAE = _filled(KDCMAE, config, state, path)
    model.assumed = assumed_statistics(config, MODALITY_INPUTS["audiovisual"], stored, overrides, path)
    return model


def load_classifier(
    path: str | os.PathLike[str], *, modality: Modality | None = None, weights: Weights | None = None, **overrides: Any
) -> KDCMAEClassifier:
    """Load a finetuned checkpoint: our own, or a published CAV-MAE / KDC-MAE file.

    Args:
        path: a safetensors or PyTorch file; containers and prefixes that trainers add are removed.
        modality: finetuned inputs; by default those in the file, or "audiovisual" if it does not say.
        weights: ``"model"`` or ``"ema"``, if a file has both the trained weights and their moving average.
        overrides: fields of :class:`~kdcmae.config.ClassifierConfig` that differ from what the file says or its
            shapes imply, such as ``num_heads=``, ``audio_length=``, ``labels=``, ``multi_label=``, or the statistics
            ``fbank_mean=``, ``fbank_std=``, ``image_mean=`` and ``image_std=``, or ``mono=``.

    Returns:
        The model in float32 on the CPU, in evaluation mode.

    Raises:
        CheckpointError: not readable, not a finetuned checkpoint, or tensors that do not fit (listed).
        ConfigError: an unknown override or one that contradicts the file.
    """
    state, stored = _read(Path(path), kind="classifier", weights=weights)
    if modality is not None:
        overrides["modality"] = modality
    inferred = stored or _with_heads(
        {**PUBLISHED, **_infer_encoder(state, path), "num_classes": _infer_classes(state, path)}, overrides, path
    )
    config = configs.from_mapping(ClassifierConfig, {**inferred, **overrides})
    model: KDCMAEClassifier = _filled(KDCMAEClassifier, config, state, path)
    model.assumed = assumed_statistics(config, config.inputs, stored, overrides, path)
    return model.eval()


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Tensors of a new model that came from a checkpoint, by name.

    Args:
        taken: the model's tensors that the checkpoint filled.
        fresh: the model's other tensors.
        left: the checkpoint's tensors that the model does not have.
    """

    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    left: tuple[str, ...]


def init_classifier(
    pretrained: KDCMAE, *, num_classes: int, modality: Modality = "audiovisual", **overrides: Any
) -> tuple[KDCMAEClassifier, Transfer]:
    """A classifier to finetune: the encoder of a pretraining model and a fresh head.

    Args:
        pretrained: such as from :func:`load_pretrained`; it shares no memory with the classifier.
        overrides: other fields of :class:`~kdcmae.config.ClassifierConfig`, such as ``labels=``,
            ``multi_label=`` or ``audio_length=`` (positions are trimmed or interpolated).

    Returns:
        The classifier in float32 on the CPU, in training mode, and the transferred tensors.

    Raises:
        ConfigError: an unknown override, or a value out of range.
        CheckpointError: overrides that make the encoder another one.
    """
    sizes = {field.name: getattr(pretrained.config, field.name) for field in dataclasses.fields(EncoderConfig)}
    values = {**sizes, "num_classes": num_classes, "modality": modality, **overrides}
    classifier = KDCMAEClassifier(configs.from_mapping(ClassifierConfig, values))
    classifier.reset_parameters()
    return classifier, transfer(pretrained.state_dict(), classifier)


@torch.no_grad()
def transfer(state: Mapping[str, Tensor], model: KDCMAE | KDCMAEClassifier) -> Transfer:
    """Copy every matching tensor into a model; audio positions are trimmed or interpolated to fit.

    Raises:
        CheckpointError: tensors of another shape (listed).
    """
    state = _with_fitted_positions(state, model.config)
    own = model.state_dict()
    shared = own.keys() & state.keys()
    if misshapen := _misshapen({name: state[name] for name in shared}, own):
        raise CheckpointError(f"the checkpoint does not fit the model: {listed(misshapen)}")
    for name in shared:
        own[name].copy_(state[name])
    return Transfer(
        taken=tuple(name for name in own if name in shared),
        fresh=tuple(name for name in own if name not in shared),
        left=tuple(name for name in state if name not in shared),
    )


def read_tensors(path: str | os.PathLike[str], *, weights: Weights | None = None) -> dict[str, Tensor]:
    """The float32 tensors of a file by published name, unchecked; for starting from other models, such as an MAE.

    Args:
        path: a safetensors or PyTorch file.
        weights: as of :func:`load_pretrained`.

    Raises:
        CheckpointError: not readable, or not a file of tensors.
    """
    return _read(Path(path), kind="pretraining", weights=weights)[0]


def save_checkpoint(
    model: KDCMAE | KDCMAEClassifier,
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float32,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write one safetensors file with the weights and the resolved configuration, atomically.

    Args:
        path: the file; an existing one is replaced only once the new one is complete.
        dtype: of the stored tensors; loading always gives float32.
        facts: further metadata of the file, which loading ignores.
    """
    path = Path(path)
    kind = "classifier" if isinstance(model, KDCMAEClassifier) else "pretraining"
    metadata = {**(facts or {}), KIND_KEY: kind, CONFIG_KEY: json.dumps(dataclasses.asdict(model.config))}
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as partial:
        safetensors.torch.save_file(state, partial, metadata=metadata)


def _read(path: Path, *, kind: str, weights: Weights | None) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a file by published name, and the configuration if the file has one."""
    content = read_file(path)
    stored = _stored_config(content.metadata, kind, path)
    state = choose_weights(content.tree, weights, path)
    _require_known_variant(state, kind, path)
    unused = sorted(name for name in state if _UNUSED.match(name))
    if unused:
        logger.info("%s: ignored %d unused tensors: %s", path, len(unused), ", ".join(unused))
    return as_float32({name: tensor for name, tensor in state.items() if name not in unused}, path), stored


def _stored_config(metadata: Mapping[str, str], kind: str, path: Path) -> dict[str, Any] | None:
    """The configuration in a file of our own, checked for its kind; None for any other file."""
    if metadata.get(KIND_KEY, kind) != kind:
        raise CheckpointError(f"{path} is a {metadata[KIND_KEY]} checkpoint, expected a {kind} checkpoint")
    if CONFIG_KEY not in metadata:
        return None
    try:
        stored = json.loads(metadata[CONFIG_KEY])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its stored configuration is not JSON: {error}") from error
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path}: its stored configuration is {stored!r} instead of an object")
    return stored


def _require_known_variant(state: Mapping[str, Tensor], kind: str, path: object) -> None:
    """Refuse published options that change the forward pass in ways that our models do not implement.

    Source: KDC-MAE's code. With ``split_decoder`` each modality has decoder blocks of its own; with ``kld_mlp`` the
    head of a finetuned model reads two linear layers behind the pooled tokens. Other files have unused tensors of
    these names.
    """
    split = sorted({name.partition(".")[0] for name in state if re.match(r"decoder_(blocks|norm)_[av]\.", name)})
    if kind == "pretraining" and split:
        raise CheckpointError(
            f"{path} was pretrained with split_decoder ({listed(split)}), a published variant that is not implemented "
            "here, where one decoder sees both modalities; what was finetuned from it has no decoder, and loads"
        )
    projections = sorted(name for name in state if re.match(r"kld_mlp\.\d+\.weight$", name))
    head = state.get("mlp_head.0.weight")
    if kind == "classifier" and projections and head is not None and state[projections[-1]].shape[:1] == head.shape:
        raise CheckpointError(
            f"{path} was finetuned with kld_mlp ({listed(projections)}), a published variant that is not implemented "
            "here: its head reads what these layers make of the pooled tokens; finetune without the option"
        )


def _infer_encoder(state: Mapping[str, Tensor], path: object) -> dict[str, Any]:
    """Encoder sizes from tensor shapes."""
    needed = ("pos_embed_a", "pos_embed_v", "patch_embed_a.proj.weight", "blocks_u.0.mlp.fc1.weight")
    missing = [name for name in needed if name not in state]
    if missing:
        raise CheckpointError(f"{path} {_not_ours(state, missing, path)}")
    width, _, patch_size, _ = _shape(state, "patch_embed_a.proj.weight", 4)
    audio_tokens = _shape(state, "pos_embed_a", 3)[1]
    video_tokens = _shape(state, "pos_embed_v", 3)[1]
    hidden = _shape(state, "blocks_u.0.mlp.fc1.weight", 2)[0]
    if not width or not 1 <= patch_size <= _MEL_BINS:
        raise CheckpointError(f"{path}: patches of {patch_size} in {width} channels are those of no such model")
    return {
        "audio_length": audio_tokens * patch_size // (_MEL_BINS // patch_size),
        "image_size": math.isqrt(video_tokens) * patch_size,
        "patch_size": patch_size,
        "embed_dim": width,
        "specific_depth": _depth(state, "blocks_a"),
        "unified_depth": _depth(state, "blocks_u"),
        "mlp_ratio": hidden / width,
    }


def _not_ours(state: Mapping[str, Tensor], missing: list[str], path: object) -> str:
    """What kind of file this is instead, and which tensors it has."""
    held = f"it holds {listed(sorted(state), 6)}" if state else "it holds no tensors"
    if part := re.search(r"-(\d+)-of-(\d+)\.", Path(str(path)).name):
        return f"is part {int(part[1])} of {int(part[2])} of a checkpoint; join the parts in one file; {held}"
    if "patch_embed.proj.weight" in state:
        return f"is a ViT or an MAE of pictures alone; pretraining can start from an MAE (kdcmae pretrain); {held}"
    return f"is not a CAV-MAE or KDC-MAE checkpoint: no {listed(missing)}; {held}"


def _infer_decoder(state: Mapping[str, Tensor], path: object) -> dict[str, Any]:
    if "decoder_embed.weight" not in state:
        hint = "; use load_classifier" if "mlp_head.1.weight" in state else ""
        raise CheckpointError(f"{path} is not a pretraining checkpoint: no decoder_embed.weight{hint}")
    width = _shape(state, "decoder_embed.weight", 2)[0]
    return {
        "decoder_embed_dim": width,
        "decoder_depth": _depth(state, "decoder_blocks"),
    }


def _infer_classes(state: Mapping[str, Tensor], path: object) -> int:
    if "mlp_head.1.weight" not in state:
        hint = "; it is a pretraining checkpoint: finetune it first" if "mask_token" in state else ""
        raise CheckpointError(f"{path} is not a finetuned checkpoint: no mlp_head.1.weight{hint}")
    return _shape(state, "mlp_head.1.weight", 2)[0]


# Width of published heads; shapes do not determine the number of heads.
_HEAD_WIDTHS = {"num_heads": ("embed_dim", 64), "decoder_num_heads": ("decoder_embed_dim", 32)}


def _with_heads(sizes: dict[str, Any], overrides: Mapping[str, Any], path: object) -> dict[str, Any]:
    """Add the published number of heads if the caller gives none, with a warning if it is a guess."""
    for setting, (width_name, head_width) in _HEAD_WIDTHS.items():
        if width_name not in sizes or setting in overrides:
            continue
        width = sizes[width_name]
        heads = max(1, width // head_width)
        if width != heads * head_width:
            logger.warning(
                "%s: %s=%d is not a multiple of %d; assuming %s=%d, pass the right number if it is another",
                path, width_name, width, head_width, setting, heads,
            )  # fmt: skip
        sizes[setting] = heads
    return sizes


def _depth(state: Mapping[str, Tensor], blocks: str) -> int:
    indices = {int(match[1]) for name in state if (match := re.match(rf"{blocks}\.(\d+)\.", name))}
    return max(indices, default=-1) + 1


def _shape(state: Mapping[str, Tensor], name: str, ndim: int) -> tuple[int, ...]:
    shape = tuple(state[name].shape)
    if len(shape) != ndim:
        raise CheckpointError(f"{name} has shape {shape}, expected {ndim} dimensions")
    return shape


def _filled(kind: Any, config: Any, state: dict[str, Tensor], path: object) -> Any:
    """Build a model around the tensors, after checking that they fit one to one."""
    with torch.device("meta"):
        model: nn.Module = kind(config)
    state = _with_fitted_positions(state, config)
    expected = model.state_dict()
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    misshapen = _misshapen(state, expected)
    problems = [
        f"{label}: {listed(names)}"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit {kind.__name__}: {'; '.join(problems)}")
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    model.load_state_dict(state, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return model


def _with_fitted_positions(state: Mapping[str, Tensor], config: EncoderConfig) -> dict[str, Tensor]:
    rows, _ = config.audio_grid
    fitted = {
        name: fit_time(state[name], *config.audio_grid)
        for name in ("pos_embed_a", "decoder_pos_embed_a")
        if name in state and state[name].ndim == 3 and state[name].shape[1] % rows == 0
    }
    return {**state, **fitted}


def _misshapen(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
