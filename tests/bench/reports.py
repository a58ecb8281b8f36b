"""Made-up reports for the tests of whatever shows them: imported by name from this folder."""

from __future__ import annotations

from kdcmae.bench.report.records import (
    Accuracy,
    Agreement,
    Case,
    Ceilings,
    Energy,
    Floor,
    Parity,
    Report,
    Row,
    SelfCheck,
    SelfTestResult,
    Settings,
    Speed,
)
from kdcmae.bench.run.timing import Verdict, summarize

STATE = {"load_average_1min": 0.25, "cpu_frequency_mhz": 2600.0, "hottest_sensor_celsius": None}
ENVIRONMENT = {
    "host": {"system": "Linux", "machine": "x86_64", "cpu": "A CPU [fast]", "cpus": 8, "python": "3.11.7"},
    "usable_cpus": 4,
    "load_average_1min": 0.25,
    "before": STATE,
    "after": {**STATE, "load_average_1min": 1.5},
    "libraries": {"numpy": "2.4.6", "torch": "2.13.0"},
    "git_commit": "0123abcd",
}
SETTINGS = Settings(batch=4, threads=2, seconds=10, warm_up_s=1, timeout_s=300)


def row(
    subject: str,
    *,
    ms: float,
    model: str = "",
    verdict: Verdict | None = None,
    variation: float = 0.0,
    error: float | None = 1e-5,
    top1: float | None = None,
) -> Row:
    """A row of the interleaved run; without a verdict the reference."""
    latency = summarize([[ms], [ms * (1 + variation)]])
    passed = error is not None and error < 4e-2
    parity = Parity(against="model.pth", error=error, tolerance=4e-2, passed=passed) if verdict else None
    speed = Speed(ratio=2.5, low=2.25, high=2.75, verdict=verdict, against="model.pth") if verdict else None
    accuracy = Accuracy(top1=top1, low=top1 - 0.05, high=top1 + 0.05, clips=96, data="AVSynth test") if top1 else None
    return Row(
        case=Case(model=model, subject=subject, batch=4, threads=2),
        status="measured" if latency.stable else "unstable",
        kind="onnx",
        engine=subject if verdict else None,
        target="onnx" if verdict else None,
        computes_in="bf16",
        modality="audiovisual",
        is_reference=verdict is None,
        load_ms=1234.5,
        first_inference_ms=12.345,
        latency=latency,
        throughput_samples_per_s=4000 / ms,
        peak_rss_bytes=123_456_789,
        artifact_bytes=2_000_000,
        compile_s=12.5,
        energy=Energy(joule_per_sample=None, source="no counter"),
        self_test=SelfTestResult(passed=True, error=2e-3, tolerance=4e-2),
        parity=parity,
        accuracy=accuracy,
        speed=speed,
        floor=Floor(flop=1e9, traffic_bytes=1e6, precision="bf16", floor_ms=ms / 2, fraction=0.5),
    )


def report(*rows: Row, agreement: tuple[Agreement, ...] = (), problems: tuple[str, ...] = ()) -> Report:
    """A report of these rows."""
    return Report(
        kdcmae_version="0.1.0",
        created="2026-07-01T12:00:00+00:00",
        environment=ENVIRONMENT,
        settings=SETTINGS,
        rows=rows,
        self_check=SelfCheck(problems=problems, figures={"sleep_s": 0.05}, overridden=bool(problems)),
        ceilings=Ceilings(flop_per_s={"fp32": 2e11, "int8": 8e11}, copy_bytes_per_s=2e10, how={"fp32": "by hand"}),
        agreement=agreement,
    )


def full_report() -> Report:
    """Every kind of row and chart."""
    subjects = ("PyTorch eager", "OpenVINO fp32", "OpenVINO bf16", "OpenVINO int8", "a <b>&\"'</script> name")
    timed = [
        row(name, ms=900 / (index + 1), model="shipped", verdict="faster" if index else None, top1=0.95 - index / 100)
        for index, name in enumerate(subjects)
    ]
    one = timed[2]
    swept = [
        Row(
            case=Case(model="shipped", subject="OpenVINO bf16", kind="batch", batch=batch),
            status="measured",
            latency=one.latency,
            throughput_samples_per_s=10 * batch / (1 + batch / 8),
        )
        for batch in (1, 2, 4, 8)
    ]
    spread = [
        Row(
            case=Case(model="shipped", subject="OpenVINO bf16", kind="threads", instances=count, threads=2 // count),
            status="measured",
            latency=one.latency,
            throughput_samples_per_s=10.0 * count,
        )
        for count in (1, 2)
    ]
    trip = Row(
        case=Case(model="shipped", subject="OpenVINO bf16", kind="clip to label", boundary="clip to label"),
        status="measured",
        latency=one.latency,
        stages_ms={"decode": 40.0, "fbank": 12.0, "frame": 5.0, "infer": 300.0},
    )
    start = Row(
        case=Case(model="shipped", subject="OpenVINO bf16", kind="cold start", boundary="process to label"),
        status="measured",
        latency=one.latency,
    )
    absent = Row(
        case=Case(model="shipped", subject="TensorRT fp16"),
        status="not measured",
        reason="not measured on this hardware: no CUDA device",
    )
    count = len(subjects)
    agreement = Agreement(
        model="shipped",
        data="AVSynth test, 96 clips",
        clips=96,
        subjects=subjects,
        cosine=tuple((0.9999,) * count for _ in subjects),
        flips=tuple(tuple(0 if row_ == column else 3 for column in range(count)) for row_ in range(count)),
    )
    return report(*timed, *swept, *spread, trip, start, absent, agreement=(agreement,))
