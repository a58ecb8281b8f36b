"""What the user's own code computes: read from a file, or computed now by a function of the user's script."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdcmae.compile import cases, models
from kdcmae.compile.models import EngineModel
from kdcmae.compile.settings import Expectation
from kdcmae.data.manifest import ClipRecord, LabelMap
from kdcmae.data.reading import reader_for
from kdcmae.errors import ConfigError, DataError, one_line
from kdcmae.files.text import read_json_lines
from kdcmae.media.frame_numbers import MIDDLE_FRAME
from kdcmae.runtime import feeding
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.preprocessing import SAMPLE_RATE_HZ

__all__ = ["Expected", "expected_outputs"]

_LARGEST = 300
"""Lines of a file that are compared, spread evenly over it: more show nothing that these do not."""

_MADE = ((2, 0), (4, 1))  # batch size and seed, of noise and of made clips


@dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """One batch of inputs, and what the user's code makes of them.

    Args:
        name: of the clip, or of how the inputs were made.
        inputs: of the loaded model, by name.
        outputs: of the user's model, by name; empty where only its classes are known.
        classes: which class it puts first, or several of which one must be first; empty where outputs are known.
        prepared: the user's model had these very inputs, and did not prepare the clip itself.
    """

    name: str
    inputs: Arrays
    outputs: Arrays = field(default_factory=dict)
    classes: tuple[int, ...] = ()
    prepared: bool = False


def expected_outputs(model: EngineModel, expectation: Expectation) -> Iterator[Expected]:
    """Outputs of the user's model, for a loaded model of prepared inputs.

    Raises:
        DataError: a line that cannot be used, or a clip that cannot be read.
        ConfigError: the model does not classify, as a file needs, or the user's function fails or returns another kind
            or number of outputs.
    """
    if expectation.function:
        return _of_function(model, expectation)
    return _of_file(model, expectation.path)


def _of_file(model: EngineModel, path: Path) -> Iterator[Expected]:
    if not model.labels:
        raise ConfigError(f"--expect {path}: {model.facts['name']} does not classify; use --expect-from for features")
    lines = list(read_json_lines(path))
    if not lines:
        raise DataError(
            f'{path}: expects nothing; write a line such as {{"clip": "a.mp4", "logits": [0.1, ...]}} a clip'
        )
    for number in np.linspace(0, len(lines) - 1, min(len(lines), _LARGEST)).astype(int):
        place, fields = lines[number]
        yield _of_line(model, place, fields, path.parent)


def _of_line(model: EngineModel, place: str, fields: Any, folder: Path) -> Expected:
    if not isinstance(fields, dict):
        raise DataError(f"{place}: is {fields!r} instead of an object with fields")
    sources = [name for name in ("clip", "inputs") if isinstance(fields.get(name), str) and fields[name]]
    answers = [name for name in ("logits", "label", "labels") if fields.get(name) not in (None, [], "")]
    if len(sources) != 1 or len(answers) != 1:
        raise DataError(
            f"{place}: needs one field clip (a video file) or inputs (an .npz of prepared arrays), and one field "
            f"logits, label or labels; has {', '.join(map(str, fields)) or 'none'}"
        )
    (source,), (answer,) = sources, answers
    file = folder / fields[source]
    inputs = (_of_clip if source == "clip" else _of_arrays)(model, place, file)
    common = {"name": file.name, "inputs": inputs, "prepared": source == "inputs"}
    if answer != "logits":
        return Expected(**common, classes=_classes(model, place, fields[answer]))
    return Expected(**common, outputs={model.outputs[0].name: _logits(model, place, fields["logits"])})


def _of_clip(model: EngineModel, place: str, file: Path) -> dict[str, NDArray[Any]]:
    try:
        clip = reader_for(model.preprocessing)(
            ClipRecord(id=file.stem, video=file), model.facts["modality"], (MIDDLE_FRAME,)
        )
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    names = [spec.name for spec in model.inputs]
    return feeding.from_clip(names, model.preprocessing, clip.waveform, SAMPLE_RATE_HZ, list(clip.frames) or None)


def _of_arrays(model: EngineModel, place: str, file: Path) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with np.load(file, allow_pickle=False) as stored:
            for spec in model.inputs:
                array = np.asarray(stored[spec.name], dtype=np.float32)
                arrays[spec.name] = array if array.ndim == len(spec.shape) else array[np.newaxis]
    except Exception as error:
        names = ", ".join(spec.name for spec in model.inputs)
        raise DataError(f"{place}: {file} cannot be read as arrays {names}: {error}") from error
    for spec in model.inputs:
        if arrays[spec.name].shape != (1, *spec.shape[1:]):
            raise DataError(
                f"{place}: {spec.name} has shape {arrays[spec.name].shape}, expected {(1, *spec.shape[1:])}"
            )
    return arrays


def _logits(model: EngineModel, place: str, value: Any) -> NDArray[np.float64]:
    try:
        logits = np.asarray(value, dtype=np.float64).reshape(1, -1)
    except (TypeError, ValueError) as error:
        raise DataError(f"{place}: field logits must be a list of numbers") from error
    if logits.shape[1] != len(model.labels):
        raise DataError(f"{place}: has {logits.shape[1]} logits, and the model has {len(model.labels)} classes")
    if not np.isfinite(logits).all():
        raise DataError(f"{place}: field logits holds NaN or infinite values")
    return logits


def _classes(model: EngineModel, place: str, value: Any) -> tuple[int, ...]:
    """Class numbers of a label, a class number, or a list of them."""
    known = LabelMap(model.labels, model.labels)
    classes = []
    for label in value if isinstance(value, list) else [value]:
        if isinstance(label, str):
            try:
                classes.append(known.index(label))
            except DataError as error:
                raise DataError(f"{place}: {error}; name the model's classes with --labels FILE") from error
        elif type(label) is int and 0 <= label < len(model.labels):
            classes.append(label)
        else:
            raise DataError(f"{place}: {label!r} is neither a label nor a class from 0 to {len(model.labels) - 1}")
    return tuple(classes)


def _of_function(model: EngineModel, expectation: Expectation) -> Iterator[Expected]:
    function = _load(expectation)
    for kind, chosen, (size, seed) in zip(("noise", "made clips"), (model, cases.on_clips(model)), _MADE, strict=True):
        inputs = models.examples(chosen, size, seed=seed)
        outputs = _called(model, function, inputs, expectation)
        yield Expected(name=kind, inputs=inputs, outputs=outputs, prepared=True)


def _load(expectation: Expectation) -> Callable[..., Any]:
    """The user's function; this runs the user's script, as asked."""
    path = expectation.path
    spec = importlib.util.spec_from_file_location(f"kdcmae_expected_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"--expect-from {expectation.name}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles of the script look their module up
    with _on_behalf(expectation, path.parent):
        spec.loader.exec_module(module)
    function: Callable[..., Any] | None = getattr(module, expectation.function, None)
    if function is None or not callable(function):
        raise ConfigError(f"--expect-from {expectation.name}: {path} has no function {expectation.function}")
    return function


def _called(
    model: EngineModel, function: Callable[..., Any], inputs: Arrays, expectation: Expectation
) -> dict[str, NDArray[Any]]:
    with _on_behalf(expectation, expectation.path.parent), torch.no_grad():
        returned = function(**{name: torch.from_numpy(array.copy()) for name, array in inputs.items()})
    names = [spec.name for spec in model.outputs]
    if isinstance(returned, Mapping):
        values = [returned.get(name) for name in names]
    else:
        values = list(returned) if isinstance(returned, (tuple, list)) else [returned]
    rows = len(next(iter(inputs.values())))
    outputs = {}
    for spec, value in zip(model.outputs, values, strict=False):
        array = value.detach().float().cpu().numpy() if torch.is_tensor(value) else np.asarray(value)
        if array.shape != (rows, *spec.shape[1:]) or array.dtype.kind != "f":
            break
        outputs[spec.name] = array
    if len(outputs) < len(names) or len(values) != len(names):
        wanted = ", ".join(f"{spec.name} {(rows, *spec.shape[1:])}" for spec in model.outputs)
        shapes = ", ".join(map(_shape, values))
        raise ConfigError(f"--expect-from {expectation.name} returned {shapes}; expected floating-point {wanted}")
    return outputs


@contextlib.contextmanager
def _on_behalf(expectation: Expectation, folder: Path) -> Iterator[None]:
    """Run the user's code: beside its neighbours, with its prints on stderr, and without a trace in torch's settings.

    Raises:
        ConfigError: it failed; says how.
    """
    dtype, threads, gradients = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    sys.path.insert(0, str(folder.resolve()))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {one_line(str(error))}"
        raise ConfigError(f"--expect-from {expectation.name} failed: {said}") from error
    finally:
        with contextlib.suppress(ValueError):  # the script may have rearranged it
            sys.path.remove(str(folder.resolve()))
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(gradients)


def _shape(value: Any) -> str:
    """Shape of an array, or the type's name of anything else."""
    return str(tuple(value.shape)) if hasattr(value, "shape") else type(value).__name__
