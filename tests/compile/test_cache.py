from __future__ import annotations

import importlib
import os
import shutil
import sys

import pytest

from kdcmae.compile import cache as caching
from kdcmae.compile.cache import Cache, cache_key
from kdcmae.compile.settings import CompileSettings
from kdcmae.errors import ConfigError
from kdcmae.runtime.manifest import BatchRange, Manifest, verify_files


@pytest.fixture
def stored(engine, tmp_path):
    cache = Cache(tmp_path / "cache", limit_bytes=10**9)
    cache.store("k" * 64, engine)
    return cache


def test_a_stored_engine_comes_back_whole(stored, engine, tmp_path):
    manifest = stored.fetch("k" * 64, tmp_path / "copy")
    assert manifest == Manifest.read(engine)
    verify_files(tmp_path / "copy", manifest)
    assert stored.fetch("0" * 64, tmp_path / "other") is None
    assert not (tmp_path / "other").exists()


def test_editing_an_engine_does_not_change_the_cache(stored, tmp_path):
    stored.fetch("k" * 64, tmp_path / "copy")
    with (tmp_path / "copy" / "model.bin").open("r+b") as file:
        file.write(b"edited")
    assert stored.fetch("k" * 64, tmp_path / "again") is not None


@pytest.mark.parametrize("name", ["model.bin", "labels.txt", "manifest.json"])
def test_a_damaged_entry_is_dropped(name, stored, tmp_path):
    path = stored.folder / ("k" * 64) / "files" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert stored.fetch("k" * 64, tmp_path / "copy") is None
    assert not (tmp_path / "copy").exists()
    assert list(stored.folder.iterdir()) == []


def test_a_half_deleted_entry_is_dropped(stored, tmp_path):
    (stored.folder / ("k" * 64) / "files" / "model.bin").unlink()
    assert stored.fetch("k" * 64, tmp_path / "copy") is None


def test_the_least_recently_used_leave(engine, tmp_path):
    size = sum(path.stat().st_size for path in engine.iterdir())
    cache = Cache(tmp_path / "cache", limit_bytes=int(2.5 * size))
    for number, key in enumerate(("first", "second")):
        cache.store(key, engine)
        os.utime(cache.folder / key, (number, number))
    cache.fetch("first", tmp_path / "copy")  # used now, so the second is the older one
    cache.store("third", engine)
    assert sorted(path.name for path in cache.folder.iterdir()) == ["first", "third"]


def test_what_is_larger_than_the_cache_is_not_stored(engine, tmp_path):
    cache = Cache(tmp_path / "cache", limit_bytes=1000)
    cache.store("key", engine)
    assert not cache.folder.exists()


def test_copies_work_where_the_kernel_cannot_share_blocks(stored, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    assert stored.fetch("k" * 64, tmp_path / "copy") is not None


def test_the_key_follows_contents_settings_and_versions(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    key = cache_key({"checkpoint": path}, {"precision": "fp32"})
    assert key == cache_key({"checkpoint": path}, {"precision": "fp32"})
    assert key != cache_key({"checkpoint": path}, {"precision": "bf16"})
    shutil.copy(path, tmp_path / "renamed.safetensors")
    assert key != cache_key({"checkpoint": tmp_path / "renamed.safetensors"}, {"precision": "fp32"})
    path.write_bytes(b"weightz")
    changed = cache_key({"checkpoint": path}, {"precision": "fp32"})
    assert changed != key
    monkeypatch.setattr(caching, "version", lambda library: "99")
    assert cache_key({"checkpoint": path}, {"precision": "fp32"}) != changed


def test_the_limit_is_a_number(monkeypatch):
    monkeypatch.setenv("KDCMAE_CACHE_GB", "lots")
    with pytest.raises(ConfigError, match="KDCMAE_CACHE_GB='lots' is not a number"):
        Cache.of_user()


def test_a_second_compile_comes_from_the_cache_without_pytorch(checkpoint, run, tmp_path):
    arguments = ("--target", "openvino", "--checkpoint", checkpoint, "--batch", "2", "--output")
    first = run(*arguments, tmp_path / "first")
    assert first.exit_code == 0, first.stderr
    assert "taken from the cache" not in first.stderr
    second = run(*arguments, tmp_path / "second")
    assert second.exit_code == 0, second.stderr
    assert "taken from the cache" in second.stderr
    assert "load PyTorch" not in second.stderr
    names = {path.name for path in (tmp_path / "first").iterdir()}
    assert {path.name for path in (tmp_path / "second").iterdir()} == names
    assert all((tmp_path / "first" / n).read_bytes() == (tmp_path / "second" / n).read_bytes() for n in names)


def test_the_cache_needs_no_pytorch():
    """A hit has to be quick."""
    import subprocess

    code = "import sys, kdcmae.compile.cli.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_shipped_model_counts_by_its_weights(monkeypatch, tmp_path):
    cli = importlib.import_module("kdcmae.compile.cli.build")
    path = tmp_path / "classifier.safetensors"
    monkeypatch.setattr(cli, "default_checkpoint", lambda: path)
    settings = CompileSettings(target="onnx", precision="fp32", batch=BatchRange(1, 1, 1))

    def key(weights: bytes, **options):
        path.write_bytes(weights)
        return cli._key({"checkpoint": None, "preset": None, **options}, settings)

    assert key(b"one") == key(b"one")
    assert key(b"one") != key(b"other")
    assert key(b"one", preset="tiny") == key(b"other", preset="tiny")
