"""``manifest.json``: everything an app needs to know about an engine folder, as data.

The engine file itself stays raw, so that any tool of its library loads it; every fact about it lives here,
beside the SHA-256 of every other file in the folder. The schema is strict in both directions: what the
compiler writes is checked by the same code that reads it inside an app.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import reprlib
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

from kdcmae.errors import EngineError, EngineIntegrityError, EngineVersionError

__all__ = ["BATCH_AXIS", "SCHEMA_VERSION", "TARGETS", "BatchRange", "Manifest", "TensorSpec", "digest", "verify_files"]

SCHEMA_VERSION = 1
BATCH_AXIS: Final = "batch"
MANIFEST_FILE = "manifest.json"
LABELS_FILE = "labels.txt"

TARGETS = ("openvino", "trt", "onnx")
_SCORES = ("softmax", "sigmoid")
_MODALITIES = ("audiovisual", "audio", "video")
_INPUT_DTYPES = ("float32", "float16", "uint8", "int8", "int16", "int32", "int64")
_OUTPUT_DTYPES = ("float32", "float16", "bfloat16")
_MODEL_FACTS: dict[str, type] = {
    "name": str,
    "parameters": int,
    "modality": str,
    "config": dict,
    "source": str,
    "random_weights": bool,
}


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input or output of an engine.

    Args:
        name: the tensor's name in the engine file.
        shape: axis sizes; the string ``"batch"`` marks the batch axis, which can only be the first.
        dtype: numpy's name of the element type (or ``"bfloat16"`` for an output).
        description: what the values are, units included.
    """

    name: str
    shape: tuple[int | Literal["batch"], ...]
    dtype: str
    description: str


