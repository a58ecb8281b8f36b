"""Detect the format of a checkpoint file from its first bytes, and read its content if that is safe.

Nothing in a file is ever executed. PyTorch files go through ``torch.load(weights_only=True)``, which knows pickle
protocols up to 3; newer ones go through an unpickler that allows the same few names. Any other file is refused; the
message names its format and how to get the weights out of it.
"""

from __future__ import annotations

import argparse
import collections
import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import safetensors
import torch

from kdcmae.errors import CheckpointError, cause
from kdcmae.runtime.folders import openable

__all__ = ["FileContent", "listed", "read_file"]


@dataclass(frozen=True, kw_only=True)
class FileContent:
    """Content of a checkpoint file.

    Args:
        tree: tensors by name, or containers with such mappings.
        metadata: texts by name, of a safetensors file.
    """

    tree: Any
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_file(path: Path) -> FileContent:
    """Read a PyTorch or safetensors file.

    Raises:
        CheckpointError: cannot be read, is damaged, contains code, or has another format, which the message names.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder; {_in_folder(path)}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; check the path") from error
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LARGEST_HEADER:
        return _read_safetensors(path)
    if head[:4] == b"PK\x03\x04":
        _require_torch_archive(path)
        return FileContent(tree=_read_archive(path))
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return FileContent(tree=_read_legacy(path, head))
    raise CheckpointError(f"{path} {_named(path, head)}")


_LARGEST_HEADER = 100_000_000  # bytes that safetensors allows

_LFS = "is a Git LFS pointer, not the file itself; fetch it with: git lfs pull"
_PACKED = "is compressed; unpack it first"
_MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", _LFS),
    (b"GGUF", "is a GGUF file of llama.cpp, whose weights are quantised; give the PyTorch checkpoint it was made from"),
    (b"\x89HDF\r\n", "is an HDF5 file (Keras); give the PyTorch checkpoint"),
    (b"\x93NUMPY", "is a NumPy array; give a PyTorch or safetensors file with all weights by name"),
    (b"<?xml", "is an XML file, such as a model of OpenVINO; give the checkpoint it was made from"),
    (b"ftrt", "is a TensorRT engine; give the checkpoint it was compiled from"),
    (b"\x1f\x8b", _PACKED),
    (b"BZh", _PACKED),
    (b"\xfd7zXZ", _PACKED),
    (b"\x28\xb5\x2f\xfd", _PACKED),
    (b"7z\xbc\xaf", _PACKED),
    (b"Rar!", _PACKED),
)
# A model's first field is its IR version, as a small number; the next is another field of ModelProto.
_ONNX = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x2a\x32\x3a\x42]")


def _named(path: Path, head: bytes) -> str:
    """The format of a file that cannot be read, and the fix."""
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    if not head:
        return "is empty: truncated or damaged; copy it again"
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it, and give the PyTorch or safetensors file inside"
    if path.suffix.lower() == ".onnx" or _ONNX.match(head):
        return "is an ONNX model, whose names and layout are no longer the checkpoint's; give the PyTorch checkpoint"
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "is a web page, not the file itself; download it again, logged in where that is needed"
    if text.startswith(b"{"):
        return _named_json(path)
    return "is not a checkpoint: neither a PyTorch file nor safetensors"


def _named_json(path: Path) -> str:
    try:
        index = json.loads(path.read_bytes())
        parts = sorted(set(index["weight_map"].values()))
    except (ValueError, RecursionError, OSError, KeyError, TypeError, AttributeError):
        return "is a JSON file, not a checkpoint: neither a PyTorch file nor safetensors"
    return (
        f"is the index of a checkpoint in {len(parts)} parts ({listed(parts, 3)}); save them as one file: "
        "safetensors.torch.save_file({name: tensor for part in parts for name, tensor in "
        "safetensors.torch.load_file(part).items()}, 'model.safetensors')"
    )


def _in_folder(path: Path) -> str:
    if (path / ".metadata").is_file():
        return (
            "it holds a distributed checkpoint; make one file of it with: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} model.pth"
        )
    if (path / "manifest.json").is_file():
        return "it looks like a compiled engine; give the checkpoint that it was compiled from"
    return "give the checkpoint file inside it"


def _require_torch_archive(path: Path) -> None:
    """Refuse zip archives that ``torch.save`` did not write.

    Raises:
        CheckpointError: written by something else, which the message names.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"{path} is truncated or damaged: {error}") from error
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        what = "is a TorchScript archive"
        fix = "torch.save(torch.jit.load(path).state_dict(), 'model.pth')"
    elif any(name.startswith("data/aotinductor/") for name in inside):
        what, fix = "is a package compiled by AOTInductor, which keeps no names of weights", "give the checkpoint"
    elif inside & {"archive_format", "archive_version"} or "serialized_exported_program.json" in names:
        what = "is an exported program (torch.export)"
        fix = "torch.save(torch.export.load(path).state_dict, 'model.pth')"
    elif names and all(name.endswith(".npy") for name in names):
        what = f"is a NumPy archive of {listed(names, 3)}"
        fix = "torch.save({name: torch.from_numpy(array) for name, array in numpy.load(path).items()}, 'model.pth')"
    elif "data.pkl" not in inside:
        what, fix = f"is a zip archive of {listed(names, 3)}", "unpack it, and give the PyTorch or safetensors file"
    else:
        return
    raise CheckpointError(f"{path} {what}, not a checkpoint; to get the weights: {fix}")


