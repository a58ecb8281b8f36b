"""The compile gate: every shipped configuration fits every architecture, and the gate can tell when not.

Triton is compiled with in fresh processes, because here it interprets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="the gate compiles with Triton")

from kdcmae.errors import ConfigError
from kdcmae.kernels import compile_gate, configs
from kdcmae.kernels.compile_gate import Resources

# One backward row that fits, one whose register tile is far too large, and one that wants too much memory.
MEASURE = """
import dataclasses, json, sys
from kdcmae.kernels import compile_gate
from kdcmae.kernels.attention import launches

row = {"bits": 16, "head_size": 64, "max_length": 64, "kernel": "resident", "rows": [64, 0], "step": 64,
       "num_warps": 4, "num_stages": 1}
rows = [row, {**row, "max_length": 256, "rows": [256, 0]}]
streaming = {**row, "max_length": 1024, "kernel": "streaming", "rows": [128, 0], "num_warps": 8, "num_stages": 8}
builds = list(launches.builds({"forward": [streaming], "backward": rows}))
measured = [compile_gate.measure(build, 86) for build in builds if "bfloat16" in build.name]
print(json.dumps([[resources.registers, resources.fault] for resources in measured]))
"""


def compiled(code: str) -> str:
    """What ``code`` prints in a process where Triton compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_shipped_configuration_fits():
    code = "from kdcmae.kernels import compile_gate, configs; "
    counts = "print([len(compile_gate.check(architecture)) for architecture in configs.ARCHITECTURES])"
    assert all(count > 0 for count in json.loads(compiled(code + counts)))


def test_the_gate_tells_what_fits_from_what_does_not():
    too_much_memory, fits, spills = json.loads(compiled(MEASURE))
    assert "of 101376 bytes of shared memory" in too_much_memory[1]
    assert "spills" in spills[1]
    assert fits[1] is None
    assert 16 < fits[0] <= 255


def test_a_fault_names_kernel_architecture_and_amount():
    resources = {"name": "a kernel", "architecture": 89, "registers": 255}
    spilling = Resources(**resources, spilled_bytes=8, shared_bytes=0)
    greedy = Resources(**resources, spilled_bytes=0, shared_bytes=101377)
    fitting = Resources(**resources, spilled_bytes=0, shared_bytes=101376)
    assert spilling.fault == "a kernel on sm_89 spills 8 bytes per thread"
    assert greedy.fault == "a kernel on sm_89 wants 101377 of 101376 bytes of shared memory"
    assert fitting.fault is None


def test_the_gate_knows_every_architecture_of_the_tables():
    assert set(compile_gate.SHARED_MEMORY_BYTES) == set(configs.ARCHITECTURES)


def test_the_gate_refuses_to_pass_what_is_only_interpreted():
    with pytest.raises(ConfigError, match="unset TRITON_INTERPRET"):
        compile_gate.check(90)
