"""``manifest.json``: everything that an app needs to know about an engine folder, as data.

The engine file itself has its library's own format, so that any tool of that library loads it. The manifest holds every
other fact, and the SHA-256 of every other file in the folder. The schema is strict in both directions: the same code
checks the manifest when the compiler writes it and when an app reads it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from kdcmae.errors import EngineError, EngineIntegrityError
from kdcmae.runtime import schema
from kdcmae.runtime.schema import BATCH_AXIS, FREE_AXES, MANIFEST_FILE, SCHEMA_VERSION
from kdcmae.runtime.targets import TARGETS

__all__ = [
    "BATCH_AXIS",
    "GRAPHS",
    "SCHEMA_VERSION",
    "BatchRange",
    "Manifest",
    "TensorSpec",
    "digest",
    "file_name",
    "verify_files",
]

LABELS_FILE = "labels.txt"
GRAPHS = ("file", "frontend")  # fields of the engine section that name a model file


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input or output of an engine.

    Args:
        name: name of the tensor in the engine file.
        shape: sizes of the axes; the string ``"batch"`` marks the batch axis, which can only be the first, and
            ``"height"`` and ``"width"`` the sides of a frame, each from 16 to 1920 pixels.
        dtype: numpy's name of the element type, or ``"bfloat16"`` for an output.
        description: meaning of the values, with units.
    """

    name: str
    shape: tuple[int | Literal["batch", "height", "width"], ...]
    dtype: str
    description: str

    def sizes(self, batch: int, bound: Literal["min", "opt", "max"] = "opt") -> tuple[int, ...]:
        """The shape in numbers.

        Args:
            batch: size of the batch axis.
            bound: which of their sizes the axes of a frame take.
        """
        free = {name: sizes[("min", "opt", "max").index(bound)] for name, sizes in FREE_AXES.items()}
        return tuple((free | {BATCH_AXIS: batch})[axis] if isinstance(axis, str) else axis for axis in self.shape)


