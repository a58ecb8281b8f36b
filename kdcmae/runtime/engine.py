"""Load an engine folder and run it: ``load_engine(folder)`` gives an :class:`Engine`."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import ConfigError, EngineError, EngineInputError, EnginePrecisionError
from kdcmae.runtime import feeding, selftest
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.backend import Backend, is_whole
from kdcmae.runtime.capabilities import execution_differences
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.execution import Execution
from kdcmae.runtime.folders import Publication, of_one_publication, openable
from kdcmae.runtime.golden import GOLDEN_FILE, read_golden
from kdcmae.runtime.manifest import Manifest, file_name, verify_files
from kdcmae.runtime.preprocessing import Preprocessing
from kdcmae.runtime.schema import check_mapping
from kdcmae.runtime.scores import scores
from kdcmae.runtime.selftest import SelfTest
from kdcmae.runtime.targets import TARGETS

__all__ = ["Engine", "Prediction", "SelfTest", "load_engine"]

_log = logging.getLogger("kdcmae.runtime")

MAIN = ""  # the engine itself, beside its variants


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One class of a clip and its score: a probability."""

    label: str
    score: float


def load_engine(
    folder: str | Path, *, device: str | None = None, threads: int | None = None, strict: bool = False
) -> Engine:
    """Load an engine folder, after checking every file in it.

    Digests tell a damaged or half-copied folder from a whole one before a library reads it. They do not prove
    who made it: load engines from sources you trust. Files may be links, as in Hugging Face's cache and in volumes
    of Kubernetes. Where the folder is replaced in the meantime, the new engine is loaded: never files of both.

    Args:
        folder: what kdcmae-compile wrote.
        device: another device than the one it was compiled for, in the engine library's own words, large or small.
        threads: CPU threads to use; where None, what the manifest says or else the library's choice, within the CPUs
            that this process may use.
        strict: refuse an engine, or a variant when it is first needed, that the library says executes in another
            precision here than its manifest claims. Otherwise that is a warning of the logger ``kdcmae.runtime``.

    Returns:
        The engine, ready to run.

    Raises:
        EngineError: not an engine folder, a bad manifest, or an engine file its library cannot load.
        ConfigError: ``device`` or ``threads`` is none.
        EngineIntegrityError: a file is missing, cannot be read or has changed.
        EnginePrecisionError: a claimed precision does not execute here, and ``strict`` is set.
        EngineVersionError: made for another version of its library or of the manifest.
        MissingDependencyError: its library is not installed.
        DeviceError: this machine lacks the device.
    """
    try:
        folder = Path(folder)
    except TypeError as error:
        raise EngineError(
            f"folder={folder!r} is not a path; give an engine folder that kdcmae-compile wrote"
        ) from error
    return of_one_publication(folder, partial(_load, device=device, threads=threads, strict=strict))


def _load(publication: Publication, *, device: str | None, threads: int | None, strict: bool) -> Engine:
    folder = publication.folder
    manifest = Manifest.read(folder)
    verify_files(folder, manifest)
    variants = {variant: Manifest.read(folder, variant) for variant in manifest.variants}
    try:
        preprocessing = Preprocessing.from_dict(manifest.preprocessing)
        for one in (manifest, *variants.values()):
            preprocessing.check_fits({spec.name: spec.shape for spec in one.inputs})
    except ConfigError as error:
        raise EngineError(f"the manifest of {folder} asks for what this kdcmae cannot do: {error}") from error
    target = TARGETS[manifest.target]
    if device is not None:
        if not isinstance(device, str) or not device.strip():
            raise ConfigError(f"device={device!r} names no device; leave it out for the one the engine is for")
        device = target.spell_device(device.strip())
    backend_class = target.load_backend()

    def load(part: Manifest) -> Backend:
        with openable(folder) as path:
            backend = backend_class(path, part, device=device, threads=threads)
        try:
            if not publication.holds(manifest):
                raise EngineError(f"{folder} holds another engine than the one that was loaded; load it again")
            _check_execution(backend, part, folder, device, strict)
        except BaseException:
            backend.close()
            raise
        return backend

    return Engine(folder, {MAIN: manifest, **variants}, preprocessing, load, device=device)


