"""ONNX Runtime for browsers: three files of one release of the npm package ``onnxruntime-web``.

npm fetches the package from whatever registry the user has configured. What it brings, and what a user hands over,
is checked against digests in this module before it is used, and kept in the user's cache.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcmae.errors import BrokenDependencyError, ConfigError, KdcmaeError, one_line
from kdcmae.files import publishing
from kdcmae.files.user_cache import user_cache
from kdcmae.runtime.manifest import digest

__all__ = ["FILES", "PACKAGE", "VERSION", "cached", "onnxruntime_web"]

VERSION = "1.30.0"
PACKAGE = f"onnxruntime-web@{VERSION}"

FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""SHA-256 of the files that a page needs, of 139 MB in the package."""

# Of the package's archive, as the registry states it.
_INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
_INSIDE = "package/dist/"
_PATIENCE_S = 300
_FIX = f'fetch it elsewhere with "npm pack {PACKAGE}" and name the file with --onnxruntime-web'


def cached() -> Path | None:
    """The folder of the files in the user's cache; None where they are not there, or not as they should be."""
    folder = _cache_folder()
    return folder if _wrong_file(folder) is None else None


def onnxruntime_web(path: Path | None = None) -> Path:
    """Folder of :data:`FILES`, fetched with npm if the cache has none.

    Args:
        path: the package's archive as ``npm pack`` writes it, or the folder of the installed package; None to fetch it.

    Raises:
        ConfigError: ``path`` holds no such package, or another release of it.
        BrokenDependencyError: npm is not installed or could not fetch the package, or brought another one.
        EngineError: the cache cannot be written to.
    """
    if path is not None and path.is_dir():
        folder = path / "dist" if (path / "dist").is_dir() else path
        if wrong := _wrong_file(folder):
            raise ConfigError(f"{folder / wrong} is missing or not of {PACKAGE}; give the folder of that release")
        return folder
    if path is not None:
        if not path.is_file():
            raise ConfigError(f"{path} does not exist; give the archive or the folder of {PACKAGE}")
        if _integrity(path) != _INTEGRITY:
            raise ConfigError(f"{path} is not {PACKAGE}: its SHA-512 is another; get it with: npm pack {PACKAGE}")
        return _kept(path)
    if found := cached():
        return found
    with _fetched() as archive:
        if _integrity(archive) != _INTEGRITY:
            raise BrokenDependencyError(f"npm brought another {PACKAGE} than the tested one (its SHA-512); {_FIX}")
        return _kept(archive)


@contextmanager
def _fetched() -> Iterator[Path]:
    """The package's archive, from npm's registry."""
    npm = shutil.which("npm")
    if npm is None:
        raise BrokenDependencyError(f"npm is not installed, which fetches {PACKAGE} once; install npm, or {_FIX}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            command = [npm, "pack", PACKAGE, "--loglevel=error", "--ignore-scripts", "--fetch-retries=1"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise BrokenDependencyError(f"npm did not fetch {PACKAGE} within {_PATIENCE_S} s; {_FIX}") from error
        except subprocess.CalledProcessError as error:
            reason = one_line(error.stderr)[:200] or f"exit code {error.returncode}"
            raise BrokenDependencyError(f"npm could not fetch {PACKAGE} ({reason}); {_FIX}") from error
        archive = next(Path(folder).glob("*.tgz"), None)
        if archive is None:
            raise BrokenDependencyError(f"npm left no archive of {PACKAGE}; {_FIX}")
        yield archive


def _kept(archive: Path) -> Path:
    """The files of an archive whose digest is right, in the cache."""
    folder = _cache_folder()
    with publishing.staging(folder, fix="set KDCMAE_CACHE to a folder that can be") as partial:
        with tarfile.open(archive) as package:
            for name in FILES:
                source = package.extractfile(_INSIDE + name)
                assert source is not None  # the archive's digest is right
                with (partial / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
        publishing.publish(partial, folder)
    return folder


def _cache_folder() -> Path:
    return user_cache() / f"onnxruntime-web-{VERSION}"


def _wrong_file(folder: Path) -> str | None:
    """The first file that is missing or has another digest."""
    paths = {name: folder / name for name in FILES}
    return next((name for name, path in paths.items() if not path.is_file() or digest(path) != FILES[name]), None)


def _integrity(path: Path) -> str:
    with path.open("rb") as stream:
        return "sha512-" + base64.b64encode(hashlib.file_digest(stream, "sha512").digest()).decode()


if __name__ == "__main__":
    try:
        onnxruntime_web()
    except KdcmaeError as error:
        raise SystemExit(str(error)) from None
