"""``kdcmae predict`` as the tests of it call it, and the very small model that they call it with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from click.testing import CliRunner, Result

from kdcmae.cli import main

__all__ = ["LABELS", "SMALL", "answer", "run", "scores"]

LABELS = ("dog [barking]", "rain", "speech", "engine")
SMALL = {"audio_length": 32, "image_size": 64, "embed_dim": 32, "num_heads": 2, "specific_depth": 1}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def answer(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert isinstance(document, dict)
    return document


def scores(clip: Mapping[str, Any]) -> dict[str, float]:
    return {prediction["label"]: prediction["score"] for prediction in clip["predictions"]}
