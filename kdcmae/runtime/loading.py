"""Load an engine folder: ``load_engine(folder)`` returns an :class:`~kdcmae.runtime.engine.Engine`."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from kdcmae.errors import ConfigError, EngineError, EnginePrecisionError
from kdcmae.runtime.backend import Backend, Streams, is_whole
from kdcmae.runtime.capabilities import execution_differences
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.engine import MAIN, Engine
from kdcmae.runtime.folders import Publication, of_one_publication, openable
from kdcmae.runtime.manifest import Manifest, verify_files
from kdcmae.runtime.parts import open_backend
from kdcmae.runtime.preprocessing import Preprocessing
from kdcmae.runtime.targets import TARGETS

__all__ = ["load_engine"]

_log = logging.getLogger("kdcmae.runtime")


def load_engine(
    folder: str | Path,
    *,
    device: str | None = None,
    threads: int | None = None,
    streams: Streams = 1,
    strict: bool = False,
) -> Engine:
    """Load an engine folder, after checking every file in it.

    Digests show that a folder is not damaged or half-copied before a library reads it. They do not prove who made it:
    load engines from sources you trust. Files may be links, as in Hugging Face's cache and in Kubernetes volumes. If
    the folder is replaced while it is being loaded, the new engine is loaded, never a mixture of both.

    Args:
        folder: folder that kdcmae-compile wrote.
        device: device to use instead of the one that the engine was compiled for, by the name that the engine's library
            gives it, in upper or lower case.
        threads: CPU threads to use; None for the manifest's number, or else the library's choice, within the CPUs that
            this process may use.
        streams: number of calls of :meth:`Engine.infer` and the methods that use it that run at the same time. By
            default each call has all threads, which is fastest for a caller who waits for it. More streams divide the
            threads among them: each call takes longer, and there are more of them per second. ``"auto"`` is as many
            streams as the library finds best for that. :attr:`Engine.streams` says how many there are: one, if the
            library runs calls only one after another.
        strict: raise an error if the library reports that the engine, or a variant when it is first needed, executes
            in another precision here than its manifest claims. By default that is a warning of the logger
            ``kdcmae.runtime``.

    Returns:
        The engine, ready to run.

    Raises:
        EngineError: not an engine folder, a bad manifest, or an engine file its library cannot load.
        ConfigError: ``device``, ``threads`` or ``streams`` is invalid, or there are fewer threads than streams.
        EngineIntegrityError: a file is missing, cannot be read or has changed.
        EnginePrecisionError: a claimed precision does not execute here, and ``strict`` is set.
        EngineVersionError: built for another version of its library or of the manifest.
        MissingDependencyError: its library is not installed.
        DeviceError: this machine lacks the device.
    """
    try:
        folder = Path(folder)
    except TypeError as error:
        raise EngineError(
            f"folder={folder!r} is not a path; give an engine folder that kdcmae-compile wrote"
        ) from error
    if streams != "auto" and (not is_whole(streams) or streams < 1):
        raise ConfigError(f"streams={streams!r} must be a positive whole number, or 'auto' for the library's choice")
    return of_one_publication(folder, partial(_load, device=device, threads=threads, streams=streams, strict=strict))


def _load(
    publication: Publication, *, device: str | None, threads: int | None, streams: Streams, strict: bool
) -> Engine:
    folder = publication.folder
    manifest = Manifest.read(folder)
    verify_files(folder, manifest)
    variants = {variant: Manifest.read(folder, variant) for variant in manifest.variants}
    try:
        preprocessing = Preprocessing.from_dict(manifest.preprocessing)
        for part in (manifest, *variants.values()):
            preprocessing.check_fits({spec.name: spec.shape for spec in part.inputs})
    except ConfigError as error:
        raise EngineError(f"the manifest of {folder} asks for what this kdcmae cannot do: {error}") from error
    target = TARGETS[manifest.target]
    if device is not None:
        if not isinstance(device, str) or not device.strip():
            raise ConfigError(f"device={device!r} names no device; leave it out for the one the engine is for")
        device = target.spell_device(device.strip())
    if threads is not None and not target.runs_on_cpu:
        raise ConfigError(f"threads={threads} has no meaning for a {target.label} engine; leave it out")
    backend_class = target.load_backend()

    def load(part: Manifest) -> Backend:
        with openable(folder) as path:
            backend = open_backend(backend_class, path, part, device=device, threads=threads, streams=streams)
        try:
            if not publication.holds(manifest):
                raise EngineError(f"{folder} holds another engine than the one that was loaded; load it again")
            _check_execution(backend, part, folder, backend.chosen_device or device, strict)
            if streams != "auto" and backend.streams < streams:
                _log.warning("%s runs %d calls at the same time here, not %d", folder, backend.streams, streams)
        except BaseException:
            backend.close()
            raise
        return backend

    reload = partial(load_engine, folder.absolute(), device=device, threads=threads, streams=streams, strict=strict)
    return Engine(folder, {MAIN: manifest, **variants}, preprocessing, load, device=device, reload=reload)


def _check_execution(backend: Backend, manifest: Manifest, folder: Path, device: str | None, strict: bool) -> None:
    """Warn about precisions that do not execute as claimed, or refuse them if ``strict``."""
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
