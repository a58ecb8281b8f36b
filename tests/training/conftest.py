from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def random_runs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of tiny runs over random clips, which is also a script beside this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("random_run")


@pytest.fixture(scope="session")
def pretrain_arguments() -> Callable[[Path], list[str]]:
    """What follows ``kdcmae`` for a pretraining of 16 steps that takes seconds, into a folder."""
    settings = {
        **{"epochs": 4, "batch_size": 4, "workers": 0, "log_every_steps": 1, "checkpoint_every_steps": 3},
        **{"embed_dim": 64, "num_heads": 1, "specific_depth": 1},
        **{"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 1, "decay_start_epoch": 3},
    }
    pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    data = ["--data", "avsynth:16", "--validation", "avsynth:4", "--device", "cpu"]
    return lambda folder: ["pretrain", *data, "--output", str(folder), *pairs]
