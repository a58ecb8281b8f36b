from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from kdcmae.compile import cache as caching
from kdcmae.compile.cache import BuildCache, Cache
from kdcmae.compile.settings import CompileSettings
from kdcmae.errors import ConfigError, EngineError
from kdcmae.files import publishing
from kdcmae.runtime.manifest import BatchRange, Manifest, verify_files

KEY = "f" * 64


@pytest.fixture
def stored(engine, tmp_path):
    cache = Cache(tmp_path / "cache", limit_bytes=10**9)
    cache.store(KEY, engine)
    return cache


def test_a_stored_engine_comes_back_whole(stored, engine, tmp_path):
    manifest = stored.fetch(KEY, tmp_path / "copy")
    assert manifest == Manifest.read(engine)
    verify_files(tmp_path / "copy", manifest)
    assert stored.fetch("0" * 64, tmp_path / "other") is None
    assert not (tmp_path / "other").exists()


def test_editing_an_engine_does_not_change_the_cache(stored, tmp_path):
    stored.fetch(KEY, tmp_path / "copy")
    with (tmp_path / "copy" / "model.bin").open("r+b") as file:
        file.write(b"edited")
    assert stored.fetch(KEY, tmp_path / "again") is not None


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def listing(entry):
    return entry / "sha256.json"


def relist(entry, change):
    listing(entry).write_text(json.dumps(change(json.loads(listing(entry).read_text()))))


def replace(path, make):
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    make(path)


def unlist(entry, name):
    """Forget a file altogether: the entry is consistent in itself, the engine in it is not."""
    (entry / "files" / name).unlink()
    relist(entry, lambda digests: {file: sha256 for file, sha256 in digests.items() if file != name})


def add(entry, name, content=b"foreign"):
    (entry / "files" / name).write_bytes(content)
    relist(entry, lambda digests: digests | {name: hashlib.sha256(content).hexdigest()})


