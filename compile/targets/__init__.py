"""Compile targets: one class per engine library, with everything the compiler does for that library alone.

What all targets have in common is in :class:`Target`, so that a new target is one short file here: a subclass, an
instance called ``TARGET``, and the methods in which the library differs. Beside it a target has a backend for apps
and a row in :data:`kdcmae.runtime.targets.TARGETS`, which names both files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcmae.compile.cutting import GraphPart, cut_onnx
from kdcmae.compile.quantize import qdq
from kdcmae.compile.sessions import open_session
from kdcmae.compile.stages import Run, Values
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.backend import import_library
from kdcmae.runtime.cpu import Cpu, this_cpu
from kdcmae.runtime.execution import Execution
from kdcmae.runtime.manifest import BatchRange, TensorSpec, digest
from kdcmae.runtime.precisions import QUANTIZED
from kdcmae.runtime.targets import TARGETS, TargetRecord, find_target

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from kdcmae.compile.models import EngineModel
    from kdcmae.compile.quantize.calibration import Clips
    from kdcmae.compile.settings import CompileSettings
    from kdcmae.compile.variants import Variant
    from kdcmae.runtime.metrics import Kind

__all__ = [
    "BuildRequest",
    "BuiltEngine",
    "Contents",
    "LayerRequest",
    "Quantization",
    "Target",
    "load_target",
    "plain_counts",
    "version_of",
]


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
        part: which part of an engine in parts this is; the names of its files end in it. Empty for a whole engine.
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
    part: str = ""

    def file_name(self, name: str) -> str:
        """Name of a file of the engine: ``model.xml``, or ``model-audio.xml`` of a part."""
        stem, dot, suffix = name.partition(".")
        return f"{stem}-{self.part}{dot}{suffix}" if self.part else name


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
    """

    engine: Mapping[str, Any]
    libraries: Mapping[str, str]
    run: Run | None
    floating: str = "fp32"
    unrunnable: str = ""
    declared: Mapping[str, int] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerRequest:
    """What a target may look for the layers of an engine in.

    Args:
        model: with its weights.
        lowered: the module that was exported.
        graph: its ONNX file.
        outputs: the value of that file that is each module's output, by the module's name.
        engine: an engine's file, built before; None to look at what the target makes of the above.
        settings: of the build.
        folder: for scratch files.
    """

    model: EngineModel
    lowered: nn.Module
    graph: Path
    outputs: Mapping[str, str]
    engine: Path | None
    settings: CompileSettings
    folder: Path


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantization:
    """How a target's graphs are quantised.

    Args:
        method: the tool, its version and the form of the graph, for the manifest.
        suffix: of the graph's file.
        write: from the float ONNX graph, the file to write, clips to learn ranges from and names of linear layers.
    """

    method: str
    suffix: str
    write: Callable[[Path, Path, Clips, Sequence[str]], None]


