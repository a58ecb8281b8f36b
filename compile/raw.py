"""Engines that take a clip as it is decoded: the preprocessing becomes a part of the model, in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from kdcmae.compile.models import EngineModel, Parts, run
from kdcmae.data.avsynth.memory import AVSynth
from kdcmae.frontend import AnySizeImageFrontend, AudioFrontend
from kdcmae.media.frame_numbers import MIDDLE_FRAME
from kdcmae.runtime import feeding
from kdcmae.runtime.manifest import BATCH_AXIS, TensorSpec
from kdcmae.runtime.preprocessing import SAMPLE_RATE_HZ, Preprocessing
from kdcmae.runtime.schema import FREE_AXES

__all__ = ["with_raw_inputs"]


def with_raw_inputs(model: EngineModel) -> EngineModel:
    """The same model behind its preprocessing.

    It takes ``waveform`` and ``samples`` in place of ``audio``, and ``frame`` in place of ``image``. What it must
    compute is what the model computes behind the preprocessing in numpy, which apps run in front of other engines.
    """
    inputs = _raw_specs(model)
    whole = _Raw(model)
    # The labels are those of the body's outputs.
    frontend = dataclasses.replace(
        model,
        module=_Frontend(whole),
        inputs=inputs,
        outputs=model.inputs,
        labels=(),
        reference=lambda feed: _prepared(model, feed),
        examples=lambda batch, seed: _clips(inputs, model.preprocessing, batch, seed),
    )
    return dataclasses.replace(
        frontend,
        module=whole,
        outputs=model.outputs,
        labels=model.labels,
        reference=lambda feed: run(model, model.module, _prepared(model, feed)),
        parts=Parts(frontend=frontend, body=model),
    )


class _Raw(nn.Module):
    """The model behind its preprocessing."""

    def __init__(self, model: EngineModel) -> None:
        super().__init__()
        self.audio_frontend = AudioFrontend(model.preprocessing)
        self.image_frontend = AnySizeImageFrontend(model.preprocessing)
        self.model = model.module

    def forward(
        self, waveform: Tensor | None = None, samples: Tensor | None = None, frame: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = self.model(**_prepare(self, waveform, samples, frame))
        return outputs


class _Frontend(nn.Module):
    """The preprocessing without the model; its outputs are the model's inputs in order."""

    def __init__(self, whole: _Raw) -> None:
        super().__init__()
        self.audio_frontend = whole.audio_frontend
        self.image_frontend = whole.image_frontend

    def forward(
        self, waveform: Tensor | None = None, samples: Tensor | None = None, frame: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        return tuple(_prepare(self, waveform, samples, frame).values())


def _prepare(
    module: _Raw | _Frontend, waveform: Tensor | None, samples: Tensor | None, frame: Tensor | None
) -> dict[str, Tensor]:
    prepared = {}
    if waveform is not None:
        prepared["audio"] = module.audio_frontend(waveform, samples)
    if frame is not None:
        prepared["image"] = module.image_frontend(frame)
    return prepared


def _raw_specs(model: EngineModel) -> tuple[TensorSpec, ...]:
    room = model.preprocessing.audio_samples
    smallest, _, largest = FREE_AXES["height"]
    waveform = TensorSpec(
        name=feeding.WAVEFORM,
        shape=(BATCH_AXIS, room),
        dtype="float32",
        description=f"sound in [-1, 1], 16 kHz mono, room for {room / SAMPLE_RATE_HZ:.2f} s",
    )
    samples = TensorSpec(
        name=feeding.SAMPLES,
        shape=(BATCH_AXIS,),
        dtype="int32",
        description=f"how many samples of each row of {feeding.WAVEFORM} are sound; what follows them is not read",
    )
    frame = TensorSpec(
        name=feeding.FRAME,
        shape=(BATCH_AXIS, "height", "width", 3),
        dtype="uint8",
        description=f"RGB frame (rows, columns, channels), {smallest} to {largest} pixels a side",
    )
    made_of = {"audio": (waveform, samples), "image": (frame,)}
    return tuple(raw for spec in model.inputs for raw in made_of[spec.name])


def _prepared(model: EngineModel, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The inputs of the model itself, prepared in numpy."""
    names = [spec.name for spec in model.inputs]
    rows = []
    for row in range(len(next(iter(feed.values())))):
        raw = {name: array[row] for name, array in feed.items()}
        sound = raw[feeding.WAVEFORM][: raw[feeding.SAMPLES]] if feeding.WAVEFORM in raw else None
        frames = [raw[feeding.FRAME]] if feeding.FRAME in raw else None
        rows.append(feeding.from_clip(names, model.preprocessing, sound, SAMPLE_RATE_HZ, frames))
    return _stacked(rows)


def _clips(
    inputs: tuple[TensorSpec, ...], preprocessing: Preprocessing, batch: int, seed: int
) -> dict[str, NDArray[Any]]:
    """Raw clips of AVSynth, of different lengths."""

    def rows() -> Iterator[dict[str, NDArray[Any]]]:
        data = AVSynth("test", clips=batch, seed=seed)
        for number, record in enumerate(data.records):
            clip = data.read(record, "audiovisual", (MIDDLE_FRAME,))
            assert clip.waveform is not None
            sound = clip.waveform[: preprocessing.audio_samples * (4 - number % 3) // 4]
            yield feeding.from_clip([spec.name for spec in inputs], preprocessing, sound, SAMPLE_RATE_HZ, clip.frames)

    return _stacked(list(rows()))


def _stacked(rows: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
