"""Engine folders as caches, volumes and other builds leave them: links, and another engine at any moment."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from kdcmae.errors import EngineError, EngineIntegrityError
from kdcmae.files.publishing import publish, staging
from kdcmae.runtime import folders, load_engine
from kdcmae.runtime import loading as runtime
from kdcmae.runtime.manifest import Manifest, digest

TARGETS = ("openvino", "onnx", "onnx, weights apart")


@pytest.fixture(params=TARGETS)
def built(request: pytest.FixtureRequest, tiny: Any) -> Path:
    """An engine folder of plain files."""
    target, _, apart = request.param.partition(",")
    folder: Path = tiny.make(target)
    if apart:
        model = onnx.load(folder / "model.onnx")
        onnx.save(
            model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=60
        )
        Manifest.read(folder).write(folder)
        assert (folder / "model.onnx.data").stat().st_size
    return folder


def as_hugging_face_keeps_it(built: Path, root: Path) -> Path:
    """``snapshots/REVISION/FILE``, links to ``blobs/DIGEST``."""
    snapshot = root / "models--me--engine" / "snapshots" / "0123abc"
    blobs = root / "models--me--engine" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in built.iterdir():
        blob = blobs / digest(path)
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", blob.name))
    return snapshot


def as_kubernetes_mounts_it(built: Path, root: Path, revision: str = "..2026_01_01") -> Path:
    """``FILE``, links to ``..data/FILE``, which is a link to the folder of the last update."""
    volume = root / "volume"
    volume.mkdir(exist_ok=True)
    shutil.copytree(built, volume / revision)
    (volume / "..new").symlink_to(revision)
    os.rename(volume / "..new", volume / "..data")
    for path in built.iterdir():
        if not (volume / path.name).is_symlink():
            (volume / path.name).symlink_to(Path("..data", path.name))
    return volume


@pytest.mark.parametrize("linked", [as_hugging_face_keeps_it, as_kubernetes_mounts_it])
def test_a_folder_of_links_loads(linked: Callable[[Path, Path], Path], built: Path, tmp_path: Path) -> None:
    folder = linked(built, tmp_path)
    shutil.rmtree(built)
    with load_engine(folder) as engine:
        assert engine.self_test().passed


def test_a_folder_behind_a_link_loads(built: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(built.name)
    with load_engine(tmp_path / "latest") as engine:
        assert engine.self_test().passed


def test_a_path_that_is_not_text_loads(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    built.rename(folder)
    with load_engine(folder) as engine:
        assert engine.self_test().passed
        assert engine.folder == folder
        assert engine.executions()[""].products == {"fp32": 1}  # ONNX Runtime opens the file once more for that


def relabelled(tiny: Any, folder: Path, number: int) -> Path:
    """The same engine under other labels, with a file for its self-test that no other has."""
    copy = folder.with_name(f"engine-{number}")
    shutil.copytree(folder, copy)
    with np.load(copy / "golden.npz") as arrays:
        golden = dict(arrays)
    np.savez(copy / "golden.npz", **golden, number=np.array(number))
    tiny.edit(copy, lambda manifest: manifest.update(labels=[f"{label} {number}" for label in tiny.labels]))
    Manifest.read(copy).write(copy)
    return copy


def republish(copy: Path, folder: Path) -> None:
    with staging(folder) as partial:
        shutil.copytree(copy, partial, dirs_exist_ok=True)
        publish(partial, folder)


def _once_after(moment: str, action: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Act once after a step of loading, by its name; gives a list that is not empty after that."""
    owner, _, name = moment.rpartition(".")
    holder = getattr(runtime, owner) if owner else runtime
    genuine: Callable[..., Any] = getattr(holder, name)
    done: list[Any] = []

    def late(*arguments: Any, **options: Any) -> Any:
        result = genuine(*arguments, **options)
        if not done:
            done.append(action())
        return result

    monkeypatch.setattr(holder, name, late)
    return done


