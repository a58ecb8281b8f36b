"""A folder that runs an engine in a browser: plain files for any static server.

The page reads ``page.json``, which has the facts of the engine's manifest that the page needs, and the digest of every
file that it loads. The self-test's arrays are one file of plain bytes, which a browser reads without unpacking
``golden.npz``.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.assets import default_checkpoint
from kdcmae.errors import EngineError
from kdcmae.export.onnxruntime_web import FILES, VERSION, onnxruntime_web
from kdcmae.files import publishing
from kdcmae.runtime.facts import require_one_piece
from kdcmae.runtime.feeding import RAW
from kdcmae.runtime.folders import Publication, of_one_publication
from kdcmae.runtime.golden import GOLDEN_FILE, Golden, read_golden
from kdcmae.runtime.manifest import Manifest, digest, verify_files
from kdcmae.runtime.preprocessing import FRAME_LENGTH, SAMPLE_RATE_HZ, Preprocessing

__all__ = ["PAGE_FILE", "Page", "check_engine", "export_page"]

PAGE_FILE = "page.json"
_RUNTIME, _SELF_TEST = "onnxruntime", "selftest.bin"
_ALIGNMENT = 8  # of an array in the file: JavaScript's views need that of their type


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """An exported page.

    Args:
        folder: where it is.
        files: sizes of its files in bytes by name.
        facts: the content of ``page.json``.
    """

    folder: Path
    files: dict[str, int]
    facts: dict[str, Any]


def check_engine(engine: Path) -> Manifest:
    """The manifest of an engine that a page can run.

    Args:
        engine: the engine folder.

    Raises:
        EngineError: no engine folder, or an engine that browsers cannot run, with the command that builds one.
        ConfigError: an engine in parts.
    """
    manifest = Manifest.read(engine)
    names = {spec.name for spec in manifest.inputs}
    if manifest.target != "onnx" or not names <= set(RAW):
        raise EngineError(
            f"{engine} is for {manifest.target}, inputs {', '.join(sorted(names))}: a page needs onnx and raw ones; "
            f"build it with: kdcmae-compile --target onnx --inputs raw{_model_option(manifest)} --output {engine}-web"
        )
    require_one_piece(engine, manifest)
    if not manifest.labels:
        raise EngineError(f"{engine} computes features and no labels, which a page cannot show; export a classifier")
    return manifest


def _model_option(manifest: Manifest) -> str:
    """The option of kdcmae-compile for the model of an engine; none for the shipped one."""
    name, _, sha256 = manifest.model["source"].partition(" sha256:")
    shipped = sha256.startswith(digest(default_checkpoint()))
    return "" if shipped or not sha256 else f" --checkpoint {name}"


def export_page(
    engine: Path,
    folder: Path,
    *,
    runtime: Path | None = None,
    step: Callable[[str], None] = lambda line: None,
) -> Page:
    """Write a page that runs an engine. The folder appears whole, and replaces an earlier page only then.

    Args:
        engine: folder of an ONNX engine with raw inputs and labels.
        folder: where the page goes.
        runtime: the archive or the folder of :data:`kdcmae.export.onnxruntime_web.PACKAGE`; None to take it from the
            cache, or from npm.
        step: called with what is being done.

    Raises:
        EngineError: an engine that a page cannot run, or a destination that cannot be written to.
        EngineIntegrityError: the engine is damaged.
        KdcmaeError: ONNX Runtime for browsers cannot be had.
    """
    check_engine(engine)
    publishing.check_destination(folder, what="a page", mark=PAGE_FILE, argument="PAGE")
    step("find ONNX Runtime for browsers")
    files = onnxruntime_web(runtime)
    step("write the page")
    with publishing.staging(folder, fix="choose another PAGE") as partial:
        facts = of_one_publication(engine, lambda publication: _written(publication, partial, files))
        publishing.publish(partial, folder)
    return Page(folder=folder, files={name: file["bytes"] for name, file in facts["files"].items()}, facts=facts)


def _written(publication: Publication, partial: Path, runtime: Path) -> dict[str, Any]:
    """Write everything but what an earlier attempt left, which is overwritten."""
    manifest = check_engine(publication.folder)
    verify_files(publication.folder, manifest)
    golden = read_golden(publication.folder / GOLDEN_FILE, manifest)
    if golden.clips is None:
        raise EngineError(f"{publication.folder} has no clips for a self-test; rebuild it with kdcmae-compile")
    for file in _sources():
        shutil.copyfile(file, partial / file.name)
    (partial / _RUNTIME).mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(runtime / name, partial / _RUNTIME / name)
    model = manifest.engine["file"]
    weights = [name for name in manifest.files if name.startswith(f"{model}.")]
    for name in (model, *weights):
        shutil.copyfile(publication.folder / name, partial / name)
    arrays = _write_arrays(partial / _SELF_TEST, golden)
    wasm = f"{_RUNTIME}/{next(name for name in FILES if name.endswith('.wasm'))}"
    facts = _facts(manifest) | {
        "model": model,
        "weights": weights,
        "wasm": wasm,
        "selftest": {
            "file": _SELF_TEST,
            "arrays": arrays,
            "limits": dataclasses.asdict(golden.clips.limits_of({})),
        },
        "files": {name: _described(partial / name) for name in (wasm, model, *weights, _SELF_TEST)},
    }
    (partial / PAGE_FILE).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    if not publication.holds(manifest):
        raise EngineError(f"{publication.folder} was replaced while the page was written; export it again")
    return facts


def _facts(manifest: Manifest) -> dict[str, Any]:
    """The facts of a manifest that the page needs."""
    preprocessing = Preprocessing.from_dict(manifest.preprocessing)
    return {
        "name": manifest.model["name"],
        "parameters": manifest.model["parameters"],
        "kdcmae_version": manifest.kdcmae_version,
        "created": manifest.created,
        "precision": str(manifest.precision.get("asked", "unknown precision")),
        "onnxruntime_web": VERSION,
        "labels": list(manifest.labels),
        "scores": manifest.scores,
        "inputs": [spec.name for spec in manifest.inputs],
        "output": manifest.outputs[0].name,
        "batch": manifest.batch.min,
        "rate": SAMPLE_RATE_HZ,
        "mono": preprocessing.mono,
        "window": preprocessing.audio_samples,
        "shortest": FRAME_LENGTH,
        "preprocessing": preprocessing.to_dict(),
    }


def _write_arrays(path: Path, golden: Golden) -> dict[str, dict[str, Any]]:
    """Write the arrays of a self-test one after the other, little-endian, and return the place of each by name."""
    clips = golden.clips
    assert clips is not None
    arrays: dict[str, NDArray[Any] | None] = {f"input.{name}": array for name, array in golden.inputs.items()}
    arrays |= {f"output.{name}": array for name, array in golden.reference.items()}
    arrays |= {"clip.waveform": clips.waveforms, "clip.frame": clips.frames}
    arrays |= {f"clip.output.{name}": array for name, array in clips.reference.items()}
    places = {}
    with path.open("wb") as stream:
        for name, array in arrays.items():
            if array is None:
                continue
            places[name] = {"dtype": array.dtype.name, "shape": list(array.shape), "offset": stream.tell()}
            content = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).tobytes()
            stream.write(content + bytes(-len(content) % _ALIGNMENT))
    return places


def _described(path: Path) -> dict[str, Any]:
    return {"sha256": digest(path), "bytes": path.stat().st_size}


def _sources() -> Iterable[Path]:
    """The page's own files, as they are installed."""
    return sorted(Path(str(resources.files("kdcmae.export"))).joinpath("page").iterdir())
