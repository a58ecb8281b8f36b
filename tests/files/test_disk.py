from __future__ import annotations

import errno

import pytest

from kdcmae.errors import DiskFullError
from kdcmae.files.disk import disk_is_full, writing


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_line_that_names_the_file(code: int) -> None:
    with pytest.raises(DiskFullError, match=r"^a\.bin: no space left on the device") as caught, writing("a.bin"):
        raise OSError(code, "full")
    assert caught.value.exit_code == 2


def test_it_is_found_behind_the_errors_it_led_to() -> None:
    """PyTorch notices at the end of its archive that not all of it was written; safetensors quotes the system."""

    def save() -> None:
        try:
            raise OSError(errno.ENOSPC, "full")
        finally:
            raise RuntimeError("unexpected pos 4046976 vs 4046864")

    with pytest.raises(DiskFullError), writing("a.bin"):
        save()
    with pytest.raises(DiskFullError), writing("a.bin"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "denied"), RuntimeError("os error 13"), ValueError("x")])
def test_other_errors_stay(error: Exception) -> None:
    assert not disk_is_full(error)
    with pytest.raises(type(error)), writing("a.bin"):
        raise error