@dataclasses.dataclass(frozen=True)
class BatchRange:
    """Batch sizes the engine accepts; it was tuned for ``opt``. All three are equal in a static engine."""

    min: int
    opt: int
    max: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts of one engine folder.

    Args:
        schema_version: of this format.
        kdcmae_version: the release that built the engine.
        created: build time, ISO 8601 in UTC.
        model: ``name``, ``parameters``, ``modality``, ``config``, ``source``, ``random_weights``.
        labels: class names in the order of the logits, one line of ``labels.txt`` each.
        scores: how logits become scores, ``"softmax"`` or ``"sigmoid"``.
        inputs: what :meth:`Engine.infer` takes.
        outputs: what the engine computes; the first holds the logits.
        batch: batch sizes the engine accepts.
        preprocessing: how a clip becomes the inputs, see :class:`kdcmae.runtime.preprocessing.Preprocessing`.
        target: ``"openvino"``, ``"trt"`` or ``"onnx"``.
        libraries: version each library the engine needs had when the engine was built.
        engine: ``file``, the raw engine's name in the folder, and the target's own options.
        precision: what was asked for and what was executed.
        parity: the rungs of the parity ladder.
        build: seconds, peak memory and host of the build.
        files: SHA-256 of every other file in the folder; filled in by :meth:`write`.

    Raises:
        EngineError: a field has the wrong type or a value it cannot have.
        EngineVersionError: another schema version.
    """

    schema_version: int = SCHEMA_VERSION
    kdcmae_version: str
    created: str
    model: dict[str, Any]
    labels: tuple[str, ...]
    scores: Literal["softmax", "sigmoid"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch: BatchRange
    preprocessing: dict[str, Any]
    target: Literal["openvino", "trt", "onnx"]
    libraries: dict[str, str]
    engine: dict[str, Any]
    precision: dict[str, Any]
    parity: list[dict[str, Any]]
    build: dict[str, Any]
    files: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_schema_version(self.schema_version)
        _check_text("kdcmae_version", self.kdcmae_version)
        _require(_is_utc(self.created), "created", "an ISO 8601 time in UTC", self.created)
        _check_model(self.model)
        _check_choice("scores", self.scores, _SCORES)
        _check_tensors("inputs", self.inputs, _INPUT_DTYPES)
        _check_tensors("outputs", self.outputs, _OUTPUT_DTYPES)
        _check_labels(self.labels, self.outputs[0])
        _check_batch(self.batch)
        _check_choice("target", self.target, TARGETS)
        for field in ("preprocessing", "libraries", "engine", "precision", "build", "files"):
            _check_mapping(field, getattr(self, field))
        for name, version in self.libraries.items():
            _check_text(f"libraries.{name}", version)
        _check_file_name("engine.file", self.engine.get("file"))
        _require(
            isinstance(self.parity, list) and all(isinstance(rung, dict) for rung in self.parity),
            "parity",
            "a list of objects",
            self.parity,
        )
        for name, sha256 in self.files.items():
            _check_file_name("files", name)
            _require(_is_sha256(sha256), f"files.{name}", "64 lower-case hexadecimal digits", sha256)

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read and check the manifest of an engine folder; the other files are left to :func:`verify_files`.

        Args:
            folder: the engine folder.

        Returns:
            The manifest.

        Raises:
            EngineError: no such folder, no manifest, or a field that is missing, unknown or wrong.
            EngineVersionError: written in another schema version.
        """
        folder = Path(folder)
        if not folder.is_dir():
            kind = "is not a folder" if folder.exists() else "does not exist"
            raise EngineError(f"{folder} {kind}; give the engine folder that kdcmae-compile wrote")
        path = folder / MANIFEST_FILE
        if not path.is_file():
            raise EngineError(f"{folder} has no {MANIFEST_FILE}; give an engine folder that kdcmae-compile wrote")
        try:
            content = json.loads(path.read_bytes(), parse_constant=_reject_constant)
        except (ValueError, RecursionError) as error:
            raise EngineError(f"{path} is not valid JSON ({error}); rebuild it with kdcmae-compile") from None
        try:
            return _from_json(content)
        except EngineError as error:
            raise type(error)(f"{path}: {error}") from None

    def write(self, folder: str | Path) -> Manifest:
        """Write ``labels.txt``, then ``manifest.json`` with the digest of every other file in the folder.

        Args:
            folder: an existing folder that already holds the engine and whatever else belongs to it.

        Returns:
            The manifest as written, ``files`` included.

        Raises:
            EngineError: the engine file is not there, the folder holds something other than plain files, or a
                value has no place in JSON.
        """
        folder = Path(folder)
        try:
            (folder / LABELS_FILE).write_bytes("".join(f"{label}\n" for label in self.labels).encode())
            written = dataclasses.replace(self, files=_digests(folder))
            _check_listed(written)
            text = json.dumps(dataclasses.asdict(written), indent=2, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise EngineError(f"{folder / MANIFEST_FILE} cannot be written: {error}") from error
        (folder / MANIFEST_FILE).write_bytes(f"{text}\n".encode())
        return written


def digest(path: Path) -> str:
    """SHA-256 of a file in lower-case hexadecimal, read in pieces so that engines of any size fit."""
    sha256 = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            sha256.update(piece)
    return sha256.hexdigest()


def verify_files(folder: str | Path, manifest: Manifest) -> None:
    """Check every file the manifest lists against its digest.

    Args:
        folder: the engine folder.
        manifest: what :meth:`Manifest.read` gave for it.

    Raises:
        EngineIntegrityError: a file is missing, is not a plain file inside the folder, or has changed.
    """
    folder = Path(folder)
    fix = "copy the engine folder again or rebuild it with kdcmae-compile"
    for name, expected in manifest.files.items():
        path = folder / name
        # A link may point outside the folder, or at another file tomorrow: neither is what was digested.
        if path.is_symlink():
            raise EngineIntegrityError(f"{path} is a symbolic link, not a file; {fix}")
        if not path.is_file():
            raise EngineIntegrityError(f"{path} is missing; {fix}")
        found = digest(path)
        if found != expected:
            raise EngineIntegrityError(
                f"{path} has changed: its SHA-256 is {found}, {MANIFEST_FILE} says {expected}; {fix}"
            )


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.iterdir()):
        if path.name == MANIFEST_FILE:
            continue
        if path.is_symlink() or not path.is_file():
            raise EngineError(f"{path} is not a plain file; an engine folder holds nothing else")
        digests[path.name] = digest(path)
    return digests


def _from_json(content: Any) -> Manifest:
    _check_mapping("the whole file", content)
    # Before anything else: a field that a later schema added must not read as a misspelling.
    _check_schema_version(content.get("schema_version"))
    fields = _keys("", content, (field.name for field in dataclasses.fields(Manifest)))
    fields["labels"] = _sequence("labels", fields["labels"])
    for role in ("inputs", "outputs"):
        fields[role] = tuple(
            _tensor(f"{role}[{index}]", item) for index, item in enumerate(_sequence(role, fields[role]))
        )
    fields["batch"] = BatchRange(**_keys("batch", fields["batch"], ("min", "opt", "max")))
    manifest = Manifest(**fields)
    _check_listed(manifest)
    return manifest


def _tensor(field: str, content: Any) -> TensorSpec:
    facts = _keys(field, content, ("name", "shape", "dtype", "description"))
    facts["shape"] = _sequence(f"{field}.shape", facts["shape"])
    return TensorSpec(**facts)


def _keys(field: str, content: Any, names: Iterable[str]) -> dict[str, Any]:
    """The object itself, once it is known to hold exactly these keys."""
    _check_mapping(field, content)
    prefix = f"{field}." if field else ""
    names = tuple(names)
    for name in names:
        if name not in content:
            raise EngineError(f"field {prefix}{name} is missing; rebuild the engine with kdcmae-compile")
    for name in content:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f", did you mean {near[0]}?" if near else f"; known are {', '.join(names)}"
            raise EngineError(f"field {prefix}{name} is unknown{hint}")
    return dict(content)