# What damaged bytes raise on their way through an unpickler.
_DAMAGE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


def _read_archive(path: Path) -> Any:
    """The content of a file by ``torch.save``."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if PurePosixPath(name).name == "data.pkl")
            with archive.open(name) as file:
                protocol = _protocol(file.read(2))
    except _DAMAGE as error:
        raise CheckpointError(f"{path} is truncated or damaged: {cause(error)}") from error
    return _load(path, weights_only=True) if protocol <= 3 else _load(path, weights_only=False, pickle_module=_plain)


# The first number in files of torch.save from before zip archives.
_LEGACY = b"l\xfc\x9cF\xf9 j\xa8P\x19."


def _read_legacy(path: Path, head: bytes) -> Any:
    """The content of a file by ``torch.save`` from before zip archives."""
    protocol = _protocol(head)
    if _LEGACY not in head[:64]:
        raise CheckpointError(
            f"{path} is a plain pickle (protocol {protocol}), not a file of torch.save, and loading one could run "
            "code: refused. Save the weights with torch.save(model.state_dict(), path)"
        )
    if protocol > 3:
        raise CheckpointError(
            f"{path} is in the format from before zip archives, in pickle protocol {protocol}, which cannot be read "
            "without running code: refused. Save it again with torch.save(torch.load(path), 'model.pth')"
        )
    return _load(path, weights_only=True)


def _load(path: Path, **how: Any) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # about protocols and damaged bytes: the error below is enough
            return torch.load(path, map_location="cpu", **how)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors{_code_in(path, error)}, and loading that could run code: refused. "
            "Re-save it with torch.save(model.state_dict(), path)"
        ) from error
    except _DAMAGE as error:
        raise CheckpointError(f"{path} is truncated or damaged: {cause(error)}") from error


def _code_in(path: Path, error: Exception) -> str:
    """The names in a pickle that could be code, as far as they can be listed without loading it."""
    if isinstance(error, _ForbiddenNameError):
        return f" ({error})"
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except (*_DAMAGE, pickle.UnpicklingError):
        return ""
    whole = (
        ": it is a whole model, not its state dict"
        if any(name.startswith("torch.nn.modules.") for name in names)
        else ""
    )
    return f" ({listed(names, 4)}{whole})" if names else ""


class _ForbiddenNameError(pickle.UnpicklingError):
    """A pickle refers to a name that is not part of a tensor; the message is the name."""


# Names that tensors consist of in a pickle, as in torch's own weights-only reader.
_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("argparse", "Namespace"): argparse.Namespace,
}


class _PlainUnpickler(pickle.Unpickler):
    """Reads only tensors and plain data; torch loads their storages."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module, name))
        if allowed is None and module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            allowed = getattr(torch, name)
        if allowed is None:
            raise _ForbiddenNameError(f"{module}.{name}")
        return allowed


_plain = SimpleNamespace(Unpickler=_PlainUnpickler, __name__="plain data")


def _read_safetensors(path: Path) -> FileContent:
    try:
        with openable(path) as text, safetensors.safe_open(text, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (safetensors.SafetensorError, *_DAMAGE) as error:
        raise CheckpointError(f"{path} is truncated or damaged: {cause(error)}") from error
    return FileContent(tree=state, metadata=metadata)


def _protocol(head: bytes) -> int:
    """Protocol number of a pickle; 0 if it states none, as protocols 0 and 1."""
    return head[1] if head[:1] == b"\x80" else 0


def listed(names: list[str], limit: int = 12) -> str:
    """Names joined in one text, at most ``limit`` of them."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
