"""A subject by its name on the command line: ``PEER:PATH@VARIANT``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdcmae.bench.run.peers import Peer, all_peers, find_peer
from kdcmae.bench.run.subjects import PRESET, VARIANT, EngineSubject, Subject, TorchSubject, load_torch_model
from kdcmae.errors import ConfigError

__all__ = ["Source", "check_source", "open_subject"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Parts of a subject's name on the command line; only the path is required.

    Args:
        peer: None for kdcmae's runtime and for PyTorch eager.
        path: an engine folder, a checkpoint file or ``preset:NAME``, whose random weights are those that kdcmae-compile
            draws.
        variant: of the engine; empty for the engine itself.
    """

    peer: Peer | None
    path: str
    variant: str

    @classmethod
    def parse(cls, text: str) -> Source:
        """Take a name apart; whether the path exists is not checked."""
        name, _, rest = text.partition(":")
        peer = find_peer(name)
        path, _, variant = (rest if peer else text).partition(VARIANT)
        return cls(peer=peer, path=path, variant=variant)

    @property
    def is_engine(self) -> bool:
        """Whether it is an engine folder, or a peer that runs one."""
        return not self.path.startswith(PRESET) and Path(self.path).is_dir()

    @property
    def engine(self) -> str | None:
        """The name of the engine that it is or runs; None where there is no engine."""
        return self.path + (VARIANT + self.variant if self.variant else "") if self.is_engine else None


def check_source(text: str) -> None:
    """Refuse what :func:`open_subject` cannot open, before anything is loaded.

    Raises:
        ConfigError: there is no such file or folder, or a peer gets none, or a variant of an engine.
    """
    source = Source.parse(text)
    if source.peer and not source.path:
        raise ConfigError(f"{text} names no model; give it as {source.peer.usage}")
    if not source.path.startswith(PRESET) and not Path(source.path).exists():
        raise ConfigError(
            f"{source.path} does not exist; give an engine folder, a checkpoint or {PRESET}base|small|tiny, "
            f"after {', '.join(all_peers())} and a colon for a peer"
        )
    if source.peer and source.variant:
        raise ConfigError(f"{source.peer.name} runs a whole engine; give it without {VARIANT}{source.variant}")


def open_subject(text: str, threads: int) -> Subject:
    """Load a subject.

    Raises:
        KdcmaeError: it cannot be loaded, or not on this machine.
    """
    source = Source.parse(text)
    if source.peer is not None:
        return source.peer.load(source.path, threads)
    if source.is_engine:
        return EngineSubject(Path(source.path), threads, source.variant)
    return TorchSubject(load_torch_model(source.path), threads)
