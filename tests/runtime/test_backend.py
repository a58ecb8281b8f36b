from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kdcmae.errors import BrokenDependencyError, EngineVersionError, MissingDependencyError
from kdcmae.runtime.backend import bfloat16_to_float32, import_library, require_same_or_newer, require_same_release

NEVER_INSTALLED = "kdcmae_test_library"


@given(arrays(np.uint16, st.integers(0, 20)))
@settings(deadline=None, derandomize=True)
def test_bfloat16_is_the_upper_half_of_float32(bits: np.ndarray) -> None:
    values = bfloat16_to_float32(bits)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values.view(np.uint32) >> 16, bits)
    np.testing.assert_array_equal(values.view(np.uint32) & 0xFFFF, 0)


def test_bfloat16_values() -> None:
    bits = np.array([0x3F80, 0xC049, 0x0000, 0x7F80], np.uint16)
    np.testing.assert_array_equal(bfloat16_to_float32(bits), np.float32([1.0, -3.140625, 0.0, np.inf]))


def test_a_library_that_is_not_there() -> None:
    with pytest.raises(
        MissingDependencyError, match=rf"{NEVER_INSTALLED} is not installed.*pip install 'kdcmae\[onnx\]'"
    ):
        import_library(NEVER_INSTALLED, install="kdcmae[onnx]")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("import kdcmae_test_part", "No module named 'kdcmae_test_part'"),
        ("raise ImportError('libpart.so: cannot open')", "libpart.so: cannot open"),
        ("raise FileNotFoundError('nvinfer.dll')", "nvinfer.dll"),
    ],
)
def test_a_library_that_is_there_but_broken_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, reason: str
) -> None:
    (tmp_path / f"{NEVER_INSTALLED}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BrokenDependencyError, match=f"is installed but does not import: {reason}; reinstall it"):
        import_library(NEVER_INSTALLED, install="kdcmae[onnx]")


@pytest.mark.parametrize(
    ("built", "installed", "newer", "same"),
    [
        ("2026.4.1", "2026.4.1-22982-e213a147257-releases/2026/4", True, True),
        ("2026.4.1", "2026.4.0", False, False),
        ("2026.4.1", "2027.0", True, False),
        ("2026.9.0", "2026.10.0", True, False),
        ("10.13", "10.13.0.35", True, True),
        ("1.7.1.116", "1.7.1.9", True, True),
        ("1.23.2+cu13", "1.23.2", True, True),
    ],
)
def test_releases_compare_by_major_minor_and_patch(
    tiny: Any, built: str, installed: str, newer: bool, same: bool
) -> None:
    manifest = tiny.manifest("onnx", libraries={"lib": built})

    def accepts(check: Any, **options: Any) -> bool:
        try:
            check(manifest, "lib", installed, **options)
        except EngineVersionError:
            return False
        return True

    assert accepts(require_same_or_newer) is newer
    assert accepts(require_same_release, packages=("lib",)) is same
