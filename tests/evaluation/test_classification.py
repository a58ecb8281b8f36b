from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from kdcmae import KDCMAEClassifier
from kdcmae.checkpoints import save_checkpoint
from kdcmae.compile.cli import main as compile_main
from kdcmae.errors import DataError, EngineInputError, KdcmaeError
from kdcmae.evaluation.classification import ScoredClips, score_clips, summarize
from kdcmae.predictors import CheckpointPredictor, open_model

SMALL = {"audio_length": 64, "image_size": 32, "embed_dim": 64, "num_heads": 2, "specific_depth": 1}
CLASSES = 4


def classifier(**overrides: Any) -> KDCMAEClassifier:
    torch.manual_seed(0)
    return KDCMAEClassifier.from_preset("tiny", num_classes=CLASSES, **{**SMALL, **overrides}).eval()


def batches(sizes: tuple[int, ...] = (3, 2), frames: int | None = None) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    shape = (3, 32, 32) if frames is None else (frames, 3, 32, 32)
    return [
        {
            "audio": torch.randn(size, 64, 128, generator=generator),
            "image": torch.randn(size, *shape, generator=generator),
            "target": torch.eye(CLASSES)[torch.randint(CLASSES, (size,), generator=generator)],
            "index": torch.arange(size),
        }
        for size in sizes
    ]


@torch.no_grad()
def expected(model: KDCMAEClassifier, *names: str) -> np.ndarray:
    return torch.cat([model(**{name: batch[name] for name in names}).softmax(dim=1) for batch in batches()]).numpy()


@pytest.mark.parametrize(
    ("modality", "missing", "names"),
    [
        ("audiovisual", None, ("audio", "image")),
        ("audio", None, ("audio",)),
        ("video", None, ("image",)),
        ("audiovisual", "video", ("audio",)),
        ("audiovisual", "audio", ("image",)),
    ],
)
def test_the_scores_are_those_of_the_model(modality: str, missing: Any, names: tuple[str, ...]) -> None:
    model = classifier(modality=modality)
    data = [{name: batch[name] for name in (*names, "target")} for batch in batches()]  # no more than it needs
    scored = score_clips(CheckpointPredictor(model, "tiny", batch_size=2), data, missing=missing)
    np.testing.assert_allclose(scored.scores, expected(model, *names), atol=1e-5)
    np.testing.assert_array_equal(scored.positives, torch.cat([batch["target"] for batch in batches()]).numpy() > 0)


@pytest.mark.parametrize("modality", ["audiovisual", "video"])
def test_the_scores_of_several_frames_are_averaged(modality: str) -> None:
    predictor = CheckpointPredictor(classifier(modality=modality), "tiny", batch_size=4)
    many = batches(frames=3)
    single = [
        score_clips(predictor, [{**batch, "image": batch["image"][:, frame]} for batch in many]).scores
        for frame in range(3)
    ]
    np.testing.assert_allclose(score_clips(predictor, many).scores, np.mean(single, axis=0), atol=1e-6)
    assert np.abs(single[0] - single[1]).max() > 1e-3


@pytest.fixture(scope="module")
def folders(quick_builds: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and an engine made of it that takes batches of 2 to 4."""
    folder = tmp_path_factory.mktemp("models")
    save_checkpoint(classifier(), folder / "tiny.safetensors")
    arguments = ["--target", "onnx", "--checkpoint", folder / "tiny.safetensors", "--batch", "2:3:4"]
    result = CliRunner().invoke(compile_main, [*map(str, arguments), "--output", str(folder / "engine")])
    assert result.exit_code == 0, result.output
    return folder / "tiny.safetensors", folder / "engine"


@pytest.mark.parametrize(("sizes", "frames"), [((3, 2), None), ((5, 1), None), ((3, 1), 3)])
def test_engine_and_checkpoint_agree(folders: tuple[Path, Path], sizes: tuple[int, ...], frames: int | None) -> None:
    data = batches(sizes, frames)
    by_torch, by_engine = (score_clips(open_model(path), data) for path in folders)
    np.testing.assert_allclose(by_engine.scores, by_torch.scores, atol=1e-5)
    np.testing.assert_array_equal(by_engine.positives, by_torch.positives)


def test_an_engine_needs_all_its_inputs(folders: tuple[Path, Path]) -> None:
    with pytest.raises(EngineInputError, match="image is missing"):
        score_clips(open_model(folders[1]), batches(), missing="video")


def test_summarize() -> None:
    scores = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.4, 0.1]])
    positives = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]], dtype=bool)
    result = summarize(ScoredClips(scores, positives), ("cat", "dog", "none"))
    assert result.clips == 4
    assert result.accuracy == pytest.approx(3 / 4)
    cat, dog, none = result.classes
    assert (cat.clips, dog.clips, none.clips) == (2, 2, 0)
    assert (cat.accuracy, dog.accuracy) == (1.0, 0.5)
    assert cat.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert cat.auc == pytest.approx(3 / 4)
    assert math.isnan(none.average_precision)
    assert math.isnan(none.auc)
    assert math.isnan(none.accuracy)
    assert result.classes_left_out == 1
    assert result.mean_average_precision == pytest.approx((cat.average_precision + dog.average_precision) / 2)
    assert result.auc == pytest.approx((cat.auc + dog.auc) / 2)
    assert result.d_prime == pytest.approx(math.sqrt(2) * 0.674490, abs=1e-5)


def test_what_cannot_be_evaluated_says_why() -> None:
    predictor = CheckpointPredictor(classifier(), "tiny")
    (batch,) = batches((2,))
    with pytest.raises(DataError, match="no labels"):
        score_clips(predictor, [{name: batch[name] for name in ("audio", "image")}])
    with pytest.raises(DataError, match="have 3 classes and the model has 4"):
        score_clips(predictor, [{**batch, "target": torch.eye(3)[:2]}])
    with pytest.raises(DataError, match="no clips"):
        score_clips(predictor, [])
    with pytest.raises(KdcmaeError, match="not finite"):
        score_clips(predictor, [{**batch, "audio": batch["audio"] * torch.nan}])
    with pytest.raises(DataError, match="no video to withhold"):
        score_clips(CheckpointPredictor(classifier(modality="audio"), "tiny"), [batch], missing="video")
