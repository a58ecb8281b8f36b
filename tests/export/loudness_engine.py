"""A very small ONNX engine with raw inputs, whose logits are the loudness of a clip and the colours of its frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from kdcmae.runtime.feeding import RAW
from kdcmae.runtime.golden import Clips, Golden
from kdcmae.runtime.manifest import BatchRange, Manifest, TensorSpec
from kdcmae.runtime.metrics import Limits
from kdcmae.runtime.preprocessing import Preprocessing

__all__ = ["LABELS", "PREPROCESSING", "SAMPLES", "golden_of", "write_engine"]

LABELS = ("loud", "red", "green")
PREPROCESSING = Preprocessing(audio_frames=98, image_size=32)
SAMPLES = PREPROCESSING.audio_samples  # about a second
SPECS = {
    "waveform": TensorSpec("waveform", ("batch", SAMPLES), "float32", "sound"),
    "samples": TensorSpec("samples", ("batch",), "int32", "how many of them are sound"),
    "frame": TensorSpec("frame", ("batch", "height", "width", 3), "uint8", "picture"),
}
HEARD = 15000  # samples of the clips of the self-test


def tiny_graph(raw: Sequence[str] = RAW) -> onnx.ModelProto:
    """Logits of a few raw inputs: loudness of the sound, and the red and the green of the frame."""
    constants = {"one": [1], "sides": [1, 2]}
    heard = [
        helper.make_node("Abs", ["waveform"], ["rectified"]),
        helper.make_node("ReduceSum", ["rectified", "one"], ["sum"], keepdims=1),
        helper.make_node("Cast", ["samples"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["count", "one"], ["counts"]),
        helper.make_node("Div", ["sum", "counts"], ["loudness"]),
    ]
    seen = [
        helper.make_node("Cast", ["frame"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "sides"], ["colours"], keepdims=0),
    ]
    parts = [("waveform", "loudness", heard, slice(0, 1)), ("frame", "colours", seen, slice(1, 4))]
    parts = [part for part in parts if part[0] in raw]
    nodes = [node for _, _, own, _ in parts for node in own]
    nodes.append(helper.make_node("Concat", [name for _, name, _, _ in parts], ["features"], axis=1))
    nodes.append(helper.make_node("MatMul", ["features", "weights"], ["logits"]))
    every = np.array([[8, 0, 0], [0, 1 / 64, 0], [0, 0, 1 / 64], [0, 0, 0]], dtype=np.float32)
    weights = np.concatenate([every[rows] for _, _, _, rows in parts])
    stored = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    types = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "uint8": TensorProto.UINT8}
    inputs = [helper.make_tensor_value_info(name, types[SPECS[name].dtype], SPECS[name].shape) for name in raw]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, [*stored, numpy_helper.from_array(weights, "weights")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def golden_of(session: onnxruntime.InferenceSession, raw: Sequence[str]) -> Golden:
    """The self-test of that engine: one batch of inputs, and four clips."""
    rng = np.random.default_rng(0)
    waveforms = rng.integers(-9000, 9000, (4, HEARD), dtype=np.int16)
    frames = rng.integers(0, 256, (4, 24, 40, 3), dtype=np.uint8)
    sounds = np.zeros((4, SAMPLES), np.float32)
    sounds[:, :HEARD] = waveforms / np.float32(32768)
    rows = {"waveform": sounds, "samples": np.full(4, HEARD, np.int32), "frame": frames}
    feeds = [{name: rows[name][n : n + 1] for name in raw} for n in range(4)]
    logits = np.concatenate([session.run(None, feed)[0] for feed in feeds])
    limits = Limits(max_error=1e-4, min_cosine=0.999999, min_agreement=1.0, tie=2e-4)
    clips = Clips(
        waveforms=waveforms if "waveform" in raw else None,
        frames=frames if "frame" in raw else None,
        reference={"logits": logits},
        labels=LABELS,
        precisions=("fp32",),
        limits=dict.fromkeys(("fp32", "fp16", "bf16"), limits),
    )
    return Golden(inputs=feeds[0], reference={"logits": logits[:1]}, tolerance={"logits": 1e-4}, clips=clips)


def write_engine(folder: Path, *, raw: Sequence[str] = RAW, weights_beside: bool = False, **changes: Any) -> Path:
    """An engine folder; ``changes`` are of its manifest."""
    folder.mkdir()
    beside = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 60}
    onnx.save(tiny_graph(raw), folder / "model.onnx", **(beside if weights_beside else {}))
    golden_of(onnxruntime.InferenceSession(folder / "model.onnx"), raw).write(folder / "golden.npz")
    facts: dict[str, Any] = {
        "kdcmae_version": "0.1.0",
        "created": "2026-07-01T12:00:00+00:00",
        "model": {
            "name": "tiny",
            "parameters": 12,
            "modality": "audiovisual",
            "config": {},
            "source": "model.pth sha256:0",
            "random_weights": False,
        },
        "labels": LABELS,
        "scores": "softmax",
        "inputs": tuple(SPECS[name] for name in raw),
        "outputs": (TensorSpec("logits", ("batch", 3), "float32", "one per label"),),
        "batch": BatchRange(1, 1, 1),
        "preprocessing": PREPROCESSING.to_dict(),
        "target": "onnx",
        "libraries": {"onnxruntime": onnxruntime.__version__},
        "engine": {"file": "model.onnx", "device": "CPU"},
        "precision": {"asked": "fp32", "executed": {}},
        "parity": [],
        "build": {},
    }
    Manifest(**(facts | changes)).write(folder)
    return folder
