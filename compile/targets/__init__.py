"""Engine targets, one file each, behind one small protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kdcmae.compile.parity import Arrays
from kdcmae.runtime.cpu import Cpu, this_cpu
from kdcmae.runtime.execution import Execution
from kdcmae.runtime.manifest import BatchRange, TensorSpec
from kdcmae.runtime.targets import find_target

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["BuildRequest", "BuiltEngine", "Contents", "Target", "load_target"]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What an engine's file says of itself.

    Args:
        format: its name, with the release where the file has one.
        operations: how many there are, by type and by the precision of their first output; an empty precision where
            the file does not declare it. Empty where the format cannot be read without its library.
    """

    format: str
    operations: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What a target builds from.

    Args:
        program: the traced model, whose types already carry the precision; None for targets that read ONNX.
        graph: the same as an ONNX file, its weights in a file beside it, for targets that read one.
        folder: where the engine files go.
        precision: of the matrix products.
        inputs: of the engine, in order.
        outputs: their names.
        batch: sizes it must serve.
        execute_as: the precision that the products execute in instead; empty where they execute in ``precision``.
        cpu: the processor that the engine is for; this machine's, unless the target builds for others too.
        device: ``cpu`` or ``cuda``, for a target that builds for several; the target's default where empty.
        frontend: an ONNX file from raw inputs to those of ``graph``, for a target that wants it apart; the weights and
            the precision of ``graph`` are none of its.
    """

    program: ExportedProgram | None
    graph: Path | None
    folder: Path
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    batch: BatchRange
    execute_as: str = ""
    cpu: Cpu = field(default_factory=this_cpu)
    device: str = ""
    frontend: Path | None = None


@dataclass(frozen=True, kw_only=True)
class BuiltEngine(Execution):
    """What a target built, and what of it executes.

    Args:
        engine: the manifest's engine section; ``file`` names the raw engine.
        libraries: what the engine needs, by name and version.
        floating: the precision of what is not quantised in a quantised engine, on the processor it is for.
        run: the engine just built, from input arrays to output arrays; None where only the artifact runs.
        unrunnable: why this machine cannot run the engine; empty where it can.
        declared: matrix products by precision in the graph the library got, where the target changed the program's.
        open_graph: compiles a graph to execute in a precision on this machine's processor, as an app loads engines of
            this target; None where a target has no quantised engines there.
    """

    engine: Mapping[str, Any]
    libraries: Mapping[str, str]
    run: Callable[[Arrays], Arrays] | None
    floating: str = "fp32"
    unrunnable: str = ""
    declared: Mapping[str, int] | None = None
    open_graph: Callable[[Path, str], Callable[[Arrays], Any]] | None = None


class Target(Protocol):
    """A library that turns the traced model into an engine.

    Args:
        reads_onnx: it builds from an ONNX file rather than from the program.
        splits_frontend: its library gives every layer of a model the same precision, so that the float32 preprocessing
            of raw inputs has to be a model of its own.
    """

    reads_onnx: bool
    splits_frontend: bool

    def require(self) -> None:
        """Check that the library is here.

        Raises:
            MissingDependencyError: it is not; the message has the install line.
            BrokenDependencyError: something it needs is missing or does not load.
        """

    def build(self, request: BuildRequest) -> BuiltEngine:
        """Build into ``request.folder``.

        Raises:
            EngineError: the library refused the graph; the message has its reason.
        """

    def inspect(self, path: Path) -> Contents:
        """Look into an engine's file without running or deserialising it; its library need not be here.

        Raises:
            EngineError: it has another format.
        """


def load_target(name: str) -> Target:
    """The target called ``name``; its library is imported by :meth:`Target.require`, not before.

    Raises:
        ConfigError: no such target.
    """
    target: Target = import_module(find_target(name).compiler).TARGET
    return target
