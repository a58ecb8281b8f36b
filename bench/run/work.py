"""What one inference has to compute and to move, counted by hand.

Notation: B samples per call, D width, r = MLP ratio, P = patch side, C classes, La and Lv audio and video tokens,
Ns and Nu modality-specific and unified blocks. One multiply-add is two FLOP; only matrix products are counted (norms,
softmax, GELU and the frontend are below one percent).

====================  ==============================================  =====================================
layer                 FLOP per sample                                 elements read and written per sample
====================  ==============================================  =====================================
patch embedding       2 L (channels P²) D                             L (channels P²) + L D
queries, keys, values 6 L D²                                          L D + 3 L D
attention             4 L² D  (scores, and their product with values)  3 L D + L D  (scores stay on the chip)
projection            2 L D²                                          L D + L D
MLP                   4 r L D²                                        2 (L D + r L D)
head                  2 D C                                           D + C
====================  ==============================================  =====================================

so a block takes (8 + 4 r) L D² + 4 L² D FLOP and moves (12 + 2 r) L D elements. An audiovisual inference runs
Ns (block(La) + block(Lv)) + Nu block(La + Lv). A model finetuned on one modality runs (Ns + Nu) block(L). An
audiovisual model that gets one modality runs its unified blocks twice. Weights are read once per call, whatever
the batch: a block has (4 + 2 r) D² of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdcmae.runtime.precisions import PRECISIONS

__all__ = ["Work", "count_work"]

_CHANNELS = {"audio": 1, "image": 3}


@dataclass(frozen=True, kw_only=True)
class Work:
    """Work of one call.

    Args:
        flop: of the matrix products.
        weights: elements read once.
        activations: elements read and written.
    """

    flop: float
    weights: float
    activations: float

    def traffic_bytes(self, precision: str) -> float:
        """The least that has to move, were everything stored in this precision."""
        return (self.weights + self.activations) * PRECISIONS[precision].bytes_per_value


def count_work(config: Mapping[str, Any], inputs: Sequence[str], batch: int) -> Work:
    """Count one call of a classifier.

    Args:
        config: fields of :class:`kdcmae.config.ClassifierConfig`, as a manifest keeps them; ``kept_tokens``, by input,
            where the model sees fewer than all.
        inputs: which of ``audio`` and ``image`` the call gets.
        batch: samples.
    """
    patch, width = config["patch_size"], config["embed_dim"]
    lengths = {
        "audio": config["audio_length"] * config["mel_bins"] // patch**2,
        "image": config["image_size"] ** 2 // patch**2,
        **config.get("kept_tokens", {}),
    }
    specific, unified = config["specific_depth"], config["unified_depth"]
    ratio, classes = config["mlp_ratio"], config["num_classes"]
    missing_one = config["modality"] == "audiovisual" and len(inputs) == 1
    total = sum(lengths[name] for name in inputs)
    # (tokens, passes over them) of every block that runs
    runs = [(lengths[name], specific) for name in inputs] + [(total, unified * (2 if missing_one else 1))]
    flop = sum(times * ((8 + 4 * ratio) * tokens * width**2 + 4 * tokens**2 * width) for tokens, times in runs)
    activations = sum(times * (12 + 2 * ratio) * tokens * width for tokens, times in runs)
    weights = (specific * len(inputs) + unified) * (4 + 2 * ratio) * width**2
    for name in inputs:
        pixels = _CHANNELS[name] * patch**2
        flop += 2 * lengths[name] * pixels * width
        activations += lengths[name] * (pixels + width)
        weights += pixels * width
    return Work(
        flop=batch * (flop + 2 * width * classes),
        weights=weights + width * classes,
        activations=batch * (activations + width + classes),
    )
