"""Sizes of models by name; commands list them without loading numpy."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["PRESETS"]

# Encoder and decoder sizes. Heads are 64 wide in the encoder and 32 wide in the decoder.
PRESETS: Mapping[str, Mapping[str, int]] = {
    "base": {},
    "small": {
        "embed_dim": 384,
        "num_heads": 6,
        "decoder_embed_dim": 256,
        "decoder_depth": 4,
        "decoder_num_heads": 8,
    },
    "tiny": {
        "embed_dim": 128,
        "num_heads": 2,
        "specific_depth": 4,
        "decoder_embed_dim": 64,
        "decoder_depth": 2,
        "decoder_num_heads": 2,
    },
    # Of the published input, 4.6 billion products and sums a clip: 1 / 29 of base.
    "edge": {
        "embed_dim": 192,
        "num_heads": 3,
        "specific_depth": 4,
        "decoder_embed_dim": 128,
        "decoder_depth": 2,
        "decoder_num_heads": 4,
    },
}
