from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluating import CLIPS, LABELS, SMALL, answer, run

from kdcmae import KDCMAEClassifier, load_classifier
from kdcmae.checkpoints import save_checkpoint
from kdcmae.data.clip import read_clip
from kdcmae.runtime.preprocessing import Preprocessing, prepare_audio, prepare_image


def test_classification(models: dict[str, Path], manifest: Callable[..., Path]) -> None:
    data = manifest("plain")
    document = answer("classification", models["finetuned"], "--data", data, "--batch-size", 4)
    assert document["task"] == "classification"
    assert document["model"] == {"path": str(models["finetuned"]), "runs_on": "torch"}
    assert document["data"] == {"manifest": str(data), "clips": CLIPS, "skipped": []}
    assert document["settings"] == {"modality": "audiovisual", "missing": None, "frames": "middle"}
    result = document["result"]
    assert [entry["clips"] for entry in result["classes"]] == [3, 3, 0]
    assert result["classes"][2]["average_precision"] is None
    assert (result["clips"], result["classes_left_out"]) == (CLIPS, 1)
    assert result["accuracy"] == pytest.approx(accuracy_by_hand(models["finetuned"], data))


def accuracy_by_hand(path: Path, data: Path) -> float:
    classifier = load_classifier(path)
    preprocessing = Preprocessing(audio_frames=64, image_size=32)
    hits = []
    for number in range(CLIPS):
        clip = read_clip(data.parent / f"clip{number}.mp4")
        audio = torch.from_numpy(prepare_audio(clip.waveform, 16000, preprocessing))
        image = torch.from_numpy(prepare_image(clip.frames[5], preprocessing))
        with torch.no_grad():
            hits.append(classifier(audio, image).argmax().item() == number % 2)
    return float(np.mean(hits))


@pytest.mark.parametrize("options", [(), ("--frames", "all")])
def test_engine_and_checkpoint_agree(
    models: dict[str, Path], manifest: Callable[..., Path], options: tuple[str, ...]
) -> None:
    data = manifest("plain")
    by_torch, by_engine = (
        answer("classification", models[name], "--data", data, *options) for name in ("finetuned", "engine")
    )
    assert by_engine["model"]["runs_on"] == "onnx"
    assert by_engine["result"] == by_torch["result"]


def test_modalities(models: dict[str, Path], manifest: Callable[..., Path]) -> None:
    data = manifest("plain")
    for options in (("--modality", "audio"), ("--modality", "video"), ("--missing", "audio"), ("--missing", "video")):
        assert answer("classification", models["finetuned"], "--data", data, *options)["result"]["clips"] == CLIPS
    for options in (("--modality", "audio"), ("--missing", "video")):
        result = run("classification", models["finetuned"], "--data", data, "--frames", "all", *options)
        assert result.exit_code == 2
        assert "sees no frames" in result.stderr
    result = run("classification", models["engine"], "--data", data, "--missing", "video")
    assert result.exit_code == 2
    assert "input image is missing" in result.stderr


OPTIONS_OF_CHECKPOINTS: tuple[tuple[Any, ...], ...] = (
    ("--device", "cpu"),
    ("--fbank-mean", -3),
    ("--fbank-std", 2),
    ("--image-mean", "0.5,0.5,0.5"),
    ("--image-std", "0.5,0.5,0.5"),
    ("--mono", "left"),
    ("--num-heads", 2),
    ("--weights", "ema"),
)