@dataclasses.dataclass(frozen=True)
class BatchRange:
    """Batch sizes that the engine accepts; it is tuned for ``opt``. All three are equal for a fixed size."""

    min: int
    opt: int
    max: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts of one engine folder.

    Args:
        schema_version: version of this format.
        kdcmae_version: the release that built the engine.
        created: build time, ISO 8601 in UTC.
        model: ``name``, ``parameters``, ``modality``, ``config``, ``source``, ``random_weights``.
        labels: class names in the order of the logits, one line of ``labels.txt`` each.
        scores: how logits become scores, ``"softmax"`` or ``"sigmoid"``.
        inputs: inputs of :meth:`Engine.infer`.
        outputs: outputs of the engine; the first holds the logits.
        batch: batch sizes that the engine accepts.
        preprocessing: how a clip becomes the inputs, see :class:`kdcmae.runtime.preprocessing.Preprocessing`.
        target: one of :data:`kdcmae.runtime.targets.TARGETS`.
        libraries: versions of the libraries that the engine needs, when it was built.
        engine: ``file``, the name of the engine file in the folder; ``frontend`` if the preprocessing is a file of its
            own; ``weights`` if they are in a file that several engines share; ``parts`` of an engine in parts, see
            :meth:`parts`, whose last ``file`` and ``frontend`` are the engine's own; and the target's own options.
        precision: precisions that were asked for and that execute, see below.
        parity: the rungs of the parity ladder.
        build: seconds, peak memory and host of the build.
        variants: names of variants, the same model for other inputs. The names of their files, which include a
            manifest, start with the variant's name and a hyphen.
        files: SHA-256 of every other file in the folder; filled in by :meth:`write`.

    ``precision`` holds, besides what a quantisation adds:

    ``asked``
        the precision of the matrix products; ``chosen`` is the reason if ``--precision auto`` chose it.
    ``built_for``
        the processor that the engine is for, if the target can build for other processors than this machine's: its
        ``class`` (a name of :data:`kdcmae.runtime.cpu.CLASSES`), ``name``, ``machine`` and ``features``, and ``here``:
        whether it is the processor of the machine that built the engine. Missing in engines built before kdcmae
        recorded it.
    ``claims``
        per layer class (``layers``): the precision ``claimed`` to execute on that processor, and numbers of layers by
        precision: those that the graph has in another precision on purpose (``besides``), and those that the build saw
        (``executed``). ``holds`` is null if the build could not check the claim. Then ``checked`` names the machine to
        check it on, such as "to be checked on amx", and ``executed`` is what the building machine ran instead. Fewer
        than half of the layers of a class, other than the products, may execute in float32.
    ``executed``, ``products``, ``read_from``
        the precisions that the building machine executed: layers by type and precision, matrix products by precision,
        and the source of these figures.

    Raises:
        EngineError: a field has the wrong type or an impossible value.
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
    target: str
    libraries: dict[str, str]
    engine: dict[str, Any]
    precision: dict[str, Any]
    parity: list[dict[str, Any]]
    build: dict[str, Any]
    variants: tuple[str, ...] = ()
    files: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        schema.check_schema_version(self.schema_version)
        schema.check_text("kdcmae_version", self.kdcmae_version)
        schema.require(schema.is_utc(self.created), "created", "an ISO 8601 time in UTC", self.created)
        schema.check_model(self.model)
        schema.check_choice("scores", self.scores, schema.SCORES)
        schema.check_tensors("inputs", self.inputs, schema.INPUT_DTYPES)
        schema.check_tensors("outputs", self.outputs, schema.OUTPUT_DTYPES)
        schema.check_labels(self.labels, self.outputs[0])
        schema.check_batch(self.batch)
        schema.check_choice("target", self.target, TARGETS)
        for field in ("preprocessing", "libraries", "engine", "precision", "build", "files"):
            schema.check_mapping(field, getattr(self, field))
        for name, version in self.libraries.items():
            schema.check_text(f"libraries.{name}", version)
        for name in ("file", *({*GRAPHS, "weights"} & self.engine.keys())):
            schema.check_file_name(f"engine.{name}", self.engine.get(name))
        if self.is_in_parts:
            self._check_parts()
        schema.require(
            isinstance(self.parity, list) and all(isinstance(rung, dict) for rung in self.parity),
            "parity",
            "a list of objects",
            self.parity,
        )
        for variant in self.variants:
            schema.check_choice("variants", variant, schema.MODALITIES)
        for name, sha256 in self.files.items():
            schema.check_file_name("files", name)
            schema.require(schema.is_sha256(sha256), f"files.{name}", "64 lower-case hexadecimal digits", sha256)

    @property
    def is_in_parts(self) -> bool:
        """Whether the engine is several engine files."""
        return "parts" in self.engine

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of all model files."""
        sections = self.engine["parts"] if self.is_in_parts else [self.engine]
        return tuple(section[role] for section in sections for role in GRAPHS if role in section)

    def parts(self) -> dict[str, Manifest]:
        """The parts of an engine in parts by name, in the order in which they run.

        A part takes inputs of the engine or outputs of parts before it: an encoder per modality, then what joins them.

        Returns:
            A manifest per part, for the backend that loads it; labels and variants belong to the engine.
        """
        common = {name: value for name, value in self.engine.items() if name not in ("parts", *GRAPHS)}
        return {
            part["name"]: dataclasses.replace(
                self,
                inputs=_tensors(f"engine.parts[{index}].inputs", part["inputs"]),
                outputs=_tensors(f"engine.parts[{index}].outputs", part["outputs"]),
                engine={**common, **{role: part[role] for role in GRAPHS if role in part}},
                labels=(),
                variants=(),
            )
            for index, part in enumerate(self.engine["parts"])
        }

    def _check_parts(self) -> None:
        parts = self.engine["parts"]
        schema.require(isinstance(parts, list) and len(parts) > 1, "engine.parts", "a list of two parts or more", parts)
        for index, part in enumerate(parts):
            field = f"engine.parts[{index}]"
            schema.check_mapping(field, part)
            optional = ("frontend",) if "frontend" in part else ()
            schema.keys(field, part, ("name", "file", *optional, "inputs", "outputs"))
            schema.check_text(f"{field}.name", part["name"])
        names = [part["name"] for part in parts]
        schema.require(len(set(names)) == len(names), "engine.parts", "parts of different names", names)
        known = {spec.name: spec for spec in self.inputs}
        for name, manifest in self.parts().items():
            for spec in manifest.inputs:
                given = known.get(spec.name)
                schema.require(
                    given is not None and (given.shape, given.dtype) == (spec.shape, spec.dtype),
                    f"engine.parts, input {spec.name} of {name},",
                    "an input of the engine or an output of a part before",
                    spec,
                )
            known |= {spec.name: spec for spec in manifest.outputs}
        missing = [spec.name for spec in self.outputs if known.get(spec.name) != spec]
        schema.require(not missing, "engine.parts", "parts that give every output of the engine", missing)
        last = {role: parts[-1].get(role) for role in GRAPHS}
        files = {role: self.engine.get(role) for role in GRAPHS}
        schema.require(files == last, "engine.file", "the file of the last part", files)

    @classmethod
    def read(cls, folder: str | Path, variant: str = "") -> Manifest:
        """Read and check the manifest of an engine folder; :func:`verify_files` checks the other files.

        Args:
            variant: one of the folder's variants; empty for the engine itself.

        Raises:
            EngineError: no such folder, no manifest, or a field that is missing, unknown or wrong.
            EngineVersionError: the manifest has another schema version.
        """
        folder = Path(folder)
        if not folder.is_dir():
            kind = "is not a folder" if folder.exists() else "does not exist"
            raise EngineError(f"{folder} {kind}; give the engine folder that kdcmae-compile wrote")
        path = folder / file_name(MANIFEST_FILE, variant)
        if not path.is_file():
            raise EngineError(f"{folder} has no {path.name}; give an engine folder that kdcmae-compile wrote")
        try:
            text = path.read_bytes()
        except OSError as error:
            raise EngineError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
        try:
            content = json.loads(text, parse_constant=schema.reject_constant)
        except (ValueError, RecursionError) as error:
            raise EngineError(f"{path} is not valid JSON ({error}); rebuild it with kdcmae-compile") from None
        try:
            return _from_json(content)
        except EngineError as error:
            raise type(error)(f"{path}: {error}") from None

    def write(self, folder: str | Path, variant: str = "") -> Manifest:
        """Write ``labels.txt``, then ``manifest.json`` with the digest of every other file in the folder.

        Args:
            folder: an existing folder that already holds the engine's other files and its variants.
            variant: name of the variant that this manifest describes; empty for the engine itself.

        Returns:
            The manifest as written, including ``files``.

        Raises:
            EngineError: the engine file is missing, the folder holds something other than plain files, or a value
                cannot be written as JSON.
        """
        folder = Path(folder)
        path = folder / file_name(MANIFEST_FILE, variant)
        try:
            (folder / LABELS_FILE).write_bytes("".join(f"{label}\n" for label in self.labels).encode())
            shared = {LABELS_FILE, self.engine.get("weights")}
            listed = [
                file
                for file in sorted(folder.iterdir())
                if file.name.startswith(file_name("", variant)) or file.name in shared
            ]
            written = dataclasses.replace(self, files=_digests(path, listed))
            _check_listed(written)
            text = json.dumps(dataclasses.asdict(written), indent=2, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise EngineError(f"{path} cannot be written: {error}") from error
        path.write_bytes(f"{text}\n".encode())
        return written


def file_name(name: str, variant: str = "") -> str:
    """Name of a file in the folder; the files of a variant start with the variant's name.

    Args:
        name: name of the engine's own file.
        variant: name of the variant; empty for the engine itself.
    """
    return f"{variant}-{name}" if variant else name


def digest(path: Path) -> str:
    """SHA-256 of a file in lower-case hexadecimal. The file is read in pieces, so that it may exceed the memory."""
    sha256 = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            sha256.update(piece)
    return sha256.hexdigest()


def verify_files(folder: str | Path, manifest: Manifest) -> None:
    """Check every file that the manifest lists against its digest.

    Links are followed, because caches and container volumes store the files elsewhere.

    Args:
        manifest: its manifest, from :meth:`Manifest.read`.

    Raises:
        EngineIntegrityError: a file is missing, is not a file, cannot be read, or has changed.
    """
    folder = Path(folder)
    fix = "copy the engine folder again or rebuild it with kdcmae-compile"
    for name, expected in manifest.files.items():
        path = folder / name
        try:
            if not path.is_file():  # reading a pipe, for example, would never end
                state = "is not a file" if path.exists() else "is missing"
                raise EngineIntegrityError(f"{path} {state}; {fix}")
            actual = digest(path)
        except OSError as error:
            raise EngineIntegrityError(f"{path} cannot be read: {error.strerror}; {fix}") from error
        if actual != expected:
            raise EngineIntegrityError(
                f"{path} has changed: its SHA-256 is {actual}, {MANIFEST_FILE} says {expected}; {fix}"
            )


def _digests(manifest: Path, files: list[Path]) -> dict[str, str]:
    digests = {}
    for path in files:
        if path == manifest:
            continue
        if path.is_symlink() or not path.is_file():
            raise EngineError(f"{path} is not a plain file; an engine folder holds nothing else")
        digests[path.name] = digest(path)
    return digests


def _from_json(content: Any) -> Manifest:
    schema.check_mapping("the whole file", content)
    content = {"variants": [], **content}  # older releases wrote no variants
    # Check the version first, so that a field of a later schema is not reported as a misspelling.
    schema.check_schema_version(content.get("schema_version"))
    fields = schema.keys("", content, (field.name for field in dataclasses.fields(Manifest)))
    for name in ("labels", "variants"):
        fields[name] = schema.sequence(name, fields[name])
    for role in ("inputs", "outputs"):
        fields[role] = _tensors(role, fields[role])
    fields["batch"] = BatchRange(**schema.keys("batch", fields["batch"], ("min", "opt", "max")))
    manifest = Manifest(**fields)
    _check_listed(manifest)
    return manifest


def _tensors(field: str, content: Any) -> tuple[TensorSpec, ...]:
    return tuple(_tensor(f"{field}[{index}]", item) for index, item in enumerate(schema.sequence(field, content)))


def _tensor(field: str, content: Any) -> TensorSpec:
    facts = schema.keys(field, content, ("name", "shape", "dtype", "description"))
    facts["shape"] = schema.sequence(f"{field}.shape", facts["shape"])
    return TensorSpec(**facts)


def _check_listed(manifest: Manifest) -> None:
    """Check that every file that a library opens has a digest, including those that it opens by itself."""
    needed = [*manifest.graphs, LABELS_FILE]
    if "weights" in manifest.engine:
        needed.append(manifest.engine["weights"])
    elif sidecar := TARGETS[manifest.target].sidecar:
        needed += [f"{Path(file).stem}{sidecar}" for file in manifest.graphs]
    for name in needed:
        if name not in manifest.files:
            raise EngineError(f"field files does not list {name}; rebuild the engine with kdcmae-compile")
