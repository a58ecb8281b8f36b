"""Where ONNX Runtime for browsers comes from: the cache, npm, an archive or a folder; only the tested release."""

from __future__ import annotations

import base64
import hashlib
import shutil
import tarfile
from pathlib import Path

import pytest

from kdcmae.errors import BrokenDependencyError, ConfigError
from kdcmae.export import onnxruntime_web as module
from kdcmae.export.onnxruntime_web import cached, onnxruntime_web


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    """A package of three files of a line each, whose digests are the expected ones; the cache is empty."""
    dist = tmp_path / "package" / "dist"
    dist.mkdir(parents=True)
    digests = {}
    for name in module.FILES:
        (dist / name).write_text(name)
        digests[name] = hashlib.sha256(name.encode()).hexdigest()
    path = tmp_path / "onnxruntime-web.tgz"
    with tarfile.open(path, "w:gz") as package:
        package.add(tmp_path / "package", "package")
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(module, "FILES", digests)
    monkeypatch.setattr(module, "_INTEGRITY", integrity)
    monkeypatch.setenv("KDCMAE_CACHE", str(tmp_path / "cache"))
    return path


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """An npm that runs a line of shell, and nothing else on the path but that shell's tools."""

    def install(line: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "npm").write_text(f"#!{shutil.which('bash')}\n{line}\n")
        (folder / "npm").chmod(0o755)
        for name in ("cp", "touch"):
            (folder / name).symlink_to(str(shutil.which(name)))
        monkeypatch.setenv("PATH", str(folder))
        return folder

    return install


def test_npm_fetches_the_package_once(archive, npm, tmp_path):
    npm(f'echo "$@" >> {tmp_path}/calls; cp {archive} .')
    assert cached() is None
    for _ in range(2):
        folder = onnxruntime_web()
        assert {path.name: path.read_text() for path in folder.iterdir()} == {name: name for name in module.FILES}
    assert cached() == folder
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.startswith(f"pack onnxruntime-web@{module.VERSION} ")
    assert "registry" not in call  # the user's configuration decides that


def test_a_damaged_cache_is_fetched_again(archive, npm):
    npm(f"cp {archive} .")
    name = next(iter(module.FILES))
    (onnxruntime_web() / name).write_text("damaged")
    assert cached() is None
    assert (onnxruntime_web() / name).read_text() == name


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('echo "network is down" >&2; exit 1', r"npm could not fetch onnxruntime-web@\S+ \(network is down\)"),
        ("exit 0", "npm left no archive"),
        ("touch other.tgz", "npm brought another"),
    ],
)
def test_what_npm_fails_at_is_one_line_with_the_other_way(line, reason, archive, npm):
    npm(line)
    with pytest.raises(BrokenDependencyError, match=f"{reason}.*; fetch it elsewhere with .*--onnxruntime-web"):
        onnxruntime_web()
    assert cached() is None


def test_where_there_is_no_npm_the_error_says_so(archive, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokenDependencyError, match="npm is not installed"):
        onnxruntime_web()


def test_an_archive_and_a_folder_are_taken_without_npm(archive, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert onnxruntime_web(tmp_path / "package") == tmp_path / "package" / "dist"
    assert onnxruntime_web(tmp_path / "package" / "dist") == tmp_path / "package" / "dist"
    assert onnxruntime_web(archive) == cached()


def test_another_release_is_refused(archive, tmp_path):
    with archive.open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(ConfigError, match="its SHA-512 is another; get it with: npm pack onnxruntime-web@"):
        onnxruntime_web(archive)
    (tmp_path / "package" / "dist" / next(iter(module.FILES))).write_text("another release")
    with pytest.raises(ConfigError, match="missing or not of onnxruntime-web@"):
        onnxruntime_web(tmp_path / "package")
    with pytest.raises(ConfigError, match="does not exist"):
        onnxruntime_web(tmp_path / "absent.tgz")
