from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from kdcmae import KDCMAE, KDCMAEClassifier, load_classifier
from kdcmae.assets import default_checkpoint
from kdcmae.checkpoints import save_checkpoint
from kdcmae.cli import main
from kdcmae.compile.cli import main as compile_main
from kdcmae.data.clip import read_clip
from kdcmae.data.images import read_image, write_image
from kdcmae.data.synthetic import write_clip
from kdcmae.runtime.preprocessing import Preprocessing, prepare_audio, prepare_image

LABELS = ("cat [purring]", "rain", "unheard")
SMALL = {"audio_length": 64, "image_size": 32, "embed_dim": 64, "num_heads": 2, "specific_depth": 1}
SIZE = 64
CLIPS = 6


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def answer(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout, parse_constant=pytest.fail)  # neither NaN nor Infinity
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of two classes, their masks, and one clip that is no video."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(CLIPS):
        rng = np.random.default_rng(number)
        frames = rng.integers(0, 256, (10, 8, 8, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
        tone = 0.5 * np.sin(2 * np.pi * 300 * (1 + number) * np.arange(16000) / 16000)
        write_clip(folder / f"clip{number}.mp4", tone.astype(np.float32), 16000, frames, 10)
        mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
        mask[:32, 8 * number : 8 * number + 24] = 255
        write_image(folder / f"mask{number}.png", mask)
    (folder / "broken.mp4").write_text("this is no video")
    return folder


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Callable[..., Path]:
    """Writes manifests of these clips."""

    def write(name: str, *, masks: bool = False, broken: bool = False, labels: tuple[str, ...] = LABELS) -> Path:
        lines = [
            {
                "path": f"clip{number}.mp4",
                "labels": labels[number % 2],
                **({"mask": f"mask{number}.png"} if masks else {}),
            }
            for number in range(CLIPS)
        ]
        if broken:
            lines.insert(2, {"path": "broken.mp4", "labels": labels[0]})
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write


@pytest.fixture(scope="module")
def models(quick_builds: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finetuned and a pretraining checkpoint, and an engine of the first."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    paths = {name: folder / f"{name}.safetensors" for name in ("finetuned", "pretrained")}
    save_checkpoint(KDCMAEClassifier.from_preset("tiny", num_classes=3, labels=LABELS, **SMALL), paths["finetuned"])
    save_checkpoint(KDCMAE.from_preset("tiny", norm_pix=False, **SMALL), paths["pretrained"])
    paths["engine"] = folder / "engine"
    arguments = ["--target", "onnx", "--checkpoint", paths["finetuned"], "--output", paths["engine"]]
    result = CliRunner().invoke(compile_main, [*map(str, arguments), "--batch", "1:2:4"])
    assert result.exit_code == 0, result.output
    return paths


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


def test_retrieval(models: dict[str, Path], manifest: Callable[..., Path], tmp_path: Path) -> None:
    data = manifest("plain")
    result = answer("retrieval", models["pretrained"], "--data", data)["result"]
    assert result["clips"] == CLIPS
    for direction in (result["audio_to_video"], result["video_to_audio"]):
        assert direction["recall_at_10"] == 1.0
        assert 1 <= direction["median_rank"] <= CLIPS
    table = run("retrieval", models["pretrained"], "--data", data, "--output", tmp_path).stdout
    page = (tmp_path / "retrieval.html").read_text(encoding="utf-8")
    assert page.count("right one at rank") == 2 * CLIPS
    assert page.count("<img") == 2 * CLIPS * 6 + page.count("<b>6 </b>")  # the query, five answers and the right one
    assert "audio to video" in table
    assert "R@10 (%)" in table
    failed = run("retrieval", models["engine"], "--data", data)
    assert failed.exit_code == 2
    assert "computes only logits" in failed.stderr


def test_inpainting(models: dict[str, Path], manifest: Callable[..., Path], tmp_path: Path) -> None:
    options = ("--data", manifest("plain"), "--output", tmp_path, "--pictures", 2, "--mask", "time")
    document = answer("inpainting", models["pretrained"], *options)
    assert document["settings"] == {"mask": "time", "mask_ratio": 0.75, "seed": 0}
    assert document["result"]["clips"] == CLIPS
    assert document["result"]["norm_pix"] is False
    normalised = answer("inpainting", models["pretrained"], "--data", manifest("plain"), "--norm-pix")["result"]
    assert normalised["norm_pix"] is True
    assert normalised["audio_mse"] != document["result"]["audio_mse"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "inpainting.html",
        "inpainting.json",
        *(f"clip{number}.{kind}.png" for number in range(2) for kind in ("audio", "image")),
    }
    assert read_image(tmp_path / "clip0.image.png").shape == (32, 3 * 32 + 8, 3)
    assert [one["clip"] for one in document["examples"]] == ["clip0", "clip1"]
    page = (tmp_path / "inpainting.html").read_text(encoding="utf-8")
    assert page.count("<img") + page.count("<image") == 2 * 6
    result = run("inpainting", models["engine"], *options)
    assert result.exit_code == 2
    assert "needs a pretraining checkpoint" in result.stderr
    assert run("inpainting", models["pretrained"], *options, "--mask-ratio", 1.5).exit_code == 2


def test_the_statistics_that_a_file_does_not_state(manifest: Callable[..., Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        **SMALL,
        "num_heads": 1,
        "decoder_embed_dim": 32,
        "decoder_num_heads": 1,
        "decoder_depth": 1,
    }
    odd: dict[str, Any] = {"fbank_mean": -3.0, "fbank_std": 0.5, "image_mean": (0.5, 0.5, 0.5)}
    model = KDCMAE.from_preset("tiny", **sizes, **odd)
    save_checkpoint(model, tmp_path / "stated.safetensors")
    torch.save(model.state_dict(), tmp_path / "unstated.pth")
    data = ("--data", manifest("plain"), "--pictures", 0)
    options = ("--fbank-mean", "-3", "--fbank-std", "0.5", "--image-mean", "0.5,0.5,0.5", "--mono", "mean")
    wanted = answer("inpainting", tmp_path / "stated.safetensors", *data)["result"]
    assert answer("inpainting", tmp_path / "unstated.pth", *data, *options)["result"] == wanted
    assumed = run("inpainting", tmp_path / "unstated.pth", *data, "--json")
    assert assumed.stderr.count("does not say how its inputs were made") == 1
    assert json.loads(assumed.stdout)["result"] != wanted


def test_localization(models: dict[str, Path], manifest: Callable[..., Path], tmp_path: Path) -> None:
    masked, plain = manifest("masked", masks=True), manifest("plain")
    result = answer("localization", models["pretrained"], "--data", masked)["result"]
    assert result["clips"] == CLIPS
    assert set(result["centre_box"]) == {"side", "ciou", "auc", "pointing"}
    assert set(result["other_sound"]) == {"ciou", "auc", "pointing"}
    table = run("localization", models["pretrained"], "--data", masked).stdout
    assert "centre box" in table
    assert "other sound" in table

    document = answer("localization", models["pretrained"], "--data", plain, "--output", tmp_path)
    assert document["result"] is None
    assert "Not scored" in (tmp_path / "localization.html").read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.glob("*.png")} == {f"clip{number}.heat.png" for number in range(CLIPS)}
    failed = run("localization", models["pretrained"], "--data", plain)
    assert failed.exit_code == 2
    assert "does not name a mask for every clip" in failed.stderr


def test_probe(models: dict[str, Path], manifest: Callable[..., Path], tmp_path: Path) -> None:
    data = manifest("plain")
    document = answer("probe", models["pretrained"], "--train", data, "--data", data, "--modality", "video")
    assert document["settings"] == {"modality": "video", "train": str(data), "train_skipped": []}
    result = document["result"]
    assert result["train_clips"] == result["classification"]["clips"] == CLIPS
    assert [entry["label"] for entry in result["classification"]["classes"]] == ["cat [purring]", "rain"]
    table = run("probe", models["pretrained"], "--train", data, "--data", data, "--output", tmp_path).stdout
    assert "Linear probe" in (tmp_path / "probe.html").read_text(encoding="utf-8")
    assert "ridge penalty" in table
    assert "mAP (%)" in table


def test_avsynth_needs_no_files(models: dict[str, Path]) -> None:
    """Its test split is measured on, its training split fitted on, and it has masks."""
    assert answer("localization", models["pretrained"], "--data", "avsynth:6")["result"]["clips"] == 6
    document = answer("probe", models["pretrained"], "--train", "avsynth:24", "--data", "avsynth:12")
    assert document["data"]["manifest"] == "avsynth:12"
    assert document["result"]["train_clips"] == 24
    assert len(document["result"]["classification"]["classes"]) == 12


def test_classification_without_a_model_measures_the_one_that_ships() -> None:
    document = answer("classification", "--data", "avsynth:24")
    assert Path(document["model"]["path"]) == default_checkpoint()
    assert document["result"]["accuracy"] > 0.5
    assert "MODEL" in run("retrieval", "--data", "avsynth:24").stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(models: dict[str, Path], manifest: Callable[..., Path]) -> None:
    result = run("retrieval", models["pretrained"], "--data", manifest("plain"), "--device", "cuda")
    assert result.exit_code == 3
    assert "sees no CUDA device" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("retrieval", "nowhere.safetensors", "--data", "avsynth:4"), "nowhere.safetensors: no such file or folder"),
        (("classification", "--data", "nowhere.jsonl"), "nowhere.jsonl: no such file or folder of clips"),
        (("classification", "--data", "avsynth:many"), "write a number of clips"),
        (("classification", "--data", "avsynth:4", "--labels", "nowhere.txt"), "'nowhere.txt' does not exist"),
        (("classification", "--data", "avsynth:4", "--output", __file__), "File exists; name another folder"),
        (("probe", __file__, "--data", "avsynth:4", "--train", "nowhere.csv"), "nowhere.csv: no such file"),
    ],
)
def test_what_is_not_there_is_said(arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_what_is_not_there_is_said_before_torch_loads() -> None:
    arguments = ["evaluate", "classification", "--data", "nowhere.jsonl"]
    code = (
        "import sys\nfrom kdcmae.cli import main\n"
        f"try: main({arguments})\nexcept SystemExit as end: assert end.code == 2\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_help_loads_nothing_heavy() -> None:
    ending = "import sys; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'av')))"
    code = f"from kdcmae.cli import main; main(['evaluate', 'probe', '--help'], standalone_mode=False); {ending}"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
