"""Measure how far every way of running the shipped model is from PyTorch, and write the table of docs/embed.md.

    python docs/tools/surfaces.py [CLIP...]

Every target is built in float32, and every surface that can run here classifies the same sounds and frames: a made clip
of AVSynth, and the middle of each CLIP. What cannot run here has a row that says why, and what checks it elsewhere.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from kdcmae import host, load_classifier
from kdcmae.assets import default_checkpoint
from kdcmae.bench.report.rendering import render_markdown, replace_between
from kdcmae.bench.report.table import Column, table
from kdcmae.compile import compile_model
from kdcmae.compile.models import classifier_model
from kdcmae.data.avsynth.memory import AVSynth
from kdcmae.doctor import diagnose
from kdcmae.errors import KdcmaeError
from kdcmae.export.web import export_page
from kdcmae.media.clip import read_clip
from kdcmae.runtime import load_engine
from kdcmae.runtime.feeding import from_clip
from kdcmae.runtime.scores import scores

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "embed.md"
BEGIN, END = "<!-- surfaces: written by `make surfaces` -->", "<!-- end of surfaces -->"
_FRAME = 5  # of the ten of a clip
_IN_CPP = ("openvino", "onnx")
_TEST = {"Python": "`make test`", "C++": "`make test-cpp`", "browser": "`make test`, in Chromium"}

Scores = dict[str, float]


@dataclass(frozen=True, eq=False)
class Clip:
    """Mono sound of 16 bits, and a frame (H, W, 3)."""

    sound: np.ndarray
    rate_hz: int
    frame: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a difference, or the reason why there is none."""

    surface: str
    target: str
    tested_by: str
    found: str


def main(paths: Sequence[str]) -> None:
    """Measure, and rewrite the table."""
    clips = [_made(), *map(_read, paths)]
    with tempfile.TemporaryDirectory() as scratch:
        rows = list(_measured(clips, Path(scratch)))
    columns = (
        Column(title="from", value=lambda row: row.surface, align="left"),
        Column(title="target", value=lambda row: row.target, align="left"),
        Column(title="tested by", value=lambda row: row.tested_by, align="left"),
        Column(title="largest difference from PyTorch", value=lambda row: row.found, align="left"),
    )
    where = f"{host.cpu_name()}, {datetime.now(UTC):%Y-%m-%d}, {len(clips)} clips"
    text = f"Largest difference of any class's score, which is between 0 and 1; the shipped model in fp32, {where}."
    changed = replace_between(PAGE, BEGIN, END, render_markdown([text, table("", columns, rows)]))
    sys.stderr.write(f"{PAGE.name}: {'updated' if changed else 'up to date'}\n")


def _made() -> Clip:
    data = AVSynth("test", clips=1)
    raw = data.read(data.records[0], "audiovisual", [_FRAME])
    return _clip(raw.waveform, 16_000, raw.frames[0])


def _read(path: str) -> Clip:
    clip = read_clip(path)
    return _clip(clip.waveform, clip.sample_rate_hz, clip.frames[_FRAME])


def _clip(waveform: np.ndarray, rate_hz: int, frame: np.ndarray) -> Clip:
    scale = 32767 if waveform.dtype.kind == "f" else 1
    mono = np.atleast_2d(waveform).mean(axis=0) * scale
    return Clip(np.round(mono).astype(np.int16), rate_hz, np.ascontiguousarray(frame))


