"""Peers: the real ONNX Runtime, and stand-ins for the commands of OpenVINO and TensorRT."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import nullcontext

import numpy as np
import pytest

from kdcmae.bench.report.records import Settings
from kdcmae.bench.run.interleaved import run_benchmark
from kdcmae.bench.run.peers import all_peers
from kdcmae.bench.run.sources import check_source, open_subject
from kdcmae.compile.build import CompileSettings, compile_engine
from kdcmae.compile.models import classifier_model
from kdcmae.errors import ConfigError, DeviceError, EngineError
from kdcmae.runtime import Manifest
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.manifest import BatchRange

SETTINGS = Settings(batch=1, threads=1, seconds=0.02, warm_up_s=0.001, timeout_s=60)


@pytest.fixture
def as_target(engine_folder):
    """The engine under another target's name: the stand-ins only look at its manifest."""

    def as_target(target: str, **engine: str):
        manifest = Manifest.read(engine_folder)
        (engine_folder / "model.bin").touch()
        dataclasses.replace(manifest, target=target, engine={"file": "model.onnx", **engine}).write(engine_folder)
        return engine_folder

    return as_target


TOY = """
from kdcmae.bench.run.peers import Peer
from kdcmae.bench.run.subjects import Facts, Subject
from kdcmae.runtime.manifest import TensorSpec


class Toy(Subject):
    def __init__(self, path, threads):
        inputs = (TensorSpec("x", ("batch", 4), "float32", "noise"),)
        self.facts = Facts(kind=f"toy {path}", computes_in="fp32", inputs=inputs, batch=None)

    def run(self, inputs):
        return {"logits": 2 * inputs["x"]}


PEER = Peer(name="toy", label="Toy", about="a toy", open=Toy, precision="bf16")
"""


def test_a_new_peer_is_one_file(tmp_path):
    (tmp_path / "toy.py").write_text(TOY)
    toy = f"{tmp_path}/toy.py"
    report = run_benchmark([f"{toy}:a", f"{toy}:b"], SETTINGS, step=nullcontext, yardstick=lambda: 1.0)
    reference, row = report.rows
    assert reference.is_reference
    assert (row.tool, row.kind, row.precision, row.engine) == (toy, "toy b", "bf16", None)
    assert row.parity.passed
    assert row.speed.ratio > 0


def test_a_file_without_a_peer_is_refused(tmp_path):
    (tmp_path / "empty.py").touch()
    with pytest.raises(ConfigError, match=r"empty\.py defines no peer; give it PEER = Peer"):
        open_subject(f"{tmp_path}/empty.py:preset:tiny", 1)


def test_every_peer_says_what_it_takes_and_needs():
    for name, peer in all_peers().items():
        assert peer.usage.startswith(f"{name}:")
        assert peer.about
        assert peer.needs


def test_a_peer_runs_whole_engines(engine_folder):
    with pytest.raises(ConfigError, match="benchmark_app runs a whole engine; give it without @audio"):
        check_source(f"benchmark_app:{engine_folder}@audio")


def test_a_peer_without_a_model_is_refused(tmp_path):
    (tmp_path / "toy.py").write_text(TOY)
    with pytest.raises(ConfigError, match="names no model; give it as benchmark_app:OPENVINO-ENGINE"):
        check_source("benchmark_app:")
    with pytest.raises(ConfigError, match=r"toy\.py names no model; give it as .*toy\.py:MODEL"):
        check_source(f"{tmp_path}/toy.py")


def test_dynamic_int8_gives_nearly_the_engine_s_outputs(engine_folder):
    peer, engine = open_subject(f"ort-int8:{engine_folder}", 1), open_subject(str(engine_folder), 1)
    inputs = example_inputs(engine.facts.inputs, 1, seed=0)
    expected = engine.run(inputs)["logits"]
    error = np.abs(peer.run(inputs)["logits"] - expected).max() / np.abs(expected).max()
    assert 0 < error < 0.2
    assert (peer.facts.computes_in, peer.facts.tolerance) == ("int8 dynamic", None)
    assert peer.facts.artifact_bytes < engine.facts.artifact_bytes
    assert peer.self_test() is None
    assert peer.facts.precision == "int8"


def test_a_peer_wants_the_engine_of_its_own_target(engine_folder):
    with pytest.raises(ConfigError, match="is an engine for onnx; give one for openvino"):
        open_subject(f"benchmark_app:{engine_folder}", 1)


def test_a_graph_needs_a_gpu():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(DeviceError, match="no CUDA device"):
        open_subject("torch-cuda:preset:tiny", 1)


