"""Peers: what other libraries offer for the same model, measured in the same run.

A new peer is one file in this folder: its ``PEER`` says what it is called, what it takes and how it is opened. The
command's help, the suite and the reports read that record. A file elsewhere is a peer by its path, too:
``kdcmae-bench out/ov ./mine.py:out/ov``.
"""

from __future__ import annotations

import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path

from kdcmae.bench.run.subjects import Subject
from kdcmae.errors import ConfigError
from kdcmae.runtime.facts import require_one_piece
from kdcmae.runtime.manifest import Manifest

__all__ = ["Peer", "all_peers", "find_peer"]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One peer.

    Args:
        name: before the colon on the command line.
        label: its name in the suite's report, in which ``{precision}`` stands for that of the engine it runs.
        about: what it is, in a few words.
        open: loads a subject from a path and a number of CPU threads.
        runs: target of the engine folder that it takes; None where it takes a checkpoint or ``preset:NAME``.
        needs: what has to be here, in a few words: an extra, a command or a device.
        precision: that it computes in; None for that of the engine.
        suite: precisions of the engines that the suite runs it on, ``fp32`` for the PyTorch model; none where the suite
            leaves it out.
        suite_all: precisions that ``suite --all`` adds.
        slow: why the suite leaves it out of large models; empty where it does not.
    """

    name: str
    label: str
    about: str
    open: Callable[[str, int], Subject]
    runs: str | None = None
    needs: str = ""
    precision: str | None = None
    suite: tuple[str, ...] = ()
    suite_all: tuple[str, ...] = ()
    slow: str = ""

    @property
    def usage(self) -> str:
        """How it is named on the command line."""
        return f"{self.name}:{f'{self.runs.upper()}-ENGINE' if self.runs else 'MODEL'}"

    def load(self, path: str, threads: int) -> Subject:
        """Open a subject.

        Raises:
            ConfigError: the engine is for another target, or in parts.
            KdcmaeError: it is not installed, cannot run here or cannot be loaded.
        """
        if self.runs is not None:
            manifest = Manifest.read(path)
            if manifest.target != self.runs:
                raise ConfigError(f"{path} is an engine for {manifest.target}; give one for {self.runs}")
            require_one_piece(path, manifest)
        subject = self.open(path, threads)
        subject.facts = replace(subject.facts, precision=self.precision or subject.facts.precision)
        return subject


@cache
def all_peers() -> Mapping[str, Peer]:
    """The peers of this folder, by name."""
    modules = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return {module.PEER.name: module.PEER for module in modules}


@cache
def find_peer(name: str) -> Peer | None:
    """The peer that is called so, or that a Python file defines; None where there is none.

    Args:
        name: of a peer, or the path of a file whose ``PEER`` is one.

    Raises:
        ConfigError: the file defines none.
    """
    if not name.endswith(".py"):
        return all_peers().get(name)
    spec = importlib.util.spec_from_file_location(Path(name).stem, name)
    if spec is None or spec.loader is None or not Path(name).is_file():
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    peer = getattr(module, "PEER", None)
    if not isinstance(peer, Peer):
        raise ConfigError(f"{name} defines no peer; give it PEER = Peer(...), as the files in bench/run/peers have it")
    return replace(peer, name=name)
