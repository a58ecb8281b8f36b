"""The build: from a model to a verified engine folder."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from kdcmae.compile import cases, export, gates, layers, memory, models, parts, references, report, selftest, targets
from kdcmae.compile.engine_facts import engine_manifest
from kdcmae.compile.frontend import ExportedFrontend
from kdcmae.compile.half import GraphPrecision
from kdcmae.compile.latency import measure_latency
from kdcmae.compile.models import EngineModel
from kdcmae.compile.parity import Case, Ladder
from kdcmae.compile.peaks import watched
from kdcmae.compile.preflight import preflight
from kdcmae.compile.quantize.quantizer import QuantizationReport, Quantizer
from kdcmae.compile.sessions import open_session
from kdcmae.compile.settings import CompileSettings
from kdcmae.compile.stages import ROUNDED, Run, Stage
from kdcmae.compile.targets import BuildRequest, BuiltEngine, LayerRequest
from kdcmae.compile.tuning import beside_float, tuned
from kdcmae.compile.variants import Tuning
from kdcmae.errors import GateError
from kdcmae.files import publishing
from kdcmae.progress import Step
from kdcmae.runtime import load_engine
from kdcmae.runtime.arrays import Arrays
from kdcmae.runtime.execution import Claim, differences_known
from kdcmae.runtime.golden import GOLDEN_FILE
from kdcmae.runtime.manifest import Manifest, verify_files
from kdcmae.runtime.precisions import GATES, QUANTIZED, Gate

__all__ = ["Build", "CompileSettings", "compile_engine"]


def compile_engine(
    model: EngineModel,
    folder: Path,
    settings: CompileSettings,
    *,
    step: Step,
    seconds: dict[str, float],
    exported: Callable[[], None] = lambda: None,
    reload: Callable[[], EngineModel] | None = None,
) -> Manifest:
    """Build, verify and publish an engine folder.

    Args:
        folder: where the engine goes; an engine there is replaced, but only by one that passed.
        step: shows progress; a context manager per named step.
        seconds: what the steps took so far, as ``step`` fills it.
        exported: called once the model's weights are needed no more, so that the caller can free them.
        reload: makes the model again, where ``exported`` freed it and more of it has to stay float32.

    Returns:
        The manifest as written.

    Raises:
        GateError: a rung is out of its gate, or layers execute in another precision than claimed.
        MissingDependencyError: the target's library is not installed.
        EngineError: the export or the build failed; nothing was written.
    """
    target = preflight(settings, folder)
    with publishing.staging(folder) as partial:
        build = Build(model, partial, settings, step, target)
        while True:
            try:
                _climb_all(build, exported)
                break
            except GateError as error:
                build.restart(error, reload)
        manifest = engine_manifest(build, seconds)
        report.write(manifest, partial)
        manifest = manifest.write(partial)
        publishing.publish(partial, folder)
    return manifest


def _climb_all(build: Build, exported: Callable[[], None]) -> None:
    """Run every stage. A function of its own, so that nothing holds the last stage when a build starts again."""
    for stage in build.stages(exported):
        build.climb(stage)
        del stage  # before the next one is made


class Build:
    """One build in its staging folder, with the cases and the ladder that its stages share.

    Args:
        model: what becomes the engine, with its weights.
        folder: empty; where the engine's files go.
        settings: what to build.
        step: shows progress; a context manager per named step.
        inside: make stages to look inside, layer by layer. They cannot be run, and no engine is built.
        engine: the file of an engine to look inside, built before with these settings.

    Attributes:
        ladder: the rungs so far.
        built: what the target built; None before.
        claims: what is claimed of the precisions that it executes.
        quantization: what was quantised; None where nothing was.
        tuning: which variant of the graph it is and why; None where there was no choice.
        latency, speed: of the engine, as far as it was timed.
        quantizer: makes quantised graphs; None where nothing is quantised.
    """

    def __init__(
        self,
        model: EngineModel,
        folder: Path,
        settings: CompileSettings,
        step: Step,
        target: targets.Target,
        *,
        inside: bool = False,
        engine: Path | None = None,
    ) -> None:
        if settings.precision != "fp32":
            model = cases.on_clips(model)
        self.model = model = references.remembered(model)
        self.folder, self.settings = folder, settings
        self.step, self.target = step, target
        self.inside, self._looked_at = inside, engine
        # What is lowered and quantised: all of the model, or what is behind a frontend of its own.
        self.body, self.frontend = model, None
        if target.record.one_precision and model.parts is not None:
            self.body, self.frontend = model.parts.body, ExportedFrontend(model.parts.frontend)
        with step("reference outputs (torch)"), watched(self.body.module, settings.floating) as peaks:
            rounds = settings.precision != "fp32"
            self.cases = cases.proof(model, settings.batch, settings.clips, rounds=rounds, wanted=settings.proof_clips)
            self.samples = None if inside else selftest.Samples.of(model, settings)
        self.some_cases = cases.shortened(model, self.cases)
        self.ladder = Ladder(cases=self.cases, kinds=models.kinds(model))
        self.graph_precision = GraphPrecision(self.body, settings, peaks)
        self.claims: list[Claim] = []
        self.latency: dict[str, float] = {}
        self.speed: dict[str, Any] = {}
        self.built: BuiltEngine | None = None
        quantizes = settings.precision in QUANTIZED and engine is None
        self.quantizer = Quantizer(self.body, settings, step) if quantizes else None
        self.quantization: QuantizationReport | None = None
        self.tuning: Tuning | None = None
        self._lowered: nn.Module | None = None
        self._graph: Path | None = None  # what the target got
        self._float_graph: Path | None = None  # to time beside it
        self._layers: LayerRequest | None = None

    def stages(self, exported: Callable[[], None] = lambda: None) -> Iterator[Stage]:
        """Make the stages of the build, each when it is asked for.

        Args:
            exported: called once the model's weights are needed no more.

        Yields:
            ``program``; ``onnx`` where the target reads that; ``quantized`` where the precision is; ``engine``; and
            ``artifact``, the folder as an app loads it. To look inside, ``onnx`` is there for every target, because
            layers are found by the names of its values; and the last is the engine, if that can be looked into.
        """
        # Whoever holds the program holds all the weights: nothing may outlive its use.
        program: ExportedProgram | None = self._export()
        assert program is not None
        yield self._program_stage(program)
        reads_onnx = self.target.reads_onnx
        if reads_onnx and not self.inside:
            self._float_graph = self.graph_precision.export_throughout(self.folder)
        exported()
        declared, graph = gates.declared_products(program), None
        if reads_onnx or self.inside:
            graph = self._export_onnx(program)
            if reads_onnx:
                program = None
            if not (self._looked_at and self.target.ships_graph):
                yield from self._onnx_stage(graph)
        if graph is not None and self.quantizer is not None:
            self._float_graph = graph
            graph, self.quantization = self.quantizer.quantize(graph)
            yield self._quantized_stage(graph)
        if self._layers is not None:
            values = self.target.layer_values(self._layers)
            if values is not None:
                yield Stage(name="engine", gate=self.settings.gate({self.settings.claimed()}), values=values)
            return
        if graph is not None:
            floating = self._float_graph if self.quantization else None
            graph, self.tuning = tuned(self, graph, floating or graph, declared)
        request, program = self.request(program, graph), None
        yield self.engine_stage(request, declared)
        yield from self._artifact_stage()

    def climb(self, stage: Stage) -> None:
        """Run a stage as a rung of the ladder.

        Raises:
            GateError: it is out of its gate, or much worse than the stage before.
        """
        ran, note = stage.cases or self.some_cases, stage.note
        if stage.run is not None and len(ran) == len(self.cases):
            cut = cases.cut_note(self.model, self.settings.batch, of=self.cases, ran=ran)
            note = "; ".join(filter(None, (note, cut)))
        with self.step(f"verify {stage.title}"):
            self.ladder.climb(dataclasses.replace(stage, cases=ran, note=note))

    def smallest_feed(self) -> Arrays:
        """Inputs of the smallest batch, as the graph takes them."""
        inputs = min(self.cases, key=lambda case: case.batch).inputs
        return dict(inputs if self.frontend is None else self.frontend.run(inputs))

    def restart(self, error: GateError, reload: Callable[[], EngineModel] | None) -> None:
        """Start again with more of the model in float32.

        Raises:
            GateError: that error, where nothing more can help.
        """
        if self.settings.floating == "fp32":
            raise error
        with self.step("find what to leave in float32"):
            run = self._behind_frontend(dict)
            gate = self.settings.graph_gate()
            self.graph_precision.widen(error, self.ladder, gate, behind_frontend=run, reload=reload)
        self.ladder.clear()
        self.claims, self.built = [], None
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _export(self) -> ExportedProgram:
        """Lower the model and trace it."""
        with self.step(f"lower to {self.settings.floating}"):
            lowered = self.graph_precision.lower()
        with self.step("export the program"):
            program = export.export_program(self.body, lowered, self.settings.batch)
            if self.frontend is not None:
                self.frontend.export(self.settings.batch)
        if self.inside:
            self._lowered = lowered
        return program

    def _program_stage(self, program: ExportedProgram) -> Stage:
        gate = self.settings.graph_gate()
        if self._lowered is not None:
            return Stage(name="program", gate=gate, values=layers.module_values(self.body, self._lowered))
        module, note = program.module(), ""
        chosen: tuple[Case, ...] = ()
        if self.settings.floating != "fp32":
            chosen = (min(self.cases, key=lambda case: case.batch).first(1),)
            note = f"{chosen[0].name} only: half precision is slow in PyTorch on a CPU"
        run = self._behind_frontend(lambda feed: models.run(self.body, module, feed))
        return Stage(
            name="program", gate=gate, run=run, computes=frozenset({self.settings.floating}), note=note, cases=chosen
        )

    def _export_onnx(self, program: ExportedProgram) -> Path:
        """Write the program as ONNX."""
        folder = self.folder / "graph"
        folder.mkdir()
        graph = folder / "graph.onnx"
        with self.step("export to ONNX"):
            export.export_onnx(self.body, program, graph)
            if self.frontend is not None:
                self.frontend.export_onnx(folder / "frontend.onnx")
        if self._lowered is not None:
            outputs = layers.output_names(graph)
            self._layers = LayerRequest(
                model=self.body,
                lowered=self._lowered,
                graph=graph,
                outputs=outputs,
                engine=self._looked_at,
                settings=self.settings,
                folder=self.folder,
            )
        return graph

    def _onnx_stage(self, graph: Path) -> Iterator[Stage]:
        """The ONNX file, executed by ONNX Runtime."""
        memory.trim()
        computes, note, executed = self.settings.floating, "", graph
        if computes == "bf16":
            executed, computes = graph.with_name("widened.onnx"), "fp32"
            export.widened(graph, executed)
            note = "bfloat16 widened to float32: ONNX Runtime's CPU provider has no bfloat16 kernels"
        gate = self.settings.graph_gate()
        if self._layers is not None:
            values = layers.graph_values(layers.onnx_values(executed), self._layers.outputs)
            yield Stage(name="onnx", gate=gate, values=values)
        else:
            run = self._behind_frontend(open_session(executed))
            yield Stage(name="onnx", gate=gate, run=run, computes=frozenset({computes}), note=note)
        if executed != graph:
            export.remove(executed)

    def _quantized_stage(self, graph: Path) -> Stage:
        assert self.quantization is not None
        gate = self.settings.gate(set())
        if self._layers is not None:
            values = layers.graph_values(self.target.quantized_values(graph), self._layers.outputs)
            return Stage(name="quantized", gate=gate, values=values)
        run = self._behind_frontend(self.target.run_quantized(graph, floating=True))
        note = f"{self.quantization.method}; executed in float32"
        return Stage(name="quantized", gate=gate, run=run, computes=frozenset({ROUNDED}), note=note)

    def request(self, program: ExportedProgram | None, graph: Path | None) -> BuildRequest:
        """What the target gets: the program, or a graph."""
        return BuildRequest(
            program=program,
            graph=graph,
            folder=self.folder,
            precision=self.settings.precision,
            inputs=self.model.inputs,
            outputs=tuple(spec.name for spec in self.model.outputs),
            batch=self.settings.batch,
            execute_as=self.settings.execute_as,
            cpu=self.settings.cpu,
            device=self.settings.device,
            frontend=None if self.frontend is None else self.frontend.graph,
        )

    def engine_stage(self, request: BuildRequest, declared: Mapping[str, int]) -> Stage:
        """Build the engine and check what it executes.

        Args:
            request: for the target.
            declared: matrix products by precision in the exported program.
        """
        memory.trim()
        with self.step(f"build {self.target.name} engine"):
            built = parts.build_engine(self.target, request, self.model.outputs, split=self.settings.split)
        if self.settings.saturates_here:
            built = dataclasses.replace(built, run=None, unrunnable=gates.SATURATES_HERE)
        self.claims = gates.check_claims(self.settings, built.declared or declared, built)
        self._graph, self.built = request.graph, dataclasses.replace(built, run=None)
        gate, computes, note = self._engine_gate(built), self._executed(built), self._ran_in(built)
        if built.run is None:
            note = _not_executed(built) if built.unrunnable else "executed as the artifact"
        return Stage(name="engine", gate=gate, run=built.run, computes=computes, note=note)

    def _engine_gate(self, built: BuiltEngine) -> Gate:
        return self.settings.gate(set(built.products))

    def _artifact_stage(self) -> Iterator[Stage]:
        """The folder as an app loads it, with the self-test that it carries. The graph is removed."""
        built = self.built
        assert built is not None
        assert self.samples is not None
        if self._graph is not None and not built.unrunnable:
            self.speed = beside_float(self, self._graph, self._float_graph)
        for folder in ("graph", "throughout"):
            shutil.rmtree(self.folder / folder, ignore_errors=True)
        memory.trim()
        claimed = {claim.claimed for claim in self.claims if claim.checked}  # on the machine that the engine is for
        golden = self.samples.golden(self.settings, {*built.products, *claimed})
        golden.write(self.folder / GOLDEN_FILE)
        gate = self._engine_gate(built)
        engine_manifest(self, {}).write(self.folder)
        verify_files(self.folder, Manifest.read(self.folder))
        if built.unrunnable:
            yield Stage(name="artifact", gate=gate, note=_not_executed(built))
            return
        with differences_known(), load_engine(self.folder) as engine:
            computes, note = self._executed(built), self._ran_in(built)
            known = selftest.remembering(engine)
            yield Stage(name="artifact", gate=gate, run=known.infer, computes=computes, note=note, cases=self.cases)
            with self.step("prove the self-test"):
                golden, note = self.samples.proven(known, golden, self.settings)
                golden.write(self.folder / GOLDEN_FILE)
                self.ladder.remark(note)
                engine.reuse_encodings(False)
                self.latency = measure_latency(engine.infer, min(self.cases, key=lambda case: case.batch).inputs)

    def _behind_frontend(self, run: Run) -> Run:
        """What runs the body, from the model's own inputs."""
        frontend = self.frontend
        return run if frontend is None else lambda feed: run(frontend.run(feed))

    def _executed(self, built: BuiltEngine) -> frozenset[str]:
        """The precisions that the engine computes in."""
        executed = {*built.products, *([built.floating] if self.quantization is not None else [])}
        return frozenset((executed & GATES.keys()) or {self.settings.claimed()})

    def _ran_in(self, built: BuiltEngine) -> str:
        notes = [f"matrix products in {', '.join(sorted(built.products))}"]
        elsewhere: dict[str, list[str]] = {}
        for claim in self.claims:
            if claim.checked:
                elsewhere.setdefault(f"in {claim.claimed} {claim.checked}", []).append(claim.layers)
        return "; ".join(notes + [f"{', '.join(layers)} {how}" for how, layers in elsewhere.items()])


def _not_executed(built: BuiltEngine) -> str:
    return f"built, not executed: {built.unrunnable}"
