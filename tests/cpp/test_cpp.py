"""The C++ header against the Python runtime: the same inputs, scores and refusals."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kdcmae.errors import EngineError
from kdcmae.runtime import load_engine
from kdcmae.runtime.manifest import Manifest, digest

pytestmark = pytest.mark.cpp

ROOT = Path(__file__).resolve().parents[2]

ENGINES = [
    ("onnx", "fp32", "tensor"),
    ("onnx", "int8", "raw"),
    ("openvino", "fp32", "raw"),
    ("openvino", "int8", "tensor"),
]


def clip(rate: int, seconds: float, channels: int, kind: str, size: tuple[int, int], seed: int = 0):
    """A rising tone in noise and a picture of gradients."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(rate * seconds)) / rate
    tone = 0.4 * np.sin(2 * np.pi * (200 + 300 * time) * time)
    waveform = np.stack([tone / (1 + channel) for channel in range(channels)])
    waveform = waveform + 0.05 * rng.standard_normal(waveform.shape)
    if kind == "int16":
        waveform = np.round(waveform * 32767).clip(-32768, 32767)
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    frame = np.stack([rows * 255 // height, columns * 255 // width, (rows * columns) % 256], axis=2)
    return waveform.astype(kind), rate, frame.astype(np.uint8)


CLIPS = {
    "44.1 kHz": (44_100, 2.5, 1, "float32", (240, 320)),
    "48 kHz stereo": (48_000, 10.0, 2, "float32", (360, 640)),
    "8 kHz": (8_000, 1.0, 1, "int16", (100, 75)),
    "16 kHz": (16_000, 3.0, 1, "int16", (224, 224)),
    "odd rate": (37_801, 0.7, 2, "int16", (17, 1000)),
    "as short as can be": (44_100, 0.026, 1, "float32", (16, 16)),
    "high rate": (192_000, 0.2, 1, "float32", (1080, 1920)),
}


# Bands without sound hold the rounding errors of the resampled waveform, whose logarithm is not small.
LARGEST_DIFFERENCE = {"audio": 5e-3, "image": 1e-5, "waveform": 1e-6, "samples": 0, "frame": 0}


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("built", ENGINES[:2], ids="-".join)
def test_a_clip_becomes_the_same_inputs(built, name, driver, engine, write_clip):
    waveform, rate, frame = clip(*CLIPS[name])
    folder = engine(*built)
    path = write_clip(waveform, rate, frame)
    made = driver("inputs", folder, path)
    with load_engine(folder) as loaded:
        for input_name, expected in loaded.prepare(waveform, rate, [frame]).items():
            dtype, shape = made[input_name]
            found = np.fromfile(path / f"{input_name}.bin", dtype=dtype).reshape(shape)
            difference = np.abs(found.astype(np.float64) - expected).max()
            assert difference <= LARGEST_DIFFERENCE[input_name], input_name


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("built", ENGINES, ids="-".join)
def test_scores_are_those_of_python(built, name, driver, engine, write_clip):
    waveform, rate, frame = clip(*CLIPS[name])
    folder = engine(*built)
    with load_engine(folder) as loaded:
        expected = loaded.classify(waveform, rate, frame, top=1000)
    found = dict(driver("classify", folder, write_clip(waveform, rate, frame)))
    assert found.keys() == {prediction.label for prediction in expected}
    # Where inputs are rounded to 8 bits, a difference of 1e-7 may round one of them the other way.
    allowed = 5e-3 if "int8" in built else 1e-5
    assert max(abs(found[prediction.label] - prediction.score) for prediction in expected) < allowed


def test_real_clips_get_the_labels_of_python(driver, engine, write_clip, clips):
    from kdcmae.data.clip import read_clip

    folder = engine("onnx", "fp32")
    for path in sorted(clips.glob("*.mp4")):
        read = read_clip(path)
        with load_engine(folder) as loaded:
            expected = loaded.classify(read.waveform, read.sample_rate_hz, read.frames[0], top=1000)
        found = driver("classify", folder, write_clip(read.waveform, read.sample_rate_hz, read.frames[0]))
        assert [label for label, _ in found][:3] == [prediction.label for prediction in expected][:3]
        assert found[0][1] == pytest.approx(expected[0].score, abs=1e-5)


@pytest.mark.parametrize("built", ENGINES, ids="-".join)
def test_the_self_test_finds_what_python_s_finds(built, driver, engine):
    folder = engine(*built)
    with load_engine(folder) as loaded:
        expected = loaded.self_test()
    found = driver("self-test", folder)
    assert found["passed"] is expected.passed is True
    assert (found["clips"], found["decided"]) == (expected.clips, expected.decided)
    for name, error in expected.max_error.items():
        assert found["max_error"][name] == pytest.approx(error, rel=0.2, abs=1e-6)


def test_a_variant_labels_a_clip_without_sound(driver, engine, write_clip):
    folder = engine("onnx", "fp32", "tensor", "--modalities", "audiovisual,video")
    _, rate, frame = clip(*CLIPS["16 kHz"])
    with load_engine(folder) as loaded:
        expected = loaded.classify(None, rate, frame)
    found = driver("classify", folder, write_clip(None, rate, frame))
    assert found[0][0] == expected[0].label
    assert found[0][1] == pytest.approx(expected[0].score, abs=1e-5)
    assert driver("self-test", folder)["clips"] == 12


def _edit_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a byte of the model": lambda folder: _flip(folder / "model.onnx"),
    "a byte of the self-test": lambda folder: _flip(folder / "golden.npz"),
    "half of the model": lambda folder: (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:999]),
    "no labels": lambda folder: (folder / "labels.txt").unlink(),
    "a folder for a file": lambda folder: [(folder / "labels.txt").unlink(), (folder / "labels.txt").mkdir()],
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "no JSON": lambda folder: (folder / "manifest.json").write_text("{"),
    "another schema": lambda folder: _edit_manifest(folder, lambda content: content.update(schema_version=2)),
    "a field missing": lambda folder: _edit_manifest(folder, lambda content: content.pop("outputs")),
    "a path out of the folder": lambda folder: _edit_manifest(
        folder, lambda content: content["engine"].update(file="../model.onnx")
    ),
    "a model under no digest": lambda folder: _edit_manifest(
        folder, lambda content: content["files"].pop("model.onnx")
    ),
    "a newer library": lambda folder: _edit_manifest(
        folder, lambda content: content["libraries"].update(onnxruntime="99.0.0")
    ),
    "a label too few": lambda folder: _edit_manifest(folder, lambda content: content["labels"].pop()),
    "another window": lambda folder: _edit_manifest(
        folder, lambda content: content["preprocessing"].update(audio_frames=100)
    ),
    "another filterbank": lambda folder: _edit_manifest(
        folder, lambda content: content["preprocessing"].update(mel_bins=64)
    ),
}