def test_benchmark_app_runs_with_the_engine_s_settings(tool, as_target):
    folder = as_target("openvino", device="CPU", inference_precision="bf16")
    tool(
        "benchmark_app",
        "given = sys.argv\n"
        "wanted = ['-api', 'sync', '-nthreads', '3', '-infer_precision', 'bf16', '-t', '2',\n"
        "          'audio[1,64,128],image[1,3,32,32]']\n"
        "assert all(word in given for word in wanted), given\n"
        "folder = pathlib.Path(given[given.index('-report_folder') + 1])\n"
        "report = {'execution_results': {'latency (ms)': '12.5'}}\n"
        "(folder / 'benchmark_report.json').write_text(json.dumps(report))\n",
    )
    subject = open_subject(f"benchmark_app:{folder}", 3)
    assert subject.window({}, 1.6) == [12.5]
    assert subject.run({}) == {}
    assert (subject.facts.kind, subject.facts.boundary, subject.facts.preprocessing) == ("benchmark_app", "tool", None)


def test_a_tool_that_fails_is_quoted(tool, as_target):
    tool("benchmark_app", "sys.exit('the device is busy')")
    folder = as_target("openvino", device="CPU", inference_precision="f32")
    with pytest.raises(EngineError, match="benchmark_app ended with exit code 1: the device is busy"):
        open_subject(f"benchmark_app:{folder}", 1).window({}, 1)


def test_trtexec_gives_every_call(tool, as_target):
    folder = as_target("trt", flavour="tensorrt")
    tool(
        "trtexec",
        "path = next(word for word in sys.argv if word.startswith('--exportTimes=')).partition('=')[2]\n"
        "assert '--shapes=audio:1x64x128,image:1x3x32x32' in sys.argv\n"
        "pathlib.Path(path).write_text(json.dumps([{'latencyMs': 1.5}, {'latencyMs': 1.75}]))\n",
    )
    subject = open_subject(f"trtexec:{folder}", 1)
    assert subject.window({}, 1) == [1.5, 1.75]
    assert subject.facts.kind == "trtexec"


def test_a_tool_that_is_not_there_is_missing(as_target, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="tensorrt_rtx is not on the PATH; TensorRT's own archive has it"):
        open_subject(f"trtexec:{as_target('trt', flavour='tensorrt_rtx')}", 1)


@pytest.fixture(scope="module")
def compiled_openvino(quick_builds, classifier, tmp_path_factory):
    """The classifier as an OpenVINO engine; not to be changed."""
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("compiled") / "openvino"
    model = classifier_model(classifier, name="tiny", source="a test", random_weights=True)
    settings = CompileSettings(target="openvino", precision="fp32", batch=BatchRange(1, 1, 1))
    compile_engine(model, folder, settings, step=nullcontext, seconds={})
    return folder


def test_the_installed_benchmark_app_agrees_on_options_and_report(compiled_openvino):
    """The real command on a real IR: the stand-in above takes and writes what it does."""
    (median_ms,) = open_subject(f"benchmark_app:{compiled_openvino}", 1).window({}, 1)
    assert 0 < median_ms < 1e5


def test_the_library_s_call_alone_is_timed_in_a_process_of_its_own(compiled_openvino):
    alone, engine = open_subject(f"openvino-call:{compiled_openvino}", 1), open_subject(str(compiled_openvino), 1)
    latencies_ms = alone.window({}, 1)
    assert len(latencies_ms) > 1
    assert 0 < sum(latencies_ms[:-1]) < 1e3  # calls of one second, whose end the last crosses
    assert (alone.facts.boundary, alone.facts.computes_in) == ("library call", engine.facts.computes_in)
    assert not alone.facts.shows_outputs
    assert engine.facts.shows_outputs


def test_a_call_that_fails_says_why(compiled_openvino, tmp_path):
    folder = shutil.copytree(compiled_openvino, tmp_path / "engine")
    alone = open_subject(f"openvino-call:{folder}", 1)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(EngineError, match=r"exit code \d+: .*manifest"):
        alone.window({}, 1)


@pytest.mark.parametrize("peer", ["openvino-call", "benchmark_app"])
def test_an_engine_of_several_files_cannot_be_timed_as_one(peer, as_target, engine_folder):
    for role, name in (("frontend", "frontend.xml"), ("weights", "weights.bin")):
        for file in (name, "frontend.bin"):
            (engine_folder / file).touch()
        folder = as_target("openvino", inference_precision="f32", **{role: name})
        with pytest.raises(ConfigError, match=f"more than one IR: it has {name} too; give an engine"):
            open_subject(f"{peer}:{folder}", 1)
