"""Subjects without a model, for the processes that benchmark workers start: imported there by name."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass

import numpy as np

from kdcmae.bench.run.subjects import Arrays, Facts, Subject
from kdcmae.data.avsynth.classes import LABELS
from kdcmae.errors import CheckpointError, DeviceError
from kdcmae.runtime import SelfTest
from kdcmae.runtime.manifest import BatchRange, TensorSpec
from kdcmae.runtime.preprocessing import Preprocessing

TOLERANCE = 1e-3


def open_fake(source: str, threads: int) -> FakeSubject:
    """A subject that behaves as its name says."""
    if source == "no device":
        raise DeviceError("it needs a CUDA device")
    if source == "broken file":
        raise CheckpointError("broken file is truncated")
    if source == "no folder":
        raise FileNotFoundError(2, "No such file or directory", "no folder")
    if source == "crash at load":
        os.kill(os.getpid(), signal.SIGKILL)
    if source == "bug at load":
        raise ZeroDivisionError("a bug")
    if source == "hang at load":
        time.sleep(60)
    if source == "slow load":
        time.sleep(1)
    if source == "chatter":
        os.write(1, b"a library printed this\n")
    return FakeSubject(source, threads)


CLIP_INPUTS = (
    TensorSpec("audio", ("batch", 64, 128), "float32", "fbank"),
    TensorSpec("image", ("batch", 3, 32, 32), "float32", "frame"),
)


@dataclass
class FakeSubject(Subject):
    """Doubles its input; ``name`` says what else."""

    name: str
    threads: int
    calls: int = 0

    @property
    def facts(self) -> Facts:
        if self.name.startswith("sees clips"):
            return Facts(
                kind="fake engine",
                computes_in="fp32",
                inputs=CLIP_INPUTS,
                batch=BatchRange(2, 2, 8) if self.name.endswith("in pairs") else None,
                preprocessing=Preprocessing(audio_frames=64, image_size=32),
                labels=LABELS.names if self.name.endswith("of AVSynth") else ("low", "high"),
            )
        if self.name == "says its threads":
            kind = f"{self.threads} threads, {os.environ['OMP_NUM_THREADS']} of OpenMP"
            return Facts(kind=kind, computes_in="fp32", inputs=(), batch=None)
        columns = 5 if self.name == "other inputs" else 4
        return Facts(
            kind="torch eager" if self.name.startswith("torch") else "fake engine",
            computes_in="fp32",
            inputs=(TensorSpec("x", ("batch", columns), "float32", "noise"),),
            batch=BatchRange(8, 8, 8) if self.name == "batch of 8" else None,
            tolerance=None if self.name == "promises nothing" else 1e-5,
            boundary="tool" if self.name == "only times" else "host to host",
        )

    def run(self, inputs: Arrays) -> Arrays:
        self.calls += 1
        if self.name.startswith("sees clips"):
            time.sleep(1e-3)  # whatever the batch, up to no limit: the throughput grows with it
            means = inputs["audio"].mean(axis=(1, 2))
            if self.name.endswith("of AVSynth"):
                return {"logits": np.tile(np.arange(len(LABELS.names), 0, -1), (len(means), 1))}
            return {"logits": np.stack([-means, means], axis=1)}
        if self.name == "crash when timed" and self.calls > 3:
            sys.exit(7)
        factor = {"slightly off": 2 + 1e-4, "wrong": 2.5, "not a number": np.nan}.get(self.name, 2.0)
        time.sleep(1e-4)
        if self.name == "only times":
            return {}
        if self.name == "other outputs":
            return {"scores": inputs["x"]}
        return {"logits": inputs["x"] * factor}

    def self_test(self) -> SelfTest | None:
        if self.name.startswith(("torch", "promises nothing", "sees clips")):
            return None
        error = {"failing self-test": 0.5, "self-test not finite": float("inf")}.get(self.name, 1e-5)
        return SelfTest(max_error={"logits": error}, tolerance={"logits": TOLERANCE})
