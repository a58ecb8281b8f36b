from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluating import CLIPS, SMALL, answer, run

from kdcmae import KDCMAE
from kdcmae.assets import default_checkpoint
from kdcmae.checkpoints import save_checkpoint
from kdcmae.data.images import read_image


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
