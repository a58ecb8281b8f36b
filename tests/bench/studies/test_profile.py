"""Where an engine's time goes."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext

import pytest
from click.testing import CliRunner

from kdcmae.bench.cli import main
from kdcmae.bench.report.records import Ceilings
from kdcmae.bench.report.rendering import render_markdown
from kdcmae.bench.studies import profile
from kdcmae.bench.studies.profile import SECTION, profile_engines
from kdcmae.compile.build import CompileSettings, compile_engine
from kdcmae.compile.models import classifier_model
from kdcmae.errors import ConfigError
from kdcmae.runtime.manifest import BatchRange


@pytest.fixture
def ceilings(monkeypatch):
    """Two measurements that differ, instead of half a minute's work."""
    rates = iter([1e9, 3e9] * 4)

    def measure(cpus, *, seconds):
        return Ceilings(flop_per_s=dict.fromkeys(("fp32", "bf16", "int8"), next(rates)), copy_bytes_per_s=1.0, how={})

    monkeypatch.setattr(profile, "measure_ceilings", measure)


@pytest.fixture(scope="module")
def openvino_engine(quick_builds, classifier, tmp_path_factory):
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("profiled") / "engine"
    settings = CompileSettings(target="openvino", precision="fp32", batch=BatchRange(1, 1, 1))
    model = classifier_model(classifier, name="tiny", source="a test", random_weights=True)
    manifest = compile_engine(model, folder, settings, step=lambda name: nullcontext(), seconds={})
    # As if it had been built on a machine where something else executes.
    dataclasses.replace(manifest, precision={**manifest.precision, "products": {"bf16": 9}}).write(folder)
    return folder


@pytest.fixture
def document(openvino_engine, ceilings):
    return profile_engines([openvino_engine], threads=1, seconds=0.05, step=lambda name: nullcontext())


@pytest.fixture
def report(document):
    return document["engines"][0]


def test_every_class_of_layers_has_its_time_and_precision(report):
    layers = {layer["layers"]: layer for layer in report["layers"]}
    assert {"linear layers", "attention", "norms"} <= layers.keys()
    assert {layer["precision"] for layer in report["layers"]} == {"fp32"}
    assert layers["linear layers"]["count"] >= 4 * layers["attention"]["count"]
    times = [layer["ms"] for layer in report["layers"]]
    assert times == sorted(times, reverse=True)
    assert min(times) > 0


def test_the_share_of_the_ceiling_is_against_its_mean(report):
    assert report["ceilings_flop_per_s"] == [1e9, 3e9]
    assert report["precision"] == "fp32"
    assert report["share_of_ceiling"] == pytest.approx(1e3 * report["flop"] / report["latency_ms"] / 2e9)


def test_the_table_adds_up(document, report):
    text = render_markdown(SECTION.render(document))
    shares = [
        float(line.split("|")[-2].strip(" %")) for line in text.splitlines() if line.startswith("| ") and "%" in line
    ]
    assert len(shares) == len(report["layers"])
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert f"{report['share_of_ceiling']:.0%} of the 2 GFLOP/s" in text


def test_a_kernel_with_a_softmax_inside_is_attention():
    class Text(str):
        def astype(self, kind):
            return str(self)

    def kind(layer, precision, names):
        info = {"layerType": layer, "runtimePrecision": precision, "originalLayersNames": names}
        return profile._kind({key: Text(value) for key, value in info.items()})

    assert kind("Subgraph", "i8", "node_matmul,node_softmax,node_matmul_1") == ("attention", "int8")
    assert kind("Subgraph", "bf16", "node_add_1") == ("sums, scales, rounding", "bf16")
    assert kind("TopK", "i32", "") == ("others", "i32")


def test_other_targets_are_refused(engine_folder):
    with pytest.raises(ConfigError, match="is an engine for onnx; only OpenVINO"):
        profile_engines([engine_folder], threads=1, seconds=0.01, step=lambda name: nullcontext())


def test_from_the_command_line(openvino_engine, ceilings, tmp_path):
    readme, output = tmp_path / "README.md", tmp_path / "profile.json"
    readme.write_text(f"{SECTION.begin}\n{SECTION.end}\n", encoding="utf-8")
    arguments = ["profile", openvino_engine, "--threads", 1, "--seconds", 0.05, "--readme", readme, "--output", output]
    result = CliRunner().invoke(main, [str(argument) for argument in [*arguments, "--json"]])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == json.loads(output.read_text(encoding="utf-8"))
    assert "| linear layers | fp32 |" in readme.read_text(encoding="utf-8")
