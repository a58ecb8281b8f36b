"""The ceilings, on matrices of a size that takes no time."""

from __future__ import annotations

import subprocess
import types

import pytest
import torch

from kdcmae.bench.machine import ceilings
from kdcmae.bench.report.records import Ceilings
from kdcmae.errors import EngineError


@pytest.fixture
def threads_put_back():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_precision_has_a_rate_and_says_how_it_was_measured(threads_put_back):
    pytest.importorskip("openvino")
    found = ceilings.measure_here(1, 0.01, side=64, copy_bytes=1 << 20)
    assert found["flop_per_s"].keys() == {"fp32", "bf16", "int8"}
    assert min(found["flop_per_s"].values()) > 1e6
    assert found["copy_bytes_per_s"] > 1e6
    assert found["how"].keys() == {"fp32", "bf16", "int8", "copy"}
    assert "executed in" in found["how"]["int8"]


def test_a_slow_moment_lowers_no_ceiling():
    before, after = (
        Ceilings(flop_per_s={"fp32": fp32, "int8": int8}, copy_bytes_per_s=copied, how={"fp32": "a product"})
        for fp32, int8, copied in ((1.0, 8.0, 2.0), (3.0, 4.0, 1.0))
    )
    assert ceilings.best_ceilings(before, after) == Ceilings(
        flop_per_s={"fp32": 3.0, "int8": 8.0}, copy_bytes_per_s=2.0, how={"fp32": "a product"}
    )


def test_what_the_process_says_is_the_result_or_the_error(monkeypatch):
    ran = types.SimpleNamespace(
        returncode=0, stdout='{"flop_per_s": {"fp32": 1.0}, "copy_bytes_per_s": 2.0, "how": {}}'
    )
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ran)
    assert ceilings.measure_ceilings((0,), seconds=1).flop_per_s == {"fp32": 1.0}
    ran.returncode, ran.stderr = 1, "no memory"
    with pytest.raises(EngineError, match="could not be measured: no memory"):
        ceilings.measure_ceilings((0,), seconds=1)
