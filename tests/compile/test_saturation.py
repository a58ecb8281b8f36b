"""Integer products on processors without VNNI: how they go wrong, and that no engine of ours does."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kdcmae.runtime.cpu import CAP_VARIABLE, describe_cpu
from kdcmae.runtime.manifest import Manifest

ON_X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors add products of bytes in 32 bits")

# Two products of the largest bytes are 64770, and 16 bits hold 32767; signed activations are moved to unsigned ones,
# and what the move added, 128 * weight, is taken off the sum that was cut.
CUT = {"u8 127": 32767 / 64770, "i8 127": (32767 - 2 * 128 * 127) / (2 * 127 * 127)}
EMULATOR = ("qemu-x86_64-static", "-cpu", "Haswell")


def capped(cap: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, CAP_VARIABLE: cap, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250, check=False)


def products(library: str, *prefix: str, cap: str) -> dict[str, float]:
    done = capped(cap, *prefix, sys.executable, str(Path(__file__).with_name("largest_products.py")), library)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@ON_X86
@pytest.mark.parametrize("cap", ["AVX2", "AVX512_CORE"])
def test_without_vnni_openvino_cuts_sums_of_two_products(cap):
    """Its kernels obey the cap, so that this is what they do on a processor that has no more."""
    found = products("openvino", cap=cap)
    assert {name: found.pop(name) for name in CUT} == pytest.approx(CUT)
    assert set(found.values()) == {1.0}  # weights of 7 bits


@ON_X86
@pytest.mark.slow
@pytest.mark.skipif(shutil.which(EMULATOR[0]) is None, reason=f"{EMULATOR[0]} is not installed: no emulated AVX2")
@pytest.mark.parametrize("library", ["openvino", "onnx"])
def test_an_emulated_processor_without_vnni_cuts_sums_of_two_products(library):
    """ONNX Runtime's kernels ignore oneDNN's cap; what they do without VNNI takes a processor without it."""
    found = products(library, *EMULATOR, cap="AVX2")
    assert {name: found.pop(name) for name in CUT} == pytest.approx(CUT)
    assert set(found.values()) == {1.0}  # weights of 7 bits, and weights that are stored unsigned


@ON_X86
@pytest.mark.parametrize("planted", [False, True])
def test_an_engine_whose_products_saturate_is_refused_and_the_cause_named(planted, checkpoint, tmp_path):
    """Planted is the quantisation for processors with VNNI on one without."""
    fault = (
        "from kdcmae.compile.quantize import openvino\n"
        "quantize = openvino.quantize\n"
        "openvino.quantize = lambda *given, saturates, scores, **others: "
        "quantize(*given, saturates=not saturates, **others)\n"
    )
    arguments = ["--target", "openvino", "--precision", "int8", "--calibration", "avsynth:16", "--no-cache"]
    arguments += ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "engine")]
    code = f"from kdcmae.compile.cli import main\n{fault if planted else ''}main({arguments!r})"
    done = capped("AVX2", sys.executable, "-c", code)
    last = done.stderr.splitlines()[-1]
    if planted:
        assert done.returncode == 1
        assert last.startswith("error: parity: the engine does not compute what its quantised graph does: logits ")
        assert "integer products saturate: this processor has no VNNI" in last
    else:
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "engine").exists() is not planted


def test_an_engine_for_another_processor_is_not_judged_by_products_that_saturate_here(
    checkpoint, run, tmp_path, monkeypatch
):
    monkeypatch.setattr("kdcmae.compile.settings.this_cpu", lambda: describe_cpu("avx2"))
    folder = tmp_path / "engine"
    arguments = ("--target", "onnx", "--precision", "int8", "--calibration", "avsynth:4", "--output", folder)
    result = run(*arguments, "--for", "avx2-vnni", "--checkpoint", checkpoint)
    assert result.exit_code == 0, result.stderr
    rungs = {rung["name"]: rung for rung in Manifest.read(folder).parity}
    assert [rungs[name]["status"] for name in ("quantized", "engine", "artifact")] == ["passed", "skipped", "skipped"]
    assert "kdcmae check tests the engine there" in rungs["engine"]["note"]
