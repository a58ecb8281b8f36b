from __future__ import annotations

import json
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import av
import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from predicting import LABELS, answer, run, scores
from safetensors.torch import load_file

from kdcmae.assets import default_checkpoint
from kdcmae.cli import main
from kdcmae.data.avsynth.classes import LABELS as SHIPPED
from kdcmae.data.clip import read_clip
from kdcmae.runtime import load_engine


def without(path: Path, kind: str, target: Path) -> Path:
    """A copy of a clip that lacks one of its streams."""
    with av.open(path) as reader, av.open(target, "w") as writer:
        (kept,) = [stream for stream in reader.streams if stream.type != kind]
        copy = writer.add_stream_from_template(kept)
        for packet in reader.demux(kept):
            if packet.size:
                packet.stream = copy
                writer.mux(packet)
    return target


@pytest.mark.parametrize("options", [(), ("--average-frames",)])
def test_engine_and_checkpoint_agree(model: Path, engine: Path, clip: Path, options: tuple[str, ...]) -> None:
    torch_scores = scores(answer(model, clip, *options)["clips"][0])
    engine_scores = scores(answer(engine, clip, *options)["clips"][0])
    assert list(torch_scores) == list(engine_scores)
    assert engine_scores == pytest.approx(torch_scores, abs=1e-5)
    assert sum(engine_scores.values()) == pytest.approx(1.0)


def test_the_statistics_that_a_file_does_not_state(
    checkpoint: Callable[..., Path], engine: Path, clip: Path, tmp_path: Path
) -> None:
    stated = checkpoint(fbank_mean=-3.0, fbank_std=0.5, image_mean=(0.5, 0.5, 0.5), image_std=(0.1, 0.2, 0.4))
    torch.save(load_file(stated), tmp_path / "unstated.pth")
    options = ("--num-heads", "2", "--fbank-mean", "-3", "--fbank-std", "0.5", "--image-mean", ".5,.5,.5",
               "--image-std", ".1,.2,.4", "--mono", "mean")  # fmt: skip
    given = run(tmp_path / "unstated.pth", clip, *options, "--json")
    assert "does not say" not in given.stderr
    found = [prediction["score"] for prediction in json.loads(given.stdout)["clips"][0]["predictions"]]
    assert found == pytest.approx(list(scores(answer(stated, clip)["clips"][0]).values()), abs=1e-6)
    assumed = run(tmp_path / "unstated.pth", clip, "--num-heads", "2", "--json")
    assert assumed.stderr.count("does not say how its inputs were made") == 1
    published = [prediction["score"] for prediction in json.loads(assumed.stdout)["clips"][0]["predictions"]]
    assert found != pytest.approx(published, abs=1e-3)
    refused = run(engine, clip, *options[2:])
    assert refused.exit_code == 2
    assert "--fbank-mean, --fbank-std, --image-mean, --image-std and --mono are for checkpoints" in refused.stderr


