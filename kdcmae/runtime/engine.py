"""A compiled model on its device, as an app uses it: :class:`Engine`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdcmae.errors import EngineError
from kdcmae.runtime import feeding, selftest
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.backend import Backend
from kdcmae.runtime.clip_methods import ClipMethods
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.execution import Execution
from kdcmae.runtime.folders import openable
from kdcmae.runtime.golden import GOLDEN_FILE, read_golden
from kdcmae.runtime.lanes import Lanes
from kdcmae.runtime.manifest import Manifest, file_name, verify_files
from kdcmae.runtime.preprocessing import Preprocessing
from kdcmae.runtime.schema import check_mapping
from kdcmae.runtime.selftest import SelfTest

__all__ = ["MAIN", "Engine", "SelfTest"]

MAIN = ""  # name of the engine itself among its variants


class Engine(ClipMethods):
    """A compiled model on its device, loaded by :func:`~kdcmae.runtime.loading.load_engine`.

    An engine may have variants: the same model for clips without sound or without picture. :meth:`infer` and
    :meth:`classify` choose the variant that fits their inputs, and it is loaded when it is first needed.

    Threads may share an engine. Their calls run one after another, or as many at the same time as the engine was loaded
    with ``streams``. It holds device memory until :meth:`close`, or the end of its ``with`` block.
    """

    def __init__(
        self,
        folder: Path,
        manifests: Mapping[str, Manifest],
        preprocessing: Preprocessing,
        load: Callable[[Manifest], Backend],
        *,
        device: str | None = None,
        reload: Callable[[], Engine] | None = None,
    ) -> None:
        self.folder = folder
        self._reload = reload
        self.manifest = manifests[MAIN]
        self._manifests = manifests
        self.preprocessing = preprocessing
        self._load = load
        self._lanes: dict[str, Lanes] = {}  # of the engine and of the variants that were needed so far
        self._lock = threading.Lock()  # for loading and closing
        self._is_closed = False
        self.device = self.backend.chosen_device or device  # None for the manifest's
        # Its threads start with the first call that is submitted.
        self._submitted = ThreadPoolExecutor(self._lanes[MAIN].count, thread_name_prefix="kdcmae")

    def __repr__(self) -> str:
        """Such as ``<Engine out/ov: openvino, int8, 12 labels, batch 1>``."""
        batch, kind = self.manifest.batch, f"{len(self.labels)} labels" if self.labels else "features"
        sizes = f"{batch.min}" if batch.min == batch.max else f"{batch.min} to {batch.max}"
        asked = self.manifest.precision.get("asked", "unknown precision")
        state = ", closed" if self._is_closed else ""
        return f"<Engine {self.folder}: {self.manifest.target}, {asked}, {kind}, batch {sizes}{state}>"

    def __reduce__(self) -> tuple[Callable[[], Engine], tuple[()]]:
        """Pickling passes the folder on: the other process loads the engine from it in the same way.

        Raises:
            EngineError: the engine was not made by :func:`~kdcmae.runtime.loading.load_engine`.
        """
        if self._reload is None:
            raise EngineError(f"engine {self.folder} cannot be pickled: load it with load_engine")
        return self._reload, ()

    @property
    def manifests(self) -> Mapping[str, Manifest]:
        """Manifests by variant; the engine itself has an empty name."""
        return self._manifests

    @property
    def encoder_runs(self) -> dict[str, int]:
        """How often the encoders of an engine in parts ran, by modality; empty for an engine in one piece.

        Raises:
            EngineError: the engine is closed.
        """
        return dict(self.backend.encoder_runs)

    @property
    def backend(self) -> Backend:
        """The loaded engine of the target's library.

        Raises:
            EngineError: the engine is closed.
        """
        return self._lent(MAIN).backend

    @property
    def streams(self) -> int:
        """Number of calls that run at the same time.

        Raises:
            EngineError: the engine is closed.
        """
        return self.backend.streams

    def infer(self, feed: Arrays) -> dict[str, NDArray[np.float32]]:
        """Run one batch.

        Args:
            feed: one array per input of ``manifest.inputs``, or of a variant's, with exactly its dtype and shape, all
                of one batch size within ``manifest.batch``. A ``waveform`` may be shorter than its input; ``samples``
                then says how many samples of each row are sound, and without it all of them are.

        Returns:
            One float32 array per output of ``manifest.outputs``; later calls do not change it.

        Raises:
            EngineInputError: a name, dtype, shape or batch size that the engine does not take.
            EngineError: the engine is closed or failed.
        """
        feeding.check_mapping(feed)
        variant = self._fitting(lambda manifest: feeding.needed(_names(manifest)) == feeding.needed(feed))
        manifest = self._manifests[variant]
        arrays = feeding.checked(feeding.completed(feed, manifest.inputs), manifest)
        with self._lent(variant).lend() as lane:
            # Copy before the next caller has the lane: results may be views of memory that its next call overwrites.
            return {name: np.array(result, dtype=np.float32) for name, result in lane(arrays).items()}

    def submit(self, feed: Arrays) -> Future[dict[str, NDArray[np.float32]]]:
        """Run one batch while the caller does something else. Any number of batches may wait for their turn.

        Args:
            feed: as :meth:`infer` takes it. Its arrays must not change before the future is done.

        Returns:
            Its result, or its exception, is that of :meth:`infer`; closing the engine before its turn is an error too.
            It can be cancelled until it runs.

        Raises:
            EngineError: the engine is closed.
        """
        with self._lock:
            self._require_open()
            return self._submitted.submit(self.infer, feed)

    async def infer_async(self, feed: Arrays) -> dict[str, NDArray[np.float32]]:
        """Run one batch while other tasks of the event loop run; cancelling the task gives up its turn.

        Args:
            feed: as :meth:`infer` takes it. Its arrays must not change meanwhile, also if the task is cancelled.

        Returns:
            As :meth:`infer` does.

        Raises:
            EngineError: the engine is closed or failed.
            EngineInputError: a name, dtype, shape or batch size that the engine does not take.
        """
        import asyncio  # an app that has no event loop need not load it

        return await asyncio.wrap_future(self.submit(feed))

    def infer_many(self, feeds: Iterable[Arrays]) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Run batches, as many at the same time as the engine has streams, and a few ahead of the caller.

        Args:
            feeds: each as :meth:`infer` takes it, read as they are needed. Arrays must not change before their results
                are there.

        Yields:
            The results in the order of the feeds.

        Raises:
            EngineInputError: a feed that the engine does not take; :meth:`submit` keeps the error of a feed apart.
            EngineError: the engine is closed or failed.
        """
        running: deque[Future[dict[str, NDArray[np.float32]]]] = deque()
        most = 2 * self._lent(MAIN).count
        try:
            for feed in feeds:
                running.append(self.submit(feed))
                if len(running) == most:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()

    def reuse_encodings(self, reuse: bool) -> None:
        """Whether an encoder of an engine in parts skips an input that it has just had; timing turns that off.

        Args:
            reuse: True is what a loaded engine does.

        Raises:
            EngineError: the engine is closed.
        """
        self.backend.reuses = reuse

    def prepare(
        self, waveform: NDArray[Any] | None, sample_rate: int, frames: Iterable[NDArray[np.uint8]] | None
    ) -> dict[str, NDArray[Any]]:
        """The inputs of :meth:`infer` for one clip, raw or prepared as the engine takes them, one row per frame.

        Args:
            waveform: as :meth:`classify` takes it.
            sample_rate: sample rate of the waveform in Hz.
            frames: one or more frames of one size, each as :meth:`classify` takes it.

        Raises:
            EngineInputError: an input that the engine needs is None, or there is no frame.
            DataError: a waveform or frame that cannot be used.
        """
        if frames is not None:
            frames = feeding.listed(frames)
        available = {source for source, value in (("waveform", waveform), ("frame", frames)) if value is not None}
        variant = self._fitting(lambda manifest: feeding.sources(_names(manifest)) <= available)
        return feeding.from_clip(_names(self._manifests[variant]), self.preprocessing, waveform, sample_rate, frames)

    def products(self, variant: str = MAIN) -> dict[str, int]:
        """Matrix products by precision: those that execute here, else those of the build if the library reports none.

        Args:
            variant: one of :attr:`variants`; empty for the engine itself.

        Raises:
            EngineError: the engine is closed, or the products in its manifest are malformed.
        """
        lanes = self._lent(variant)
        with lanes.lend():
            here = lanes.backend.execution().products
        built = self._manifests[variant].precision.get("products", {})
        check_mapping("precision.products", built)
        return dict(here or built)

    def executions(self) -> dict[str, Execution]:
        """The precisions that execute here, as the library reports them, by variant; the engine has an empty name.

        Some libraries report them only of a run. They load the engine once more and run it on random inputs.

        Raises:
            EngineError: the engine is closed or failed.
            EngineIntegrityError: its folder holds another engine by now.
        """
        executions = {}
        for variant, manifest in self._manifests.items():
            feed = example_inputs(manifest.inputs, manifest.batch.min)
            verify_files(self.folder, manifest)
            lanes = self._lent(variant)
            with lanes.lend(), openable(self.folder) as folder:
                executions[variant] = lanes.backend.profile(folder, feed)
        return executions

    def self_test(self) -> SelfTest:
        """Run the stored inputs and clips, and compare the results with the stored reference outputs.

        The clips go through :meth:`classify`, as in an app, or through :meth:`prepare` if the engine has no labels.

        Returns:
            Errors and tolerances per output, with names such as ``audio-logits`` for variants, and the differences in
            words; ``passed`` is the verdict.

        Raises:
            EngineError: the folder has no ``golden.npz``, or the file lacks an array that this engine needs.
            EngineIntegrityError: the file does not belong to the engine that was loaded.
        """
        return selftest.summed_up(
            selftest.examine(self, read_golden(self.folder / file_name(GOLDEN_FILE, variant), manifest), variant)
            for variant, manifest in self._manifests.items()
        )

    def close(self) -> None:
        """Wait for the calls that run, and release the engine and its memory; closing twice is harmless.

        Calls that wait for their turn, submitted ones too, end with an error.
        """
        with self._lock:
            self._is_closed = True
        for lanes in self._lanes.values():
            lanes.close()
        self._submitted.shutdown(wait=False)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fitting(self, fits: Callable[[Manifest], bool]) -> str:
        """The first of the engine and its variants that fits; else the engine itself, whose checks name the mistake."""
        return next((variant for variant, manifest in self._manifests.items() if fits(manifest)), MAIN)

    def _lent(self, variant: str) -> Lanes:
        with self._lock:
            self._require_open()
            if variant not in self._lanes:
                self._lanes[variant] = Lanes(self._load(self._manifests[variant]), closed=self._closed_message)
            return self._lanes[variant]

    def _require_open(self) -> None:
        if self._is_closed:
            raise EngineError(self._closed_message)

    @property
    def _closed_message(self) -> str:
        return f"engine {self.folder} is closed; load it again"


def _names(manifest: Manifest) -> tuple[str, ...]:
    return tuple(spec.name for spec in manifest.inputs)
