"""What a report looks like on the terminal, in the documentation and as JSON."""

from __future__ import annotations

import dataclasses
import io
import json
from contextlib import redirect_stdout

import pytest
from reports import ENVIRONMENT, full_report, report, row

from kdcmae.bench.report.records import Agreement, Case, Report, Row, read_report
from kdcmae.bench.report.rendering import print_blocks, render_markdown
from kdcmae.bench.report.summary import SECTION, blocks, published
from kdcmae.errors import ConfigError, DataError


def printed(shown: Report) -> str:
    stream = io.StringIO()
    with redirect_stdout(stream):
        print_blocks(blocks(shown))
    return stream.getvalue()


def markdown(shown: Report) -> str:
    return render_markdown(published(shown))


TOOLS = {"host to host": None, "library call": "openvino-call", "tool": "benchmark_app"}
STAMP = {"schema_version": 5, "kdcmae_version": "0.1.0", "created": "2026-07-01", "environment": ENVIRONMENT}


def line_of(subject: str, text: str) -> list[str]:
    """The subject's lines, in the tables and the remarks."""
    return [line for line in text.splitlines() if line.startswith(subject)]


def test_the_conditions_are_stated():
    text = printed(report(row("model.pth", ms=10)))
    assert "host to host: numpy arrays in, numpy arrays out; decoding and preprocessing are not included" in text
    assert "batch 4, 2 pinned threads, warm-up 1 s, 2 interleaved windows" in text
    assert "A CPU [fast], 4 CPUs, Linux; load 0.25 before, 1.5 after, MHz 2600 before, 2600 after" in text
    assert "kdcmae 0.1.0 (0123abcd), Python 3.11.7, numpy 2.4.6, torch 2.13.0" in text
    assert "ceilings: 200 GFLOP/s fp32, 800 GOP/s int8, copying 20.0 GB/s" in text
    assert "self-check: clock and machine are sound" in text


def test_a_machine_that_was_not_fit_is_marked():
    text = printed(report(row("model.pth", ms=10), problems=("on cpu 0 other work took 30% of the time",)))
    assert "self-check: on cpu 0 other work took 30% of the time" in text
    assert "THE MACHINE WAS NOT FIT FOR MEASURING" in text


def test_figures_stand_in_the_subject_s_lines():
    text = printed(report(row("model.pth", ms=10), row("out/ov", ms=4, verdict="faster", top1=0.925)))
    latency, start = line_of("out/ov", text)
    name = ["out/ov", "bf16"]
    speed = ["2.50x", "(2.25-2.75)", "faster"]
    assert latency.split() == [
        *name,
        "4",
        "(3.84-4.16)",
        *"444",
        "0.0%",
        "1000",
        *speed,
        "92.5%",
        "1.0e-05",
        "50%",
        "of",
        "bf16",
    ]
    assert start.split() == ["out/ov", "1234", "12.35", "2", "123", "-", "2", "12.5", "-", "2.0e-03", "measured"]


def test_the_reference_is_marked():
    latency, _ = line_of("model.pth", printed(report(row("model.pth", ms=10), row("out/ov", ms=4, verdict="faster"))))
    assert "reference" in latency.split()


def test_an_unstable_row_names_no_winner():
    text = printed(report(row("model.pth", ms=10), row("out/ov", ms=4, variation=0.2, verdict="unstable")))
    latency, start = line_of("out/ov", text)
    assert "unstable" in latency
    assert start.rstrip().endswith("unstable")
    assert "no winner is named" in text
    assert "faster" not in text


def test_what_was_not_measured_says_why():
    reason = "not measured on this hardware: no [CUDA] device"
    text = printed(report(Row(case=Case(model="", subject="out/trt"), status="not measured", reason=reason)))
    latency, start, remark = line_of("out/trt", text)
    assert latency.split() == ["out/trt", *"-" * 11]
    assert start.split() == ["out/trt", *"-" * 9, "not", "measured"]
    assert remark == f"out/trt, latency: {reason}"


@pytest.mark.parametrize(
    ("error", "words"), [(0.5, "differ by 5.0e-01, allowed 4.0e-02"), (None, "cannot be compared, allowed 4.0e-02")]
)
def test_different_outputs_are_spelt_out(error, words):
    text = printed(report(row("model.pth", ms=10), row("out/ov", ms=4, verdict="faster", error=error)))
    assert f"its outputs and those of model.pth {words}: they do not compute the same" in text
    assert "FAILED" in text


def test_an_engine_stands_beside_its_library_s_own_tool():
    timed = {"host to host": ("OpenVINO bf16", 10.2), "library call": ("call", 10.1), "tool": ("app", 10)}
    rows = []
    for boundary, (name, ms) in timed.items():
        one = dataclasses.replace(row(name, ms=ms, model="base"), engine="OpenVINO bf16", tool=TOOLS[boundary])
        rows.append(dataclasses.replace(one, case=dataclasses.replace(one.case, boundary=boundary)))
    text = printed(report(*rows))
    assert "base: call took 1.010 times as long (1.010-1.010) as benchmark_app says of the" in text
    assert "base: OpenVINO bf16 took 1.020 times as long (1.020-1.020) as benchmark_app says of the same file" in text


