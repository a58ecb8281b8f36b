from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcmae import KDCMAE
from kdcmae.errors import DataError, EngineError
from kdcmae.evaluation.retrieval import (
    Direction,
    Features,
    best_answers,
    extract_features,
    ranks_of,
    retrieve,
    summarize,
)
from kdcmae.predictors import CheckpointPredictor, EnginePredictor
from kdcmae.runtime.preprocessing import Preprocessing

SMALL = {"audio_length": 64, "image_size": 32, "embed_dim": 64, "num_heads": 2, "specific_depth": 1}


def noise(clips: int, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((clips, width)).astype(np.float32)


def batches(*sizes: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "audio": torch.randn(size, 64, 128, generator=generator),
            "image": torch.randn(size, 3, 32, 32, generator=generator),
        }
        for size in sizes
    ]


def test_the_features_are_the_means_of_the_unmasked_tokens() -> None:
    torch.manual_seed(0)
    model = KDCMAE.from_preset("tiny", **SMALL).eval()
    features = extract_features(CheckpointPredictor(model, "tiny", batch_size=2), batches(3, 2))
    with torch.no_grad():
        tokens = [model.forward_features(batch["audio"], batch["image"]) for batch in batches(3, 2)]
    for part, name in enumerate(("audio", "video")):
        expected = torch.cat([pair[part].mean(dim=1) for pair in tokens])
        np.testing.assert_allclose(getattr(features, name), expected, atol=1e-6)


def test_partners_that_point_the_same_way_are_found() -> None:
    audio = noise(40)
    result = retrieve(Features(audio, 3 * audio))
    assert result.clips == 40
    for direction in (result.audio_to_video, result.video_to_audio):
        assert direction.recall_at_1 == 1.0
        assert direction.median_rank == 1.0


def test_unrelated_features_retrieve_what_chance_does() -> None:
    result = retrieve(Features(noise(1000, seed=1), noise(1000, seed=2)))
    for direction in (result.audio_to_video, result.video_to_audio):
        assert direction.recall_at_10 == pytest.approx(result.chance.recall_at_10, abs=0.01)
        assert direction.median_rank == pytest.approx(result.chance.median_rank, abs=60)
    assert result.chance == Direction(recall_at_1=0.001, recall_at_5=0.005, recall_at_10=0.01, median_rank=500.5)


def test_the_directions_differ() -> None:
    # Each sound is nearest to its own picture, but picture 0 is nearer to sound 1 than to its own.
    audio = np.array([[1.0, 0.0], [0.1, 1.0]], dtype=np.float32)
    video = np.array([[1.0, 1.2], [0.1, 1.0]], dtype=np.float32)
    result = retrieve(Features(audio, video))
    assert result.audio_to_video.recall_at_1 == 1.0
    assert result.video_to_audio.recall_at_1 == 0.5
    assert result.video_to_audio.median_rank == 1.5


@pytest.mark.parametrize("clips", [2, 5, 12])
def test_a_collapsed_model_retrieves_nothing(clips: int) -> None:
    same = noise(1).repeat(clips, axis=0)
    result = retrieve(Features(same * (1 + 1e-7), same))
    assert result.audio_to_video.recall_at_1 == 0.0
    assert result.audio_to_video.median_rank == clips
    assert result.audio_to_video.recall_at_10 == (clips <= 10)


def naive_ranks(features: Features) -> dict[str, list[int]]:
    """By all cosines in float64."""
    audio, video = (
        part.astype(np.float64) / np.linalg.norm(part.astype(np.float64), axis=1, keepdims=True)
        for part in (features.audio, features.video)
    )
    cosines = audio @ video.T
    partners = cosines.diagonal() - 1e-6
    return {
        "audio_to_video": (cosines >= partners[:, None]).sum(axis=1).tolist(),
        "video_to_audio": (cosines >= partners).sum(axis=0).tolist(),
    }


def as_lists(ranks: Any) -> dict[str, list[int]]:
    return {direction: values.tolist() for direction, values in ranks.items()}


