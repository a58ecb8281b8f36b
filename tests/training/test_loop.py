from __future__ import annotations

import dataclasses
import io
import math
import re

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from kdcmae import load_classifier, load_pretrained
from kdcmae.errors import CheckpointError, ConfigError, TrainingError
from kdcmae.training import loop
from kdcmae.training.loop import STATE_FILE, Trainer
from kdcmae.training.optim import WeightAverage
from kdcmae.training.resume import load_run_state, save_run_state
from kdcmae.training.tracking import read_metrics


def losses(folder) -> list[float]:
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "validation_loss" not in line]


def test_pretraining_learns_and_leaves_a_checkpoint(random_runs, tmp_path):
    run = random_runs.random_run("pretrain", tmp_path, epochs=4)
    summary = random_runs.train(run)
    history = losses(tmp_path)
    assert (summary.steps, summary.epochs, len(history)) == (24, 4, 24)
    assert history[-1] < 0.95 * history[0]
    assert summary.metrics["loss"] == history[-1]
    assert summary.clips_per_second > 0
    loaded = load_pretrained(summary.weights)
    assert all(torch.equal(tensor, run.model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    rates = [line["learning_rate"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert rates[::6] == [1e-3, 5e-4, 2.5e-4, 1.25e-4]


def test_finetuning_learns_and_is_validated_after_each_epoch(random_runs, tmp_path):
    summary = random_runs.train(random_runs.random_run("finetune", tmp_path, epochs=4, label_smoothing=0.0))
    validated = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "validation_loss" in line]
    assert [line["epoch"] for line in validated] == [1, 2, 3, 4]
    assert validated[-1]["validation_loss"] < 0.8 * validated[0]["validation_loss"]
    assert summary.metrics["validation_accuracy"] > 0.6
    assert load_classifier(summary.weights).config.num_classes == random_runs.CLASSES


def test_the_final_weights_are_the_average_over_epochs(random_runs, tmp_path, monkeypatch):
    seen = []
    add = WeightAverage.add
    monkeypatch.setattr(WeightAverage, "add", lambda self, state: (seen.append(dict(state)), add(self, state)))
    random_runs.train(random_runs.random_run("finetune", tmp_path, epochs=3, average_from_epoch=2))
    assert len(seen) == 2
    assert not torch.equal(seen[0]["mlp_head.1.weight"], seen[1]["mlp_head.1.weight"])
    written = load_file(tmp_path / "model.safetensors")
    for name, tensor in written.items():
        torch.testing.assert_close(tensor, (seen[0][name] + seen[1][name]) / 2)


def test_more_epochs_go_on_as_one_run(random_runs, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    random_runs.train(random_runs.random_run("finetune", whole, epochs=3, average_from_epoch=1))
    for epochs in (1, 3):
        random_runs.train(random_runs.random_run("finetune", parts, epochs=epochs, average_from_epoch=1), resume=True)
    assert losses(parts) == losses(whole)
    expected = load_file(whole / "model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_file(parts / "model.safetensors").items())


def test_the_head_learns_faster(random_runs, tmp_path):
    run = random_runs.random_run(
        "finetune", tmp_path, epochs=1, batches={"clips": 4}, learning_rate=1e-3, head_learning_rate_factor=10.0
    )
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    random_runs.train(run)
    # Adam's first step moves every weight by the learning rate.
    for name, rate in (("mlp_head.1.weight", 1e-2), ("blocks_u.0.mlp.fc1.weight", 1e-3)):
        moved = (run.model.state_dict()[name] - before[name]).abs()
        assert moved.max() == pytest.approx(rate, rel=1e-3)


def test_accumulated_batches_are_one_batch(random_runs, tmp_path):
    curves = []
    for accumulation in (1, 2, 4):
        folder = tmp_path / str(accumulation)
        random_runs.train(random_runs.random_run("finetune", folder, accumulation_steps=accumulation))
        curves.append(losses(folder))
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=1e-4)


def test_a_linear_probe_leaves_the_encoder_alone(random_runs, tmp_path):
    run = random_runs.random_run("finetune", tmp_path, trained="head")
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    random_runs.train(run)
    moved = {name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"mlp_head.0.weight", "mlp_head.0.bias", "mlp_head.1.weight", "mlp_head.1.bias"}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_stays_near_full_precision(precision, random_runs, tmp_path):
    curves = []
    for name in ("fp32", precision):
        folder = tmp_path / name
        random_runs.train(random_runs.random_run("pretrain", folder, epochs=1, precision=name))
        curves.append(losses(folder))
    assert curves[0] != curves[1]
    assert curves[1] == pytest.approx(curves[0], rel=0.02)


def test_uncertainty_weights_learn_and_are_saved(random_runs, tmp_path):
    run = random_runs.random_run("pretrain", tmp_path, epochs=1, model={"weighting": "uncertainty"})
    before = dict(run.model.weighting.weights)
    assert before == pytest.approx({"reconstruction": 1.0, "contrastive": 0.01, "distillation": 10.0})
    summary = random_runs.train(run)
    after = load_pretrained(summary.weights).weighting.weights
    assert after == run.model.weighting.weights
    assert all(after[name] != before[name] for name in before)


def test_gradients_are_clipped(random_runs, tmp_path):
    norms = []

    def watch(optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())

    watched = register_optimizer_step_pre_hook(watch)
    for limit in (None, 1e-3):
        run = random_runs.random_run("pretrain", tmp_path / str(limit), epochs=1, clip_grad_norm=limit)
        random_runs.train(run)
    watched.remove()
    whole, clipped = norms[:6], norms[6:]
    assert min(whole) > 1e-3
    assert clipped == pytest.approx([1e-3] * 6, rel=1e-3)
    logged = [line["grad_norm"] for line in read_metrics(tmp_path / "None" / "metrics.jsonl")]
    assert logged == pytest.approx(whole)


def test_a_loss_that_is_not_finite_stops_before_the_weights_spoil(random_runs, tmp_path):
    run = random_runs.random_run("pretrain", tmp_path, batches={"broken": (5,)})
    with pytest.raises(TrainingError, match=r"is not finite at step \d+ \(epoch 1\): .*loss nan.*\bclip_5\b") as caught:
        random_runs.train(run)
    assert caught.value.exit_code == 1
    assert all(tensor.isfinite().all() for tensor in run.model.state_dict().values())
    step = int(str(caught.value).split("step ")[1].split()[0])
    assert len(losses(tmp_path)) == step - 1


def test_a_gradient_that_is_not_finite_stops_too(random_runs, tmp_path):
    run = random_runs.random_run("finetune", tmp_path)
    # The square root of the distance to itself has a value, and no derivative.
    run.task._loss = lambda logits, target, smoothing: (logits - logits.detach()).square().sum().sqrt()
    with pytest.raises(TrainingError, match=r"at step 1 \(epoch 1\): loss 0, accuracy .*, grad_norm nan"):
        random_runs.train(run)
    assert all(tensor.isfinite().all() for tensor in run.model.state_dict().values())


def test_logging_every_few_steps_keeps_the_last_of_an_epoch(random_runs, tmp_path):
    random_runs.train(random_runs.random_run("pretrain", tmp_path, log_every_steps=4))
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [4, 6, 8, 12]


def test_a_folder_with_a_run_is_not_overwritten(random_runs, tmp_path):
    random_runs.train(random_runs.random_run("pretrain", tmp_path))
    with pytest.raises(ConfigError, match="already holds a run; go on with --resume"):
        random_runs.train(random_runs.random_run("pretrain", tmp_path))
    with pytest.raises(ConfigError, match=r"other settings: learning_rate: 0.001 -> 0.002"):
        random_runs.train(random_runs.random_run("pretrain", tmp_path, learning_rate=2e-3), resume=True)


def test_a_run_of_another_version_is_refused_in_one_line(random_runs, tmp_path):
    random_runs.train(random_runs.random_run("pretrain", tmp_path))
    path = tmp_path / STATE_FILE
    state = load_run_state(path)
    del state["scaler"]
    save_run_state(state, path)
    with pytest.raises(CheckpointError, match=r"written by another version of kdcmae \('scaler'\): finish"):
        random_runs.train(random_runs.random_run("pretrain", tmp_path), resume=True)
    del state["identity"]["weight_decay"]
    save_run_state(state, path)
    with pytest.raises(ConfigError, match=r"other settings: weight_decay: no such setting -> "):
        random_runs.train(random_runs.random_run("pretrain", tmp_path), resume=True)


def test_a_finished_run_resumes_to_its_own_summary(random_runs, tmp_path):
    first = random_runs.train(random_runs.random_run("finetune", tmp_path))
    again = random_runs.train(random_runs.random_run("finetune", tmp_path), resume=True)
    assert (again.steps, again.metrics) == (first.steps, first.metrics)
    assert len(losses(tmp_path)) == first.steps


def test_too_few_clips_for_a_batch(random_runs, tmp_path):
    run = random_runs.random_run("pretrain", tmp_path, batches={"clips": 3})
    with pytest.raises(ConfigError, match="fewer clips than batch_size=4"):
        random_runs.train(run)


def epoch_lines(shown):
    """Without those in between, which a slow machine gets every half minute."""
    return [line for line in shown.getvalue().splitlines() if line.startswith("epoch")]


def test_a_line_per_epoch_tells_losses_speed_and_which_is_best(random_runs, tmp_path):
    shown = io.StringIO()
    run = random_runs.random_run("pretrain", tmp_path)
    Trainer(run, device=torch.device("cpu"), resume=False, progress=shown).fit()
    number = r"[-+.\de]+"
    first, second = epoch_lines(shown)
    assert re.fullmatch(rf"epoch 1/2  loss {number}  lr 0.001  {number} clips/s  {number} min left", first)
    assert re.fullmatch(rf"epoch 2/2  loss {number}  lr 0.0005  {number} clips/s  0.0 min left", second)
    run = random_runs.random_run("finetune", tmp_path / "finetune")
    Trainer(run, device=torch.device("cpu"), resume=False, progress=shown).fit()
    last = epoch_lines(shown)[2]
    measured = rf"validation: loss {number}, accuracy {number} \(best\)"
    assert re.fullmatch(rf"epoch 1/2  loss {number}  {measured}  lr .* min left", last)


def test_batches_that_run_out_are_an_error(random_runs, tmp_path):
    run = random_runs.random_run("pretrain", tmp_path)

    class Short(random_runs.RandomBatches):
        batches_per_epoch = 7

    short = Short(run.settings)
    short.batches = lambda epoch, start: iter(())
    with pytest.raises(loop.DataError, match="epoch 1 ran out of clips after step 0"):
        random_runs.train(dataclasses.replace(run, train=short))


def test_metrics_are_plain_numbers(random_runs, tmp_path):
    random_runs.train(random_runs.random_run("pretrain", tmp_path, epochs=1))
    for line in read_metrics(tmp_path / "metrics.jsonl"):
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in line.values())
