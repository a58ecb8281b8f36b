"""``kdcmae evaluate`` as the tests of it call it, on a few clips."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kdcmae.cli import main

__all__ = ["CLIPS", "LABELS", "SIZE", "SMALL", "answer", "run"]

LABELS = ("cat [purring]", "rain", "unheard")
SMALL = {"audio_length": 64, "image_size": 32, "embed_dim": 64, "num_heads": 2, "specific_depth": 1}
SIZE = 64
CLIPS = 6


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def answer(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout, parse_constant=pytest.fail)  # neither NaN nor Infinity
    assert isinstance(document, dict)
    return document