@given(clips=st.integers(1, 30), chunk=st.integers(1, 40), seed=st.integers(0, 99), equal=st.integers(0, 3))
def test_chunks_change_nothing_and_ranks_are_those_of_all_cosines(
    clips: int, chunk: int, seed: int, equal: int
) -> None:
    audio, video = noise(clips, 3, seed), noise(clips, 3, seed + 100)
    audio[: clips // 2 * equal] = audio[0]  # ties
    features = Features(audio, video)
    assert as_lists(ranks_of(features, chunk=chunk)) == naive_ranks(features)
    assert retrieve(features) == summarize(ranks_of(features, chunk=chunk))


@pytest.mark.parametrize("likeness", [0.0, 0.3, 3.0], ids=["unrelated", "alike", "equal"])
@pytest.mark.parametrize("form", ["noise", "one loud feature", "collapsed", "pairs of equal clips"])
def test_ranks_of_many_clips_are_those_of_all_cosines(form: str, likeness: float) -> None:
    """So many that bf16 decides most of them, where the CPU multiplies it."""
    clips, rng = 2500, np.random.default_rng(3)
    audio = rng.standard_normal((clips, 64)).astype(np.float32)
    video = rng.standard_normal((clips, 64)).astype(np.float32) + np.float32(likeness) * audio
    if form == "one loud feature":
        audio[:, 0], video[:, 0] = audio[:, 0] + 30, video[:, 0] + 30
    elif form == "collapsed":
        audio, video = (audio[0] + np.float32(1e-4) * part for part in (audio, video))
    elif form == "pairs of equal clips":
        audio[1::2], video[1::2] = audio[::2], video[::2]
    features = Features(audio, video)
    assert as_lists(ranks_of(features)) == naive_ranks(features)


def test_the_best_answers_are_the_first_of_a_full_sort() -> None:
    features = Features(noise(40, 3), noise(40, 3, seed=1).round())
    features.video[~features.video.any(axis=1)] = 1.0
    audio, video = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (features.audio, features.video))
    order = np.argsort(-(video @ audio.T).astype(np.float64), axis=1, kind="stable")
    for best in (1, 7, 40, 50):
        assert best_answers(features, "video_to_audio", [4, 0], best) == order[[4, 0], :best].tolist()


def test_memory_does_not_grow_with_the_square_of_the_clips() -> None:
    features = Features(noise(3000, 4), noise(3000, 4, seed=1))
    tracemalloc.start()
    try:
        best_answers(features, "audio_to_video", [0], 5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3000 * 3000  # a byte per pair


def test_each_chunk_is_progress() -> None:
    done: list[int] = []
    ranks_of(Features(noise(10), noise(10, seed=1)), chunk=4, on_chunk=lambda: done.append(1))
    assert len(done) == 3


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_features_without_direction_are_refused(bad: float) -> None:
    video = noise(4)
    video[2] = bad
    with pytest.raises(DataError, match="video features of 1 of 4 clips are zero or not finite"):
        retrieve(Features(noise(4), video))


def test_no_clips() -> None:
    with pytest.raises(DataError, match="no clips"):
        extract_features(EnginePredictor(FeatureEngine(), "features"), [])  # type: ignore[arg-type]


class FeatureEngine:
    """An engine for batches of 2 to 3 whose features are the means of its inputs."""

    folder = Path("engine")

    def __init__(self, outputs: tuple[str, ...] = ("logits", "audio_features", "video_features")) -> None:
        self.manifest = SimpleNamespace(
            target="onnx",
            model={"name": "tiny", "modality": "audiovisual", "random_weights": False},
            outputs=[SimpleNamespace(name=name) for name in outputs],
            labels=(),
            scores="softmax",
            preprocessing=Preprocessing().to_dict(),
            batch=SimpleNamespace(min=2, max=3),
        )

    def infer(self, feed: dict[str, Any]) -> dict[str, np.ndarray]:
        assert 2 <= len(feed["audio"]) <= 3
        return {"audio_features": feed["audio"].mean(axis=1), "video_features": feed["image"].mean(axis=(2, 3))}


def test_features_of_an_engine() -> None:
    data = batches(4, 1)
    features = extract_features(EnginePredictor(FeatureEngine(), "features"), data)  # type: ignore[arg-type]
    np.testing.assert_allclose(features.audio, torch.cat([batch["audio"].mean(dim=1) for batch in data]), atol=1e-6)
    assert features.video.shape == (5, 3)


def test_an_engine_with_only_logits_says_so() -> None:
    with pytest.raises(EngineError, match="computes only logits; retrieval needs audio_features and video_features"):
        EnginePredictor(FeatureEngine(("logits",)), "features")  # type: ignore[arg-type]
