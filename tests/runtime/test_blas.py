"""The number of threads that numpy multiplies with."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kdcmae.runtime import blas
from kdcmae.runtime.blas import one_thread
from kdcmae.runtime.preprocessing import Preprocessing, prepare_audio, prepare_image


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of threads that were set, the last of which is the present one. It is 4 before."""
    counts = [4]
    monkeypatch.setattr(blas, "_setting", lambda: (lambda: counts[-1], counts.append))
    return counts


def test_it_is_put_back_by_the_last_user_also_after_an_error(counts: list[int]) -> None:
    with one_thread():
        with pytest.raises(ZeroDivisionError), one_thread():
            raise ZeroDivisionError
        assert counts == [4, 1]
    assert counts == [4, 1, 4]


def test_users_of_many_threads_share_it(counts: list[int]) -> None:
    together = threading.Barrier(4)

    def use(_: int) -> int:
        with one_thread():
            together.wait(30)  # all are inside
            now = counts[-1]
            together.wait(30)
            return now

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(use, range(4))) == {1}
    assert counts == [4, 1, 4]


def test_preprocessing_multiplies_in_its_own_thread(counts: list[int]) -> None:
    generator = np.random.default_rng(0)
    prepare_audio(generator.uniform(-1, 1, 16_000).astype(np.float32), 16_000, Preprocessing())
    assert counts == [4, 1, 4]
    prepare_image(generator.integers(0, 256, (240, 320, 3), dtype=np.uint8), Preprocessing())
    assert counts == [4, 1, 4, 1, 4]


def test_numpy_s_own_library_is_set_and_put_back() -> None:
    blas._setting.cache_clear()
    get, _ = blas._setting()
    before = get()
    with one_thread():
        assert get() == 1
    assert get() == before