def test_the_json_is_strict_and_comes_back_as_it_was(tmp_path):
    shown = full_report()
    path = tmp_path / "report.json"
    path.write_text(json.dumps(shown.to_dict(), allow_nan=False))
    assert json.loads(path.read_text())["schema_version"] == 5
    assert read_report(path) == shown
    assert len({frozenset(found) for found in shown.to_dict()["rows"]}) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "schema version None"),
        ('{"schema_version": 4}', "schema version 4, not 5"),
        ('{"schema_version": 5, "rows": []}', "is not a report"),
        (json.dumps({**STAMP, "kind": "poem"}), "is 'poem', not one of"),
        (json.dumps({**STAMP, "kind": "keep"}), "is a report of kind 'keep', not 'benchmark'"),
        (json.dumps({**STAMP, "kind": "benchmark", "rows": 5}), "is not a report of kdcmae-bench: rows is '5'"),
    ],
)
def test_a_file_that_is_no_report_is_refused(tmp_path, text, words):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_report(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_report(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["measured", "unstable", "not measured"], 0),
        (["measured", "failed"], 1),
        (["not measured", "not measured"], 3),
        (["not measured", "failed"], 1),
    ],
)
def test_exit_codes(statuses, code):
    rows = (Row(case=Case(model="", subject="x"), status=status) for status in statuses)
    assert report(*rows).exit_code == code


def test_the_readme_shows_the_fastest_first_with_accuracy_and_what_is_missing():
    lines = markdown(full_report()).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in table[2:]][-1].startswith("PyTorch eager")
    int8 = next(line for line in table if "OpenVINO int8" in line)
    assert int8 == "| OpenVINO int8 | bf16 | 225 (216-234) | 2.50 (2.25-2.75) | 92.0% | 2.0 |"
    assert "accuracy, 96 clips" in table[0]
    assert lines[-2:] == ["", "- no CUDA device: TensorRT fp16"]
    assert "Not measured here:" in lines
    assert "[the whole report](../bench/results/a-cpu-fast-4-cpus.html)" in lines[0]
    assert ENVIRONMENT["host"]["cpu"] in lines[0]
    best = next(line for line in lines if line.startswith("**"))
    assert best.startswith("**Fastest engine within 1 point of PyTorch eager's accuracy: OpenVINO fp32, 450 ms (")


def test_what_one_reason_keeps_from_being_measured_stands_on_one_line():
    def absent(subject, reason):
        return Row(case=Case(model="base", subject=subject), status="not measured", reason=reason)

    rows = [absent("a", "no GPU"), absent("b", "too slow"), absent("c", "no GPU")]
    rows[2] = dataclasses.replace(rows[2], artifact_bytes=2_000_000, compile_s=7.2)
    shown = report(row("PyTorch eager", ms=1, model="base"), *rows)
    assert markdown(shown).splitlines()[-2:] == ["- no GPU: a, c (2.0 MB built in 7 s)", "- too slow: b"]
    assert "base: a, latency; base: c, latency: no GPU" in printed(shown).splitlines()


def test_a_model_that_has_learnt_nothing_shows_its_agreement_with_pytorch():
    names = ("OpenVINO bf16", "PyTorch eager")
    rows = [row(names[0], ms=1, model="base", verdict="faster"), row(names[1], ms=2, model="base")]
    timers = {"benchmark_app bf16": "tool", "OpenVINO bf16 call alone": "library call"}
    timed = [dataclasses.replace(row(name, ms=1, model="base", verdict="faster"), engine=names[0]) for name in timers]
    boundaries = timers.values()
    cases = [dataclasses.replace(one.case, boundary=boundary) for one, boundary in zip(timed, boundaries, strict=True)]
    timed = [dataclasses.replace(one, case=case) for one, case in zip(timed, cases, strict=True)]
    cosine, flips = ((1.0, 0.9), (0.9, 1.0)), ((0, 2), (2, 0))
    agreement = Agreement(model="base", data="clips", clips=8, subjects=names, cosine=cosine, flips=flips)
    shown = markdown(report(*rows, *timed, agreement=(agreement,)))
    assert "| same best class as PyTorch eager, 8 clips |" in shown
    for subject, share in (
        ("OpenVINO bf16", "75.0%"),
        ("OpenVINO bf16 call alone", "75.0%"),
        ("benchmark_app bf16", "75.0%"),
        ("PyTorch eager", "100.0%"),
    ):
        [line] = [line for line in shown.splitlines() if line.startswith(f"| {subject} |")]
        assert line.split(" | ")[-2] == share


def test_the_readme_is_changed_between_its_markers_only(tmp_path):
    readme = tmp_path / "README.md"
    begin, end = SECTION.begin, SECTION.end
    readme.write_text(f"before\n{begin}\nstale\n{end}\nafter\n")
    document = json.loads(json.dumps(full_report().to_dict()))
    assert SECTION.write(readme, document)
    text = readme.read_text()
    assert text.startswith(f"before\n{begin}\n")
    assert text.endswith(f"{end}\nafter\n")
    assert "stale" not in text
    assert not SECTION.write(readme, document)


def test_a_readme_without_markers_is_refused(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("nothing")
    with pytest.raises(ConfigError, match="needs the lines"):
        SECTION.write(readme, full_report().to_dict())
