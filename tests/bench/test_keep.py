from __future__ import annotations

from contextlib import nullcontext

import pytest

from kdcmae.bench.keep import BEGIN, END, KeepSettings, pareto, render, run_keep_benchmark
from kdcmae.bench.markers import replace_between
from kdcmae.data.avsynth.classes import LABELS


def row(latency_ms: float, accuracy: float) -> dict:
    return {"latency": {"onnx fp32": {"p50_ms": latency_ms}}, "accuracy": accuracy}


def test_the_front_is_what_nothing_beats():
    rows = [row(10, 90), row(5, 90), row(4, 80), row(6, 70), row(3, 70)]
    assert pareto(rows, "onnx fp32") == [False, True, True, False, True]


@pytest.fixture(scope="module")
def report():
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from kdcmae import KDCMAEClassifier

    torch.manual_seed(0)
    classifier = KDCMAEClassifier.from_preset(
        "tiny", num_classes=len(LABELS), specific_depth=1, audio_length=64, image_size=64, labels=LABELS.names
    ).eval()
    settings = KeepSettings(targets=(("onnx", "fp32"),), ratios=(0.5,), clips=12, threads=1, rounds=2, window_s=0.01)
    facts = {"name": "tiny", "source": "a test", "random_weights": True}
    return run_keep_benchmark(classifier, facts, settings, step=lambda name: nullcontext())


@pytest.mark.slow
def test_every_way_is_measured(report):
    assert [(row["by"], row["ratio"]) for row in report["rows"]] == [
        ("all", 1.0),
        ("merge", 0.5),
        ("energy", 0.5),
        ("uniform", 0.5),
    ]
    whole = report["rows"][0]
    assert whole["agreement"] == 100
    assert whole["latency"]["onnx fp32"]["ratio"] == 1
    assert all(0 <= row["accuracy"] <= 100 and row["latency"]["onnx fp32"]["p50_ms"] > 0 for row in report["rows"])


@pytest.mark.slow
def test_the_table_goes_between_the_markers(report, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\n{END}\nafter\n", encoding="utf-8")
    assert replace_between(readme, BEGIN, END, render(report))
    text = readme.read_text(encoding="utf-8")
    assert "| 50% | merge |" in text
    assert "1.00x" in text