def _measured(clips: Sequence[Clip], scratch: Path) -> Iterator[Row]:
    expected = _by_torch(clips)

    def row(surface: str, target: str, ways: Callable[[], list[Scores]]) -> Row:
        sys.stderr.write(f"{surface}, {target}\n")
        try:
            found = f"{_difference(ways(), expected):.1e}"
        except (KdcmaeError, OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", "") or str(error)
            found = f"not run here: {reason.strip().splitlines()[-1]}"
        return Row(surface=surface, target=target, tested_by=_TEST[surface], found=found)

    for report in diagnose().targets:
        target = report.target
        if reason := report.runs or report.builds:
            check = f"not run here: {reason}; `kdcmae check ENGINE` there"
            yield Row(surface="Python", target=target, tested_by="stand-ins for the GPU's libraries", found=check)
            continue
        yield row("Python", target, lambda target=target: _by_python(_built(target, scratch), clips))
    for target in _IN_CPP:
        yield row("C++", target, lambda target=target: _by_cpp(_built(target, scratch), clips, scratch))
    yield row("browser", "onnx, raw", lambda: _by_browser(_built("onnx", scratch, "raw"), clips, scratch))


def _difference(found: list[Scores], expected: list[Scores]) -> float:
    pairs = zip(found, expected, strict=True)
    return max(abs(score - scores_of[label]) for one, scores_of in pairs for label, score in one.items())


def _built(target: str, scratch: Path, inputs: str = "tensor") -> Path:
    """The shipped model for a target in float32; built once."""
    folder = scratch / f"{target}-{inputs}"
    if not folder.exists():
        compile_model(default_checkpoint(), target=target, precision="fp32", inputs=inputs, output=folder).close()
    return folder


def _by_torch(clips: Sequence[Clip]) -> list[Scores]:
    classifier = load_classifier(default_checkpoint()).eval()
    model = classifier_model(classifier)
    found = []
    for clip in clips:
        feed = from_clip(("audio", "image"), model.preprocessing, clip.sound, clip.rate_hz, [clip.frame])
        with torch.inference_mode():
            logits = classifier(**{name: torch.from_numpy(array) for name, array in feed.items()}).numpy()
        found.append(dict(zip(model.labels, scores(logits, model.scores)[0].tolist(), strict=True)))
    return found


def _by_python(engine: Path, clips: Sequence[Clip]) -> list[Scores]:
    with load_engine(engine) as loaded:
        top = len(loaded.labels)
        found = [loaded.classify(clip.sound, clip.rate_hz, clip.frame, top=top) for clip in clips]
    return [{prediction.label: prediction.score for prediction in predictions} for predictions in found]


def _by_cpp(engine: Path, clips: Sequence[Clip], scratch: Path) -> list[Scores]:
    """The scores that examples/cpp/classify prints."""
    build = scratch / "cpp"
    if not build.exists():
        program = Path(sys.executable).with_name("kdcmae")
        settings = _run(program, "cpp", "--cmake-args").split()
        _run("cmake", "-S", ROOT / "examples" / "cpp", "-B", build, *settings)
        _run("cmake", "--build", build, "--target", "classify")
    found = []
    for clip in clips:
        sound, picture = scratch / "sound.wav", scratch / "picture.ppm"
        with wave.open(str(sound), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(clip.rate_hz)
            file.writeframes(clip.sound.tobytes())
        height, width, _ = clip.frame.shape
        picture.write_bytes(f"P6 {width} {height} 255\n".encode() + clip.frame.tobytes())
        lines = _run(build / "classify", engine, sound, picture).splitlines()
        found.append({label: float(score) for score, label in (line.split("  ", 1) for line in lines)})
    return found


def _by_browser(engine: Path, clips: Sequence[Clip], scratch: Path) -> list[Scores]:
    """The scores of the page's own engine, in a headless Chromium."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "export")]
    import chromium
    from serving_pages import running

    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise OSError("no Chromium")
    page_folder = export_page(engine, scratch / "page").folder
    labels = load_engine(engine).labels
    found = []
    with running(page_folder) as address, chromium.opened(browser, scratch / "profile") as page:
        page.visit(address)
        page.evaluate("import('./engine.js').then((m) => m.loadEngine(() => {})).then((e) => { window.loaded = e; })")
        for clip in clips:
            height, width, _ = clip.frame.shape
            values = page.evaluate(
                f"""(async () => {{
                const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
                const sound = Float32Array.from(new Int16Array(bytes({_text(clip.sound)}).buffer), (v) => v / 32768);
                const frame = {{data: bytes({_text(clip.frame)}), width: {width}, height: {height}}};
                return Array.from(await window.loaded.classify({{sound, rate: {clip.rate_hz}, frame}}));
                }})()"""
            )
            found.append(dict(zip(labels, values, strict=True)))
    return found


def _text(array: np.ndarray) -> str:
    return json.dumps(base64.b64encode(array.tobytes()).decode())


def _run(*command: str | Path) -> str:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main(sys.argv[1:])