def _sequence(field: str, value: Any) -> tuple[Any, ...]:
    _require(isinstance(value, list), field, "a list", value)
    return tuple(value)


def _require(condition: bool, field: str, expected: str, value: Any) -> None:
    if not condition:
        raise EngineError(f"field {field} must be {expected}, got {reprlib.repr(value)}")


def _check_schema_version(version: Any) -> None:
    if version is None:
        raise EngineError("field schema_version is missing; rebuild the engine with kdcmae-compile")
    _require(_is_count(version), "schema_version", "a positive whole number", version)
    if version != SCHEMA_VERSION:
        fix = "update kdcmae" if version > SCHEMA_VERSION else "rebuild the engine with kdcmae-compile"
        raise EngineVersionError(
            f"the manifest has schema version {version}, this kdcmae reads version {SCHEMA_VERSION}; {fix}"
        )


def _check_mapping(field: str, value: Any) -> None:
    _require(isinstance(value, Mapping), field, "an object", value)


def _check_text(field: str, value: Any) -> None:
    _require(isinstance(value, str) and value.strip() != "", field, "a text that is not empty", value)


def _check_choice(field: str, value: Any, choices: tuple[str, ...]) -> None:
    _require(isinstance(value, str) and value in choices, field, f"one of {', '.join(choices)}", value)


def _check_file_name(field: str, value: Any) -> None:
    """Only a bare name is safe to join to the folder, on any operating system."""
    plain = isinstance(value, str) and value not in ("", ".", "..", MANIFEST_FILE)
    plain = plain and not any(character in "/\\:" or ord(character) < 32 for character in value)
    _require(plain, field, "the plain name of a file in the folder", value)


def _check_model(model: Any) -> None:
    _check_mapping("model", model)
    for fact, kind in _MODEL_FACTS.items():
        if fact not in model:
            raise EngineError(f"field model.{fact} is missing; rebuild the engine with kdcmae-compile")
        _require(type(model[fact]) is kind, f"model.{fact}", f"of type {kind.__name__}", model[fact])
    _check_choice("model.modality", model["modality"], _MODALITIES)


def _check_tensors(field: str, tensors: Any, dtypes: tuple[str, ...]) -> None:
    _require(isinstance(tensors, tuple) and len(tensors) > 0, field, "one tensor or more", tensors)
    for index, tensor in enumerate(tensors):
        where = f"{field}[{index}]"
        _check_text(f"{where}.name", tensor.name)
        _require(_is_shape(tensor.shape), f"{where}.shape", 'positive sizes, "batch" first or nowhere', tensor.shape)
        _check_choice(f"{where}.dtype", tensor.dtype, dtypes)
        _require(isinstance(tensor.description, str), f"{where}.description", "a text", tensor.description)
    names = [tensor.name for tensor in tensors]
    _require(len(set(names)) == len(names), field, "tensors of different names", names)


def _check_labels(labels: Any, logits: TensorSpec) -> None:
    _require(isinstance(labels, tuple), "labels", "a list of texts", labels)
    for index, label in enumerate(labels):
        _check_text(f"labels[{index}]", label)
        _require(label.splitlines() == [label], f"labels[{index}]", "a single line", label)
    classes = logits.shape[-1]
    if labels and len(labels) != classes:
        raise EngineError(f"field labels has {len(labels)} labels, but output {logits.name} has {classes} classes")


def _check_batch(batch: BatchRange) -> None:
    for bound in ("min", "opt", "max"):
        size = getattr(batch, bound)
        _require(_is_count(size), f"batch.{bound}", "a positive whole number", size)
    _require(batch.min <= batch.opt <= batch.max, "batch", "ordered as min <= opt <= max", dataclasses.astuple(batch))


def _check_listed(manifest: Manifest) -> None:
    """Every file that gets opened must be under a digest; OpenVINO opens the weights beside its .xml by itself."""
    file = manifest.engine["file"]
    needed = [file, LABELS_FILE]
    if manifest.target == "openvino":
        needed.append(f"{Path(file).stem}.bin")
    for name in needed:
        if name not in manifest.files:
            raise EngineError(f"field files does not list {name}; rebuild the engine with kdcmae-compile")


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_shape(shape: Any) -> bool:
    if not isinstance(shape, tuple) or not shape:
        return False
    sizes = shape[1:] if shape[0] == BATCH_AXIS else shape
    return all(_is_count(size) for size in sizes)


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_utc(value: Any) -> bool:
    try:
        # Python 3.10 reads the offset +00:00 but not the letter Z.
        return datetime.fromisoformat(value.replace("Z", "+00:00")).utcoffset() == timedelta(0)
    except (AttributeError, TypeError, ValueError):
        return False


def _reject_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON number")