@pytest.mark.parametrize("task", ["classification", "retrieval"])
def test_an_engine_takes_no_option_of_checkpoints(
    task: str, models: dict[str, Path], manifest: Callable[..., Path], tmp_path: Path
) -> None:
    asked = (task, models["engine"], "--data", manifest("plain"), "--output", tmp_path / "out")
    for option in OPTIONS_OF_CHECKPOINTS:
        result = run(*asked, *option)
        assert result.exit_code == 2
        assert f"is an engine: {option[0]} is for checkpoints; leave it out" in result.stderr
    result = run(*asked, *OPTIONS_OF_CHECKPOINTS[0], *OPTIONS_OF_CHECKPOINTS[1])
    assert "--fbank-mean and --device are for checkpoints; leave them out" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_table_for_people(models: dict[str, Path], manifest: Callable[..., Path], tmp_path: Path) -> None:
    result = run("classification", models["finetuned"], "--data", manifest("plain"), "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for text in ("accuracy (%)", "mAP (%)", "d'", "cat [purring]", f"{CLIPS} clips"):
        assert text in result.stdout
    assert "unheard" not in result.stdout
    document = json.loads((tmp_path / "out" / "classification.json").read_text())
    assert len(document["result"]["classes"]) == 3
    low, high = document["intervals"]["accuracy"]
    assert f"{100 * low:.1f} to {100 * high:.1f}" in result.stdout


def test_a_page_beside_the_report(models: dict[str, Path], manifest: Callable[..., Path], tmp_path: Path) -> None:
    options = ("classification", models["finetuned"], "--data", manifest("broken", broken=True), "--broken-limit", 0.5)
    document = answer(*options, "--output", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "classification.json").read_text()) == document
    page = (tmp_path / "out" / "classification.html").read_text(encoding="utf-8")
    wrong = [one["clip"] for one in document["examples"]]
    assert len(wrong) == round((1 - document["result"]["accuracy"]) * CLIPS)
    assert page.count("<img") == 2 * len(wrong)  # the frame and the sound of each
    for text in (*wrong, "0.64 s of sound", "is not a media file", "Confusion", "Accuracy on 6 clips"):
        assert text in page
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["classification.html", "classification.json"]
    fewer = answer(*options, "--output", tmp_path / "none", "--no-page", "--pictures", 1)
    assert len(fewer["examples"]) == min(1, len(wrong))
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["classification.json"]


def test_names_that_would_be_markup(models: dict[str, Path], folder: Path, tmp_path: Path) -> None:
    nasty = "<script>alert(1)<\\/script>"
    names = tmp_path / "labels.txt"
    names.write_text(f"{nasty}\nrain\nsnow\n")
    checkpoint = tmp_path / "nasty.safetensors"
    torch.manual_seed(0)
    labels = (nasty, "rain", "snow")
    save_checkpoint(KDCMAEClassifier.from_preset("tiny", num_classes=3, labels=labels, **SMALL), checkpoint)
    lines = [{"path": str(folder / f"clip{n}.mp4"), "id": f"<b>{n}", "labels": nasty} for n in range(CLIPS)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    answer("classification", checkpoint, "--data", tmp_path / "data.jsonl", "--output", tmp_path)
    page = (tmp_path / "classification.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>0" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_full_disk_leaves_no_half_report(
    models: dict[str, Path],
    manifest: Callable[..., Path],
    tmp_path: Path,
    full_disk: Callable[[], AbstractContextManager[None]],
) -> None:
    data = manifest("plain")
    with full_disk():
        result = run("classification", models["finetuned"], "--data", data, "--output", tmp_path)
    assert result.exit_code == 2
    assert "no space left" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_broken_clips_are_skipped_and_counted(models: dict[str, Path], manifest: Callable[..., Path]) -> None:
    data = manifest("broken", broken=True)
    result = run("classification", models["finetuned"], "--data", data)
    assert result.exit_code == 2
    assert "1 of 7 clips cannot be used" in result.stderr
    result = run("classification", models["finetuned"], "--data", data, "--broken-limit", 0.5, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["data"]["clips"] == document["result"]["clips"] == CLIPS
    (skipped,) = document["data"]["skipped"]
    assert skipped["clip"] == "broken"
    assert "is not a media file" in skipped["reason"]
    assert "skipped broken: " in result.stderr
    whole = answer("classification", models["finetuned"], "--data", manifest("plain"))
    assert document["result"] == whole["result"]


def test_labels(models: dict[str, Path], manifest: Callable[..., Path], tmp_path: Path) -> None:
    names = tmp_path / "labels.csv"
    rows = [f'{index},/m/{index},"{name}"\n' for index, name in enumerate(LABELS)]
    names.write_text("".join(["index,mid,display_name\n", *rows]))
    data = manifest("ids", labels=("/m/0", "/m/1"))
    by_id = answer("classification", models["finetuned"], "--data", data, "--labels", names)
    assert by_id["result"] == answer("classification", models["finetuned"], "--data", manifest("plain"))["result"]

    result = run("classification", models["finetuned"], "--data", data)
    assert result.exit_code == 2
    assert "unknown label '/m/0'" in result.stderr
    names.write_text("".join(["index,mid,display_name\n", *rows]).replace("rain", "snow"))
    result = run("classification", models["finetuned"], "--data", data, "--labels", names)
    assert "class 1 is 'snow', and the model calls it 'rain'" in result.stderr
    names.write_text("".join(["index,mid,display_name\n", *rows[:2]]))
    result = run("classification", models["finetuned"], "--data", data, "--labels", names)
    assert "names 2 classes and the model has 3" in result.stderr
