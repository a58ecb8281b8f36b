from __future__ import annotations

import argparse
import gzip
import json
import os
import pickle
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from kdcmae.errors import CheckpointError
from kdcmae.weights.files import read_file

STATE = {"a": torch.arange(4.0).view(2, 2), "b": torch.ones(3, dtype=torch.float16)}


def same(found: Any) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_archives_of_every_pickle_protocol(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    holder = {"model": STATE, "args": argparse.Namespace(lr=1e-4), "epoch": 3, "size": torch.Size([2]), "d": torch.half}
    torch.save(holder, path, pickle_protocol=protocol)
    tree = read_file(path).tree
    assert same(tree["model"])
    assert (tree["epoch"], tree["args"].lr) == (3, 1e-4)


def test_parameters_in_a_new_protocol(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 1).state_dict(keep_vars=True), tmp_path / "m.pth", pickle_protocol=4)
    assert set(read_file(tmp_path / "m.pth").tree) == {"weight", "bias"}


def test_the_format_before_archives_and_another_device(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    assert same(read_file(path).tree)
    content = path.read_bytes()
    assert b"X\x03\x00\x00\x00cpu" in content
    path.write_bytes(content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    assert same(read_file(path).tree)
    torch.save(STATE, path, _use_new_zipfile_serialization=False, pickle_protocol=4)
    with pytest.raises(CheckpointError, match=r"from before zip archives, in pickle protocol 4.*refused"):
        read_file(path)


def test_safetensors(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "m.bin", metadata={"who": "me"})
    content = read_file(tmp_path / "m.bin")
    assert same(content.tree)
    assert content.metadata == {"who": "me"}


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("how", ["archive", "legacy", "pickle"])
def test_code_never_runs(protocol: int, how: str, tmp_path: Path) -> None:
    path, content = tmp_path / "m.pth", {"model": STATE, "extra": Bomb(tmp_path / "ran")}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=how == "archive")
    with pytest.raises(CheckpointError, match="refused") as caught:
        read_file(path)
    assert not (tmp_path / "ran").exists()
    if how == "archive":
        assert "mkdir" in str(caught.value)


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def lfs(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def script(path: Path) -> None:
    torch.jit.trace(Whole(), torch.ones(1, 2)).save(path)


def exported(path: Path) -> None:
    torch.export.save(torch.export.export(Whole(), (torch.ones(1, 2),)), path.with_suffix(".pt2"))
    path.with_suffix(".pt2").rename(path)


def npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.ones(2))


def npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones(2))


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes/readme.txt", "hello")


def tar(path: Path) -> None:
    lfs(path.with_suffix(".txt"))
    with tarfile.open(path, "w") as file:
        file.add(path.with_suffix(".txt"), "model.pth")


def index(path: Path) -> None:
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    path.write_text(json.dumps({"metadata": {}, "weight_map": parts}))


def distributed(path: Path) -> None:
    path.mkdir()
    (path / ".metadata").touch()


def engine(path: Path) -> None:
    path.mkdir()
    (path / "manifest.json").touch()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lfs, r"is a Git LFS pointer.*git lfs pull"),
        (script, r"is a TorchScript archive.*torch\.jit\.load\(path\)\.state_dict\(\)"),
        (exported, r"is an exported program \(torch\.export\).*torch\.export\.load"),
        (npz, r"is a NumPy archive of a\.npy"),
        (npy, r"is a NumPy array"),
        (lambda path: path.write_bytes(b"GGUF\x03\0\0\0" + bytes(64)), r"is a GGUF file.*quantised"),
        (lambda path: path.write_bytes(b"\x08\x0a\x12\x07pytorch\x1a\x052.4.0:\x10"), r"is an ONNX model"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64)), r"is an HDF5 file"),
        (lambda path: path.write_bytes(gzip.compress(b"x" * 99)), r"is compressed; unpack it"),
        (lambda path: path.write_text("<!DOCTYPE html><html>sign in</html>"), r"is a web page"),
        (lambda path: path.write_text('<?xml version="1.0"?><net/>'), r"is an XML file, such as a model of OpenVINO"),
        (archive, r"is a zip archive of notes/readme\.txt"),
        (tar, r"is a tar archive; unpack it"),
        (index, r"is the index of a checkpoint in 2 parts \(model-00001-of-00002\.safetensors, "),
        (lambda path: path.write_text('{"a": 1, {"'), r"is a JSON file, not a checkpoint"),
        (lambda path: path.write_text('{"a": 1}'), r"is a JSON file, not a checkpoint"),
        (lambda path: path.write_bytes(b""), r"is empty: truncated or damaged"),
        (lambda path: path.write_text("not a checkpoint"), r"neither a PyTorch file nor safetensors"),
        (lambda path: torch.save(Whole(), path), r"it is a whole model, not its state dict.*refused"),
        (distributed, r"holds a distributed checkpoint.*dcp_to_torch"),
        (engine, r"is a folder; it looks like a compiled engine"),
        (lambda path: path.mkdir(), r"is a folder; give the checkpoint file inside it"),
        (lambda path: None, r"No such file"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_other_files_are_named(make: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    make(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_file(path)
    assert "\n" not in str(caught.value)


def outcome(path: Path) -> str:
    try:
        read_file(path)
    except CheckpointError as error:
        return str(error)
    return "loaded"


@pytest.mark.parametrize("form", ["archive", "protocol 4", "legacy", "safetensors"])
def test_damage_ends_in_one_line(form: str, tmp_path: Path) -> None:
    """Cut or changed anywhere, a file loads or is refused, and nothing else happens."""
    path, rng = tmp_path / "m.pth", random.Random(form)
    if form == "safetensors":
        safetensors.torch.save_file(STATE, path)
    else:
        protocol = 4 if form == "protocol 4" else 2
        torch.save(STATE, path, pickle_protocol=protocol, _use_new_zipfile_serialization=form != "legacy")
    whole = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(rng.randint(1, 4)):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        assert "\n" not in outcome(path)
