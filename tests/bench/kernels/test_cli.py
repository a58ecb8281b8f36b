"""The kernel benchmark from the command line: a dry run of everything, and what it says where it cannot run."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from kdcmae.bench.cli import main
from kdcmae.bench.kernels import step, suite
from kdcmae.bench.kernels.schema import Settings
from kdcmae.bench.kernels.suite import Budget, describe_device, run_kernel_benchmark
from kdcmae.bench.report.files import slug

ATTENTION = {"kernel", "reference", "cudnn", "flash", "efficient", "math"}
PATCH_EMBEDDING = {"kernel", "gather + GEMM", "dense, then gather"}
STEP = {"kernels", "reference", "published", "published, fused attention"}


@pytest.fixture
def invoke(monkeypatch):
    """Runs the command line in this process, on a machine without a GPU, and without interpreting kernels."""
    monkeypatch.setattr(step, "kernel_obstacle", lambda profile: "needs a CUDA device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def invoke(*arguments: object):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return invoke


def test_a_dry_run_checks_and_times_everything_interpreted(tmp_path):
    """In a process of its own, for Triton decides once whether it interprets."""
    pytest.importorskip("triton", reason="the kernels need Triton")
    output = tmp_path / "results" / "kernels.json"
    command = [sys.executable, "-m", "kdcmae.bench", "kernels", "--quick", "--device", "cpu", "--minutes", "0.01"]
    done = subprocess.run(
        [*command, "--output", str(output)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Summary" in done.stdout
    content = json.loads(output.read_text())
    assert content["settings"]["quick"]
    assert content["ceilings"]["matmul_flop_per_s"] > 0
    kinds = [case["kind"] for case in content["cases"]]
    assert kinds == ["attention", "attention", "patch-embedding", "patch-embedding", "step"]
    for case in content["cases"]:
        check_case(case)


@pytest.mark.gpu
def test_a_dry_run_on_a_gpu_times_every_condition(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    output = tmp_path / "kernels.json"
    result = CliRunner().invoke(main, ["kernels", "--quick", "--minutes", "0.3", "--output", str(output)])
    assert result.exit_code == 0, result.output
    content = json.loads(output.read_text())
    assert content["device"]["name"] == torch.cuda.get_device_name()
    for case in content["cases"]:
        for result in case["results"]:
            if result["name"].startswith(("kernel", "reference")):
                assert (result["status"], result["reason"]) == ("measured", "")
                for timings in result["timings"].values():
                    assert len(timings) == (1 if case["kind"] == "step" else 4)


def check_case(case) -> None:
    results = {result["name"]: result for result in case["results"]}
    assert set(results) == {"attention": ATTENTION, "patch-embedding": PATCH_EMBEDDING, "step": STEP}[case["kind"]]
    directions = {"both"} if case["kind"] == "step" else {"forward", "backward", "both"}
    for name, result in results.items():
        if name in ("cudnn", "efficient"):
            assert (result["status"], result["reason"]) == ("absent", "needs a CUDA device")
            continue
        assert (result["status"], result["reason"]) == ("measured", "")
        assert result["error"] <= result["allowed"]
        assert set(result["timings"]) == directions
        for timings in result["timings"].values():
            timing = timings["plain, warm"]
            assert 0 < timing["p20_us"] <= timing["median_us"] <= timing["p80_us"]
            assert len(timing["round_medians_us"]) == 1
    assert {comparison["direction"] for comparison in case["comparisons"]} == directions
    for comparison in case["comparisons"]:
        assert comparison["subject"].startswith("kernel")
        assert math.isfinite(comparison["speed"]["ratio"])
        assert comparison["target"] is None  # tiny sizes have none


def test_without_a_gpu_it_is_one_line_and_exit_code_3(invoke):
    result = invoke("kernels")
    assert result.exit_code == 3
    assert result.stderr == (
        "error: no CUDA device here; add --device cpu for what a CPU can show, or --quick for a dry run\n"
    )


def test_json_has_stdout_to_itself(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("kernels", "--quick", "--device", "cpu", "--case", "step", "--minutes", "0.01", "--json")
    content = json.loads(result.stdout)
    assert [case["kind"] for case in content["cases"]] == ["step"]
    assert content["device"] == describe_device(torch.device("cpu"))
    assert not list(tmp_path.iterdir())  # neither a dry run nor a part of the cases replaces a result


def test_results_are_stored_case_by_case_under_the_devices_name(invoke, tmp_path, monkeypatch):
    tiny = Settings(device="cpu", kinds=("step",), quick=True, minutes=0.01, rounds=1)
    kept = []

    def run(settings, *, step, store):
        assert (settings.device, settings.quick, settings.rounds) == ("cpu", False, 10)

        def store_and_count(report):
            store(report)
            kept.append(len(report.cases))

        return run_kernel_benchmark(tiny, step=step, store=store_and_count)

    monkeypatch.setattr(suite, "run_kernel_benchmark", run)
    monkeypatch.chdir(tmp_path)
    assert invoke("kernels", "--device", "cpu").exit_code == 0
    assert kept == [1]
    name = slug(describe_device(torch.device("cpu"))["name"])
    assert [path.name for path in (tmp_path / "bench" / "results").iterdir()] == [f"kernels-{name}.json"]


@pytest.mark.parametrize("arguments", [["--device", "tpu"], ["--case", "everything"], ["--minutes", "0"], ["x"]])
def test_wrong_use_is_exit_code_2(invoke, arguments):
    assert invoke("kernels", *arguments).exit_code == 2


@pytest.mark.parametrize("command", ["kernels", "readme"])
def test_help_loads_neither_torch_nor_numpy(command):
    code = (
        f"import sys; from kdcmae.bench.cli import main; main(['{command}', '--help'], standalone_mode=False); "
        "sys.exit(bool({'torch', 'numpy', 'triton'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Usage: ")


def test_the_budget_is_what_is_left_by_weight():
    now = [100.0]
    budget = Budget(50, clock=lambda: now[0])
    assert budget.share(1, 5) == pytest.approx(0.6 * 50 / 5)
    now[0] = 140.0
    assert budget.share(2, 4) == pytest.approx(0.6 * 10 / 2)
    now[0] = 200.0
    assert budget.share(1, 1) == 0


@pytest.mark.parametrize(
    ("name", "expected"), [("NVIDIA H200", "nvidia-h200"), ("AMD EPYC (x) @ 2 GHz", "amd-epyc-x-2-ghz")]
)
def test_a_devices_name_makes_a_file_name(name, expected):
    assert slug(name) == expected
