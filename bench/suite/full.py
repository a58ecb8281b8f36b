"""The whole suite: every engine and peer of the planned models, and every case, in one report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdcmae import host
from kdcmae.bench.machine.ceilings import best_ceilings, measure_ceilings
from kdcmae.bench.machine.yardstick import Yardstick, open_yardstick
from kdcmae.bench.report.records import (
    Accuracy,
    Agreement,
    Case,
    Ceilings,
    Floor,
    Report,
    Row,
    SelfCheck,
    Settings,
    Status,
)
from kdcmae.bench.run.agreement import AnswerCache, accuracies, agreement
from kdcmae.bench.run.clips import write_clips
from kdcmae.bench.run.contender import Contender, Entry
from kdcmae.bench.run.interleaved import measure_group, new_report
from kdcmae.bench.run.sources import Source
from kdcmae.bench.run.subjects import Facts, engine_facts
from kdcmae.bench.run.work import count_work
from kdcmae.bench.suite.building import Built, build_engine, torch_source
from kdcmae.bench.suite.plan import REFERENCE, EnginePlan, ModelPlan
from kdcmae.bench.suite.solo import Solo
from kdcmae.data.synthetic import demo_clip
from kdcmae.errors import CheckpointError
from kdcmae.progress import Step
from kdcmae.runtime.manifest import Manifest
from kdcmae.runtime.precisions import PRECISIONS

__all__ = ["floor_of", "run_suite"]

_CEILING_S = 0.7


def run_suite(
    plans: Sequence[ModelPlan], settings: Settings, folder: Path, *, step: Step, self_check: SelfCheck | None
) -> Report:
    """Build what is missing, then measure everything.

    Args:
        plans: the models.
        settings: how to run; the plans say how long.
        folder: where engines, clips and answers are stored.
        step: shows progress.
        self_check: result of the check that came before.
    """
    models: list[_Model] = []
    ceilings: list[Ceilings] = []

    def measure_the_ceilings() -> None:
        with step("measure the ceilings"):
            ceilings.append(measure_ceilings(host.cpu_numbers()[: settings.threads], seconds=_CEILING_S))

    def measure(yardstick: Yardstick) -> list[Row]:
        measure_the_ceilings()
        for plan in plans:
            models.append(_Model(plan, settings, folder, step, yardstick))
            models[-1].measure()
        measure_the_ceilings()
        best = best_ceilings(*ceilings)
        return [row for model in models for row in model.against(best)]

    with open_yardstick(settings.threads) as yardstick:
        report = new_report(settings, lambda: measure(yardstick), self_check=self_check)
    return replace(
        report,
        ceilings=best_ceilings(*ceilings),
        agreement=tuple(model.agreement for model in models if model.agreement is not None),
    )


@dataclass
class _Model:
    """One model on its way through the suite."""

    plan: ModelPlan
    settings: Settings
    folder: Path
    step: Step
    yardstick: Yardstick
    rows: list[Row] = field(default_factory=list)
    agreement: Agreement | None = None
    _facts: dict[str, Facts] = field(default_factory=dict)
    _accuracy: dict[str, Accuracy] = field(default_factory=dict)

    def measure(self) -> None:
        """Fill in the rows and the agreement."""
        plan = self.plan
        try:
            torch = torch_source(plan)
        except CheckpointError as error:
            self._skip(REFERENCE, str(error))
            return
        engines = self.folder / plan.name
        built = []
        for engine in plan.engines:
            with self.step(f"{plan.name}: {engine.name}"):
                built.append(build_engine(plan, engine, engines / engine.slug))
            if built[-1].status == "measured":
                # Also engines that cannot run here have facts, such as a TensorRT engine that was built without a GPU.
                self._facts[engine.name] = engine_facts(built[-1].folder, Manifest.read(built[-1].folder))
        data, labels = write_clips(self.folder, clips=plan.clips)
        self._side_by_side(built, torch, engines, data, labels)
        if plan.largest_batch > 1:
            with self.step(f"{plan.name}: {REFERENCE}, batches"):
                self.rows += self._solo(REFERENCE, torch).batches(plan.largest_batch)
        for compiled in built:
            if compiled.plan.cases and compiled.status == "measured":
                with self.step(f"{plan.name}: {compiled.plan.name}, {', '.join(compiled.plan.cases)}"):
                    self._solo_cases(compiled, data)
        self.rows = [self._completed(row) for row in self.rows]

    def against(self, ceilings: Ceilings) -> list[Row]:
        """The rows, each with what these ceilings allow."""
        facts = self._facts
        return [
            replace(row, floor=floor_of(row, facts[row.case.subject], ceilings)) if row.case.subject in facts else row
            for row in self.rows
        ]

    def _side_by_side(
        self, built: Sequence[Built], torch: str, engines: Path, data: Path, labels: Sequence[str]
    ) -> None:
        """The interleaved run, batch 1."""
        plan = self.plan
        sources = {name: peer.format(torch=torch, engines=engines) for name, peer in plan.peers.items()}
        absent = {}
        for engine in built:
            if engine.status == "measured":
                sources |= engine.plan.subjects(engine.folder)
            else:
                name, absent[str(engine.folder)] = engine.plan.name, engine.plan
                self._skip(name, engine.reason, status=engine.status, engine=name, **_built_as(engine.plan))
        for name, reason in plan.left_out.items():
            self._skip(name, reason)
        for name, source in list(sources.items()):
            parsed = Source.parse(source)
            if parsed.peer and (missing := absent.get(parsed.path)):
                del sources[name]
                facts = _built_as(missing) | {"tool": parsed.peer.name, "engine": missing.name}
                self._skip(name, f"there is no {parsed.path}", **facts)
        self.rows += measure_group(
            [Entry(source=source, subject=name, model=plan.name) for name, source in sources.items()],
            replace(self.settings, seconds=plan.seconds),
            step=self.step,
            yardstick=self.yardstick,
            after=lambda contenders: self._ask_all(contenders, data, labels),
        )

    def _ask_all(self, contenders: Sequence[Contender], data: Path, labels: Sequence[str]) -> None:
        """Accuracy and agreement, while the workers are still there."""
        cache = AnswerCache(self.folder / "answers", data)
        name = f"AVSynth test, {len(labels)} clips"
        with self.step(f"{self.plan.name}: answers to {name}"):
            answers = {contender.entry.subject: cache.answers(contender) for contender in contenders}
        known = {subject: logits for subject, logits in answers.items() if logits is not None}
        self._facts |= {contender.entry.subject: contender.facts for contender in contenders}
        self._accuracy = accuracies(contenders, known, labels, data=name)
        if known:
            self.agreement = agreement(self.plan.name, known, data=name)

    def _solo_cases(self, built: Built, data: Path) -> None:
        """The cases that one engine runs by itself."""
        solo = self._solo(built.plan.name, str(built.folder))
        if "batch" in built.plan.cases:
            self.rows += solo.batches(self.plan.largest_batch)
        if "threads" in built.plan.cases:
            self.rows += solo.threads()
        if "cold start" in built.plan.cases:
            self.rows += solo.cold_start(built.folder, data)
        if "clip to label" in built.plan.cases:
            clip = self.folder / "clip.mp4"
            if not clip.is_file():
                demo_clip(clip, seconds=10.0)
            self.rows += solo.clip_to_label(clip)

    def _solo(self, subject: str, source: str) -> Solo:
        settings = replace(self.settings, seconds=self.plan.solo_seconds, warm_up_s=min(0.3, self.settings.warm_up_s))
        entry = Entry(source=source, subject=subject, model=self.plan.name)
        return Solo(entry=entry, settings=settings, yardstick=self.yardstick, cold_starts=self.plan.cold_starts)

    def _skip(self, subject: str, reason: str, *, status: Status = "not measured", **facts: Any) -> None:
        """Add the row of a subject that is not measured."""
        case = Case(model=self.plan.name, subject=subject, threads=self.settings.threads)
        self.rows.append(Row(case=case, status=status, reason=reason, **facts))

    def _completed(self, row: Row) -> Row:
        """The row with the facts, the parity and the accuracy of its subject."""
        facts = self._facts.get(row.case.subject)
        if facts is None:
            return row
        unknown = {name: value for name, value in facts.row_fields.items() if getattr(row, name) is None}
        return replace(
            row,
            **unknown,
            engine=row.engine or (row.case.subject if facts.target else None),
            parity=row.parity or facts.ladder,
            accuracy=self._accuracy.get(row.case.subject),
        )


def _built_as(plan: EnginePlan) -> dict[str, Any]:
    """The fields of a row that an engine's plan knows."""
    return {"target": plan.target, "precision": plan.precision}


def floor_of(row: Row, facts: Facts, ceilings: Ceilings) -> Floor | None:
    """The floor of one instance on all the threads whose ceilings are known; None where a ceiling or the sizes are not.

    The ceilings are the CPU's: what runs elsewhere has none.
    """
    known = [name for name in reversed(list(PRECISIONS)) if name in facts.computes_in and name in ceilings.flop_per_s]
    precision = known[0] if known else None  # the fastest
    timed = row.case.kind in ("latency", "batch") and facts.device == "cpu"
    if not timed or row.latency is None or precision is None or not facts.config or not facts.modalities:
        return None
    work = count_work(facts.config, facts.modalities, row.case.batch)
    moved = work.traffic_bytes(precision)
    floor_ms = 1e3 * max(work.flop / ceilings.flop_per_s[precision], moved / ceilings.copy_bytes_per_s)
    return Floor(
        flop=work.flop,
        traffic_bytes=moved,
        precision=precision,
        floor_ms=floor_ms,
        fraction=floor_ms / row.latency.p50_ms,
    )
