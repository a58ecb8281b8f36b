"""``kdcmae check``: what it says of whole, damaged, mistaken and misplaced engines, where little is installed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from kdcmae.cli import main
from kdcmae.runtime.cpu import describe_cpu, this_cpu

BRIEFLY = ("--seconds", "0.05")


def claimed(precision: str, **others: Any) -> dict[str, Any]:
    """A manifest section that claims all products in one precision."""
    claim = {"layers": "products", "claimed": precision, "besides": {}, "executed": {}, "holds": None}
    return {"asked": precision, "claims": [claim], **others}


def check(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["check", str(folder), *BRIEFLY, *arguments])


def in_a_process(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def outcomes(card: dict[str, Any]) -> dict[str, str]:
    return {verdict["claim"]: verdict["outcome"] for verdict in card["verdicts"]}


@pytest.mark.parametrize("target", ["openvino", "onnx"])
def test_a_card_says_what_executes_how_exactly_and_how_fast(tiny: Any, tmp_path: Path, target: str) -> None:
    folder = tiny.make(target, precision=claimed("fp32"))
    result = check(folder, "--json", "--threads", "1", "--output", str(tmp_path / "new" / "card.json"))
    assert result.exit_code == 0, result.output
    card = json.loads(result.stdout)
    assert json.loads((tmp_path / "new" / "card.json").read_text()) == card
    assert outcomes(card) == {"files": "holds", "products in fp32": "holds", "self-test": "holds"}
    assert card["executed"]["products"] == {"fp32": 1}
    assert card["error"] <= card["tolerance"]
    timings, latency = card["timings"], card["timings"]["latency"]
    assert 0 < latency["p50_ms"] <= latency["p90_ms"] <= latency["p99_ms"]
    assert latency["count"] >= 1
    assert timings["load_ms"] > 0
    assert timings["peak_rss_bytes"] is None or timings["peak_rss_bytes"] > 1e6
    device = card["device"]
    assert (device["cpu_class"], set(device["cpu_features"])) == (this_cpu().class_name, this_cpu().features)
    assert device["threads"] == 1
    assert {"numpy", "openvino" if target == "openvino" else "onnxruntime"} == set(device["libraries"])


def test_a_full_disk_leaves_the_old_card(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, card = tiny.make("onnx", precision=claimed("fp32")), tmp_path / "card.json"
    card.write_text("old")

    def full(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    result = check(folder, "--threads", "1", "--output", str(card))
    assert result.exit_code == 2
    assert "card.json: no space left on the device" in result.stderr
    assert card.read_text() == "old"


def test_the_table_has_every_claim_and_every_figure(tiny: Any) -> None:
    folder = tiny.make("openvino", precision=claimed("fp32", built_for={"class": "amx", "name": "amx"}))
    result = check(folder, "--name", "shelf 1")
    assert result.exit_code == 0, result.output
    for text in (
        "shelf 1: ",
        "for amx",
        "products in fp32",
        "1 in fp32; not checked where it was built",
        "self-test",
        "p99",
        "MB",
    ):
        assert text in result.stdout
    assert "every claim that this machine can check holds" in result.stdout


def test_a_claim_that_does_not_hold_is_exit_code_1_with_what_executes(tiny: Any) -> None:
    result = check(tiny.make("openvino", precision=claimed("int8")), "--json")
    assert result.exit_code == 1
    card = json.loads(result.stdout)
    assert outcomes(card)["products in int8"] == "does not hold"
    assert "claims do not hold here (products in int8); its products execute in fp32, at" in result.stderr
    assert "warning" not in result.stderr


def test_below_a_cap_an_engine_for_amx_says_what_executes_instead(tiny: Any) -> None:
    engine = {"file": "model.xml", "device": "CPU", "inference_precision": "bf16"}
    folder = tiny.make("openvino", engine=engine, precision=claimed("bf16", built_for={"class": "amx", "name": "amx"}))
    done = in_a_process(
        "from kdcmae.cli import main; main()", "check", str(folder), *BRIEFLY, "--json", ONEDNN_MAX_CPU_ISA="AVX2"
    )
    assert done.returncode == 1, done.stderr
    card = json.loads(done.stdout)
    assert card["executed"]["products"] == {"fp32": 1}
    assert outcomes(card) == {"files": "holds", "products in bf16": "does not hold", "self-test": "holds"}
    assert (card["device"]["cpu_cap"], card["engine"]["built_for"]) == ("AVX2", "amx")


@pytest.mark.parametrize(("built_for", "outcome"), [("amx", "does not hold"), ("avx2", None)])
def test_int8_for_a_processor_whose_sums_fit_does_not_hold_where_they_saturate(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, built_for: str, outcome: str | None
) -> None:
    monkeypatch.setattr("kdcmae.runtime.capabilities.this_cpu", lambda: describe_cpu("avx2"))
    folder = tiny.make("onnx", precision=claimed("int8", built_for=describe_cpu(built_for).to_dict()))
    card = json.loads(check(folder, "--json").stdout)
    assert outcomes(card).get("sums of int8 products fit") == outcome


def test_what_a_library_does_not_report_cannot_be_told(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdcmae.runtime.execution import Execution
    from kdcmae.runtime.onnx import ONNXBackend

    monkeypatch.setattr(ONNXBackend, "profile", lambda backend, folder, feed: Execution())
    result = check(tiny.make("onnx", precision=claimed("fp32")), "--json")
    assert result.exit_code == 0
    assert outcomes(json.loads(result.stdout))["products in fp32"] == "cannot be told"
    assert json.loads(result.stdout)["executed"] == {}


def test_a_self_test_that_fails_is_exit_code_1(engine_folder: Path, tiny: Any) -> None:
    with np.load(engine_folder / "golden.npz") as arrays:
        content = dict(arrays)
    content["output.logits"] = content["output.logits"][::-1]
    np.savez(engine_folder / "golden.npz", **content)
    target = "onnx" if engine_folder.name.startswith("onnx") else "openvino"
    tiny.manifest(target).write(engine_folder)
    result = check(engine_folder)
    assert result.exit_code == 1
    assert "do not hold here (self-test); it does not compute here what its model computes" in result.stderr


def test_a_damaged_file_is_a_bad_engine(engine_folder: Path) -> None:
    (engine_folder / "labels.txt").write_bytes(b"another\n")
    result = check(engine_folder, "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "labels.txt has changed" in result.stderr


def test_a_folder_that_is_no_engine(tmp_path: Path) -> None:
    result = check(tmp_path)
    assert result.exit_code == 2
    assert "has no manifest.json" in result.stderr


@pytest.mark.parametrize(("target", "module"), [("openvino", "openvino"), ("onnx", "onnxruntime")])
def test_a_missing_library_is_exit_code_3_and_one_line(tiny: Any, target: str, module: str) -> None:
    folder = tiny.make(target)
    code = f"import sys; sys.modules[{module!r}] = None\nfrom kdcmae.cli import main; main()"
    done = in_a_process(code, "check", str(folder), *BRIEFLY)
    assert done.returncode == 3
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert f"{module} is not installed; install it with: pip install 'kdcmae[" in line


@pytest.mark.parametrize("target", ["openvino", "onnx"])
def test_a_device_needs_numpy_and_the_engines_library_alone(tiny: Any, target: str) -> None:
    hidden = ("torch", "rich", "av", "safetensors", "onnx", "onnxscript", "nncf", "triton")
    code = f"import sys\nfor name in {hidden}: sys.modules[name] = None\nfrom kdcmae.cli import main; main()"
    done = in_a_process(code, "check", str(tiny.make(target, precision=claimed("fp32"))), *BRIEFLY, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["executed"]["products"] == {"fp32": 1}


def test_a_class_compiled_into_others_here_and_there_is_no_open_claim(tiny: Any) -> None:
    claim = {"layers": "softmax", "claimed": "fp32", "besides": {}, "executed": {}, "checked": "to be checked on amx"}
    result = check(tiny.make("openvino", precision={"claims": [claim]}), "--json")
    assert outcomes(json.loads(result.stdout)) == {"files": "holds", "self-test": "holds"}