class Target:
    """What the compiler does for one engine library. Importing a target's file imports neither its library nor PyTorch.

    Attributes:
        name: as ``--target`` takes it.
        reads_onnx: it builds from an ONNX file rather than from the program.
        ships_graph: the engine's file is that ONNX file.
        cannot_split: why its engines cannot be in parts; empty if :meth:`cut` works and :meth:`build` names files by
            :meth:`BuildRequest.file_name`.
        searched: the precisions that a search for a latency tries on a CPU, the most accurate first; empty where no
            engine of the target can be searched for.
        tools: distributions that decide what is built, beside those of the target's record; part of the cache key.
    """

    name: str
    reads_onnx = True
    ships_graph = False
    cannot_split = "its engines are one file"
    searched: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()

    @property
    def record(self) -> TargetRecord:
        """What the runtime knows of the target."""
        return TARGETS[self.name]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Other forms of its graphs, which may be faster on some processors; none here."""
        return ()

    def require(self) -> None:
        """Import the library.

        Raises:
            MissingDependencyError: it is not installed; the message has the install line.
            BrokenDependencyError: something it needs is missing or does not load.
        """
        import_library(self.record.module(), install=self.record.install)

    def require_quantizer(self, precision: str) -> None:
        """Import what quantises a graph to a precision. Errors are those of :meth:`require`."""

    def build(self, request: BuildRequest) -> BuiltEngine:
        """Build into ``request.folder``.

        Raises:
            EngineError: the library refused the graph; the message has its reason.
        """
        raise NotImplementedError

    def cut(self, graph: Path, folder: Path, groups: Mapping[str, tuple[str, ...]]) -> list[GraphPart]:
        """Cut a graph into an encoder per modality and what joins them.

        Args:
            graph: float, or what :meth:`quantization` wrote.
            folder: for the graphs of the parts.
            groups: inputs of the graph by encoder.

        Raises:
            EngineError: the graph cannot be cut.
        """
        return cut_onnx(graph, folder, groups)

    def inspect(self, path: Path) -> Contents:
        """Look into an engine's file without running or deserialising it; its library need not be here.

        Raises:
            EngineError: it has another format.
        """
        return Contents(format=f"{self.record.label} engine")

    def quantization(self, settings: CompileSettings, kinds: Mapping[str, Kind]) -> Quantization:
        """How its graphs are quantised: here Q/DQ pairs in ONNX.

        Args:
            kinds: what each output is for, by name.

        Raises:
            MissingDependencyError: what quantises is not installed.
        """
        precision, saturates = settings.precision, settings.saturates

        def write(graph: Path, path: Path, clips: Clips, layers: Sequence[str]) -> None:
            qdq.quantize(graph, path, clips, layers, precision, saturates=saturates)

        return Quantization(method=qdq.method(precision, saturates=saturates), suffix=".onnx", write=write)

    def run_quantized(self, graph: Path, *, floating: bool = False) -> Run:
        """Load a quantised graph on the CPU.

        Args:
            graph: what :meth:`quantization` wrote.
            floating: compute in float32 with what was rounded to 8 bits, whatever the machine's integer kernels do.
        """
        return open_session(graph, floating=floating)

    def open_graph(self, graph: Path, precision: str) -> Callable[[Arrays], Any]:
        """Load a graph to execute in a precision on this machine's processor, as fast as engines of this target run.

        Args:
            graph: float, or what :meth:`quantization` wrote.
        """
        return open_session(graph, sparing=False)

    def quantized_values(self, graph: Path) -> Values:
        """Values of a quantised graph by their names, as what reads it computes them."""
        from kdcmae.compile.layers import onnx_values

        return onnx_values(graph)

    def layer_values(self, request: LayerRequest) -> Values | None:
        """Outputs of the modules inside an engine.

        Returns:
            None where engines give none, or where the stage before the engine has the same.
        """
        return None

    def hidden(self, settings: CompileSettings) -> str:
        """What of the way to an engine cannot be looked at layer by layer, in words; empty where all of it can."""
        last = "quantized" if settings.precision in QUANTIZED else "onnx"
        return f"compared up to stage {last!r}: an engine of {self.name} gives no values from inside"

    def share(self, graphs: Sequence[Path]) -> str:
        """Put the weights of several engines, each in a folder of its own, into one file beside the first.

        Args:
            graphs: files of the engines, changed in place.

        Returns:
            The name of that file; empty where the target keeps weights and graph in one file.
        """
        return ""

    def floating_of(self, engine: Mapping[str, Any]) -> str:
        """The precision of what is not quantised, from a manifest's engine section; empty where that does not say."""
        return ""

    def identity(self) -> dict[str, str]:
        """What decides what this target builds, for the cache key: versions of distributions, and files outside kdcmae.

        The files of kdcmae itself are in every key.
        """
        versions = {name: version_of(name) for name in (*self.record.distributions, *self.tools)}
        backend = self.record.backend.partition(":")[0]
        modules = {name for name in (type(self).__module__, backend) if not name.startswith("kdcmae.")}
        files = {name: getattr(import_module(name), "__file__", None) for name in modules}
        return {**versions, **{name: digest(Path(file)) for name, file in files.items() if file}}


def load_target(name: str) -> Target:
    """The target called ``name``; its library is imported by :meth:`Target.require`, not before.

    Raises:
        ConfigError: no such target.
    """
    target: Target = import_module(find_target(name).compiler).TARGET
    return target


def plain_counts(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Counts by kind of layer and precision as plain dictionaries, the kinds in alphabetical order."""
    return {kind: dict(by_precision) for kind, by_precision in sorted(counts.items())}


def version_of(distribution: str) -> str:
    """Of an installed distribution; empty where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
