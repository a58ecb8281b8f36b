"""What the suite benchmarks: per model the engines to build, the peers beside them, and which get which case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kdcmae.bench.report.records import LEFT_OUT, CaseKind
from kdcmae.bench.run.peers import all_peers
from kdcmae.bench.run.subjects import VARIANT
from kdcmae.runtime.capabilities import executed_as
from kdcmae.runtime.cpu import this_cpu
from kdcmae.runtime.targets import TARGETS

__all__ = ["MODELS", "REFERENCE", "EnginePlan", "ModelPlan", "plan_model"]

REFERENCE = "PyTorch eager"
"""Name of the model in PyTorch, which every other subject of its model is compared with."""


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """One engine.

    Args:
        target: what it is compiled for.
        precision: that is asked for.
        form: what distinguishes it from the plain engine of its precision, in the report's words.
        options: of kdcmae-compile, beside the model's, the target and the precision.
        fallback: more options, for a machine on which the engine does not pass its gates without them.
        variants: of the engine that are benchmarked in its place.
        cases: that it runs by itself, too.
        slow: why the suite leaves it out of large models; empty where it does not.
    """

    target: str
    precision: str
    form: str = ""
    options: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    cases: tuple[CaseKind, ...] = ()
    slow: str = ""

    @property
    def name(self) -> str:
        """Its name in the report."""
        return self._named(self.form)

    @property
    def slug(self) -> str:
        """Its folder's name."""
        return self.name.replace(" ", "-").lower()

    def subjects(self, folder: object) -> dict[str, str]:
        """Sources to benchmark by their names in the report: the engine in a folder, or its variants."""
        variants = {self._named(f"{variant} only"): f"{folder}{VARIANT}{variant}" for variant in self.variants}
        return variants or {self.name: str(folder)}

    def _named(self, form: str) -> str:
        return " ".join(filter(None, (TARGETS[self.target].label, self.precision, form)))


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """One model.

    Args:
        name: in the report.
        options: of kdcmae-compile that choose it.
        torch: the PyTorch model; None for the one that ships in the package.
        engines: to build and measure.
        peers: sources by name in the report, in which ``{torch}`` is the model and ``{engines}`` the engines' folder.
        left_out: subjects that take too long for the suite, and why.
        seconds: timed seconds of each subject in the interleaved run.
        solo_seconds: of each case that a subject runs by itself.
        cold_starts: windows of cold starts, and starts in each.
        clips: on which accuracy and agreement are measured.
        largest_batch: of the sweep.
    """

    name: str
    options: tuple[str, ...]
    torch: str | None
    engines: tuple[EnginePlan, ...]
    peers: Mapping[str, str]
    left_out: Mapping[str, str]
    seconds: float
    clips: int
    largest_batch: int
    solo_seconds: float = 1.0
    cold_starts: tuple[int, int] = (5, 2)


_BY_ITSELF: tuple[CaseKind, ...] = ("threads", "cold start", "clip to label")

_OPENVINO = (
    EnginePlan(target="openvino", precision="fp32"),
    EnginePlan(target="openvino", precision="bf16"),
    EnginePlan(target="openvino", precision="int8", cases=_BY_ITSELF),
    EnginePlan(target="openvino", precision="int8", form="half the tokens", options=("--keep", "0.5")),
)
_OPENVINO_FORMS = (
    EnginePlan(target="openvino", precision="bf16", form="raw", options=("--inputs", "raw"), cases=_BY_ITSELF),
    EnginePlan(
        target="openvino",
        precision="bf16",
        form="each modality",
        options=("--modalities", "audiovisual,audio,video"),
        variants=("audio", "video"),
    ),
)
# TensorRT for RTX builds without a GPU; running what it built takes one.
_GPU = (EnginePlan(target="trt", precision="fp16"), EnginePlan(target="torch-trt", precision="fp16"))
_GPU_FORMS = (
    EnginePlan(target="trt", precision="fp32"),
    EnginePlan(target="trt", precision="bf16"),
    EnginePlan(target="trt", precision="fp16", form="raw", options=("--inputs", "raw")),
)
_OTHERS = (
    EnginePlan(target="onnx", precision="fp32"),
    EnginePlan(
        target="aoti", precision="fp32", slow="compiling takes minutes; kdcmae-compile --target aoti compiles it"
    ),
)


