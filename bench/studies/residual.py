"""The residual stream of bf16 engines in bfloat16 or in float32: error and latency, on this machine.

``python -m kdcmae.bench.studies.residual [CHECKPOINT]`` builds both graphs of a classifier, and the first one twice as
a control, and runs them in turns with OpenVINO and AOTInductor.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcmae import load_classifier
from kdcmae.assets import default_checkpoint
from kdcmae.bench.run.timing import speed_ratio
from kdcmae.compile import cases, export, models
from kdcmae.compile.lowering import InFloat32, lower
from kdcmae.compile.models import EngineModel
from kdcmae.compile.targets import aoti
from kdcmae.host import cpu_name
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.openvino import compile_native, openvino_core
from kdcmae.terminal import say
from kdcmae.timing import time_window

__all__ = ["main"]

_CLIPS, _ROUNDS, _WINDOW_S, _RESAMPLES = 64, 40, 0.3, 2000
_ONE = BatchRange(1, 1, 1)

Run = Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float32]]


def main(checkpoint: str | Path) -> None:
    """Measure one classifier and print what came out.

    Args:
        checkpoint: of the classifier.
    """
    model = cases.on_clips(
        models.classifier_model(load_classifier(checkpoint).eval(), name="", source="", random_weights=False)
    )
    inputs = models.examples(model, _CLIPS)
    expected = models.reference(model, inputs)["logits"]
    say(f"{Path(checkpoint).name} on {cpu_name()}, {torch.get_num_threads()} threads, {_CLIPS} made clips")
    streams = {"bf16": InFloat32(), "bf16 again": InFloat32(), "float32": InFloat32(residual=True)}
    for title, build in (("OpenVINO", _openvino), ("AOTInductor", _aoti)):
        with tempfile.TemporaryDirectory() as folder:
            runs = {name: build(model, kept, Path(folder) / name) for name, kept in streams.items()}
            _compare(title, runs, inputs, expected)


def _compare(
    title: str, runs: Mapping[str, Run], inputs: Mapping[str, NDArray[Any]], expected: NDArray[np.float32]
) -> None:
    samples = [{name: np.ascontiguousarray(array[i : i + 1]) for name, array in inputs.items()} for i in range(_CLIPS)]
    errors = {name: _errors(np.concatenate([run(one) for one in samples]), expected) for name, run in runs.items()}
    rounds = [
        {name: float(np.median(time_window(partial(run, samples[0]), _WINDOW_S))) for name, run in runs.items()}
        for _ in range(_ROUNDS)
    ]
    windows_ms = {name: [one[name] for one in rounds] for name in runs}
    draws = np.random.default_rng(0).integers(_CLIPS, size=(_RESAMPLES, _CLIPS))
    for name in runs:
        ratio = errors[name][draws].mean(axis=1) / errors["bf16"][draws].mean(axis=1)
        low, high = np.quantile(ratio, (0.025, 0.975))
        speed = speed_ratio(windows_ms["bf16"], windows_ms[name])
        say(
            f"{title}, stream in {name}: error {errors[name].mean():.2e} on average, "
            f"{errors[name].mean() / errors['bf16'].mean():.2f} ({low:.2f}-{high:.2f}) of that in bf16; "
            f"{np.median(windows_ms[name]):.3g} ms, {speed.ratio:.3f} ({speed.low:.3f}-{speed.high:.3f}) times as fast"
        )


def _errors(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """Per clip the largest difference of the centred logits, relative to the largest of all."""
    found, right = (array - array.mean(axis=1, keepdims=True, dtype=np.float64) for array in (logits, expected))
    errors: NDArray[np.float64] = np.abs(found - right).max(axis=1) / np.abs(right).max()
    return errors


def _openvino(model: EngineModel, kept: InFloat32, folder: Path) -> Run:
    folder.mkdir()
    graph = folder / "graph.onnx"
    export.export_onnx(model, export.export_program(model, lower(model.module, "bf16", kept), _ONE), graph)
    properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = compile_native(openvino_core().read_model(graph), "CPU", "bf16", properties).create_infer_request()
    return lambda feed: request.infer(dict(feed))["logits"].copy()


def _aoti(model: EngineModel, kept: InFloat32, folder: Path) -> Run:
    folder.mkdir()
    package = folder / "model.pt2"
    aoti.compile_package(export.export_program(model, lower(model.module, "bf16", kept), _ONE), package, "cpu")
    loaded = torch._inductor.aoti_load_package(str(package))

    def run(feed: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = loaded(**{name: torch.from_numpy(a) for name, a in feed.items()})[0].numpy()
        return logits.copy()

    return run


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else default_checkpoint())
