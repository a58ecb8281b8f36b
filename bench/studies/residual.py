"""Error and latency of bf16 engines whose residual stream is bfloat16 or float32, on this machine.

``python -m kdcmae.bench.studies.residual [CHECKPOINT] [REPORT.json]`` builds both graphs of a classifier, and the first
one twice as a control, and runs them in turns with OpenVINO and AOTInductor.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcmae.assets import default_checkpoint
from kdcmae.bench.report.envelope import machine, stamp
from kdcmae.bench.report.files import write_json
from kdcmae.bench.report.publishing import Document, Section
from kdcmae.bench.report.rendering import print_blocks
from kdcmae.bench.report.table import Block, Column, interval, table
from kdcmae.bench.run.subjects import load_torch_model
from kdcmae.bench.run.timing import SpeedRatio, speed_ratio
from kdcmae.compile import cases, export, models
from kdcmae.compile.lowering import InFloat32, lower
from kdcmae.compile.models import EngineModel
from kdcmae.compile.targets import aoti_package
from kdcmae.evaluation.paired import mean_interval
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.openvino import compile_native
from kdcmae.runtime.openvino_library import openvino_core
from kdcmae.timing import time_window

__all__ = ["SECTION", "main", "measure_residual"]

_CLIPS, _ROUNDS, _WINDOW_S = 64, 40, 0.3
_ONE = BatchRange(1, 1, 1)

Run = Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float32]]


def measure_residual(checkpoint: str | Path) -> dict[str, Any]:
    """Measure one classifier.

    Returns:
        The report as plain data: a row per library and stream.
    """
    envelope = stamp("residual")
    model = cases.on_clips(
        models.classifier_model(load_torch_model(str(checkpoint)), name="", source="", random_weights=False)
    )
    inputs = models.examples(model, _CLIPS)
    expected = models.reference(model, inputs)["logits"]
    streams = {"bf16": InFloat32(), "bf16 again": InFloat32(), "float32": InFloat32(residual=True)}
    rows: list[dict[str, Any]] = []
    for title, build in (("OpenVINO", _openvino), ("AOTInductor", _aoti)):
        with tempfile.TemporaryDirectory() as folder:
            # Numbered, because AOTInductor's compiler takes no path with a space.
            folders = {name: Path(folder) / str(number) for number, name in enumerate(streams)}
            runs = {name: build(model, kept, folders[name]) for name, kept in streams.items()}
            rows += [{"library": title, **row} for row in _compare(runs, inputs, expected)]
    name, threads = Path(checkpoint).name, torch.get_num_threads()
    return {**envelope, "checkpoint": name, "threads": threads, "clips": _CLIPS, "rows": rows}


def _compare(
    runs: Mapping[str, Run], inputs: Mapping[str, NDArray[Any]], expected: NDArray[np.float32]
) -> Iterator[dict[str, Any]]:
    """Mean error and latency of each stream, and their ratios to the first, with 95 % intervals of pairs."""
    samples = [{name: np.ascontiguousarray(array[i : i + 1]) for name, array in inputs.items()} for i in range(_CLIPS)]
    errors = {
        name: _errors(np.concatenate([run(sample) for sample in samples]), expected) for name, run in runs.items()
    }
    rounds = [
        {name: float(np.median(time_window(partial(run, samples[0]), _WINDOW_S))) for name, run in runs.items()}
        for _ in range(_ROUNDS)
    ]
    windows_ms = {name: [medians[name] for medians in rounds] for name in runs}
    first = next(iter(runs))
    mean = float(errors[first].mean())
    for name in runs:
        ratio = float(errors[name].mean()) / mean
        # The delta method: how far the ratio moves with the clips that are drawn.
        low, high = (ratio + end for end in mean_interval((errors[name] - ratio * errors[first]) / mean))
        yield {
            "stream": name,
            "error": float(errors[name].mean()),
            "error_ratio": asdict(SpeedRatio(ratio=ratio, low=low, high=high)),
            "p50_ms": float(np.median(windows_ms[name])),
            "speed": asdict(speed_ratio(windows_ms[first], windows_ms[name])),
        }


def _blocks(documents: Sequence[Document]) -> Iterator[Block]:
    report = documents[-1]
    yield f"{report['checkpoint']} on {machine(report)}, {report['threads']} threads, {report['clips']} made clips"
    columns = (
        Column(title="library", value=lambda row: row["library"], align="left"),
        Column(title="residual stream in", value=lambda row: row["stream"], align="left"),
        Column(title="mean error", value=lambda row: row["error"], text=lambda error: f"{error:.2e}"),
        Column(title="of that in bf16 (95 %)", value=lambda row: SpeedRatio(**row["error_ratio"]), text=interval),
        Column(title="median", unit="ms", value=lambda row: row["p50_ms"], text=lambda ms: f"{ms:.3g}"),
        Column(title="times as fast (95 %)", value=lambda row: SpeedRatio(**row["speed"]), text=interval),
    )
    yield table("", columns, report["rows"])


SECTION = Section(name="residual stream", command="residual", kind="residual", blocks=_blocks)


def main(checkpoint: str | Path, output: str | Path | None = None) -> None:
    """Measure one classifier, print the table, and write the report if a file is named."""
    report = measure_residual(checkpoint)
    if output is not None:
        write_json(report, Path(output))
    print_blocks(SECTION.render(report))


def _errors(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """The largest difference of the centred logits per clip, relative to the largest logit of all clips."""
    actual, right = (array - array.mean(axis=1, keepdims=True, dtype=np.float64) for array in (logits, expected))
    errors: NDArray[np.float64] = np.abs(actual - right).max(axis=1) / np.abs(right).max()
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
    aoti_package.compile_package(export.export_program(model, lower(model.module, "bf16", kept), _ONE), package, "cpu")
    loaded = torch._inductor.aoti_load_package(str(package))

    def run(feed: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = loaded(**{name: torch.from_numpy(a) for name, a in feed.items()})[0].numpy()
        return logits.copy()

    return run


if __name__ == "__main__":
    main(*(sys.argv[1:] or [str(default_checkpoint())]))
