"""Where the harness and the files that other tests make are found."""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(_TESTS / "fuzz"), str(_TESTS / "media")]
