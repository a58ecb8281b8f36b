"""Cases of one subject by itself, on fakes, and the clips they are given."""

from __future__ import annotations

import dataclasses
import time
import types

import numpy as np
import pytest
from fake_subjects import FakeSubject

from kdcmae.bench.report.records import Settings
from kdcmae.bench.run.agreement import AnswerCache, accuracies, agreement, top1_accuracy
from kdcmae.bench.run.clips import answers, stages, write_clips
from kdcmae.bench.run.contender import Entry
from kdcmae.bench.run.sources import check_source
from kdcmae.bench.run.timing import summarize
from kdcmae.bench.suite import solo as cases
from kdcmae.bench.suite.solo import Solo, layouts
from kdcmae.data.synthetic import demo_clip
from kdcmae.errors import ConfigError
from kdcmae.runtime import Manifest

SETTINGS = Settings(batch=1, threads=1, seconds=0.05, warm_up_s=0, timeout_s=60)


@pytest.fixture
def solo(open_fake):
    """Cases of a fake."""

    def solo(source: str) -> Solo:
        entry = Entry(source=source, subject=source, model="m")
        return Solo(entry=entry, settings=SETTINGS, yardstick=lambda: 1.0, open_subject=open_fake)

    return solo


@pytest.mark.parametrize(
    ("cpus", "expected"),
    [
        (1, [(1, 1)]),
        (2, [(1, 1), (1, 2), (2, 1)]),
        (6, [(1, 1), (1, 2), (1, 4), (1, 6), (2, 3)]),
        (8, [(1, 1), (1, 2), (1, 4), (1, 8), (2, 4), (4, 2), (8, 1)]),
    ],
)
def test_layouts_never_take_more_cpus_than_there_are(cpus, expected):
    assert layouts(cpus) == expected


def test_the_batch_doubles_until_the_limit(solo):
    rows = solo("sees clips").batches(4)
    assert [row.case.batch for row in rows][:2] == [1, 2]
    assert {row.case.kind for row in rows} == {"batch"}
    for row in rows:
        assert row.throughput_samples_per_s == pytest.approx(row.case.batch / row.latency.mean_ms * 1e3)


def test_the_batch_stops_where_the_machine_is_saturated(solo):
    saturated = dataclasses.replace(solo("sees clips"), saturated=100.0)
    assert [row.case.batch for row in saturated.batches(32)] == [1, 2]


def test_an_engine_s_own_batch_sizes_are_kept(solo):
    assert [row.case.batch for row in solo("sees clips in pairs").batches(2)] == [2]


def test_instances_run_at_the_same_time_on_their_own_cpus(solo, monkeypatch):
    monkeypatch.setattr("kdcmae.host.cpu_numbers", lambda *_, **__: (0, 1))
    rows = solo("an engine").threads()
    assert [(row.case.instances, row.case.threads) for row in rows] == [(1, 1), (1, 2), (2, 1)]
    assert all(row.latency.count >= 6 for row in rows)


def test_a_case_that_cannot_run_is_a_row_with_its_reason(solo, tmp_path):
    absent, broken = solo("no device").batches(2), solo("bug at load").batches(2)
    assert [(row.status, row.reason) for row in absent] == [
        ("not measured", "not measured on this hardware: it needs a CUDA device")
    ]
    assert broken[0].status == "failed"
    assert solo("an engine").clip_to_label(tmp_path / "missing.mp4")[0].status == "failed"


def test_a_case_during_which_the_machine_changed_is_unstable(solo, monkeypatch):
    monkeypatch.setattr(cases, "summarize", lambda windows, **how: summarize([[1.0], [1.0]], **how))
    steady, changing = iter((1.0, 1.05)), iter((1.0, 1.2))
    (row,) = dataclasses.replace(solo("sees clips"), yardstick=lambda: next(steady)).batches(1)
    assert (row.status, row.yardstick_ms) == ("measured", 1.05)
    assert row.reason == ""
    (row,) = dataclasses.replace(solo("sees clips"), yardstick=lambda: next(changing)).batches(1)
    assert (row.status, row.yardstick_ms) == ("unstable", 1.2)
    assert row.reason == "the machine changed its state: known work took 1.00 ms before, 1.20 ms after"


def test_stages_of_a_clip_add_up(solo, tmp_path):
    demo_clip(tmp_path / "clip.mp4", seconds=1.0)
    (row,) = solo("sees clips").clip_to_label(tmp_path / "clip.mp4")
    assert list(row.stages_ms) == ["decode", "fbank", "frame", "infer"]
    assert all(value > 0 for value in row.stages_ms.values())
    assert row.latency.p50_ms == pytest.approx(sum(row.stages_ms.values()), rel=0.5)
    trips = stages(FakeSubject("sees clips in pairs", 1), tmp_path / "clip.mp4", 0)
    assert {len(parts) for parts in trips.values()} == {3}