def _any_batch(target: str, precision: str, batches: str) -> EnginePlan:
    return EnginePlan(
        target=target, precision=precision, form="any batch", options=("--batch", batches), cases=("batch",)
    )


MODELS: Mapping[str, tuple[EnginePlan, ...]] = {
    "shipped": (
        *_OPENVINO,
        *_OPENVINO_FORMS,
        _any_batch("openvino", "bf16", "1:8:32"),
        *_OTHERS,
        *_GPU,
        *_GPU_FORMS,
        _any_batch("trt", "fp16", "1:8:64"),
    ),
    "base": (*_OPENVINO, _any_batch("openvino", "bf16", "1:2:4"), *_OTHERS, *_GPU),
}
"""Engines of the suite by model: the one that ships in the package, and the base preset with random weights."""


def plan_model(name: str, *, everything: bool = False) -> ModelPlan:
    """Plan of one of the suite's models: its engines and peers, and how long they run.

    Args:
        name: one of :data:`MODELS`.
        everything: also what takes too long for the suite: every precision and form of every target.
    """
    large = name == "base"
    engines = (*MODELS[name], *_missing(MODELS[name], everything=everything))
    if everything:
        engines = tuple(dict.fromkeys((*engines, *_OPENVINO_FORMS, *_GPU_FORMS)))
    slow = {engine.name: engine.slow for engine in engines if engine.slow}
    peers = {REFERENCE: "{torch}"}
    for peer in all_peers().values():
        for precision in (*peer.suite, *(peer.suite_all if everything else ())):
            subject = peer.label.format(precision=precision)
            slow |= {subject: peer.slow} if peer.slow else {}
            plain = [engine for engine in engines if _plain(engine) == (peer.runs, precision)]
            if peer.runs is None:
                peers[subject] = f"{peer.name}:{{torch}}"
            elif plain:
                peers[subject] = f"{peer.name}:{{engines}}/{plain[0].slug}"
    left_out = {} if everything or not large else slow
    return ModelPlan(
        name=name,
        options=("--preset", "base", "--random-weights") if large else (),
        torch="preset:base" if large else None,
        engines=tuple(engine for engine in engines if engine.name not in left_out),
        peers={subject: source for subject, source in peers.items() if subject not in left_out},
        left_out={subject: f"{LEFT_OUT}{why}" for subject, why in left_out.items()},
        seconds=3.5 if large else 2.2,
        clips=8 if large else 96,
        largest_batch=2 if large else 64,
    )


def _plain(engine: EnginePlan) -> tuple[str, str] | None:
    return (engine.target, engine.precision) if not engine.form else None


def _missing(planned: Sequence[EnginePlan], *, everything: bool) -> Iterator[EnginePlan]:
    """Engines of every target that has none yet; with ``everything`` of every precision that has none."""
    plain = {_plain(engine) for engine in planned}
    targets = {engine.target for engine in planned}
    for target in TARGETS.values():
        runnable = [precision for precision in target.precisions if precision not in target.cannot_run]
        for precision in runnable if everything else [] if target.name in targets else runnable[:1]:
            if (target.name, precision) not in plain:
                yield EnginePlan(target=target.name, precision=precision, fallback=_execute_as(target.name, precision))


def _execute_as(target: str, precision: str) -> tuple[str, ...]:
    """For a CPU without the arithmetic of a precision, which executes it in another: the row says so."""
    executed = executed_as(target, precision, cpu=this_cpu())
    return ("--execute-as", executed) if TARGETS[target].runs_on_cpu and executed != precision else ()
