from __future__ import annotations

import os

import numpy as np
import pytest

from kdcmae.compile.quantize import store
from kdcmae.compile.quantize.calibration import Clips

KB = 1000
KINDS = {"logits": "softmax"}


def clips(value=0.0):
    batch = {"audio": np.full((1, 4), value, dtype=np.float32)}
    return Clips(source="made up", ids=("a",), labels=((),), feeds=(batch,), batch_size=1)


@pytest.fixture
def graph(tmp_path):
    """An ONNX file of a kilobyte, weights beside it."""
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"graph" * 20)
    (tmp_path / "graph.onnx.data").write_bytes(bytes(KB - 100))
    return path


@pytest.mark.parametrize("suffixes", [(".xml", ".bin"), (".onnx", ".onnx.data"), (".onnx",)])
def test_a_graph_comes_back_with_its_weights(suffixes, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "taken").mkdir()
    for suffix in suffixes:
        (tmp_path / "made" / f"graph{suffix}").write_text(suffix)
    store.keep("quantized-1", tmp_path / "made" / f"graph{suffixes[0]}")
    assert store.fetch("quantized-1", tmp_path / "taken" / f"graph{suffixes[0]}")
    assert {path.name: path.read_text() for path in (tmp_path / "taken").iterdir()} == {
        f"graph{suffix}": suffix for suffix in suffixes
    }
    assert not store.fetch("quantized-2", tmp_path / "taken" / f"graph{suffixes[0]}")


def test_a_damaged_graph_is_dropped(graph, cache, tmp_path):
    store.keep("quantized-1", graph)
    (cache / "quantized-1" / "files" / "graph.onnx.data").write_bytes(b"\1" * 900)
    assert not store.fetch("quantized-1", tmp_path / "graph.onnx")
    assert list(cache.iterdir()) == []


def test_graphs_obey_the_limit_of_the_cache(graph, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("KDCMAE_CACHE_GB", str(2.5 * KB / 1e9))
    for number in (1, 2):
        store.keep(f"quantized-{number}", graph)
        os.utime(cache / f"quantized-{number}", (number, number))
    assert store.fetch("quantized-1", tmp_path / "graph.onnx")  # used now, so the second is the older one
    store.keep("quantized-3", graph)
    assert sorted(path.name for path in cache.iterdir()) == ["quantized-1", "quantized-3"]


def test_a_graph_larger_than_the_cache_is_not_kept(graph, cache, monkeypatch):
    monkeypatch.setenv("KDCMAE_CACHE_GB", str(0.9 * KB / 1e9))
    store.keep("quantized-1", graph)
    assert list(cache.iterdir()) == []


def test_the_key_follows_the_graph_the_clips_and_what_is_made_of_them(graph):
    def key(given=graph, batches=None, precision="int8", target="onnx", layers=("fc1", "fc2"), kinds=KINDS):
        return store.key_of(given, batches or clips(), precision, target, layers, kinds)

    first = key()
    assert first.startswith("quantized-")
    assert key() == first
    others = [key(batches=clips(1.0)), key(precision="fp8"), key(target="trt"), key(layers=("fc1",))]
    others.append(key(kinds={"logits": "sigmoid"}))
    graph.with_name("graph.onnx.data").write_bytes(bytes(KB))
    assert len({first, *others, key()}) == 7


@pytest.mark.parametrize(
    "changed",
    [
        ("kdcmae.compile.cache._sources", lambda: "edited"),
        ("kdcmae.host.describe_host", lambda: {"cpu": "another"}),
        ("kdcmae.compile.cache.version_of", lambda library: "99"),
    ],
    ids=["sources", "host", "versions"],
)
def test_the_key_follows_what_it_is_made_with(changed, graph, monkeypatch):
    """As that of an engine does: the graph of another state of this package is another graph."""
    before = store.key_of(graph, clips(), "int8", "onnx", ["fc1"], KINDS)
    monkeypatch.setattr(*changed)
    assert store.key_of(graph, clips(), "int8", "onnx", ["fc1"], KINDS) != before


@pytest.mark.parametrize("place", ["of_user", "fetch_files", "store_files"])
def test_a_cache_that_fails_costs_a_build_nothing(place, graph, fails):
    fails(f"kdcmae.compile.cache.Cache.{place}", RuntimeError("anything"))
    key = store.key_of(graph, clips(), "int8", "onnx", ["fc1"], KINDS)
    assert bool(key) == (place != "of_user")  # without a name nothing is looked for
    store.keep("quantized-1", graph)
    assert not store.fetch("quantized-1", graph)


def test_a_damaged_graph_leaves_nothing_to_be_taken_for_a_new_one(graph, cache, tmp_path):
    """ONNX appends weights to a file that is there."""
    store.keep("quantized-1", graph)
    (cache / "quantized-1" / "files" / "graph.onnx.data").write_bytes(b"\1" * 900)
    (tmp_path / "other").mkdir()
    assert not store.fetch("quantized-1", tmp_path / "other" / "graph.onnx")
    assert list((tmp_path / "other").iterdir()) == []
