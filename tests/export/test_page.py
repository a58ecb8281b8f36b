"""The page of an engine in a browser: what it answers, what it refuses, who can use it, and that it calls nobody."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import wave
from pathlib import Path

import chromium
import numpy as np
import pytest
from loudness_engine import LABELS, PREPROCESSING, write_engine
from PIL import Image
from serving_pages import running

from kdcmae.export.web import export_page
from kdcmae.media.clip import read_clip
from kdcmae.media.resampling import resample
from kdcmae.media.windows import Windowing
from kdcmae.runtime import load_engine
from kdcmae.runtime.metrics import Limits, compare
from kdcmae.runtime.preprocessing import fbank
from kdcmae.runtime.selftest import decided

ROOT = Path(__file__).resolve().parents[2]
READY = "!document.getElementById('file').disabled"
ERROR = "document.getElementById('error').innerText"


@pytest.fixture(scope="module")
def folder(raw_engine, fetched, tmp_path_factory) -> Path:
    """The page; not to be changed."""
    return export_page(raw_engine, tmp_path_factory.mktemp("page") / "page", runtime=fetched).folder


@pytest.fixture(scope="module")
def url(folder):
    with running(folder) as address:
        yield address


@pytest.fixture(scope="module")
def loaded(browser, url, tmp_path_factory):
    """The page, loaded once."""
    with chromium.opened(browser, tmp_path_factory.mktemp("profile")) as page:
        page.visit(url)
        page.wait(f"{READY} || {ERROR}")
        assert page.text("#error") == ""
        yield page


@pytest.fixture
def page(loaded):
    """The same, with a console that is empty so far."""
    loaded.console.clear()
    return loaded


def answer(page, path: Path) -> str:
    """What the page says of a clip."""
    page.choose("#file", path)
    page.wait(f"document.getElementById('status').innerText.startsWith({json.dumps(path.name)}) || {ERROR}")
    assert page.text("#error") == ""
    return page.text("#status")


@pytest.mark.parametrize(
    ("name", "colour", "label"), [("clip.mp4", (0, 200, 0), "green"), ("clip.webm", (200, 0, 0), "red")]
)
def test_a_clip_gets_the_label_of_python(page, raw_engine, write_clip, name, colour, label):
    path = write_clip(name, seconds=0.9, colour=colour)
    clip = read_clip(path)
    (best, *_) = load_engine(raw_engine).classify(clip.waveform, clip.sample_rate_hz, clip.frames[5])
    assert best.label == label
    said = answer(page, path)
    assert re.fullmatch(rf"{name}: {label}, \d+ %", said)
    shown = float(re.search(r"(\d+) %", said)[1])
    assert abs(shown - 100 * best.score) < 3  # the browser's decoder is another
    assert re.search(r"\d+ ms for one part", page.text("#latency"))
    assert page.console == []


def test_nothing_leaves_the_page(page, url, write_clip):
    answer(page, write_clip("clip.mp4"))
    assert len(page.requests) > 15
    assert {request.removeprefix("blob:").startswith((url, "data:,")) for request in page.requests} == {True}
    blocked = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', error => error.name)")
    assert blocked == "TypeError"
    assert any("Content Security Policy" in line for line in page.console)


def test_a_long_clip_is_cut_into_parts_which_a_slider_shows(page, write_clip):
    said = answer(page, write_clip("long.mp4", seconds=3.0))
    windowing = Windowing(length=PREPROCESSING.audio_samples, hop=PREPROCESSING.audio_samples // 2)
    count = int(page.evaluate("document.getElementById('window').max"))
    assert abs(count - len(windowing.starts(48000))) <= 1  # AAC pads the sound
    assert said.endswith(f"by the mean of {count} parts")
    page.evaluate("document.getElementById('window').focus()")
    assert page.text("#span") == "all of it"
    page.press("ArrowRight")
    assert page.text("#span") == "0.0 to 1.0 s"
    page.wait("document.getElementById('frame-caption').innerText === 'Frame at 0.5 s'")


def test_hiding_parts_of_the_picture_shows_what_matters(page, write_clip):
    answer(page, write_clip("clip.mp4"))
    page.evaluate("document.getElementById('explain').click()")
    page.wait("document.getElementById('status').innerText.includes('matter')")
    assert "'green'" in page.text("#frame-caption")
    veil = page.evaluate("document.getElementById('heat').getContext('2d').getImageData(1, 1, 1, 1).data[3]")
    assert veil > 200  # beside the square that the engine sees


def test_a_keyboard_reaches_everything_and_shows_where_it_is(page, write_clip):
    answer(page, write_clip("clip.mp4"))
    page.evaluate("document.getElementById('file').focus()")
    seen = []
    for _ in range(2):
        page.press("Tab")
        seen.append(page.evaluate("document.activeElement.id"))
        outlined = "getComputedStyle(document.activeElement.closest('label') ?? document.activeElement).outlineWidth"
        assert page.evaluate(outlined) == "3px"
    assert seen == ["live", "explain"]
    page.press("Enter")
    page.wait("document.getElementById('status').innerText.includes('matter')")
    assert page.evaluate("document.getElementById('status').getAttribute('aria-live')") == "polite"


def test_camera_and_microphone_are_labelled_until_they_are_stopped(page):
    page.evaluate("document.getElementById('live').click()")
    page.wait(f"{json.dumps(LABELS)}.includes(document.getElementById('status').innerText) || {ERROR}")
    assert page.text("#error") == ""
    assert page.text("#live") == "Stop"
    page.evaluate("document.getElementById('live').click()")
    assert page.text("#live") == "Use camera and microphone"
    assert page.console == []


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda write, folder: write("silent.mp4", sound=False), "silent.mp4 has no sound"),
        (lambda write, folder: write("silent.webm", sound=False), "silent.webm has no sound"),
        (lambda write, folder: write("short.mp4", seconds=0.1).rename(folder / "cut.mp4"), ""),
        (lambda write, folder: write("old.mp4", codec="mpeg4"), "The picture of old.mp4 is missing, or in a codec"),
        (lambda write, folder: shutil.copy(__file__, folder / "text.mp4"), "missing, or in a codec that this browser"),
    ],
    ids=["mp4", "webm", "short", "codec", "text"],
)
def test_a_clip_that_cannot_be_used_is_refused_in_words(page, write_clip, tmp_path, make, reason):
    path = Path(make(write_clip, tmp_path))
    page.choose("#file", path)
    if not reason:  # short, but long enough
        page.wait("document.getElementById('status').innerText.startsWith('cut.mp4')")
        return
    page.wait(ERROR)
    assert reason in page.text("#error")
    assert page.evaluate("document.getElementById('error').getAttribute('role')") == "alert"


def test_it_fits_phones_and_desktops_light_and_dark(page, write_clip, tmp_path):
    answer(page, write_clip("clip.mp4"))
    for width, dark in itertools.product((390, 1400), (False, True)):
        page.look(width=width, dark=dark)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        page.screenshot(tmp_path / "page.png")
        with Image.open(tmp_path / "page.png") as picture:
            red, green, blue = np.asarray(picture.convert("RGB"), dtype=np.int64).transpose(2, 0, 1)
        assert red.shape[1] == width
        assert bool(np.median(red) < 60) is dark, "the ground"
        assert 0.02 < ((green > 150) & (red < 60) & (blue < 60)).mean() < 0.3, "the frame of the clip"
        assert ((red > 150) & (green < 140) & (blue < 160)).mean() > 0.005, "the loud parts of the spectrogram"


def test_the_resampler_is_that_of_python(page):
    rng = np.random.default_rng(0)
    for rate, count in ((44100, 4000), (48000, 1), (48000, 20), (8000, 501), (22050, 333), (16000, 50), (96000, 4001)):
        sound = rng.normal(0, 0.1, count).astype(np.float32)
        script = f"(await import('/resampling.js')).resample(new Float32Array({sound.tolist()}), {rate})"
        here = page.evaluate(f"(async () => Array.from({script}))()")
        expected = resample(sound, rate)
        assert len(here) == len(expected), (rate, count)
        np.testing.assert_allclose(here, expected, atol=1e-6)


def test_the_spectrogram_is_that_of_python(page):
    sound = np.random.default_rng(0).normal(0, 0.1, 1200).astype(np.float32)
    script = f"(await import('/spectrogram.js')).spectrogram(new Float32Array({sound.tolist()}))"
    here = page.evaluate(f"(async () => {script}.map((frame) => Array.from(frame)))()")
    np.testing.assert_allclose(here, fbank(sound), atol=1e-3)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_the_self_test_measures_as_python_does(page, kind):
    rng = np.random.default_rng(0)
    limits = Limits(max_error=0.08, min_cosine=0.999, min_agreement=0.95, tie=0.02)
    for scale in (0.01, 1.0, 20.0):
        expected = rng.normal(0, scale, (5, 7))
        actual = expected + rng.normal(0, 0.02 * scale, (5, 7))
        given = ", ".join(json.dumps(array.tolist()) for array in (actual, expected))
        js = f"const t = await import('/selftest.js'); const c = t.compare({given}, '{kind}');"
        facts = json.dumps({"max_error": 0.08, "min_cosine": 0.999})
        js += f" return {{...c, decided: {json.dumps(expected.tolist())}.map((row) => t.isDecided(row, {facts}))}};"
        here = page.evaluate(f"(async () => {{ {js} }})()")
        compared = compare(actual, expected, kind=kind, tie=limits.tie)
        assert here["error"] == pytest.approx(compared.error)
        assert here["cosines"] == pytest.approx(sorted(compared.cosines))
        assert here["distance"] == pytest.approx(compared.distance)
        assert here["decided"] == decided(expected, limits).tolist()


def test_digests_are_right_where_the_browser_computes_none(page):
    script = "const s = await import('/sha256.js'); const b = new Uint8Array(1000).map((_, k) => 7 * k);"
    script += " return [await s.sha256(b), [...s.computed(b)].map((x) => x.toString(16).padStart(2, '0')).join('')];"
    one, other = page.evaluate(f"(async () => {{ {script} }})()")
    assert one == other


@pytest.mark.parametrize("name", ["model.onnx", "selftest.bin", "onnxruntime/ort-wasm-simd-threaded.wasm"])
def test_a_damaged_file_is_refused(chrome, folder, tmp_path, name):
    shutil.copytree(folder, tmp_path / "page")
    with (tmp_path / "page" / name).open("r+b") as stream:
        stream.seek(100)
        stream.write(b"damaged")
    with running(tmp_path / "page") as url:
        chrome.visit(url)
        chrome.wait(ERROR)
    assert f"{name} is damaged" in chrome.text("#error")
    assert chrome.evaluate(f"!({READY})")


def test_an_engine_that_computes_something_else_is_refused(chrome, folder, tmp_path):
    """Whole files, whose self-test is another's."""
    shutil.copytree(folder, tmp_path / "page")
    path = tmp_path / "page" / "page.json"
    facts = json.loads(path.read_text())
    facts["selftest"]["arrays"]["clip.frame"]["offset"] += 1  # green in the place of red
    path.write_text(json.dumps(facts))
    with running(tmp_path / "page") as url:
        chrome.visit(url)
        chrome.wait(ERROR)
    assert "The self-test failed, so this engine is not used here: outputs of the clips" in chrome.text("#error")
    assert chrome.evaluate(f"!({READY})")


