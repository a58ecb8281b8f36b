"""The headings under which ``--help`` lists the options of a build, and which option is under which."""

from __future__ import annotations

from kdcmae.cli.commands import Sections
from kdcmae.cli.normalisation import NAMES

__all__ = ["SECTIONS"]

SECTIONS: Sections = {
    "What to build": (
        *("target", "machine", "checkpoint", "weights", "preset", "random_weights", "task", "modality", "modalities"),
        *("labels", "multi_label", "inputs", "batch", "split", "keep", "keep_by", "num_heads", "device", "tune"),
        *NAMES,
    ),
    "Precision": ("precision", "execute_as", "budget_ms", "calibration", "max_drop", "evaluation"),
    "Proof": (
        "expect",
        "expect_from",
        "clips",
        "proof_clips",
        "no_stored_clips",
        "max_error",
        "min_cosine",
        "min_agreement",
    ),
    "Output": ("output", "no_cache", "as_json"),
}
