from __future__ import annotations

from contextlib import nullcontext

import pytest

from kdcmae.bench.report.rendering import render_markdown
from kdcmae.bench.report.table import on_front
from kdcmae.bench.studies.keep import SECTION, HeldOutExam, KeepSettings, run_keep_benchmark
from kdcmae.data.avsynth.classes import LABELS

pytestmark = pytest.mark.usefixtures("quick_builds")


def test_the_front_is_what_nothing_beats():
    points = [(10, -90), (5, -90), (4, -80), (6, -70), (3, -70)]
    assert on_front(points) == [False, True, True, False, True]


def test_what_was_not_measured_is_not_on_the_front():
    assert on_front([(10, -90), None]) == [True, False]
    assert on_front([None, None]) == [False, False]


def test_the_table_tells_what_failed_and_what_was_unstable():
    speed = {"ratio": 1.5, "low": 1.4, "high": 1.6}
    timed = {"accuracy": 90.0, "agreement": 95.0, "p50_ms": 2.0, "stable": False, "speed": speed, "on_front": True}
    rows = [
        {"ratio": 0.5, "by": "energy", **timed},
        {"ratio": 0.25, "by": "energy", "failed": "it does not pass its gate", "on_front": False},
    ]
    environment = {"host": {"cpu": "a processor"}, "load_average_1min": 0.0}
    report = {"environment": environment, "model": FACTS, "settings": {"threads": 2, "clips": 0},
              "targets": {"onnx fp32": rows}}  # fmt: skip
    lines = render_markdown(SECTION.render(report)).splitlines()
    assert lines[-2:] == [
        "| 50% | energy | 90.0 | 95.0 | 2 (unstable) | 1.50 (1.40-1.60) | yes |",
        "| 25% | energy | - | - | failed | - |  |",
    ]


SETTINGS = KeepSettings(targets=(("onnx", "fp32"),), ratios=(0.5,), clips=12, threads=1, seconds=0.05)
FACTS = {"name": "tiny", "source": "a test", "random_weights": True}


@pytest.fixture(scope="module")
def classifier():
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from kdcmae import KDCMAEClassifier

    torch.manual_seed(0)
    return KDCMAEClassifier.from_preset(
        "tiny", num_classes=len(LABELS), specific_depth=1, audio_length=64, image_size=64, labels=LABELS.names
    ).eval()


@pytest.fixture(scope="module")
def report(classifier):
    return run_keep_benchmark(classifier, FACTS, SETTINGS, step=lambda name: nullcontext())


@pytest.mark.slow
def test_every_way_is_measured(report):
    rows = report["targets"]["onnx fp32"]
    assert [(row["by"], row["ratio"]) for row in rows] == [
        ("all", 1.0),
        ("merge", 0.5),
        ("energy", 0.5),
        ("uniform", 0.5),
    ]
    whole = rows[0]
    assert whole["agreement"] == 100
    assert whole["accuracy"] == report["pytorch_accuracy"]
    assert whole["speed"]["ratio"] == 1
    assert all(0 <= row["accuracy"] <= 100 and row["p50_ms"] > 0 for row in rows)
    assert any(row["on_front"] for row in rows)


def test_accuracies_are_those_of_the_model_that_answers(classifier):
    """One that answers otherwise than the whole model has the accuracy of its own answers."""
    from kdcmae.predictors import CheckpointPredictor

    class Contrary(CheckpointPredictor):
        def infer(self, inputs):
            return {name: -output for name, output in super().infer(inputs).items()}

    exam = HeldOutExam(classifier, 12)
    assert exam.measure(CheckpointPredictor(classifier, "")) == {"accuracy": exam.accuracy, "agreement": 100}
    assert exam.measure(Contrary(classifier, ""))["agreement"] == 0


@pytest.mark.slow
def test_the_table_shows_every_way(report):
    text = render_markdown(SECTION.render(report))
    assert "| 50% | merge |" in text
    assert "onnx fp32:" in text
    assert "| 1.00 (1.00-1.00) |" in text
