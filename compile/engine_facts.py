"""The manifest of an engine that was just built."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

import kdcmae
from kdcmae import host
from kdcmae.runtime.manifest import Manifest

if TYPE_CHECKING:
    from kdcmae.compile.build import Build

__all__ = ["engine_manifest"]


def engine_manifest(build: Build, seconds: Mapping[str, float]) -> Manifest:
    """Everything that a build knows of its engine.

    Args:
        build: whose engine is built.
        seconds: what its steps took so far, by name.
    """
    model, settings, built = build.model, build.settings, build.built
    assert built is not None
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
                if build.target.record.this_machine_only
                else {"built_for": {**settings.cpu.to_dict(), "here": not settings.elsewhere}}
            ),
            "read_from": built.read_from,
            "claims": [claim.to_dict() for claim in build.claims],
            "executed": _plain(built.executed),
            "products": dict(built.products),
            **({"frontend": _plain(built.frontend)} if built.frontend else {}),
            **({} if build.quantization is None else build.quantization.to_dict()),
            **({"in_float32": kept} if (kept := build.graph_precision.to_dict(build.speed)) else {}),
        },
        parity=[rung.to_dict() for rung in (model.trained, *build.ladder.rungs) if rung],
        build={
            "seconds": dict(seconds),
            "peak_rss_bytes": host.peak_rss_bytes(),
            **({"latency": build.latency} if build.latency else {}),
            **({} if build.tuning is None else {"variants": build.tuning.to_dict()}),
            **({"speed": build.speed} if build.speed and build.quantization else {}),
            "host": {**host.describe_host(), "torch": torch.__version__},
        },
    )


def _plain(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {kind: dict(count) for kind, count in counts.items()}
