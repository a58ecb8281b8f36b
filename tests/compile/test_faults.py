"""What goes wrong on real machines: one clear line, the right exit code, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdcmae.files import publishing
from kdcmae.runtime import load_engine
from kdcmae.runtime.manifest import Manifest, verify_files


@pytest.fixture
def old(engine, tmp_path):
    """An engine that is there already, in a folder with nothing else."""
    import shutil

    return shutil.copytree(engine, tmp_path / "engines" / "engine")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def failed(result, message):
    """One line that says what is wrong, after whatever progress was reported."""
    assert message in result.stderr.splitlines()[-1], result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.stderr
    return result.exit_code


def arguments(checkpoint, folder, *others):
    return ["--target", "openvino", "--checkpoint", str(checkpoint), "--output", str(folder), "--batch", "2", *others]


def in_process(code, **options):
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("stage", ["golden.npz", "report.html", "manifest.json"])
def test_a_disk_that_fills_up_while_packaging(stage, old, checkpoint, run, fails):
    before = content(old)
    targets = {
        "golden.npz": "numpy.savez_compressed",
        "report.html": "kdcmae.compile.report.write",
        "manifest.json": "kdcmae.runtime.manifest.Manifest.write",
    }
    fails(targets[stage], OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), stage))
    assert failed(run(*arguments(checkpoint, old)), f"{stage}: No space left on device") == 2
    assert content(old) == before
    assert os.listdir(old.parent) == ["engine"]


def test_files_that_may_not_get_this_large(checkpoint, old):
    """A file-size limit fails writes inside the libraries the way a full disk does."""
    before = content(old)
    code = (
        "import resource; from kdcmae.compile.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
        f"main({arguments(checkpoint, old)!r})"
    )
    process = in_process(code)
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 2, stderr
    assert stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in stderr
    assert content(old) == before
    assert os.listdir(old.parent) == ["engine"]


def test_a_full_cache_disk_costs_only_the_copy(checkpoint, run, tmp_path, fails):
    fails("kdcmae.compile.cache.Cache.store", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    result = run(*arguments(checkpoint, tmp_path / "engine"))
    assert result.exit_code == 0, result.stderr
    assert "no copy was kept in the cache: [Errno 28] No space left on device" in result.stderr
    verify_files(tmp_path / "engine", Manifest.read(tmp_path / "engine"))


def test_a_build_killed_at_once_loses_nothing(checkpoint, old):
    before = content(old)
    process = in_process(f"from kdcmae.compile.cli import main; main({arguments(checkpoint, old)!r})")
    while process.poll() is None and len(os.listdir(old.parent)) == 1:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert content(old) == before
    assert len(os.listdir(old.parent)) == 2
    with publishing.staging(old):  # the next build's
        pass
    assert os.listdir(old.parent) == ["engine"]


@pytest.mark.parametrize(("target", "file"), [("openvino.OpenVino", "model.bin"), ("trt.TensorRt", "engine.plan")])
def test_a_build_killed_while_the_library_writes_loses_nothing(target, file, checkpoint, old, run):
    """The kernel kills a process, without a word, that writes past its limit where it does not ignore the signal."""
    module, kind = target.split(".")
    if module == "trt":
        pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    command = ["--target", module, *arguments(checkpoint, old, "--no-cache")[2:]]
    before = content(old)
    process = in_process(
        "import resource, signal\n"
        "from kdcmae.compile.cli import main\n"
        f"from kdcmae.compile.targets.{module} import {kind} as Target\n"
        "build = Target.build\n"
        "def limited(self, request):\n"
        "    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "    return build(self, request)\n"
        "Target.build = limited\n"
        f"main({command!r})"
    )
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == -signal.SIGXFSZ, stderr
    assert content(old) == before
    [hidden] = [path for path in old.parent.iterdir() if path != old]
    partial = hidden / "staged"
    assert 0 < (partial / file).stat().st_size <= 200_000
    assert not (partial / "manifest.json").exists()
    again = run(*command)
    assert again.exit_code == 0, again.stderr
    assert os.listdir(old.parent) == ["engine"]
    verify_files(old, Manifest.read(old))


def test_an_output_that_cannot_be_written_to(checkpoint, run):
    result = run(*arguments(checkpoint, "/proc/engine"))
    assert failed(result, "cannot write to /proc: ") == 2
    assert "choose another --output" in result.stderr


def test_a_file_system_that_turns_read_only(checkpoint, old, run, fails):
    before = content(old)
    fails("kdcmae.files.publishing.publish", OSError(errno.EROFS, os.strerror(errno.EROFS), str(old)))
    assert failed(run(*arguments(checkpoint, old, "--no-cache")), "Read-only file system") == 2
    assert content(old) == before
    assert os.listdir(old.parent) == ["engine"]


def test_an_engine_edited_by_one_byte_does_not_load(old):
    from kdcmae.errors import EngineIntegrityError

    for name in ("model.bin", "model.xml", "labels.txt", "golden.npz", "report.html"):
        path = old / name
        honest = path.read_bytes()
        path.write_bytes(bytes([honest[0] ^ 1]) + honest[1:])
        with pytest.raises(EngineIntegrityError, match=f"{name} has changed"):
            load_engine(old)
        path.write_bytes(honest)
    load_engine(old).close()


def test_an_onnx_file_as_a_checkpoint(engine_of, run, tmp_path):
    result = run(*arguments(engine_of("onnx", "fp32") / "model.onnx", tmp_path / "other"))
    assert failed(result, "model.onnx is an ONNX model") == 2
    assert not (tmp_path / "other").exists()


def test_a_checkpoint_with_nan_weights(checkpoint, old, run, tmp_path):
    import safetensors

    with safetensors.safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(checkpoint)
    tensors["blocks_u.0.mlp.fc1.weight"][0, 0] = torch.nan
    save_file(tensors, tmp_path / "nan.safetensors", metadata=metadata)
    before = content(old)
    result = run(*arguments(tmp_path / "nan.safetensors", old))
    assert failed(result, "holds NaN or infinite values in blocks_u.0.mlp.fc1.weight") == 2
    assert content(old) == before


@pytest.mark.parametrize("names", [("dog", "rain"), ("dog", "rain", "violin", "drum")])
def test_labels_of_the_wrong_length(names, checkpoint, old, run, tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(names))
    before = content(old)
    result = run(*arguments(checkpoint, old, "--labels", str(tmp_path / "labels.txt")))
    assert failed(result, f"{len(names)} labels for num_classes=3: give one label per class") == 2
    assert content(old) == before
    assert os.listdir(old.parent) == ["engine"]


def test_a_clip_that_is_none(checkpoint, run, tmp_path):
    (tmp_path / "clip.mp4").write_text("not a video")
    result = run(*arguments(checkpoint, tmp_path / "engine", "--clips", str(tmp_path / "clip.mp4")))
    assert failed(result, "clip.mp4") == 2
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_paths_that_are_not_text(checkpoint, run, tmp_path):
    """Libraries take text only, and so do the manifest and the report."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    model = folder / os.fsdecode(b"mod\xe8le.safetensors")
    model.write_bytes(checkpoint.read_bytes())
    result = run(*arguments(model, folder / "engine", "--json"))
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["engine"] == str(folder / "engine")
    assert Manifest.read(folder / "engine").model["name"] == "mod\\xe8le"
    assert "mod\\xe8le.safetensors" in (folder / "engine" / "report.html").read_text(encoding="utf-8")
    with load_engine(folder / "engine") as engine:
        assert engine.self_test().passed
    assert sorted(os.listdir(folder)) == sorted(["engine", model.name])