@pytest.fixture
def copy(engine, tmp_path):
    return Path(shutil.copytree(engine("onnx", "fp32"), tmp_path / "copy"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_as_in_python(damage, driver, copy):
    DAMAGES[damage](copy)
    with pytest.raises(EngineError) as refused:
        load_engine(copy).self_test()
    found = driver("self-test", copy, code=2)
    before, _, after = str(refused.value).split(";")[0].partition("asks for what this kdcmae cannot do: ")
    said = (after or before).split(", got")[0]
    if damage not in {"no JSON", "a newer library", "another window"}:  # words of other libraries, and numbers
        assert said in found["error"]
    assert str(copy) in found["error"] or damage in {"a newer library", "another window"}


IMPOSSIBLE: dict[str, tuple[Callable[[dict], object], str]] = {
    "a number for a device": (lambda content: content["engine"].update(device=3), "engine.device must be"),
    "more threads than an int holds": (lambda content: content["engine"].update(threads=2**40), "engine.threads must"),
    "words for counts": (
        lambda content: content["precision"].update(products={"fp32": "all"}),
        "precision.products must be",
    ),
    "a release of twenty digits": (
        lambda content: content["libraries"].update(onnxruntime="9" * 20),
        "is not a library version",
    ),
    "more labels than the graph has classes": (
        lambda content: [
            content["labels"].append("one more"),
            content["outputs"][0].update(shape=["batch", len(content["labels"])]),
        ],
        "which is not what the manifest says",
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_manifest_that_no_build_writes_is_an_error_of_the_header(name, driver, copy, write_clip):
    change, problem = IMPOSSIBLE[name]
    _edit_manifest(copy, change)
    assert problem in driver("classify", copy, write_clip(SOUND, RATE, FRAME), code=2)["error"]


def test_a_batch_that_no_memory_holds_is_refused(driver, engine, tmp_path, write_clip):
    folder = shutil.copytree(engine("onnx", "fp32", "tensor", "--batch", "1:2:4"), tmp_path / "open")
    _edit_manifest(folder, lambda content: content.update(batch=dict.fromkeys(("min", "opt", "max"), 2**61)))
    found = driver("classify", folder, write_clip(SOUND, RATE, FRAME), code=2)
    assert "no array has the shape" in found["error"]


def test_an_engine_in_parts_is_refused_in_one_line(driver, copy):
    _edit_manifest(copy, lambda content: content["engine"].update(parts=[]))
    assert "the engine is in parts" in driver("self-test", copy, code=2)["error"]


def test_deeply_nested_json_is_refused(driver, copy):
    path, depth = copy / "manifest.json", 200_000
    path.write_text(path.read_text().replace('"parity": [', f'"parity": [{"[" * depth}{"]" * depth},', 1))
    assert "nested deeper than" in driver("self-test", copy, code=2)["error"]


def test_a_reference_without_values_is_refused(driver, copy):
    with np.load(copy / "golden.npz") as arrays:
        changed = {name: array[:, :0] if name == "output.logits" else array for name, array in arrays.items()}
    assert "output.logits" in changed
    np.savez(copy / "golden.npz", **changed)
    _edit_manifest(copy, lambda content: content["files"].update({"golden.npz": digest(copy / "golden.npz")}))
    assert "has no values" in driver("self-test", copy, code=2)["error"]


def _change_weights(copy: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the largest weight, and write manifests as if the engine had been built so."""
    path = copy / "model.onnx"
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    largest.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(largest).copy()), largest.name))
    onnx.save(model, path)
    _edit_manifest(copy, lambda content: content["files"].update({"model.onnx": digest(path)}))


@pytest.mark.parametrize(
    "change", [lambda weight: weight * 1.05, lambda weight: weight[::-1], lambda weight: np.full_like(weight, np.nan)]
)
def test_an_engine_that_computes_something_else_fails_its_self_test(change, driver, copy):
    _change_weights(copy, change)
    with load_engine(copy) as loaded:
        assert not loaded.self_test().passed
    assert driver("self-test", copy, code=1)["problems"]


def test_swapped_labels_fail_the_self_test(driver, copy):
    manifest = Manifest.read(copy)
    swapped = [manifest.labels[1], manifest.labels[0], *manifest.labels[2:]]
    (copy / "labels.txt").write_text("".join(f"{label}\n" for label in swapped))
    _edit_manifest(
        copy,
        lambda content: [
            content.update(labels=swapped),
            content["files"].update({"labels.txt": digest(copy / "labels.txt")}),
        ],
    )
    assert "the labels are not the model's" in driver("self-test", copy, code=1)["problems"][0]


SOUND, RATE, FRAME = clip(*CLIPS["16 kHz"])


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ((SOUND, RATE, None), "needs a frame, got none"),
        ((SOUND, 100, FRAME), "must be an integer from 1000 to 768000"),
        ((SOUND[:, :300], RATE, FRAME), "is too short"),
        ((np.full((1, 16_000), np.nan, dtype=np.float32), RATE, FRAME), "NaN or infinite"),
        ((np.full((1, 16_000), 99, dtype=np.float32), RATE, FRAME), "must be in [-1, 1]"),
    ],
)
def test_what_is_no_clip_is_refused(given, problem, driver, engine, write_clip):
    assert problem in driver("classify", engine("onnx", "fp32"), write_clip(*given), code=2)["error"]


def test_sanitizers_find_nothing(build_driver, engine, write_clip, copy):
    driver = build_driver("address,undefined")
    # What ONNX Runtime itself keeps until the process ends is no leak of the header's.
    quiet = {"ASAN_OPTIONS": "detect_leaks=0"}
    for name in CLIPS:
        driver("classify", engine("onnx", "int8", "raw"), write_clip(*clip(*CLIPS[name])), **quiet)
    driver("self-test", engine("onnx", "fp32"), **quiet)
    for cut in (5, 100, 3000, 60_000):
        shutil.copy(engine("onnx", "fp32") / "golden.npz", copy / "golden.npz")
        content = (copy / "golden.npz").read_bytes()
        for damaged in (content[:-cut], content[:cut] + content[cut + 40 :], content[: -cut - 40] + content[-cut:]):
            (copy / "golden.npz").write_bytes(damaged)
            _edit_manifest(copy, lambda facts: facts["files"].update({"golden.npz": digest(copy / "golden.npz")}))
            assert "is not a self-test of this engine" in driver("self-test", copy, code=2, **quiet)["error"]


def test_threads_share_an_engine(build_driver, driver, engine, write_clip):
    path = write_clip(*clip(*CLIPS["44.1 kHz"]))
    assert driver("threads", engine("openvino", "fp32", "raw"), path, "8", "25") == {"different": 0}
    racing = build_driver("thread")
    # ONNX Runtime's own threads are not instrumented, and its locks are unknown to the sanitizer.
    quiet = {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1"}
    assert racing("threads", engine("onnx", "fp32"), path, "8", "25", **quiet) == {"different": 0}


def test_the_examples_do_as_their_readme_says(engine, clips, tmp_path):
    """Its commands, with a real clip and an engine of the tests in the place of the demo's."""
    from kdcmae.data.clip import read_clip

    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg to extract sound and picture with")
    page = (ROOT / "examples/cpp/README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    commands = "\n".join(re.findall(r"^\$ (.*)", block, re.MULTILINE))
    clip_path, folder = min(clips.glob("*.mp4")), engine("openvino", "fp32", "raw")
    commands = commands.replace("out/demo/avsynth/test/test-000000.mp4", str(clip_path)).replace(
        "out/demo/openvino", str(folder)
    )
    commands = commands.replace("build/cpp", f"{tmp_path}/build").replace("sound.wav", f"{tmp_path}/sound.wav")
    commands = commands.replace("picture.ppm", f"{tmp_path}/picture.ppm")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    score, label = done.stdout.splitlines()[-5].split(maxsplit=1)
    clip = read_clip(clip_path)
    with load_engine(folder) as loaded:
        [expected] = loaded.classify(clip.waveform, clip.sample_rate_hz, clip.frames[0], top=1)
    assert label == expected.label
    assert float(score) == pytest.approx(expected.score, abs=0.15)  # the first frame of the file, not of the clip's ten

    blocks = np.zeros(4000, dtype=np.int16).tobytes() + np.full((24, 32, 3), 99, dtype=np.uint8).tobytes()
    heard = subprocess.run(
        [tmp_path / "build/listen", folder, "32", "24"], input=5 * blocks, capture_output=True, check=False
    )
    assert heard.returncode == 0, heard.stderr
    assert len(heard.stdout.splitlines()) == 5
