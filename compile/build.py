"""The whole pipeline: a model in, a verified engine folder out."""

from __future__ import annotations

import dataclasses
import datetime
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

import kdcmae
from kdcmae import host
from kdcmae.compile import cases, export, gates, memory, models, package, report, selftest, targets
from kdcmae.compile.frontend import ExportedFrontend
from kdcmae.compile.half import GraphPrecision
from kdcmae.compile.latency import compare_latency, measure_latency
from kdcmae.compile.models import EngineModel
from kdcmae.compile.parity import Arrays, Case, Ladder
from kdcmae.compile.peaks import watched
from kdcmae.compile.preflight import preflight
from kdcmae.compile.quantize.accuracy import open_graph
from kdcmae.compile.quantize.quantizer import QuantizationReport, Quantizer
from kdcmae.compile.sessions import open_session
from kdcmae.compile.settings import CompileSettings
from kdcmae.compile.targets import BuildRequest, BuiltEngine
from kdcmae.errors import GateError
from kdcmae.progress import Step
from kdcmae.runtime import load_engine
from kdcmae.runtime.capabilities import fastest_floating
from kdcmae.runtime.execution import Claim, differences_known
from kdcmae.runtime.golden import GOLDEN_FILE
from kdcmae.runtime.manifest import Manifest, verify_files
from kdcmae.runtime.precisions import GATES, QUANTIZED
from kdcmae.runtime.targets import TARGETS

__all__ = ["CompileSettings", "compile_engine"]


_ROUNDED = "rounded"  # what a quantised graph computes in, executed in float32


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
        model: what becomes the engine.
        folder: where the engine goes; an engine there is replaced, but only by one that passed.
        settings: what to build.
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
    with package.staging(folder) as partial:
        build = _Build(model, partial, settings, step, target)
        while True:
            try:
                manifest = build.package(_built(build, target, exported), seconds)
            except GateError as error:
                build.restart(error, reload)
                continue
            break
        package.publish(partial, folder)
    return manifest


def _built(build: _Build, target: targets.Target, exported: Callable[[], None]) -> BuiltEngine:
    """From the model to the engine, as far up the ladder."""
    program = build.export()
    exported()
    declared = gates.declared_products(program)
    # Whoever holds the program holds all the weights: nothing may outlive its use.
    if target.reads_onnx:
        graph = build.export_onnx(program)
        del program
        build.verify_onnx(graph)
        request = build.request(None, build.quantize(graph))
    else:
        request = build.request(program, None)
        del program
    return build.engine(target, request, declared)