def test_a_cold_start_is_a_new_process_up_to_its_first_label(solo, compiled, tmp_path):
    data, _ = write_clips(tmp_path, clips=2)
    starting = dataclasses.replace(solo("whatever"), cold_starts=(2, 1))
    (row,) = starting.cold_start(compiled, data)
    assert row.status in {"measured", "unstable"}, row.reason
    assert row.case.boundary == "process to label"
    assert row.latency.count == 2
    (row,) = starting.cold_start(tmp_path, data)
    assert row.status == "failed"
    assert "manifest.json" in row.reason


@pytest.mark.parametrize(("target", "threads"), [("onnx", ["1"]), ("trt", []), ("torch-trt", [])])
def test_a_cold_start_names_threads_only_to_engines_that_take_them(solo, engine_folder, monkeypatch, target, threads):
    manifest = Manifest.read(engine_folder)
    engine = {**manifest.engine, "flavour": "tensorrt"}
    dataclasses.replace(manifest, target=target, engine=engine).write(engine_folder)
    commands = []

    def run(command, **_):
        commands.append(command)
        return types.SimpleNamespace(returncode=0, stdout=f"{time.perf_counter() + 1} a label")

    monkeypatch.setattr(cases.subprocess, "run", run)
    solo("whatever").cold_start(engine_folder, engine_folder / "clips.npz")
    assert {tuple(command[5:]) for command in commands} == {tuple(threads)}


def test_clips_are_written_once_per_version_and_answered_in_batches(tmp_path, monkeypatch):
    path, labels = write_clips(tmp_path, clips=3)
    assert len(labels) == 3
    before = path.stat().st_mtime_ns
    assert write_clips(tmp_path, clips=3) == (path, labels)
    assert path.stat().st_mtime_ns == before
    monkeypatch.setattr("kdcmae.data.avsynth.scene.AVSYNTH_VERSION", 999)
    assert write_clips(tmp_path, clips=3)[0] != path  # another version's clips are others
    single, pairs = (answers(FakeSubject(f"sees clips{rest}", 1), path) for rest in ("", " in pairs"))
    assert single.shape == (3, 2)
    np.testing.assert_array_equal(single, pairs)
    with pytest.raises(ConfigError, match="makes up its own inputs"):
        answers(FakeSubject("an engine", 1), path)


def test_answers_are_kept_by_what_gave_them(tmp_path):
    class Counting:
        asked = 0

        def __init__(self, source):
            self.entry = Entry(source=source, subject="x")

        def answers(self, data):
            Counting.asked += 1
            return np.full((2, 2), Counting.asked, dtype=np.float32)

    data = tmp_path / "clips.npz"
    data.write_bytes(b"clips")
    weights = tmp_path / "model.pth"
    weights.write_bytes(b"one")
    cache = AnswerCache(tmp_path / "answers", data)
    assert cache.answers(Counting(str(weights)))[0, 0] == 1
    assert cache.answers(Counting(str(weights)))[0, 0] == 1
    assert cache.answers(Counting(f"torch-compile:{weights}"))[0, 0] == 2
    weights.write_bytes(b"two")
    assert cache.answers(Counting(str(weights)))[0, 0] == 3


def test_accuracy_has_wilson_s_interval():
    given = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    found = top1_accuracy(given, ["a", "b", "c", "c"], ("a", "b", "c"), data="four clips")
    assert found.top1 == 0.75
    assert (found.low, found.high) == (pytest.approx(0.3006, abs=1e-3), pytest.approx(0.9544, abs=1e-3))


def test_a_tool_has_the_accuracy_of_the_engine_that_it_runs():
    def contender(subject, engine=None, shows_outputs=True, labels=("a", "b")):
        facts = types.SimpleNamespace(shows_outputs=shows_outputs, labels=labels, random_weights=False)
        return types.SimpleNamespace(entry=Entry(source="x", subject=subject, engine=engine), facts=facts)

    subjects = [contender("engine"), contender("tool", "engine", False), contender("other tool", "absent", False)]
    given = {"engine": np.eye(2, dtype=np.float32), "stranger": np.eye(2, dtype=np.float32)}
    found = accuracies([*subjects, contender("stranger", labels=("c", "d"))], given, ["a", "a"], data="two clips")
    assert {subject: accuracy.top1 for subject, accuracy in found.items()} == {
        "engine": 0.5,
        "tool": 0.5,
    }


def test_agreement_counts_flips_and_finds_the_worst_cosine():
    one = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    other = np.array([[1.0, 0.0], [0.8, 0.6]], dtype=np.float32)
    found = agreement("m", {"one": one, "other": other, "zero": np.zeros_like(one)}, data="two clips")
    assert found.flips == ((0, 1, 1), (1, 0, 0), (1, 0, 0))
    assert found.cosine[0][1] == pytest.approx(0.6)
    assert found.cosine[0][0] == pytest.approx(1)
    assert found.cosine[2] == (0, 0, 0)


def test_a_missing_source_of_a_peer_is_refused(tmp_path):
    check_source(f"ort-int8:{tmp_path}")
    check_source("torch-compile:preset:tiny")
    check_source(f"{tmp_path}@audio")
    with pytest.raises(ConfigError, match=r"missing does not exist; .* after benchmark_app, openvino-call"):
        check_source(f"benchmark_app:{tmp_path / 'missing'}")