DAMAGE = {
    **{
        f"a flipped bit in {name}": (lambda e, n=name: flip(e / "files" / n)) for name in ("model.bin", "manifest.json")
    },
    **{f"{text!r} for digests": (lambda e, t=text: listing(e).write_text(t)) for text in ("", "[]", "{}", "1")},
    "digests that are null": lambda e: relist(e, lambda digests: dict.fromkeys(digests)),
    "digests that are not text": lambda e: listing(e).write_bytes(b"\xff\xfe"),
    "no digests": lambda e: listing(e).unlink(),
    "a folder for digests": lambda e: replace(listing(e), Path.mkdir),
    "a pipe for digests": lambda e: replace(listing(e), os.mkfifo),
    "a circle of links": lambda e: replace(listing(e), lambda path: path.symlink_to(path.name)),
    "digests that cannot be read": lambda e: replace(listing(e), lambda path: path.symlink_to("/proc/self/mem")),
    "a file less": lambda e: (e / "files" / "model.bin").unlink(),
    "a pipe for a file": lambda e: replace(e / "files" / "model.bin", os.mkfifo),
    "a folder for a file": lambda e: replace(e / "files" / "model.bin", Path.mkdir),
    "a device for a file": lambda e: replace(e / "files" / "model.bin", lambda path: path.symlink_to("/dev/zero")),
    "a file forgotten": lambda e: unlist(e, "model.bin"),
    "the manifest forgotten": lambda e: unlist(e, "manifest.json"),
    "a file too many": lambda e: add(e, "foreign.txt"),
    "a path outside": lambda e: relist(e, lambda digests: digests | {"../../outside": "0" * 64}),
    "a link to nothing for the files": lambda e: replace(e / "files", lambda path: path.symlink_to("nothing")),
    "a file for the entry": lambda e: replace(e, lambda path: path.write_text("x")),
    "a link to nothing for the entry": lambda e: replace(e, lambda path: path.symlink_to("nothing")),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_dropped_and_made_again(damage, stored, engine, tmp_path):
    damage(stored.folder / KEY)
    assert stored.fetch(KEY, tmp_path / "copy") is None
    assert not (tmp_path / "copy").exists()
    assert list(stored.folder.iterdir()) == []
    stored.store(KEY, engine)
    verify_files(tmp_path / "copy", stored.fetch(KEY, tmp_path / "copy"))


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_that_cannot_be_dropped_is_replaced(damage, stored, engine, tmp_path, monkeypatch):
    damage(stored.folder / KEY)
    with monkeypatch.context() as patched:
        patched.setattr(caching, "_drop", lambda entry: None)
        assert stored.fetch(KEY, tmp_path / "copy") is None
    stored.store(KEY, engine)
    verify_files(tmp_path / "copy", stored.fetch(KEY, tmp_path / "copy"))


def test_an_entry_that_may_only_be_read_is_served(stored, tmp_path, fails):
    fails("os.utime", OSError(errno.EROFS, os.strerror(errno.EROFS)))
    assert stored.fetch(KEY, tmp_path / "copy") is not None


def test_a_full_disk_is_not_the_fault_of_the_entry(stored, tmp_path, fails, monkeypatch):
    fails("kdcmae.compile.cache._copy", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(OSError, match="No space left"):
        stored.fetch(KEY, tmp_path / "copy")
    monkeypatch.undo()
    assert not (tmp_path / "copy").exists()
    assert stored.fetch(KEY, tmp_path / "copy") is not None


def test_an_engine_that_another_build_has_replaced_is_not_kept(engine, tmp_path):
    """It would be found under the name of this build from then on."""
    cache = Cache(tmp_path / "cache", limit_bytes=10**9)
    built = dataclasses.replace(Manifest.read(engine), created="2020-01-01T00:00:00+00:00")
    cache.store(KEY, engine, built)
    assert cache.fetch(KEY, tmp_path / "copy") is None
    cache.store(KEY, engine, Manifest.read(engine))
    assert cache.fetch(KEY, tmp_path / "copy") is not None


def test_making_room_leaves_what_is_no_entry(engine, tmp_path):
    """The folder may be one where people keep other things, and other builds work."""
    size = sum(path.stat().st_size for path in engine.iterdir())
    cache = Cache(tmp_path / "home", limit_bytes=int(1.5 * size))
    (tmp_path / "home" / "photos").mkdir(parents=True)
    (tmp_path / "home" / "photos" / "holiday").write_bytes(bytes(size))
    (tmp_path / "home" / "letter").write_bytes(bytes(size))
    cache.store("0" * 64, engine)
    with publishing.staging(cache.folder / ("1" * 64)) as other:
        cache.store("2" * 64, engine)
        assert other.is_dir()
    assert sorted(path.name for path in cache.folder.iterdir()) == ["2" * 64, "letter", "photos"]


def test_what_a_killed_build_left_in_the_cache_leaves_with_the_next(engine, tmp_path):
    cache = Cache(tmp_path / "cache", limit_bytes=10**9)
    abandoned = cache.folder / f".{KEY}.partial-0123456789abcdef"
    abandoned.mkdir(parents=True)
    (abandoned / "lock").touch()
    (abandoned / "half").write_bytes(b"half")
    cache.store("0" * 64, engine)
    assert [path.name for path in cache.folder.iterdir()] == ["0" * 64]


@pytest.fixture
def quick(engine, monkeypatch):
    """Builds that copy an engine built before."""
    cli = importlib.import_module("kdcmae.compile.cli.build")
    monkeypatch.setattr(cli, "_build", lambda model, variants, settings, folder, *_: rebuilt(engine, folder))


FAILURES = (
    OSError(errno.EROFS, os.strerror(errno.EROFS)), PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
    EngineError("cannot write"), ConfigError("wrong"), RuntimeError("no home folder"), KeyError("uid"),
    UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), RecursionError("too deep"), MemoryError(),
    AssertionError(), TypeError("many\nlines"),
)  # fmt: skip
PLACES = ("of_user", "fetch", "store", "fetch_files", "store_files", "_make_room")


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("place", PLACES)
def test_whatever_fails_in_the_cache_is_one_note(place, failure, engine, tmp_path, fails):
    fails(f"kdcmae.compile.cache.Cache.{place}", failure)
    notes = []
    cache = BuildCache(notes.append)
    key = cache.key({}, {})
    assert cache.fetch(key or "0", tmp_path / "copy") is None
    cache.store(key or "0", engine, Manifest.read(engine))
    assert not cache.fetch_files("1", tmp_path)
    cache.store_files("1", [engine / "labels.txt"])
    assert [line.count("\n") for line in notes] == [0]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_build_ends_as_without_a_cache(failure, quick, checkpoint, run, tmp_path, fails):
    fails("kdcmae.compile.cache.cache_key", failure)
    result = run("--target", "openvino", "--checkpoint", checkpoint, "--output", tmp_path / "engine")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count("note: the cache is not used") == (not isinstance(failure, OSError))
    verify_files(tmp_path / "engine", Manifest.read(tmp_path / "engine"))


def rebuilt(engine, folder):
    shutil.copytree(engine, folder)
    return Manifest.read(folder)


@pytest.mark.parametrize("variable", ["KDCMAE_CACHE", "KDCMAE_CACHE_GB", "HOME"])
def test_a_build_without_a_usable_cache_says_so_once(variable, quick, checkpoint, run, tmp_path, fails, monkeypatch):
    (tmp_path / "file").touch()
    if variable == "HOME":
        monkeypatch.delenv("KDCMAE_CACHE")
        monkeypatch.delenv("HOME")
        fails("pwd.getpwuid", KeyError("no such user"))
        expected = "the cache is not used: this user has no home folder; set KDCMAE_CACHE"
    elif variable == "KDCMAE_CACHE_GB":
        monkeypatch.setenv(variable, "inf")
        expected = "the cache is not used: KDCMAE_CACHE_GB='inf' is not a number of gigabytes"
    else:
        monkeypatch.setenv(variable, str(tmp_path / "file"))
        expected = f"no copy was kept in the cache: cannot write to {tmp_path / 'file'}: "
    result = run("--target", "openvino", "--checkpoint", checkpoint, "--output", tmp_path / "engine")
    assert result.exit_code == 0, result.stderr
    assert [line for line in result.stderr.splitlines() if "note: " in line] == [
        line for line in result.stderr.splitlines() if expected in line
    ]
    assert expected in result.stderr
    assert "--output" not in result.stderr
    verify_files(tmp_path / "engine", Manifest.read(tmp_path / "engine"))


@pytest.mark.parametrize("gigabytes", ["lots", "inf", "1e400", "nan", "-1", "1,5"])
def test_the_limit_is_a_number(gigabytes, monkeypatch):
    monkeypatch.setenv("KDCMAE_CACHE_GB", gigabytes)
    with pytest.raises(ConfigError, match=f"KDCMAE_CACHE_GB='{gigabytes}' is not a number"):
        Cache.of_user()


def test_a_home_that_is_nowhere_is_none(monkeypatch):
    monkeypatch.delenv("KDCMAE_CACHE")
    monkeypatch.setenv("HOME", "relative")
    with pytest.raises(ConfigError, match="no home folder"):
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
        return cli._key(BuildCache(), {"checkpoint": None, "preset": None, **options}, settings)

    assert key(b"one") == key(b"one")
    assert key(b"one") != key(b"other")
    assert key(b"one", preset="tiny") == key(b"other", preset="tiny")