def test_an_engine_of_sound_takes_sound_files(chrome, fetched, tmp_path):
    engine = write_engine(tmp_path / "engine", raw=("waveform", "samples"))
    exported = export_page(engine, tmp_path / "page", runtime=fetched).folder
    with wave.open(str(tmp_path / "noise.wav"), "wb") as file:
        file.setparams((1, 2, 22050, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(0).integers(-20000, 20000, 11025, dtype=np.int16).tobytes())
    with running(exported) as url:
        chrome.visit(url)
        chrome.wait(f"{READY} || {ERROR}")
        assert answer(chrome, tmp_path / "noise.wav").startswith("noise.wav: loud, ")
        assert chrome.evaluate("document.getElementById('picture').hidden")
        assert chrome.console == []


def test_an_engine_of_pictures_whose_weights_are_in_a_file_beside_it(chrome, fetched, write_clip, tmp_path):
    engine = write_engine(tmp_path / "engine", raw=("frame",), weights_beside=True)
    exported = export_page(engine, tmp_path / "page", runtime=fetched).folder
    assert (exported / "model.onnx.data").is_file()
    with running(exported) as url:
        chrome.visit(url)
        chrome.wait(f"{READY} || {ERROR}")
        assert answer(chrome, write_clip("silent.mp4", sound=False)).startswith("silent.mp4: green, ")
        assert chrome.evaluate("document.getElementById('sound').hidden")
        assert chrome.console == []


@pytest.mark.slow
def test_the_shipped_model_says_what_predict_says(chrome, fetched, quick_builds, tmp_path):
    """Through the pages that kdcmae exports and that examples/web has."""
    from click.testing import CliRunner

    from kdcmae.cli import main
    from kdcmae.compile.cli import main as compiler
    from kdcmae.data.avsynth.files import generate

    engine, exported = tmp_path / "raw", tmp_path / "page"
    built = CliRunner().invoke(compiler, ["--target", "onnx", "--inputs", "raw", "--output", str(engine)])
    assert built.exit_code == 0, built.output
    export_page(engine, exported, runtime=fetched)
    shutil.copy(ROOT / "examples" / "web" / "mine.html", exported)
    generate(tmp_path / "avsynth", clips=2, split="test")
    clips = sorted((tmp_path / "avsynth" / "test").glob("*.mp4"))
    done = CliRunner().invoke(main, ["predict", str(engine), *map(str, clips), "--json"])
    predicted = [clip["predictions"][0] for clip in json.loads(done.stdout)["clips"]]
    with running(exported) as url:
        chrome.visit(url)
        chrome.wait(f"{READY} || {ERROR}")
        for clip, best in zip(clips, predicted, strict=True):
            label, shown = re.fullmatch(rf"{clip.name}: (.*), ([0-9.]+) %", answer(chrome, clip)).groups()
            assert label == best["label"]
            assert abs(float(shown) / 100 - best["score"]) < 0.05
        chrome.visit(f"{url}mine.html")
        chrome.wait("!document.getElementById('clip').disabled")
        assert chrome.text("#said") == "self-test passed"
        chrome.choose("#clip", clips[0])
        chrome.wait("document.getElementById('said').innerText.includes('0.')")
        assert chrome.text("#said").startswith(f"{predicted[0]['label']}: ")
        assert chrome.console == []


def test_a_browser_without_simd_is_told(chrome, url):
    chrome.visit(url, script="WebAssembly.validate = () => false")
    chrome.wait(ERROR)
    assert "has no SIMD" in chrome.text("#error")
