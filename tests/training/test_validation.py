"""What is measured after an epoch: the task's own metric, over every clip once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdcmae import KDCMAE, KDCMAEClassifier
from kdcmae.data.broken import BrokenClips
from kdcmae.errors import DataError, TrainingError
from kdcmae.evaluation.metrics import accuracy, average_precision
from kdcmae.evaluation.retrieval import extract_features, retrieve
from kdcmae.predictors import CheckpointPredictor
from kdcmae.training.distributed import spread
from kdcmae.training.tasks import FinetuningTask, PretrainingTask
from kdcmae.training.validation import Validation, validate


def measured(task, model, source) -> Validation:
    place = torch.device("cpu")
    return validate(
        task, spread(model, "ddp", place), source, moved=dict, precision=lambda: torch.autocast("cpu", enabled=False)
    )


@pytest.fixture
def source(random_runs):
    """Seven clips in batches of two, the last one of one clip alone."""
    settings = random_runs.KINDS["finetune"](**{**random_runs.DEFAULTS, "batch_size": 2})
    return random_runs.RandomBatches(settings, clips=7, whole_batches=False)


@pytest.mark.parametrize("multi_label", [False, True])
def test_finetuning_is_measured_by_its_own_metric_and_without_label_smoothing(multi_label, random_runs, source):
    torch.manual_seed(0)
    model = KDCMAEClassifier.from_preset("tiny", num_classes=3, multi_label=multi_label, **random_runs.SIZES)
    torch.nn.init.normal_(model.mlp_head[1].weight)
    task = FinetuningTask(model, 0.3)
    found = measured(task, model, source)
    with torch.no_grad():
        logits = model.eval()(source.clips["audio"], source.clips["image"]).double()
    target = source.clips["target"].double()
    losses = {False: F.cross_entropy, True: F.binary_cross_entropy_with_logits}
    assert found.metrics["loss"] == pytest.approx(losses[multi_label](logits, target).item(), rel=1e-5)
    assert found.metrics["accuracy"] == accuracy(logits.numpy(), target.numpy() > 0)
    ranked = [average_precision(logits.sigmoid().numpy()[:, c], target.numpy()[:, c] > 0) for c in range(3)]
    if multi_label:
        assert found.metrics["mAP"] == pytest.approx(np.nanmean(ranked))
    assert task.criterion.metric == ("mAP" if multi_label else "accuracy")
    assert found.confusion.counts.sum() == 7
    assert found.confusion.counts.trace() / 7 == pytest.approx(found.metrics["accuracy"])


def test_pretraining_is_measured_by_its_losses_and_retrieval(random_runs, source):
    torch.manual_seed(0)
    model = KDCMAE.from_preset("tiny", **random_runs.SIZES, **random_runs.DECODER)
    found = measured(PretrainingTask(model, seed=0), model, source).metrics
    recall = retrieve(extract_features(CheckpointPredictor(model, ""), [source.clips]))
    both = (recall.audio_to_video.recall_at_1 + recall.video_to_audio.recall_at_1) / 2
    assert found["recall_at_1"] == both
    assert {"loss", "reconstruction", "contrastive_accuracy"} <= found.keys()
    assert measured(PretrainingTask(model, seed=0), model, source).metrics == found


def test_a_clip_that_spoils_what_is_computed_is_named(random_runs, tmp_path):
    settings = random_runs.KINDS["finetune"](**random_runs.DEFAULTS)
    source = random_runs.RandomBatches(settings, clips=4, broken=(2,))
    run = random_runs.random_run("finetune", tmp_path)
    with pytest.raises(TrainingError, match=r"of 1 of 4 validation clips is not finite; .*check these clips: clip_2$"):
        measured(run.task, run.model, source)
    assert run.model.training


def test_no_clips_at_all(random_runs, source, tmp_path):
    run = random_runs.random_run("finetune", tmp_path)
    source.batches = lambda epoch, start: iter(())
    source.broken = BrokenClips(7, 1.0)
    with pytest.raises(DataError, match="none of the validation clips can be used"):
        measured(run.task, run.model, source)
