"""The whole pipeline: a model in, a verified engine folder out."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

import kdcmae
from kdcmae import host
from kdcmae.compile import export, models, package, parity, targets
from kdcmae.compile.lowering import Precision, lower
from kdcmae.compile.models import EngineModel
from kdcmae.compile.parity import Arrays, Ladder
from kdcmae.compile.targets import BuildRequest, BuiltEngine
from kdcmae.compile.targets.onnx import run_session
from kdcmae.errors import GateError
from kdcmae.runtime import load_engine
from kdcmae.runtime.examples import example_inputs
from kdcmae.runtime.manifest import BatchRange, Manifest, verify_files

__all__ = ["CompileSettings", "compile_engine", "preflight"]

Step = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class CompileSettings:
    """What to build.

    Args:
        target: one of :data:`kdcmae.runtime.manifest.TARGETS`.
        precision: of the matrix products.
        batch: sizes the engine must serve; min = max bakes the size in.
    """

    target: str
    precision: Precision
    batch: BatchRange


def compile_engine(
    model: EngineModel, folder: Path, settings: CompileSettings, *, step: Step, seconds: dict[str, float]
) -> Manifest:
    """Build, verify and publish an engine folder.

    Args:
        model: what becomes the engine.
        folder: where the engine goes; an engine there is replaced, but only by one that passed.
        settings: what to build.
        step: shows progress; a context manager per named step.
        seconds: what the steps took so far, as ``step`` fills it.

    Returns:
        The manifest as written.

    Raises:
        GateError: a rung of the parity ladder is out of tolerance; nothing was written.
        MissingDependencyError: the target's library is not installed.
        EngineError: the export or the build failed; nothing was written.
    """
    target = preflight(settings.target, folder)
    with package.staging(folder) as partial:
        build = _Build(model, partial, settings, step)
        program = build.export()
        graph = build.export_onnx(program) if target.reads_onnx else None
        built = build.engine(target, program, graph)
        manifest = build.package(built, seconds)
        failure = build.ladder.first_failure
        if failure is not None:
            raise GateError(_explain(failure, folder))
        package.publish(partial, folder)
    return manifest


def preflight(target_name: str, folder: Path) -> targets.Target:
    """Fail before any work is done where a build cannot end well.

    Args:
        target_name: one of :data:`kdcmae.runtime.manifest.TARGETS`.
        folder: where the engine would go.

    Returns:
        The target.

    Raises:
        MissingDependencyError: the exporter or the target's library is not installed.
        EngineError: the destination holds something else than an engine.
    """
    target = targets.load_target(target_name)
    target.require()
    if target.reads_onnx:
        export.require_exporter()
    package.check_destination(folder)
    return target


class _Build:
    """One build in its staging folder, with the inputs and the ladder that its stages share."""

    def __init__(self, model: EngineModel, folder: Path, settings: CompileSettings, step: Step) -> None:
        self.model = model
        self.folder = folder
        self.settings = settings
        self.step = step
        self.limit = parity.TOLERANCE[settings.precision]
        batch = settings.batch
        # Two samples where the engine takes them: one would not show a batch axis that got mixed up.
        self.inputs = example_inputs(model.inputs, min(batch.max, max(batch.min, 2)))
        with step("reference outputs (torch)"):
            self.reference = models.run(model, model.module, self.inputs)
        self.ladder = Ladder(self.reference)

    def export(self) -> ExportedProgram:
        """Lower the model and trace it, climbing the ladder on the way."""
        precision, model, step = self.settings.precision, self.model, self.step
        with step(f"lower to {precision}"):
            lowered = lower(model.module, precision)
            # One sample is enough here, and PyTorch's half precision is slow on most CPUs.
            first = {name: array[:1] for name, array in self.inputs.items()}
            self.ladder.climb("lowered", lambda: models.run(model, lowered, first), tolerance=self.limit, samples=1)
        with step("export the program"):
            return export.export_program(model, lowered, self.settings.batch)

    def export_onnx(self, program: ExportedProgram) -> Path:
        """Write the program as ONNX and run that with ONNX Runtime."""
        graph = self.folder / "graph.onnx"
        with self.step("export to ONNX"):
            export.export_onnx(self.model, program, graph)
        with self.step("verify ONNX"):
            if self.settings.precision == "bf16":
                wide = self.folder / "widened.onnx"
                export.widened(graph, wide)
                note = "bfloat16 widened to float32: ONNX Runtime's CPU provider has no bfloat16 kernels"
                self.ladder.climb("onnx", lambda: run_session(wide, self.inputs), tolerance=self.limit, note=note)
                wide.unlink()
            else:
                self.ladder.climb("onnx", lambda: run_session(graph, self.inputs), tolerance=self.limit)
        return graph

    def engine(self, target: targets.Target, program: ExportedProgram, graph: Path | None) -> BuiltEngine:
        """Build the engine and run it where this machine can; the graph is removed."""
        settings = self.settings
        with self.step(f"build {settings.target} engine"):
            built = target.build(
                BuildRequest(
                    program=program,
                    graph=graph,
                    folder=self.folder,
                    precision=settings.precision,
                    inputs=self.model.inputs,
                    outputs=tuple(self.reference),
                    batch=settings.batch,
                )
            )
        if graph is not None:
            graph.unlink()
        run = built.run
        if run is None:
            self.ladder.skip("engine", _not_executed(built) if built.unrunnable else "executed as the artifact")
        else:
            limit, note = self._executed_tolerance(built), _ran_in(built)
            with self.step("verify engine"):
                self.ladder.climb("engine", lambda: run(self.inputs), tolerance=limit, note=note)
        return built

    def package(self, built: BuiltEngine, seconds: dict[str, float]) -> Manifest:
        """Write golden data, labels and manifest, and load the result as an app would."""
        limit = self._executed_tolerance(built)
        golden: dict[str, Any] = {f"input.{name}": array for name, array in self.inputs.items()}
        golden |= {f"output.{name}": array for name, array in self.reference.items()}
        golden |= {f"tolerance.{name}": np.float64(limit) for name in self.reference}
        np.savez_compressed(self.folder / "golden.npz", **golden)
        self._manifest(built, seconds).write(self.folder)
        with self.step("verify artifact"):
            verify_files(self.folder, Manifest.read(self.folder))
            if built.unrunnable:
                self.ladder.skip("artifact", _not_executed(built))
            else:
                self.ladder.climb("artifact", self._run_artifact, tolerance=limit, note=_ran_in(built))
        return self._manifest(built, seconds).write(self.folder)

    def _executed_tolerance(self, built: BuiltEngine) -> float:
        return parity.tolerance({self.settings.precision, *(built.products.keys() & parity.TOLERANCE.keys())})

    def _run_artifact(self) -> Arrays:
        with load_engine(self.folder) as engine:
            return engine.infer(self.inputs)

    def _manifest(self, built: BuiltEngine, seconds: dict[str, float]) -> Manifest:
        model, settings = self.model, self.settings
        return Manifest(
            kdcmae_version=kdcmae.__version__,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            model=dict(model.facts),
            labels=model.labels,
            scores=model.scores,
            inputs=model.inputs,
            outputs=model.outputs,
            batch=settings.batch,
            preprocessing=model.preprocessing.to_dict(),
            target=settings.target,  # type: ignore[arg-type]
            libraries=dict(built.libraries),
            engine=dict(built.engine),
            precision={
                "asked": settings.precision,
                "executed": {kind: dict(counts) for kind, counts in built.executed.items()},
                "products": dict(built.products),
            },
            parity=[rung.to_dict() for rung in self.ladder.rungs],
            build={
                "seconds": dict(seconds),
                "peak_rss_bytes": host.peak_rss_bytes(),
                "host": {**host.describe_host(), "torch": torch.__version__},
            },
        )


def _ran_in(built: BuiltEngine) -> str:
    return f"matrix products in {', '.join(sorted(built.products))}"


def _not_executed(built: BuiltEngine) -> str:
    return f"built, not executed: {built.unrunnable}"


def _explain(rung: parity.Rung, folder: Path) -> str:
    worst = max(rung.errors, key=lambda name: rung.errors[name])
    return (
        f"parity: the first rung out of tolerance is {rung.name!r}: {worst} differs by {rung.errors[worst]:.1e} of its "
        f"largest value, allowed {rung.tolerance:.0e}; {folder} was not written"
    )
