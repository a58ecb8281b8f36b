"""Engines in parts: built, proved and looked at as engines in one piece are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcmae.bench.run.peers import find_peer
from kdcmae.compile.cutting import find_border
from kdcmae.compile.parity import TOLERANCE
from kdcmae.compile.targets import load_target
from kdcmae.errors import ConfigError, EngineError
from kdcmae.runtime import load_engine
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.manifest import Manifest
from kdcmae.runtime.targets import TARGETS

GROUPS = {"audio": ("a",), "video": ("v",)}


@pytest.fixture(scope="module", params=["openvino", "onnx"])
def split(request, checkpoint, run, tmp_path_factory) -> Path:
    """With a variant for clips without picture, in fp32."""
    folder = tmp_path_factory.mktemp("split") / request.param
    result = run("--target", request.param, "--precision", "fp32", "--checkpoint", checkpoint, "--output", folder,
                 "--modalities", "audiovisual,audio", "--split", "--no-cache")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    return folder


def test_its_parts_compute_what_the_model_does(split, smallest):
    with load_engine(split) as engine:
        feed = example_inputs(engine.manifest.inputs, 1)
        for names in (("audio", "image"), ("audio",)):
            given = {name: feed[name] for name in names}
            with torch.inference_mode():
                right = smallest(**{name: torch.from_numpy(array) for name, array in given.items()}).numpy()
            found = engine.infer(given)["logits"]
            assert np.abs(found - right).max() <= TOLERANCE["fp32"] * np.abs(right).max()
        engine.infer({**feed, "image": -feed["image"]})
        assert engine.encoder_runs == {"audio": 1, "video": 2}
        assert engine.self_test().passed
    assert {rung["name"]: rung["status"] for rung in engine.manifest.parity} == dict.fromkeys(
        ("program", "onnx", "engine", "artifact"), "passed"
    )


def test_a_variant_adds_few_weights(split, smallest):
    """What hears and what joins has the same weights in either, and they are in one file."""
    parameters = 4 * sum(parameter.numel() for parameter in smallest.parameters())
    assert (split / "weights.bin").stat().st_size < 1.2 * parameters
    assert {Manifest.read(split, name).engine["weights"] for name in ("", "audio")} == {"weights.bin"}


def test_what_it_executes_is_that_of_the_whole(split, engine_of):
    manifest = Manifest.read(split)
    whole = Manifest.read(engine_of(manifest.target, "fp32"))
    assert manifest.precision["products"] == whole.precision["products"]
    assert all(claim["holds"] for claim in manifest.precision["claims"])


def test_it_is_inspected_verified_and_shown_by_its_parts(split, run):
    facts = json.loads(run("inspect", split, "--json").stdout)
    assert list(facts["parts"]) == ["audio", "video", "joint"]
    assert all(part["graph"]["operations"] for part in facts["parts"].values())
    text = run("inspect", split).output
    assert "joint: audio_tokens, video_tokens -> logits" in text
    assert "Operations in the file of part video" in text
    assert run("verify", split).exit_code == 0
    assert run("diff", split, split).exit_code == 0


def test_what_opens_the_file_itself_refuses_it(split, run, checkpoint):
    result = run("diagnose", split, "--checkpoint", checkpoint)
    assert result.exit_code == 2
    assert "is in parts" in result.stderr
    peer = {"openvino": "openvino-call", "onnx": "ort-int8"}[Manifest.read(split).target]
    with pytest.raises(ConfigError, match="is in parts"):
        find_peer(peer).load(str(split), 1)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        pytest.param(
            "openvino", ("--precision", "int8", "--inputs", "raw", "--calibration", "avsynth:4"), marks=pytest.mark.slow
        ),
        ("openvino", ("--precision", "bf16", "--batch", "1:2:3")),
        pytest.param(
            "openvino", ("--precision", "fp32", "--keep", "0.5", "--keep-by", "merge"), marks=pytest.mark.slow
        ),
        ("onnx", ("--precision", "int8", "--calibration", "avsynth:4")),
        pytest.param("onnx", ("--precision", "fp32", "--inputs", "raw", "--batch", "1:2:3"), marks=pytest.mark.slow),
    ],
    ids=lambda value: "".join(value),
)
def test_it_is_proved_in_every_precision_and_of_every_input(target, options, checkpoint, run, tmp_path, accepted):
    """Ranges are learnt with the whole graph, so each part is quantised for what the one before gives it."""
    if "bf16" in options:
        options = (*accepted["bf16"], *options[2:])
    folder = tmp_path / "engine"
    result = run("--target", target, *options, "--checkpoint", checkpoint, "--output", folder, "--split",
                 "--proof-clips", "4", "--no-cache")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    manifest = Manifest.read(folder)
    assert list(manifest.parts()) == ["audio", "video", "joint"]
    assert manifest.parity[-1]["status"] == "passed"


def test_an_encoder_with_other_weights_fails_the_self_test(split, smallest, tmp_path):
    """The digests are right and every tensor fits."""
    folder = shutil.copytree(split, tmp_path / "engine")
    weight = smallest.blocks_v[0].mlp.fc2.weight.detach().numpy()
    weights = (folder / "weights.bin").read_bytes()
    stored = next(array for array in (weight, weight.T) if array.tobytes() in weights)
    (folder / "weights.bin").write_bytes(weights.replace(stored.tobytes(), stored[::-1].tobytes()))
    for variant in ("audio", ""):
        Manifest.read(folder, variant).write(folder, variant)
    with load_engine(folder) as engine:
        assert not engine.self_test().passed


@pytest.mark.parametrize("target", [name for name in TARGETS if load_target(name).cannot_split])
def test_a_target_that_cannot_split_says_so(target, run):
    result = run("--target", target, "--split", "--precision", "fp32")
    assert result.exit_code == 2
    assert f"--split cannot be had with --target {target}" in result.stderr
    assert "use openvino, onnx" in result.stderr


def test_a_model_of_sound_alone_has_nothing_to_split(run, checkpoint, tmp_path):
    result = run("--target", "onnx", "--checkpoint", checkpoint, "--modality", "audio", "--split",
                 "--output", tmp_path / "engine", "--no-cache")  # fmt: skip
    assert result.exit_code == 2
    assert "--split is for models of sound and picture" in result.stderr


def test_the_border_is_where_two_modalities_meet():
    nodes = [((), ("c",)), (("a", "c"), ("x",)), (("v", "c"), ("y",)), (("x", "y"), ("z",)), (("z", "x"), ("out",)),
             (("y",), ("own",))]  # fmt: skip
    border = find_border(nodes, GROUPS, ["out", "own"])
    assert border.handed == {"audio": ("x",), "video": ("y",)}
    assert border.outputs == {"audio": (), "video": ("own",), "joint": ("out",)}
    assert border.joint == {"z", "out"}
    assert border.tensor_names() == {"x": "audio_tokens", "y": "video_tokens"}


def test_modalities_that_never_meet_have_no_joint_part():
    border = find_border([(("a",), ("x",)), (("v",), ("y",))], GROUPS, ["x", "y"])
    assert border.outputs == {"audio": ("x",), "video": ("y",)}


def test_a_graph_without_one_modality_is_refused():
    with pytest.raises(EngineError, match="nothing that reads video only"):
        find_border([(("a",), ("x",))], GROUPS, ["x"])
