"""The exception tree.

Every error a user can cause or fix derives from :class:`KdcmaeError`; its message says what failed, the
offending value and the fix, if possible in one line. ``exit_code`` is what the command line returns:
1 a gate failed or a run had to stop, 2 wrong use or bad input, 3 something needed is missing on this machine.
"""

from __future__ import annotations

import re

__all__ = [
    "BrokenDependencyError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "DiskFullError",
    "EngineError",
    "EngineInputError",
    "EngineIntegrityError",
    "EnginePrecisionError",
    "EngineVersionError",
    "GateError",
    "KdcmaeError",
    "MissingDependencyError",
    "TrainingError",
    "cause",
    "one_line",
]

_LONGEST = 600  # characters of a library's message

# Source locations in a library's messages, which do not help users: OpenVINO prints a line for each function on the
# stack before the line with the cause.
_PLACES = re.compile(r"Exception from \S+:\d+:|Check '.*?' failed at \S+:\d+:")


def one_line(text: str) -> str:
    """A message in one line: its lines joined, without source locations of a library.

    Args:
        text: of an error; those of libraries may have many lines.

    Returns:
        The message with its cause; empty for an empty message.
    """
    lines = (" ".join(line.split()) for line in _PLACES.sub("", text).splitlines())
    joined = ""
    for line in filter(None, lines):
        joined += f"{'' if not joined else ' ' if joined[-1] in ':;,.' else '; '}{line}"
    return joined


def cause(error: BaseException) -> str:
    """The message of a library's exception in one line; a long one is shortened in the middle.

    Args:
        error: of any kind; without a message, its type is returned.
    """
    text = one_line(str(error)) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


class KdcmaeError(Exception):
    """Base of every error raised on purpose by kdcmae; its message is one line, even if it quotes a library."""

    exit_code = 2

    def __str__(self) -> str:
        return one_line(super().__str__())


class ConfigError(KdcmaeError):
    """A setting is unknown, out of range, or contradicts another."""


class CheckpointError(KdcmaeError):
    """A checkpoint file cannot be read, or its tensors do not fit the model."""


class DataError(KdcmaeError):
    """A clip, frame, waveform or manifest cannot be used."""


class DiskFullError(KdcmaeError):
    """A disk or quota is full; files written before remain."""


class EngineError(KdcmaeError):
    """An engine folder cannot be built, read or run."""


class EngineInputError(EngineError):
    """An array handed to an engine has the wrong name, shape or dtype."""


class EngineIntegrityError(EngineError):
    """A file of an engine folder is missing or differs from its digest in the manifest."""


class EnginePrecisionError(EngineError):
    """The engine would execute in another precision than it claims, and the caller did not allow that."""

    exit_code = 1


class EngineVersionError(EngineError):
    """The engine was made for another version of its library or of the manifest."""


class GateError(KdcmaeError):
    """The work was done, but a gate (parity, precision, accuracy) failed."""

    exit_code = 1


class TrainingError(KdcmaeError):
    """A training run had to stop, for example because its loss is not finite."""

    exit_code = 1


class DeviceError(KdcmaeError):
    """The machine lacks the device this needs."""

    exit_code = 3


class BrokenDependencyError(KdcmaeError):
    """A library this needs is installed but cannot be imported."""

    exit_code = 3


class MissingDependencyError(KdcmaeError):
    """A library this needs is not installed.

    Args:
        library: the module that failed to import, such as ``"openvino"``.
        install: what to hand to ``pip install``, such as ``"kdcmae[openvino]"``.
    """

    exit_code = 3

    def __init__(self, library: str, *, install: str) -> None:
        super().__init__(f"{library} is not installed; install it with: pip install '{install}'")
        self.library = library
        self.install = install
