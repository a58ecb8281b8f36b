"""The search with engines that are made up: what is tried, what is spared, what wins."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from kdcmae import KDCMAEClassifier
from kdcmae.checkpoints import save_checkpoint
from kdcmae.compile.quantize.accuracy import Accuracy
from kdcmae.compile.search import Search
from kdcmae.compile.settings import CompileSettings, SearchSettings
from kdcmae.data.avsynth.classes import LABELS
from kdcmae.errors import ConfigError, EngineError, GateError
from kdcmae.evaluation.paired import Loss
from kdcmae.runtime import load_engine
from kdcmae.runtime.cpu import describe_cpu
from kdcmae.runtime.manifest import BatchRange

OPENVINO = CompileSettings(target="openvino", precision="fp32", batch=BatchRange(1, 1, 1), cpu=describe_cpu("amx"))


def made_up(drop: float) -> Accuracy:
    """An accuracy with this loss, half a point wide to either side."""
    loss = Loss(metric="top-1", clips=100, reference=90.0, other=90.0 - drop, low=drop - 0.5, high=drop + 0.5)
    return Accuracy(source="made up", loss=loss, agreement=100.0, others=100)


class MadeUp:
    """A workshop whose engines are made up: latencies in ms and drops in points, by precision and share of the tokens.

    Args:
        latency: of one thread; more divide it. Candidates without one cannot be built.
        drop: on the clips that choose; the others lose ``others``.
    """

    def __init__(self, latency, drop, others) -> None:
        self.latency, self.drop, self.others = latency, drop, others
        self.built = []

    def evaluation(self, model):
        return SimpleNamespace(
            choose=lambda candidate: made_up(self.drop.get(candidate, 0.0)), report=lambda _: made_up(self.others)
        )

    def build(self, model, folder, settings):
        assert settings.quantization.measured  # the clips that report the winner calibrate no candidate
        self.built.append((settings.precision, model.keep))
        if self.built[-1] not in self.latency:
            raise EngineError("no such kernel")
        folder.mkdir()

    def time(self, model, folder):
        return {str(count): self.latency[candidate_in(folder)] / count for count in (1, 2)}

    def answers(self, folder, threads):
        return nullcontext(candidate_in(folder))

    def publish(self, built, folder, *, threads, search):
        return search["trials"][-1]


def candidate_in(folder):
    precision, keep = folder.name.split("-")
    return precision, float(keep)


@pytest.fixture
def searched(tmp_path):
    """Run a search over made-up latencies in ms and drops in points, by precision and share of the tokens."""

    def run(latency, drop, *, budget_ms, others=0.25):
        workshop = MadeUp(latency, drop, others)
        settings = SearchSettings(build=OPENVINO, budget_ms=budget_ms, max_drop=1.0, threads=(1, 2))
        search = Search(lambda keep: SimpleNamespace(keep=keep), settings, nullcontext, workshop=workshop)
        try:
            search.run(tmp_path / "engine")
            result = search.trials[-1]
        except GateError as error:
            result = str(error)
        return result, search.trials, workshop.built

    return run


def timed(**full_ms):
    """Latencies that fall with the tokens."""
    return {(name, keep): found * keep for name, found in full_ms.items() for keep in (1.0, 0.75, 0.5, 0.35, 0.25)}


def test_the_first_that_fits_wins_with_the_fewest_threads(searched):
    winner, _, built = searched(timed(fp32=90, bf16=40, int8=20), {}, budget_ms=100)
    assert (winner.precision, winner.keep, winner.threads) == ("fp32", 1.0, 1)
    assert built == [("fp32", 1.0)]


def test_all_tokens_of_a_narrow_type_come_before_fewer_of_a_wide_one(searched):
    winner, trials, _ = searched(timed(fp32=900, bf16=400, int8=90), {}, budget_ms=100)
    assert (winner.precision, winner.keep) == ("int8", 1.0)
    assert [trial.status for trial in trials] == ["too slow", "too slow", "fits"]


def test_what_cannot_be_fast_enough_is_not_built(searched):
    winner, _, built = searched(timed(fp32=4000, bf16=420, int8=300), {}, budget_ms=100)
    assert (winner.precision, winner.keep, winner.threads) == ("int8", 0.5, 2)
    assert built == [*((name, 1.0) for name in ("fp32", "bf16", "int8")), ("int8", 0.75), ("bf16", 0.5), ("int8", 0.5)]


def test_what_is_worse_than_something_inaccurate_is_not_built(searched):
    drop = {("int8", 1.0): 5.0}
    winner, trials, built = searched(timed(fp32=300, bf16=220, int8=100), drop, budget_ms=100)
    assert (winner.precision, winner.keep) == ("bf16", 0.75)
    assert ("int8", 0.75) not in built
    assert trials[2].status == "too inaccurate"


def test_a_candidate_that_cannot_be_built_is_passed_over(searched):
    latency = timed(bf16=90, int8=20)
    winner, trials, _ = searched(latency, {}, budget_ms=100)
    assert trials[0].status == "failed"
    assert trials[0].reason == "no such kernel"
    assert winner.precision == "bf16"


def test_the_nearest_is_named_where_nothing_is_fast_enough(searched):
    message, trials, _ = searched(timed(fp32=9000, bf16=4000, int8=2000), {}, budget_ms=10)
    assert "no engine takes 10 ms" in message
    assert "nearest: int8, 100% of the tokens takes 1e+03 ms" in message
    assert all(trial.status in ("too slow", "not built") for trial in trials)


def test_the_nearest_is_named_where_nothing_is_accurate_enough(searched):
    drop = {(name, keep): 9.0 for name in ("fp32", "bf16", "int8") for keep in (1.0, 0.75, 0.5, 0.35, 0.25)}
    message, _, built = searched(timed(fp32=9, bf16=4, int8=2), drop, budget_ms=100)
    assert "nearest: fp32, 100% of the tokens takes 4.5 ms; top-1 drops by 9.00 percentage points" in message
    assert built == [("fp32", 1.0)]


def test_clips_that_did_not_choose_report_the_winner(searched):
    winner, trials, _ = searched(timed(fp32=90), {}, budget_ms=100)
    assert (winner.drop, winner.interval) == (0.25, (-0.25, 0.75))
    assert trials == [winner]


def test_a_winner_that_other_clips_do_not_bear_out_is_not_published(searched):
    message, trials, _ = searched(timed(fp32=90), {}, budget_ms=100, others=0.75)
    assert "fp32, 100% of the tokens fits on the clips that chose it, and not on the others" in message
    assert "too few clips to decide: about 800 in --evaluation would" in message
    assert trials[-1].drop == 0.75


def test_the_upper_end_of_the_interval_decides(searched):
    drop = {("fp32", 1.0): 0.75}
    winner, trials, _ = searched(timed(fp32=90, bf16=40), drop, budget_ms=100)
    assert trials[0].status == "too inaccurate"
    assert "too few clips to decide" in trials[0].reason
    assert trials[1].reason.endswith("is more accurate and loses 0.8 points, 0.2 to 1.2")
    assert "nearest: fp32" in winner


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"build": dataclasses.replace(OPENVINO, target="trt")}, "openvino"),
        ({"budget_ms": 0.0}, "positive"),
        ({"max_drop": 101.0}, "0 and 100"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        SearchSettings(**{"build": OPENVINO, "budget_ms": 10.0, "max_drop": 1.0, **setting})


def test_the_command_searches_within_a_budget(run, tmp_path):
    folder = tmp_path / "engine"
    sizes = {"embed_dim": 64, "num_heads": 1, "specific_depth": 1, "audio_length": 64, "image_size": 32}
    names = LABELS.names
    model = KDCMAEClassifier.from_preset("tiny", num_classes=len(names), labels=names, **sizes)
    save_checkpoint(model, tmp_path / "model.safetensors")
    result = run("--budget-ms", "10000", "--max-drop", "100", "--checkpoint", tmp_path / "model.safetensors",
                 "--evaluation", "avsynth:4",
                 "--output", folder, "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["engine"], found["trials"][-1]["status"]) == (str(folder), "fits")
    with load_engine(folder) as engine:
        manifest = engine.manifest
        assert engine.self_test().passed
    assert manifest.target == "openvino"
    assert manifest.engine["threads"] == manifest.build["search"]["threads"] == found["threads"]
    assert manifest.build["search"]["budget_ms"] == 10000


@pytest.mark.parametrize(
    "option", [("--precision", "int8"), ("--keep", "0.5"), ("--batch", "1:2:4"), ("--execute-as", "bf16")]
)
def test_what_the_search_decides_cannot_be_given(option, run, checkpoint):
    result = run("--target", "openvino", "--budget-ms", "100", "--checkpoint", checkpoint, *option)
    assert result.exit_code == 2
    assert f"{option[0]} cannot act: it is for one engine, and --budget-ms searches many" in result.stderr


def test_a_target_is_needed_without_a_budget(run):
    result = run("--precision", "fp32")
    assert (result.exit_code, "Missing option '--target'" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("target", "name", "precisions"),
    [
        ("openvino", "amx", ("fp32", "bf16", "int8")),
        ("openvino", "avx2", ("fp32", "int8")),
        ("aoti", "avx512", ("fp32",)),
    ],
)
def test_what_the_processor_does_not_multiply_is_not_tried(target, name, precisions):
    build = dataclasses.replace(OPENVINO, target=target, cpu=describe_cpu(name))
    assert SearchSettings(build=build, budget_ms=1.0, max_drop=1.0).precisions == precisions