class _Build:
    """One build in its staging folder, with the cases and the ladder that its stages share."""

    def __init__(
        self, model: EngineModel, folder: Path, settings: CompileSettings, step: Step, target: targets.Target
    ) -> None:
        if settings.precision != "fp32":
            model = cases.on_clips(model)
        self.model = model
        # What is lowered and quantised: all of the model, or what is behind a frontend of its own.
        self.body, self.frontend = model, None
        if target.splits_frontend and model.parts is not None:
            self.body, self.frontend = model.parts.body, ExportedFrontend(model.parts.frontend)
        self.reads_onnx = target.reads_onnx
        self.folder = folder
        self.settings = settings
        self.step = step
        self.gate = settings.graph_gate()
        self.claims: list[Claim] = []
        self.latency: dict[str, float] = {}
        self.speed: dict[str, Any] = {}
        with step("reference outputs (torch)"), watched(self.body.module, settings.floating) as peaks:
            self.cases = cases.proof(model, settings.batch, settings.clips, rounds=settings.precision != "fp32")
            self.samples = selftest.Samples.of(model, settings)
        self.some_cases = cases.shortened(model, self.cases)
        self.ladder = Ladder(cases=self.cases, kinds=models.kinds(model))
        self.computed: set[str] = set()  # the precisions that the last rung computed in
        self.graph_precision = GraphPrecision(self.body, settings, peaks)
        self.quantizer = Quantizer(self.body, settings, step) if settings.precision in QUANTIZED else None
        self.quantization: QuantizationReport | None = None
        self.float_graph: Path | None = None

    def export(self) -> ExportedProgram:
        """Lower the model and trace it, and run what came out."""
        precision, step = self.settings.floating, self.step
        with step(f"lower to {precision}"):
            lowered = self.graph_precision.lower()
        with step("export the program"):
            program = export.export_program(self.body, lowered, self.settings.batch)
            if self.frontend is not None:
                self.frontend.export(self.settings.batch)
        with step("verify the program"):
            module = program.module()
            chosen: tuple[Case, ...] = ()
            note = ""
            if precision != "fp32":
                chosen = (min(self.cases, key=lambda case: case.batch).first(1),)
                note = f"{chosen[0].name} only: half precision is slow in PyTorch on a CPU"
            run = self._behind_frontend(lambda feed: models.run(self.body, module, feed))
            self._climb("program", run, computes={precision}, note=note, chosen=chosen)
        if self.reads_onnx:
            self.float_graph = self.graph_precision.export_throughout(self.folder)
        return program

    def restart(self, error: GateError, reload: Callable[[], EngineModel] | None) -> None:
        """Start again with more of the model in float32.

        Raises:
            GateError: that error, where nothing more can help.
        """
        if self.settings.floating == "fp32":
            raise error
        self.gate = self.settings.graph_gate()
        with self.step("find what to leave in float32"):
            run = self._behind_frontend(dict)
            self.graph_precision.widen(error, self.ladder, self.gate, behind_frontend=run, reload=reload)
        self.ladder.rungs.clear()
        self.computed = set()
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def export_onnx(self, program: ExportedProgram) -> Path:
        """Write the program as ONNX."""
        folder = self.folder / "graph"
        folder.mkdir()
        graph = folder / "graph.onnx"
        with self.step("export to ONNX"):
            export.export_onnx(self.body, program, graph)
            if self.frontend is not None:
                self.frontend.export_onnx(folder / "frontend.onnx")
        return graph

    def verify_onnx(self, graph: Path) -> None:
        """Run the ONNX file with ONNX Runtime."""
        memory.trim()
        with self.step("verify ONNX"):
            if self.settings.precision == "bf16":
                wide = graph.with_name("widened.onnx")
                export.widened(graph, wide)
                note = "bfloat16 widened to float32: ONNX Runtime's CPU provider has no bfloat16 kernels"
                self._climb("onnx", self._behind_frontend(open_session(wide)), computes={"fp32"}, note=note)
                export.remove(wide)
            else:
                self._climb("onnx", self._behind_frontend(open_session(graph)), computes={self.settings.floating})

    def quantize(self, graph: Path) -> Path:
        """Put 8-bit layers into the graph where the precision asks for them, and run what came out."""
        if self.quantizer is None:
            return graph
        self.float_graph = graph
        graph, self.quantization = self.quantizer.quantize(graph)
        self.gate = self.settings.gate(set())
        with self.step("verify the quantised graph"):
            run = self._behind_frontend(open_graph(graph, floating=True))
            note = f"{self.quantization.method}; executed in float32"
            self._climb("quantized", run, computes={_ROUNDED}, note=note)
        return graph

    def request(self, program: ExportedProgram | None, graph: Path | None) -> BuildRequest:
        """What the target gets."""
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

    def engine(self, target: targets.Target, request: BuildRequest, declared: Mapping[str, int]) -> BuiltEngine:
        """Build the engine, check what it executes, and run it where this machine can; the graph is removed."""
        memory.trim()
        with self.step(f"build {self.settings.target} engine"):
            built = target.build(request)
        if self.settings.saturates_here:
            built = dataclasses.replace(built, run=None, unrunnable=gates.SATURATES_HERE)
        self.claims = gates.check_claims(self.settings, built.declared or declared, built)
        self.gate = self.settings.gate(set(built.products))
        if built.run is None:
            self.ladder.skip("engine", _not_executed(built) if built.unrunnable else "executed as the artifact")
        else:
            with self.step("verify engine"):
                self._climb("engine", built.run, computes=self._executed(built), note=self._ran_in(built))
        built = dataclasses.replace(built, run=None)
        if request.graph is not None and not built.unrunnable:
            self._compare_speed(built, request.graph)
        for folder in ("graph", "throughout"):
            shutil.rmtree(self.folder / folder, ignore_errors=True)
        return built

    def _compare_speed(self, built: BuiltEngine, graph: Path) -> None:
        """Time the graph in turns with the float one in the fastest precision, or with the one all in half."""
        settings = self.settings
        if self.float_graph is None or built.open_graph is None or settings.elsewhere:
            return
        memory.trim()
        precision, against = settings.precision, f"{settings.precision} throughout"
        if self.quantization is not None:
            precision, _ = fastest_floating(settings.target, cpu=settings.cpu)
            against = precision
        with self.step(f"time it beside {against}"):
            inputs = min(self.cases, key=lambda case: case.batch).inputs
            feed = dict(inputs if self.frontend is None else self.frontend.run(inputs))
            run, other = (
                partial(built.open_graph(path, name), feed)
                for path, name in ((graph, settings.precision), (self.float_graph, precision))
            )
            self.speed = compare_latency(run, other, against=against)

    def package(self, built: BuiltEngine, seconds: dict[str, float]) -> Manifest:
        """Write golden data, labels and manifest, load the result as an app would, and write the report."""
        memory.trim()
        claimed = {claim.claimed for claim in self.claims if claim.checked}  # on the machine that the engine is for
        golden = self.samples.golden(self.settings, {*built.products, *claimed})
        golden.write(self.folder / GOLDEN_FILE)
        self._manifest(built, seconds).write(self.folder)
        with self.step("verify artifact"):
            verify_files(self.folder, Manifest.read(self.folder))
            if built.unrunnable:
                self.ladder.skip("artifact", _not_executed(built))
            else:
                with differences_known(), load_engine(self.folder) as engine:
                    executed, note = self._executed(built), self._ran_in(built)
                    self._climb("artifact", engine.infer, computes=executed, note=note, chosen=self.cases)
                    golden = self.samples.proven(engine, golden, self.settings)
                    golden.write(self.folder / GOLDEN_FILE)
                    self.ladder.remark(self.samples.left_out(golden))
                    self.latency = measure_latency(engine.infer, min(self.cases, key=lambda case: case.batch).inputs)
        manifest = self._manifest(built, seconds)
        report.write(manifest, self.folder)
        return manifest.write(self.folder)

    def _behind_frontend(self, run: Callable[[Arrays], Arrays]) -> Callable[[Arrays], Arrays]:
        """A stage of the body, from the model's own inputs."""
        frontend = self.frontend
        return run if frontend is None else lambda feed: run(frontend.run(feed))

    def _climb(
        self,
        name: str,
        run: Callable[[Arrays], Arrays],
        *,
        computes: set[str],
        note: str = "",
        chosen: Sequence[Case] = (),
    ) -> None:
        """Run a rung, and stop the build where it is out of its gate, or much worse than the last that ran.

        Args:
            name, run, note: as for :meth:`Ladder.climb`.
            computes: the precisions that this stage computes in.
            chosen: cases instead of those that every rung can afford.

        Raises:
            GateError: says by how much.
        """
        ran = chosen or self.some_cases
        if len(ran) == len(self.cases):
            cut = cases.cut_note(self.model, self.settings.batch, of=self.cases, ran=ran)
            note = "; ".join(filter(None, (note, cut)))
        quantized = self.computed == {_ROUNDED}
        added = self._may_add(computes)
        rung = self.ladder.climb(name, run, gate=self.gate, allowance=added, note=note, cases=ran)
        self.computed = computes
        gates.require_passed(rung, quantized=quantized)

    def _may_add(self, computes: set[str]) -> float:
        """Error that a stage may add to that of the last one: chance, and the rounding that begins with it."""
        begins = computes - self.computed - {"fp32"}
        if not begins:
            return self.gate.chance
        if self.computed == {_ROUNDED}:  # the integers were rounded before
            return max(self.gate.chance, *(GATES[name].rounding for name in begins if name not in QUANTIZED), 0.0)
        return self.gate.rounding

    def _executed(self, built: BuiltEngine) -> set[str]:
        """The precisions that the engine computes in."""
        executed = {*built.products, *([built.floating] if self.quantization is not None else [])}
        return (executed & GATES.keys()) or {self.settings.claimed()}

    def _ran_in(self, built: BuiltEngine) -> str:
        notes = [f"matrix products in {', '.join(sorted(built.products))}"]
        elsewhere: dict[str, list[str]] = {}
        for claim in self.claims:
            if claim.checked:
                elsewhere.setdefault(f"in {claim.claimed} {claim.checked}", []).append(claim.layers)
        return "; ".join(notes + [f"{', '.join(layers)} {how}" for how, layers in elsewhere.items()])

    def _manifest(self, built: BuiltEngine, seconds: dict[str, float]) -> Manifest:
        model, settings = self.model, self.settings
        return Manifest(
            kdcmae_version=kdcmae.__version__,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            model=dict(model.facts),
            labels=model.labels,
            scores=model.scores,
            inputs=model.inputs,
            outputs=model.outputs,
            batch=settings.batch,
            preprocessing=model.preprocessing.to_dict(),
            target=settings.target,
            libraries=dict(built.libraries),
            engine=dict(built.engine),
            precision={
                "asked": settings.precision,
                **({"chosen": settings.chosen} if settings.chosen else {}),
                **(
                    {}
                    if TARGETS[settings.target].this_machine_only
                    else {"built_for": {**settings.cpu.to_dict(), "here": not settings.elsewhere}}
                ),
                "read_from": built.read_from,
                "claims": [claim.to_dict() for claim in self.claims],
                "executed": _plain(built.executed),
                "products": dict(built.products),
                **({"frontend": _plain(built.frontend)} if built.frontend else {}),
                **({} if self.quantization is None else self.quantization.to_dict()),
                **({"in_float32": kept} if (kept := self.graph_precision.to_dict(self.speed)) else {}),
            },
            parity=[rung.to_dict() for rung in (model.trained, *self.ladder.rungs) if rung],
            build={
                "seconds": dict(seconds),
                "peak_rss_bytes": host.peak_rss_bytes(),
                **({"latency": self.latency} if self.latency else {}),
                **({"speed": self.speed} if self.speed and self.quantization else {}),
                "host": {**host.describe_host(), "torch": torch.__version__},
            },
        )


def _plain(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {kind: dict(found) for kind, found in counts.items()}


def _not_executed(built: BuiltEngine) -> str:
    return f"built, not executed: {built.unrunnable}"
