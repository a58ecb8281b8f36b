from __future__ import annotations

import errno

import pytest

from kdcmae.compile.targets.trt import plan_writer
from kdcmae.runtime.tensorrt import import_tensorrt


def test_a_plan_is_written_as_it_is_made(tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    path = tmp_path / "engine.plan"
    with path.open("wb") as file:
        writer = plan_writer(import_tensorrt("tensorrt_rtx"), file)
        assert [writer.write(part) for part in (b"one ", b"plan")] == [4, 4]
    assert path.read_bytes() == b"one plan"
    assert writer.error is None


def test_a_full_disk_is_remembered():
    """It cannot pass through the library, which only hears that nothing was written."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    with open("/dev/full", "wb", buffering=0) as file:
        writer = plan_writer(import_tensorrt("tensorrt_rtx"), file)
        assert writer.write(b"plan") == 0
    assert writer.error.errno == errno.ENOSPC
