from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

from kdcmae.compile import compile_model
from kdcmae.errors import CheckpointError, ConfigError, GateError
from kdcmae.progress import Progress

QUICK = {"target": "openvino", "precision": "fp32"}


def test_a_checkpoint_becomes_the_engine_that_the_command_line_makes(checkpoint, engine, tmp_path, caplog):
    caplog.set_level(logging.INFO, "kdcmae.compile")
    records: list[Progress] = []
    with compile_model(checkpoint, output=tmp_path / "out", progress=records.append, no_cache=True, **QUICK) as made:
        assert made.self_test().passed
        assert made.labels == ("dog", "rain", "violin")
    for name in ("model.bin", "labels.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (engine / name).read_bytes()
    assert {record.state for record in records} == {"running", "done"}
    assert "build openvino engine" in [record.name for record in records]
    assert "openvino, fp32" in caplog.text


def test_a_model_of_this_process_stays_as_it_is(smallest, tmp_path):
    before = {name: value.clone() for name, value in smallest.state_dict().items()}
    with compile_model(smallest, output=tmp_path / "out", no_cache=True, **QUICK) as made:
        rng = np.random.default_rng(0)
        feed = {spec.name: rng.standard_normal(spec.sizes(1)).astype(np.float32) for spec in made.manifest.inputs}
        logits = made.infer(feed)["logits"]
    with torch.inference_mode():
        expected = smallest(**{name: torch.from_numpy(array) for name, array in feed.items()})
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in smallest.state_dict().items())


def test_the_content_of_a_checkpoint_is_read_as_its_file_is(tmp_path):
    with pytest.raises(CheckpointError):
        compile_model({"weight": torch.zeros(3)}, output=tmp_path / "out", **QUICK)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precison": "int8"}, "did you mean precision"),
        ({"precision": "int7"}, "int7"),
        ({"no_cache": 1}, "must be True or False"),
        ({"batch": "0"}, "batch"),
        ({"max_drop": 1.0}, "--max-drop"),
        ({"as_json": True}, "no option"),
        ({"help": True}, "no option"),
    ],
)
def test_what_is_no_option_is_refused_before_any_work(options, said, checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=said):
        compile_model(checkpoint, output=tmp_path / "out", **{**QUICK, **options})
    assert not (tmp_path / "out").exists()


def test_something_else_than_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="give a path"):
        compile_model(7, output=tmp_path / "out", **QUICK)


@pytest.mark.parametrize(
    "options", [{"checkpoint": "absent.pth"}, {"clips": ["absent.mp4"]}, {"expect": "absent.jsonl"}]
)
def test_a_file_that_is_not_there_is_an_error_of_the_package(options, checkpoint, tmp_path):
    model = options.pop("checkpoint", checkpoint)
    with pytest.raises(ConfigError, match=r"absent\.\w+: No such file or directory; check the path"):
        compile_model(model, output=tmp_path / "out", **{**QUICK, **options})


def test_an_engine_that_fails_its_gate_is_not_published(checkpoint, tmp_path):
    rows = tmp_path / "expected.jsonl"
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "clip.npz", audio=rng.standard_normal((1, 64, 128), dtype=np.float32),
             image=rng.standard_normal((1, 3, 32, 32), dtype=np.float32))  # fmt: skip
    rows.write_text(json.dumps({"inputs": "clip.npz", "logits": [9.0, -9.0, 3.0]}) + "\n")
    with pytest.raises(GateError):
        compile_model(checkpoint, output=tmp_path / "out", expect=rows, **QUICK)
    assert not (tmp_path / "out").exists()
