"""What the kernel benchmark prints, and what it writes into the documentation."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from dataclasses import replace

import pytest

from kdcmae.bench.kernels.report import NOT_MEASURED, SECTION, blocks
from kdcmae.bench.kernels.schema import (
    CaseResult,
    Comparison,
    Report,
    Result,
    Settings,
    Timing,
    Work,
)
from kdcmae.bench.report.history import stored_documents
from kdcmae.bench.report.records import DeviceCeilings
from kdcmae.bench.report.rendering import print_blocks, render_markdown
from kdcmae.bench.run.timing import SpeedRatio
from kdcmae.errors import DataError

CONDITION = "graph, cold"


def timing(median_us: float) -> Timing:
    return Timing(
        median_us=median_us,
        p20_us=median_us - 1,
        p80_us=median_us + 2,
        count=100,
        round_medians_us=(median_us, median_us),
    )


def result(name: str, median_us: float, **changes) -> Result:
    timings = {"both": {CONDITION: timing(median_us), "plain, warm": timing(2 * median_us)}}
    defaults = {"ours": name == "kernel", "status": "measured", "error": 2.5e-3, "timings": timings}
    return Result(name=name, **{**defaults, **changes})


def case(kind: str = "attention", speed: tuple[float, float, float] = (2.0, 1.9, 2.1), **changes) -> CaseResult:
    comparison = Comparison(
        direction="both",
        condition=CONDITION,
        subject="kernel",
        baseline="cudnn",
        against="best vendor",
        speed=SpeedRatio(ratio=speed[0], low=speed[1], high=speed[2]),
        target=1.5,
    )
    defaults = {
        "name": f"{kind} [x]",
        "kind": kind,
        "samples": 256,
        "dtype": "bfloat16",
        "routed_to": "kernel",
        "work": {"both": Work(bytes=10**8, flop=10**10)},
        "results": (result("kernel", 100.0), result("cudnn", 200.0)),
        "comparisons": (comparison,),
    }
    return CaseResult(**{**defaults, **changes})


def report(*cases: CaseResult, device: str = "cuda", created: str = "2026-01-02T00:00:00+00:00", **settings) -> Report:
    return Report(
        kdcmae_version="0.1.0",
        created=created,
        environment={"libraries": {"torch": "2.13.0", "triton": "3.7.1", "numpy": "2.4"}, "git_commit": "0123abcd"},
        device={"type": device, "name": f"A {device} device"},
        settings=Settings(device=device, kinds=("attention",), **settings),
        ceilings=DeviceCeilings(
            copy_bytes_per_s=4e12, matmul_flop_per_s=8e14, matmul_dtype="bfloat16", timer_floor_us=1.5
        ),
        cases=cases,
    )


def printed(*cases: CaseResult, **settings) -> str:
    stream = io.StringIO()
    with redirect_stdout(stream):
        print_blocks(blocks(report(*cases, **settings)))
    return stream.getvalue()


def line_with(text: str, *parts: str) -> str:
    """The one line that has all parts."""
    (line,) = [line for line in text.splitlines() if all(part in line for part in parts)]
    return line


def test_the_terminal_shows_spans_rates_and_the_floor():
    line = line_with(printed(case()), "both  ", "2.5e-03", "kernel")
    # 1e8 bytes and 1e10 FLOP in 100 us; at 4 TB/s the bytes alone take 25 us, at 800 TFLOP/s the FLOP 12.5 us.
    for part in ("200 us (199-202)", "100 us (99-102)", " 1000 ", " 100 ", "25%"):
        assert part in line


def test_the_summary_comes_last_with_ratio_and_target():
    text = printed(case())
    assert text.index("Summary") > text.index("of the floor")
    line = line_with(text, "best vendor: cudnn")
    assert " ".join(line.split()) == (
        "attention [x] forward + backward kernel 100 us best vendor: cudnn 200 us 2 (1.9-2.1) 1.5: met"
    )
    assert "1.5: missed" in printed(case(speed=(1.4, 1.3, 1.45)))


def test_clips_per_second_of_a_step():
    text = printed(case("step", work={}, samples=48))
    line = line_with(text, "best vendor: cudnn")
    assert "kernel 100 us, 4.8e+05 clips/s" in line
    assert "200 us, 2.4e+05 clips/s" in line
    assert line_with(text, "2.5e-03", "kernel").split()[-3:] == ["-", "-", "-"]  # its work is not counted


def test_what_was_not_measured_says_why():
    absent = Result(name="flash", ours=False, status="absent", reason="needs [cuda]")
    text = printed(case(results=(result("kernel", 100.0), result("cudnn", 200.0), absent)))
    assert "  flash: absent: needs [cuda]" in text


@pytest.mark.parametrize(
    ("speed", "routed_to", "advice"),
    [
        ((2.0, 1.9, 2.1), "vendor", "the table sends this case to the vendor, but forward and backward the kernel"),
        ((0.5, 0.4, 0.6), "kernel", "the table sends this case to the kernel, but forward and backward the vendor"),
        ((1.0, 0.9, 1.1), "kernel", None),
        ((2.0, 1.9, 2.1), "kernel", None),
        ((2.0, 1.9, 2.1), None, None),
    ],
)
def test_a_table_that_sends_it_the_wrong_way(speed, routed_to, advice):
    text = printed(case(speed=speed, routed_to=routed_to))
    assert (advice in text) if advice else ("the table sends" not in text)
    assert "the table sends" not in printed(case(speed=speed, routed_to=routed_to), quick=True)


def test_a_dry_run_says_that_its_timings_mean_nothing():
    assert "mean nothing" in printed(case(), quick=True)
    assert "mean nothing" not in printed(case())


@pytest.mark.parametrize(
    ("changes", "exit_code"),
    [
        ({"status": "measured"}, 0),
        ({"status": "absent"}, 0),
        ({"status": "wrong"}, 1),
        ({"status": "failed"}, 1),
        ({"status": "wrong", "ours": False}, 0),
    ],
)
def test_exit_codes(changes, exit_code):
    assert report(case(results=(result("kernel", 1.0, **changes),))).exit_code == exit_code


def test_json_is_plain():
    content = json.loads(json.dumps(report(case()).to_dict(), allow_nan=False))
    assert content["schema_version"] == 5
    assert content["cases"][0]["results"][0]["timings"]["both"][CONDITION]["median_us"] == 100.0


def save(folder, name: str, content: Report) -> None:
    (folder / f"kernels-{name}.json").write_text(json.dumps(content.to_dict()), encoding="utf-8")


def shown(folder) -> str:
    """The documentation of everything in a folder."""
    return render_markdown(SECTION.render(*stored_documents(folder)["kernels"]))


def test_the_documentation_shows_the_newest_gpu_and_the_newest_cpu(tmp_path):
    later = "2026-03-04T00:00:00+00:00"
    save(tmp_path, "a", report(replace(case(), name="newer"), created=later))
    save(tmp_path, "b", report(replace(case(), name="older")))
    save(tmp_path, "c", report(replace(case("step"), name="a step"), device="cpu"))
    save(tmp_path, "d", report(replace(case(), name="a dry run"), created=later, quick=True))
    text = shown(tmp_path)
    assert (
        "| newer | forward + backward | kernel 100 us | best vendor: cudnn | 200 us | 2 (1.9-2.1) | 1.5: met |" in text
    )
    assert "A cuda device; torch 2.13.0, triton 3.7.1; kdcmae 0.1.0 (0123abcd), 2026-03-04." in text
    assert "A cpu device; " in text
    assert "a step" in text
    for absent in ("older", "a dry run", NOT_MEASURED, "numpy"):
        assert absent not in text
    tables = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert set(tables) == {8}


def test_a_cpu_result_alone_is_no_gpu_result(tmp_path):
    save(tmp_path, "a", report(case("step"), device="cpu"))
    text = shown(tmp_path)
    assert NOT_MEASURED in text
    assert "step [x]" in text


@pytest.mark.parametrize("content", ["{", '{"schema_version": 0}'])
def test_results_that_cannot_be_read(tmp_path, content):
    (tmp_path / "kernels-x.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"kernels-x\.json"):
        stored_documents(tmp_path)
