from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def random_runs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of tiny runs over random clips, which is also a script beside this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("random_run")