def _check_execution(backend: Backend, manifest: Manifest, folder: Path, device: str | None, strict: bool) -> None:
    """Say or refuse what executes otherwise than claimed."""
    where = str(device or manifest.engine.get("device", ""))
    if differences := execution_differences(manifest, backend.execution(), device=where):
        class_name = this_cpu().class_name
        message = (
            f"{folder} does not execute as claimed here: {'; '.join(differences)}; kdcmae check says how fast and "
            f"how exactly, kdcmae-compile {f'--for {class_name}' if class_name else 'here'} builds what fits"
        )
        if strict:
            raise EnginePrecisionError(message)
        _log.warning("%s", message)


class Engine:
    """A compiled model on its device; :func:`load_engine` makes it.

    An engine may have variants: the same model for a clip without sound or without picture. They are loaded when they
    are first needed, and :meth:`infer` and :meth:`classify` take the one that fits what they are given.

    Threads may share one engine: their calls run one after another. For calls that run at the same time, load
    the engine once per thread. It holds device memory until :meth:`close`, or the end of its ``with`` block.
    """

    def __init__(
        self,
        folder: Path,
        manifests: Mapping[str, Manifest],
        preprocessing: Preprocessing,
        load: Callable[[Manifest], Backend],
        *,
        device: str | None = None,
    ) -> None:
        self.folder = folder
        self.device = device  # another one than the manifest's, in the library's words
        self.manifest = manifests[MAIN]
        self._manifests = manifests
        self._preprocessing = preprocessing
        self._load = load
        self._backends: dict[str, Backend] | None = {MAIN: load(self.manifest)}
        self._lock = threading.Lock()

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self.manifest.labels

    @property
    def variants(self) -> tuple[str, ...]:
        """Modalities the engine also takes alone."""
        return self.manifest.variants

    @property
    def manifests(self) -> Mapping[str, Manifest]:
        """Of the engine itself, by an empty name, and of its variants."""
        return self._manifests

    @property
    def backend(self) -> Backend:
        """The library's side of the engine.

        Raises:
            EngineError: the engine is closed.
        """
        return self._backend(MAIN)

    def infer(self, feed: Arrays) -> dict[str, NDArray[np.float32]]:
        """Run one batch.

        Args:
            feed: one array per input of ``manifest.inputs``, or of a variant's, of exactly its dtype and shape; all of
                one batch size within ``manifest.batch``. A ``waveform`` may be shorter than its input, and comes with
                ``samples`` (how much of each row is sound) or counts as sound from end to end.

        Returns:
            One float32 array per output of ``manifest.outputs``, the caller's own.

        Raises:
            EngineInputError: a name, dtype, shape or batch size the engine does not take.
            EngineError: the engine is closed or failed.
        """
        feeding.check_mapping(feed)
        variant = self._fitting(lambda manifest: feeding.needed(_names(manifest)) == feeding.needed(feed))
        manifest = self._manifests[variant]
        arrays = feeding.checked(feeding.completed(feed, manifest.inputs), manifest)
        with self._lock:
            results = self._backend(variant).infer(arrays)
            # A copy, and under the lock: backends may return views of memory that the next call overwrites.
            return {name: np.array(result, dtype=np.float32) for name, result in results.items()}

    def classify(
        self, waveform: NDArray[Any] | None, sample_rate: int, frame: NDArray[np.uint8] | None, *, top: int = 5
    ) -> list[Prediction]:
        """Label one clip.

        Args:
            waveform: (S,) or (channels, S), floating point in [-1, 1] or integers at full scale; None for an
                engine, or a variant of it, without an audio input.
            sample_rate: of the waveform in Hz.
            frame: (H, W, 3) uint8 RGB; None for an engine, or a variant of it, without an image input.
            top: how many labels to return.

        Returns:
            The best labels and their scores, best first.

        Raises:
            EngineInputError: an input the engine needs is None, or ``top`` is no positive whole number.
            DataError: a waveform or frame that cannot be used.
            EngineError: the engine is no classifier, or gave scores that are not finite.
        """
        if not self.labels:
            raise EngineError(f"engine {self.folder} has no labels, so it cannot classify; use infer()")
        if not is_whole(top) or top < 1:
            raise EngineInputError(f"top={top!r} must be a whole number of at least 1")
        inputs = self.prepare(waveform, sample_rate, None if frame is None else [frame])
        feed = {name: np.repeat(array, self.manifest.batch.min, axis=0) for name, array in inputs.items()}
        logits = self.infer(feed)[self.manifest.outputs[0].name].reshape(-1, len(self.labels))[0]
        if not np.isfinite(logits).all():
            raise EngineError(f"engine {self.folder} gave logits that are not finite; run its self_test()")
        likelihood = scores(logits, self.manifest.scores)
        best = np.argsort(-likelihood, kind="stable")[:top]
        return [Prediction(self.labels[index], float(likelihood[index])) for index in best]

    def prepare(
        self, waveform: NDArray[Any] | None, sample_rate: int, frames: Iterable[NDArray[np.uint8]] | None
    ) -> dict[str, NDArray[Any]]:
        """What :meth:`infer` takes for one clip, raw or prepared as the engine was built, one row per frame.

        Args:
            waveform: as :meth:`classify` takes it.
            sample_rate: of the waveform in Hz.
            frames: of one size, at least one, each as :meth:`classify` takes it.

        Raises:
            EngineInputError: an input the engine needs is None, or there is no frame.
            DataError: a waveform or frame that cannot be used.
        """
        if frames is not None:
            frames = feeding.listed(frames)
        given = {source for source, value in (("waveform", waveform), ("frame", frames)) if value is not None}
        variant = self._fitting(lambda manifest: feeding.sources(_names(manifest)) <= given)
        return feeding.from_clip(_names(self._manifests[variant]), self._preprocessing, waveform, sample_rate, frames)

    def products(self, variant: str = MAIN) -> dict[str, int]:
        """Matrix products by precision: those that execute here, or the build's where the library does not tell.

        Args:
            variant: one of :attr:`variants`; empty for the engine itself.

        Raises:
            EngineError: the engine is closed, or its manifest tells of no products.
        """
        with self._lock:
            here = self._backend(variant).execution().products
        built = self._manifests[variant].precision.get("products", {})
        check_mapping("precision.products", built)
        return dict(here or built)

    def executions(self) -> dict[str, Execution]:
        """What the layers of the engine, by an empty name, and of its variants execute in here, as the library tells.

        Some libraries tell only of a run, which is made on made-up inputs, of an engine loaded once more.

        Raises:
            EngineError: the engine is closed or failed.
            EngineIntegrityError: its folder holds another one by now.
        """
        found = {}
        for variant, manifest in self._manifests.items():
            feed = example_inputs(manifest.inputs, manifest.batch.min)
            verify_files(self.folder, manifest)
            with self._lock, openable(self.folder) as folder:
                found[variant] = self._backend(variant).profile(folder, feed)
        return found

    def self_test(self) -> SelfTest:
        """Run the inputs and clips stored beside the engine and compare with the reference outputs stored there too.

        The clips go through :meth:`classify`, as an app's do, or through :meth:`prepare` of an engine
        without labels.

        Returns:
            The errors and tolerances per output, those of a variant as ``audio-logits``, and what differs, in words;
            ``passed`` sums them up.

        Raises:
            EngineError: the folder has no ``golden.npz``, or it lacks an array this engine needs.
            EngineIntegrityError: the file is not that of the engine that was loaded.
        """
        return selftest.summed_up(
            selftest.examine(self, read_golden(self.folder / file_name(GOLDEN_FILE, variant), manifest), variant)
            for variant, manifest in self._manifests.items()
        )

    def close(self) -> None:
        """Release the engine and the memory it holds; closing twice is harmless."""
        with self._lock:
            for backend in (self._backends or {}).values():
                backend.close()
            self._backends = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fitting(self, fits: Callable[[Manifest], bool]) -> str:
        """The first that fits of the engine and its variants; the engine itself, which then says what is wrong."""
        return next((variant for variant, manifest in self._manifests.items() if fits(manifest)), MAIN)

    def _backend(self, variant: str) -> Backend:
        if self._backends is None:
            raise EngineError(f"engine {self.folder} is closed; load it again")
        if variant not in self._backends:
            self._backends[variant] = self._load(self._manifests[variant])
        return self._backends[variant]


def _names(manifest: Manifest) -> tuple[str, ...]:
    return tuple(spec.name for spec in manifest.inputs)
