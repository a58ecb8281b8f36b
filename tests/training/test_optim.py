from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.optim.lr_scheduler import MultiStepLR

from kdcmae import KDCMAEClassifier
from kdcmae.training.optim import WeightAverage, build_optimizer, learning_rate, select_trained
from kdcmae.training.recipes import RECIPES


@pytest.fixture
def classifier(random_runs) -> KDCMAEClassifier:
    return KDCMAEClassifier.from_preset("tiny", num_classes=3, **random_runs.SIZES)


@pytest.mark.parametrize("name", ["vggsound-pretrain", "audioset20k-finetune", "audioset2m-finetune"])
def test_the_learning_rate_is_that_of_the_published_scheduler(name):
    settings = RECIPES[name].training
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    scheduler = MultiStepLR(
        optimizer, list(range(settings.decay_start_epoch, 1000, settings.decay_every_epochs)), gamma=0.5
    )
    for epoch in range(settings.epochs):
        assert learning_rate(settings, epoch=epoch, step=0) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_warm_up_rises_to_the_full_rate():
    settings = dataclasses.replace(RECIPES["vggsound-pretrain"].training, learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(settings, epoch=0, step=step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_the_head_learns_faster(classifier):
    settings = RECIPES["audioset20k-finetune"].training
    body, head = build_optimizer(classifier, settings).param_groups
    assert (body["factor"], head["factor"]) == (1.0, 100.0)
    assert {id(p) for p in head["params"]} == {id(p) for p in classifier.mlp_head.parameters()}
    assert len(body["params"]) + len(head["params"]) == len(list(classifier.parameters()))
    assert body["betas"] == (0.95, 0.999)
    assert body["weight_decay"] == 5e-7


def test_a_linear_probe_trains_the_head_alone(classifier):
    settings = dataclasses.replace(RECIPES["vggsound-finetune"].training, trained="head")
    select_trained(classifier, settings)
    (group,) = build_optimizer(classifier, settings).param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in classifier.mlp_head.parameters()}
    assert sum(p.requires_grad for p in classifier.parameters()) == len(group["params"])


def test_an_average_is_the_mean_of_its_states_and_survives_saving():
    states = [{"a": torch.tensor([value, -value])} for value in (1.0, 2.0, 6.0)]
    average = WeightAverage()
    for state in states[:2]:
        average.add(state)
    resumed = WeightAverage()
    resumed.load_state_dict(average.state_dict())
    resumed.add(states[2])
    torch.testing.assert_close(resumed.mean["a"], torch.tensor([3.0, -3.0]))
    assert states[0]["a"].tolist() == [1.0, -1.0]
