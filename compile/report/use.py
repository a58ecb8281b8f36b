"""What an app has to know of an engine: code that runs it, what goes in and comes out, and which CPUs it is for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdcmae.drawing.markup import Html, section, table, tag
from kdcmae.runtime.feeding import sources
from kdcmae.runtime.manifest import Manifest
from kdcmae.runtime.precisions import PRECISIONS
from kdcmae.runtime.preprocessing import Preprocessing
from kdcmae.runtime.targets import TARGETS

__all__ = ["cpu_lines", "snippet", "use"]

_SHOWN_LABELS = 24

_START = """import numpy as np
from kdcmae.runtime import load_engine

engine = load_engine(".")  # the folder of this page
assert engine.self_test().passed
"""
_SOUND = "sound = np.zeros(16_000, dtype=np.float32)  # (samples,) or (channels, samples) in [-1, 1], at any rate\n"
_FRAME = "frame = np.zeros((360, 640, 3), dtype=np.uint8)  # (height, width, 3), RGB\n"


def snippet(manifest: Manifest) -> str:
    """A Python program that runs the engine; its working directory is the engine folder."""
    needed = sources(spec.name for spec in manifest.inputs)
    sound, frame = (name if name in needed else None for name in ("waveform", "frame"))
    arguments = f"{'sound' if sound else None}, 16_000, {'frame' if frame else None}"
    code = _START + (_SOUND if sound else "") + (_FRAME if frame else "")
    if manifest.labels:
        return code + (
            f"for prediction in engine.classify({arguments}):\n"
            '    print(f"{prediction.label}: {prediction.score:.2f}")\n'
        )
    frames = arguments.replace("frame", "[frame]")
    return (
        code
        + f"for name, features in engine.infer(engine.prepare({frames})).items():\n    print(name, features.shape)\n"
    )


def use(manifest: Manifest) -> Html:
    """How an app runs the engine."""
    tensors = [
        (role, spec.name, spec.dtype, f"({', '.join(map(str, spec.shape))})", spec.description)
        for role, specs in (("input", manifest.inputs), ("output", manifest.outputs))
        for spec in specs
    ]
    return section(
        "In an app",
        tag("pre", tag("code", snippet(manifest))),
        table(("", "name", "type", "shape", "values"), tensors, cards=True),
        tag("p", "classify() and prepare() make these inputs of a clip: ", _preprocessing(manifest)),
        *_labels(manifest.labels),
        *(tag("p", line) for line in cpu_lines(manifest)),
        wide=True,
    )


def cpu_lines(manifest: Manifest) -> Iterator[str]:
    """Which processors the engine is for, and what they need."""
    target = TARGETS.get(manifest.target)
    if target is None or not target.runs_on_cpu or manifest.engine.get("device", "CPU").upper().startswith("CUDA"):
        return
    built_for: Mapping[str, Any] = manifest.precision.get("built_for") or {}
    if built_for:
        known = f", class {built_for['class']}" if built_for["class"] else ""
        yield f"Built for {built_for['name'] or built_for['machine']}{known} ({built_for['machine']})."
    if target.this_machine_only:
        yield f"It runs on processors with the instructions of that one: {target.this_machine_only}."
    executed = manifest.precision.get("products") or {manifest.precision["asked"]: 0}
    for name in executed:
        precision = PRECISIONS.get(name)  # a later version may know more of them
        if precision is not None and precision.instructions:
            wanted = " or ".join(sorted(precision.instructions))
            others = "" if target.this_machine_only else "; others execute a wider precision, more slowly"
            yield f"{name} executes natively on CPUs with {wanted}{others}."
        elif name == "int8":
            yield "On x86 CPUs without VNNI or AMX, int8 gains no speed."


def _preprocessing(manifest: Manifest) -> str:
    """How a clip becomes the inputs, in words."""
    needed = sources(spec.name for spec in manifest.inputs)
    facts = Preprocessing.from_dict(manifest.preprocessing)
    parts = []
    if "waveform" in needed:
        channels = "the left channel" if facts.mono == "left" else "the mean of the channels"
        parts.append(
            f"{facts.window_s:.2f} s of sound, {channels} at 16 kHz, as {facts.audio_frames} x {facts.mel_bins} "
            f"log-mel values with mean {facts.fbank_mean:g} and deviation {facts.fbank_std:g}"
        )
    if "frame" in needed:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (facts.image_mean, facts.image_std))
        parts.append(
            f"the centre of a frame, {facts.image_size} pixels square, with mean {mean} and deviation {std} per channel"
        )
    return f"{'; '.join(parts)}."


def _labels(labels: tuple[str, ...]) -> Iterator[Html]:
    if not labels:
        return
    shown = f"{len(labels)} labels: {', '.join(labels[:_SHOWN_LABELS])}"
    if len(labels) <= _SHOWN_LABELS:
        yield tag("p", f"{shown}.")
    else:
        every = tag("p", ", ".join(labels))
        yield tag("details", tag("summary", f"{shown} ..."), every)