def test_a_model_hears_the_channels_that_it_learned_from(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "stereo.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 16000, 0, "NONE", ""))
        file.writeframes(rng.integers(-8000, 8000, (5000, 2)).astype("<i2").tobytes())
    left, mean = (checkpoint(modality="audio", mono=mono) for mono in ("left", "mean"))
    found = {model: scores(answer(model, path)["clips"][0]) for model in (left, mean)}
    assert found[left] != pytest.approx(found[mean], abs=1e-5)
    assert scores(answer(mean, path, "--mono", "left")["clips"][0]) == pytest.approx(found[left], abs=1e-6)


def test_the_middle_frame_or_all_ten(engine: Path, clip: Path) -> None:
    decoded = read_clip(clip)
    with load_engine(engine) as loaded:
        per_frame = [
            {p.label: p.score for p in loaded.classify(decoded.waveform, decoded.sample_rate_hz, frame)}
            for frame in decoded.frames
        ]
    assert scores(answer(engine, clip)["clips"][0]) == pytest.approx(per_frame[5], abs=1e-5)
    average = {label: np.mean([frame[label] for frame in per_frame]) for label in LABELS}
    assert scores(answer(engine, clip, "--average-frames")["clips"][0]) == pytest.approx(average, abs=1e-5)
    assert max(abs(per_frame[0][label] - per_frame[5][label]) for label in LABELS) > 1e-3  # frames do matter


def test_the_json_answer(engine: Path, clip: Path) -> None:
    document = answer(engine, clip, clip, "--top", "2")
    assert document["model"] == {
        "path": str(engine),
        "name": "small",
        "runs_on": "onnx",
        "modality": "audiovisual",
        "random_weights": False,
    }
    assert len(document["clips"]) == 2
    for result in document["clips"]:
        assert result["path"] == str(clip)
        first, second = result["predictions"]
        assert first["score"] > second["score"]
        assert result["decode_ms"] > 0
        assert result["model_ms"] > 0


def test_a_table_for_people(model: Path, clip: Path) -> None:
    result = run(model, clip, "--top", "99")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == str(clip)
    for label in LABELS:
        assert sum(label in line for line in lines) == 1
    assert "classified in" in lines[-1]
    assert result.stderr == ""


def test_several_clips_show_progress_on_stderr(model: Path, clip: Path) -> None:
    result = run(model, clip, clip)
    assert f"[2/2] {clip}" in result.stderr
    assert "[2/2]" not in result.stdout


def test_a_bad_clip_does_not_stop_the_others(model: Path, clip: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("this is no video")
    result = run(model, bad, clip, "--json")
    assert result.exit_code == 2
    first, second = json.loads(result.stdout)["clips"]
    assert first == {"path": str(bad), "error": f"{bad}: is not a media file, or its header is damaged"}
    assert len(second["predictions"]) == len(LABELS)
    assert f"error: {bad}: is not a media file" in result.stderr

    result = run(model, bad, clip)
    assert result.exit_code == 2
    assert "rain" in result.stdout


def test_an_audio_model_needs_no_pictures(checkpoint: Callable[..., Path], clip: Path, tmp_path: Path) -> None:
    path = checkpoint(modality="audio")
    sound = without(clip, "video", tmp_path / "sound.m4a")
    assert scores(answer(path, sound)["clips"][0]) == pytest.approx(scores(answer(path, clip)["clips"][0]), abs=1e-6)
    result = run(path, sound, "--average-frames")
    assert result.exit_code == 2
    assert "sees no frames" in result.stderr


def test_a_video_model_needs_no_sound(checkpoint: Callable[..., Path], clip: Path, tmp_path: Path) -> None:
    path = checkpoint(modality="video")
    silent = without(clip, "audio", tmp_path / "silent.mp4")
    assert scores(answer(path, silent)["clips"][0]) == pytest.approx(scores(answer(path, clip)["clips"][0]), abs=1e-6)


def test_several_labels_may_be_true(checkpoint: Callable[..., Path], model: Path, clip: Path) -> None:
    softmax = scores(answer(model, clip)["clips"][0])
    sigmoid = scores(answer(checkpoint(multi_label=True), clip)["clips"][0])
    odds = {label: score / (1 - score) for label, score in sigmoid.items()}
    total = sum(odds.values())
    assert {label: value / total for label, value in odds.items()} == pytest.approx(softmax, abs=1e-6)


def test_checkpoint_options_reach_the_checkpoint(model: Path, engine: Path, clip: Path) -> None:
    assert answer(model, clip, "--modality", "audio")["model"]["modality"] == "audio"
    assert scores(answer(model, clip, "--num-heads", 4)["clips"][0]) != scores(answer(model, clip)["clips"][0])
    result = run(engine, clip, "--num-heads", 4)
    assert result.exit_code == 2
    assert "--num-heads is for checkpoints" in result.stderr


def test_of_two_sets_of_weights_the_user_chooses(model: Path, clip: Path, tmp_path: Path) -> None:
    state = load_file(model)
    average = {name: tensor * (2 if tensor.ndim > 1 else 1) for name, tensor in state.items()}
    torch.save({"model": state, "model_ema": average}, tmp_path / "run.pth")
    heads = ("--num-heads", 2)
    result = run(tmp_path / "run.pth", clip, *heads)
    assert result.exit_code == 2
    assert "choose with --weights model or --weights ema" in result.stderr
    trained, averaged = (
        list(scores(answer(tmp_path / "run.pth", clip, *heads, "--weights", chosen)["clips"][0]).values())
        for chosen in ("model", "ema")
    )
    assert trained != averaged


@pytest.mark.parametrize("name", ["missing.pth", "."])
def test_what_is_no_model(name: str, clip: Path, tmp_path: Path) -> None:
    result = run(tmp_path / name, clip)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_untrained_models_say_so(engine: Path, clip: Path, tmp_path: Path) -> None:
    untrained = Path(shutil.copytree(engine, tmp_path / "engine"))
    manifest = json.loads((untrained / "manifest.json").read_text())
    manifest["model"]["random_weights"] = True
    (untrained / "manifest.json").write_text(json.dumps(manifest))
    for folder, said in ((engine, False), (untrained, True)):
        result = run(folder, clip, "--json")
        assert json.loads(result.stdout)["model"]["random_weights"] is said
        assert ("random weights" in result.stderr) is said


def test_scores_that_are_not_finite_are_an_error(model: Path, clip: Path, tmp_path: Path) -> None:
    state = load_file(model)
    state["mlp_head.1.weight"][:] = 3e38  # finite, and no product with it is
    torch.save(state, tmp_path / "large.pth")
    result = run(tmp_path / "large.pth", clip, "--num-heads", 2)
    assert result.exit_code == 2
    assert "not finite" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["predict", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"from kdcmae.cli import main; main({arguments!r}, standalone_mode=False)"
    heavy = loaded(code)
    assert not heavy["torch"]
    assert not heavy["av"]


def test_predicting_with_an_engine_loads_no_torch(engine: Path, clip: Path) -> None:
    arguments = ["predict", str(engine), str(clip)]
    code = f"from kdcmae.cli import main; main({arguments!r}, standalone_mode=False)"
    assert loaded(code) == {"torch": False, "numpy": True, "av": True}


def loaded(code: str) -> dict[str, bool]:
    """Which heavy libraries a piece of Python imports."""
    ending = "import json, sys; print(json.dumps({name: name in sys.modules for name in ('torch', 'numpy', 'av')}))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{ending}"], capture_output=True, text=True, check=True)
    last = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(last, dict)
    return last


def test_the_group_lists_its_commands() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert "predict" in result.stdout
    assert isinstance(main, click.Group)
    result = CliRunner().invoke(main, ["nonsense"])
    assert result.exit_code == 2
    assert "No such command 'nonsense'" in result.stderr


def test_a_clip_alone_is_classified_by_the_model_that_ships(clip: Path) -> None:
    result = run(clip, "--json")
    assert result.exit_code == 0, result.output
    assert "ships with the package" in result.stderr
    document = json.loads(result.stdout)
    assert Path(document["model"]["path"]) == default_checkpoint()
    assert {prediction["label"] for prediction in document["clips"][0]["predictions"]} <= set(SHIPPED.names)


@pytest.mark.parametrize("name", ["clip.ts", "clip.mts", "clip.3gp", "clip.m4v", "clip.dat", "clip.bin", "clip"])
def test_a_clip_is_told_by_what_it_is(name: str, clip: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(clip.read_bytes())
    assert answer(tmp_path / name)["clips"][0]["predictions"] == answer(clip)["clips"][0]["predictions"]


def test_a_model_is_told_by_what_it_is(model: Path, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.mp4"
    path.write_bytes(model.read_bytes())
    assert answer(path, clip)["clips"][0]["predictions"] == answer(model, clip)["clips"][0]["predictions"]


def test_a_damaged_clip_is_no_model(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:1000])
    result = run(tmp_path / "cut.mp4", clip, "--json")
    assert result.exit_code == 2
    damaged, whole = json.loads(result.stdout)["clips"]
    assert list(damaged) == ["path", "error"]
    assert "predictions" in whole


def test_a_model_without_a_clip_is_a_mistake(model: Path) -> None:
    result = run(model)
    assert result.exit_code == 2
    assert "give a clip to classify" in result.stderr