@pytest.mark.parametrize("moment", ["Manifest.read", "verify_files", "Preprocessing.from_dict", "Engine"])
def test_an_engine_published_while_one_is_loaded_is_loaded_whole(
    moment: str, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.make("openvino")
    other = relabelled(tiny, folder, 2)
    done = _once_after(moment, lambda: republish(other, folder), monkeypatch)
    with load_engine(folder) as engine:
        if moment != "Engine":  # by then everything was read
            assert engine.labels == tuple(f"{label} 2" for label in tiny.labels)
            assert engine.self_test().passed
    assert done


def test_a_volume_updated_while_an_engine_is_loaded_is_loaded_whole(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = tiny.make("openvino")
    other = relabelled(tiny, built, 2)
    folder = as_kubernetes_mounts_it(built, tmp_path)
    _once_after("verify_files", lambda: as_kubernetes_mounts_it(other, tmp_path, "..2026_01_02"), monkeypatch)
    with load_engine(folder) as engine:
        assert engine.labels == tuple(f"{label} 2" for label in tiny.labels)
        assert engine.self_test().passed


def test_engines_loaded_while_builds_publish_are_whole(tiny: Any) -> None:
    folder = tiny.make("onnx")
    copies = [relabelled(tiny, folder, number) for number in (1, 2)]
    republish(copies[0], folder)
    stop, one_loaded = threading.Event(), threading.Event()

    def build() -> None:
        for _ in range(10):
            for copy in copies:
                republish(copy, folder)
            # No reader can wait for ever for builds that never pause.
            one_loaded.wait(timeout=2)
            one_loaded.clear()
        stop.set()

    builder = threading.Thread(target=build)
    builder.start()
    loaded = 0
    while not stop.is_set() or not loaded:
        with load_engine(folder) as engine:
            assert len({label.rpartition(" ")[2] for label in engine.labels}) == 1
            # Another engine may be there by now, which is said.
            with suppress(EngineIntegrityError):
                assert engine.self_test().passed
        loaded += 1
        one_loaded.set()
    builder.join()


def test_an_error_of_a_folder_that_stays_is_not_tried_again(tiny: Any, fails: Any) -> None:
    folder = tiny.make("onnx")
    calls = fails("kdcmae.runtime.loading.verify_files", RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        load_engine(folder)
    assert len(calls) == 1


def test_where_files_have_no_lasting_number_the_content_tells(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter(range(10**6))
    monkeypatch.setattr(folders, "_identity", lambda entry: (0, next(numbers), 0, 0))
    with load_engine(built) as engine:
        assert engine.self_test().passed


def test_a_replaced_engine_does_not_test_itself_with_another_reference(tiny: Any) -> None:
    folder = tiny.make("onnx")
    other = relabelled(tiny, folder, 2)
    with load_engine(folder) as engine:
        republish(other, folder)
        with pytest.raises(EngineIntegrityError, match=r"golden\.npz has changed since the engine was loaded; load"):
            engine.self_test()


def test_what_executes_is_not_told_of_another_engine(engine_folder: Path, tiny: Any) -> None:
    other = relabelled(tiny, engine_folder, 2)
    with load_engine(engine_folder) as engine:
        republish(other, engine_folder)
        with pytest.raises(EngineIntegrityError, match="has changed"):
            engine.executions()


def test_a_variant_of_another_engine_is_not_loaded(tiny: Any) -> None:
    """Variants are loaded when they are first needed, which may be after another engine was published."""
    folder = tiny.make("onnx", ("audio", "image"))
    alone = tiny.manifest("onnx", ("audio",), engine={"file": "audio-model.onnx", "device": "CPU"})
    onnx.save(tiny.onnx_model(("audio",), alone.batch), folder / "audio-model.onnx")
    alone.write(folder, "audio")
    tiny.manifest("onnx", ("audio", "image"), variants=("audio",)).write(folder)
    other = relabelled(tiny, folder, 2)
    feed = tiny.feed(("audio",), 1)
    with load_engine(folder) as engine:
        np.testing.assert_allclose(engine.infer(feed)["logits"], tiny.logits(feed), atol=1e-5)
    with load_engine(folder) as engine:
        republish(other, folder)
        with pytest.raises(EngineError, match="another engine than the one that was loaded; load it again"):
            engine.infer(feed)
