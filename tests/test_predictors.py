from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcmae import KDCMAE, KDCMAEClassifier
from kdcmae.checkpoints import save_checkpoint
from kdcmae.errors import ConfigError, EngineError
from kdcmae.predictors import AUDIO_FEATURES, CheckpointPredictor, batched_logits, open_model
from kdcmae.runtime.batching import in_batches


@given(rows=st.integers(1, 25), smallest=st.integers(1, 6), extra=st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_any_number_of_rows_goes_through_any_batch_range(rows: int, smallest: int, extra: int) -> None:
    sizes = []

    def run(feed):
        sizes.append(len(feed["audio"]))
        return {"head": feed["audio"][:, 0, :2], "sum": feed["audio"].sum(axis=(1, 2)) + feed["image"]}

    rng = np.random.default_rng(0)
    inputs = {"audio": rng.random((rows, 3, 4), dtype=np.float32), "image": rng.random(rows, dtype=np.float32)}
    outputs = in_batches(run, inputs, (smallest, smallest + extra))
    assert list(outputs) == ["head", "sum"]
    np.testing.assert_array_equal(outputs["head"], inputs["audio"][:, 0, :2])
    np.testing.assert_array_equal(outputs["sum"], inputs["audio"].sum(axis=(1, 2)) + inputs["image"])
    assert all(smallest <= size <= smallest + extra for size in sizes)


def test_a_checkpoint_predicts_what_the_model_itself_does() -> None:
    classifier = KDCMAEClassifier.from_preset(
        "tiny", num_classes=4, audio_length=32, image_size=64, embed_dim=32, num_heads=2, specific_depth=1
    ).eval()
    rng = np.random.default_rng(0)
    audio = rng.standard_normal((5, 32, 128), dtype=np.float32)
    image = rng.standard_normal((5, 3, 64, 64), dtype=np.float32)
    predictor = CheckpointPredictor(classifier, "small", batch_size=2)
    with torch.no_grad():
        expected = classifier(audio=torch.from_numpy(audio), image=torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(batched_logits(predictor, {"audio": audio, "image": image}), expected, atol=1e-5)


def test_a_pretraining_checkpoint_opens_for_its_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = KDCMAE.from_preset("tiny", audio_length=32, image_size=32, embed_dim=32, num_heads=2, specific_depth=1)
    save_checkpoint(model, tmp_path / "model.safetensors")
    predictor = open_model(tmp_path / "model.safetensors", task="features", engine=False, batch_size=64, num_heads=2)
    assert predictor.facts.batch == (1, 64)
    assert predictor.facts.labels == ()
    assert not predictor.module.training
    inputs = {"audio": np.ones((1, 32, 128), np.float32), "image": np.ones((1, 3, 32, 32), np.float32)}
    outputs = predictor.infer(inputs)
    assert tuple(outputs) == predictor.facts.outputs
    assert outputs[AUDIO_FEATURES].shape == (1, 32)


def test_an_engine_is_refused_where_a_module_is_needed_and_takes_no_options_of_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").touch()
    with pytest.raises(ConfigError, match="is an engine; this task needs a pretraining checkpoint"):
        open_model(tmp_path, task="features", engine=False)
    with pytest.raises(ConfigError, match="--num-heads and --weights are for checkpoints; leave them out"):
        open_model(tmp_path, num_heads=2, weights="ema")


def test_a_folder_that_is_no_engine_is_called_none(tmp_path: Path) -> None:
    for options in ({"engine": False}, {"num_heads": 2}, {}):
        with pytest.raises(EngineError, match=r"has no manifest\.json; give a checkpoint file, or an engine folder"):
            open_model(tmp_path, **options)


def test_checkpoints_are_opened_here_alone() -> None:
    """Training starts from files and writes them; everything else gets a model from open_model."""
    root = Path(__file__).parents[1]
    callers = {
        path.relative_to(root).as_posix()
        for folder in ("kdcmae", "compile", "bench")
        for path in (root / folder).rglob("*.py")
        if re.search(r"import .*load_(classifier|pretrained)", path.read_text(encoding="utf-8"))
    }
    others = {caller for caller in callers if not caller.startswith("kdcmae/training/")}
    assert others == {"kdcmae/__init__.py", "kdcmae/predictors.py"}
