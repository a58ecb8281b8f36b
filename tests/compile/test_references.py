"""A build computes each reference output once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kdcmae import KDCMAEClassifier
from kdcmae.compile import cases, models, references
from kdcmae.compile.models import EngineModel
from kdcmae.progress import Progress, Steps
from kdcmae.runtime.manifest import BatchRange


@pytest.fixture(scope="module")
def model() -> EngineModel:
    """Two blocks deep, for small inputs."""
    classifier = KDCMAEClassifier.from_preset(
        "tiny", num_classes=3, audio_length=32, image_size=16, specific_depth=1, unified_depth=1
    )
    return models.classifier_model(classifier.eval(), name="m", source="the test", random_weights=False)


def test_an_input_is_computed_once_however_it_is_batched(model: EngineModel) -> None:
    computed: list[int] = []

    def compute(inputs):
        computed.append(len(next(iter(inputs.values()))))
        return models.reference(model, inputs)

    remembered = references.remembered(dataclasses.replace(model, reference=compute))
    inputs = models.examples(model, 5)
    halves = [{name: array[rows] for name, array in inputs.items()} for rows in (slice(0, 2), slice(1, 5))]
    found = [models.reference(remembered, half)["logits"] for half in halves]
    expected = models.reference(model, inputs)["logits"]
    np.testing.assert_allclose(found[0], expected[:2], atol=1e-5)
    np.testing.assert_allclose(found[1], expected[1:], atol=1e-5)
    assert computed == [2, 3]


def test_samples_in_chunks_keep_their_order(model: EngineModel) -> None:
    inputs = models.examples(model, 11)
    samples = [{name: array[row : row + 1] for name, array in inputs.items()} for row in range(11)]
    records: list[Progress] = []
    with Steps(records.append)("reference outputs"):
        found = references.outputs_of(model, samples)["logits"]
    assert [record.parts is not None for record in records] == [False, True, False]
    np.testing.assert_allclose(found, models.reference(model, inputs)["logits"], atol=1e-5)


@pytest.mark.parametrize(
    ("parameters", "random_weights", "clips"),
    [(7_000_000, False, 64), (41_755_919, False, 64), (164_907_023, False, 10), (164_907_023, True, 2)],
)
def test_a_large_model_is_proved_on_as_many_clips_as_its_build_affords(
    parameters: int, random_weights: bool, clips: int, model: EngineModel
) -> None:
    facts = {"parameters": parameters, "random_weights": random_weights}
    assert cases.affordable_clips(dataclasses.replace(model, facts=facts), 64) == clips


def test_the_clips_that_a_user_asks_for_are_run_however_large_the_model_is(model: EngineModel) -> None:
    large = dataclasses.replace(model, facts={**model.facts, "parameters": 10**12})
    (case,) = cases.clip_cases(large, BatchRange(1, 1, 1), (), wanted=3)
    assert (case.samples, case.clips) == (3, "made")
