"""Groups of options that several commands share; a command gets each group as one argument."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kdcmae.cli.common import LARGEST_BATCH, Number
from kdcmae.compile.settings import Expectation
from kdcmae.config import Modality
from kdcmae.data.avsynth.naming import names_avsynth
from kdcmae.errors import ConfigError
from kdcmae.runtime.capabilities import fastest_floating
from kdcmae.runtime.cpu import CLASSES, describe_cpu, this_cpu
from kdcmae.runtime.manifest import BatchRange
from kdcmae.runtime.precisions import FLOATING, PRECISIONS
from kdcmae.runtime.targets import TARGETS

__all__ = [
    "Destination",
    "engine_options",
    "expect_options",
    "output_options",
    "parse_batch",
    "parse_modalities",
    "proof_options",
    "quantization_options",
]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _group(argument: str, make: Callable[..., Any], *options: Decorator) -> Decorator:
    """A decorator that adds options to a command.

    Args:
        argument: of the command, which gets what ``make`` makes.
        make: takes the values of the options by their names.
        options: to add, in this order.
    """
    names = tuple(inspect.signature(make).parameters)

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def grouped(**values: Any) -> Any:
            own = {name: values.pop(name) for name in names}
            return command(**{argument: make(**own)}, **values)

        with_options: Callable[..., Any] = grouped
        for option in reversed(options):
            with_options = option(with_options)
        return with_options

    return add


def _engine(
    *, target: str | None, precision: str, machine: str | None, batch: str, device: str | None, split: bool
) -> dict[str, Any]:
    others = click.get_current_context().params
    if target is None and others.get("folder") is None:  # the folder of an engine says what it is for
        if others.get("budget_ms") is None:
            raise click.UsageError("Missing option '--target'. Choose from: " + ", ".join(TARGETS))
        target = "openvino"
    cpu, chosen = describe_cpu(machine) if machine else this_cpu(), ""
    if precision == "auto" and target is not None:
        precision, chosen = fastest_floating(target, cpu=cpu, device=device or "")
    return {
        "target": target,
        "precision": precision,
        "batch": parse_batch(batch),
        "cpu": cpu,
        "chosen": chosen,
        "device": device or "",
        "split": split,
    }


engine_options = _group(
    "engine",
    _engine,
    click.option(
        "--target",
        type=click.Choice(TARGETS),
        help="Library to compile for; --budget-ms alone needs none, and takes openvino.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", *PRECISIONS]),
        default="auto",
        show_default=True,
        help="Precision of the matrix products; auto is the fastest floating one that the machine multiplies natively.",
    ),
    click.option(
        "--for",
        "machine",
        metavar=f"{'|'.join(CLASSES)}|FILE",
        help="Build for another CPU: its class, or what kdcmae doctor --json wrote there.",
        show_default="this machine's",
    ),
    click.option("--batch", default="1", show_default=True, metavar="N|MIN:OPT:MAX", help="Batch size, or a range."),
    click.option(
        "--device", type=click.Choice(["cpu", "cuda"]), help="Device that aoti compiles for.", show_default="cpu"
    ),
    click.option(
        "--split",
        is_flag=True,
        help="In three parts, an encoder per modality and what joins them: an encoder runs again only if its input "
        "changed, which a stream gains from. For openvino and onnx.",
    ),
)
"""The kind of engine that is wanted, as ``engine``: fields of the settings of a build."""


def parse_batch(text: str) -> BatchRange:
    """``"8"`` or ``"1:8:64"`` as a range.

    Raises:
        ConfigError: anything else, sizes out of order, or a size that no memory holds.
    """
    try:
        sizes = [int(part) for part in text.split(":")]
    except ValueError:
        sizes = []
    if len(sizes) == 1:
        sizes *= 3
    if len(sizes) != 3 or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise ConfigError(f"--batch {text!r} is neither a size like 8 nor a range MIN:OPT:MAX like 1:8:64")
    if sizes[2] > LARGEST_BATCH:
        raise ConfigError(f"--batch {text!r} is too large: an engine is proven on batches of at most {LARGEST_BATCH}")
    return BatchRange(*sizes)


def _quantization(*, calibration: str, max_drop: float | None, evaluation: str) -> dict[str, Any]:
    return {
        "calibration": _data("--calibration", calibration),
        "evaluation": _data("--evaluation", evaluation),
        "max_drop": max_drop,
    }


quantization_options = _group(
    "quantization",
    _quantization,
    click.option(
        "--calibration",
        metavar="CLIPS|avsynth:N",
        default="avsynth:32",
        show_default=True,
        help="Clips that int8 and fp8 learn their ranges from: a manifest, .tar shards or a folder of clips like those "
        "that the model was trained on.",
    ),
    click.option(
        "--max-drop",
        type=Number(),
        help="Top-1, or mAP of a multi-label model, that int8 and fp8 may lose, in percentage points, at the upper end "
        "of its 95 % interval: layers stay in floating point until it holds.",
    ),
    click.option(
        "--evaluation",
        metavar="MANIFEST|avsynth:N",
        default="avsynth:1000",
        show_default=True,
        help="Held-out clips with the model's labels, a manifest or .tar shards: half of them choose, for --max-drop "
        "and --budget-ms, and half report.",
    ),
)
"""The options of int8 and fp8, as ``quantization``: fields of the settings."""


def _data(option: str, value: str) -> str | Path:
    """A file or a folder counts in the cache by what it holds.

    Raises:
        ConfigError: there is no such file or folder, and it does not name clips of AVSynth.
    """
    if names_avsynth(value):
        return value
    if not Path(value).exists():
        raise ConfigError(f"{option} {value}: no such file or folder, and not avsynth or avsynth:CLIPS")
    return Path(value)


def _proof(
    *,
    execute_as: str | None,
    max_error: float | None,
    min_cosine: float | None,
    min_agreement: float | None,
    clips: tuple[Path, ...],
    proof_clips: int | None,
    no_stored_clips: bool,
) -> dict[str, Any]:
    limits = {"max_error": max_error, "min_cosine": min_cosine, "min_agreement": min_agreement}
    return {
        "execute_as": execute_as or "",
        "limits": {name: limit for name, limit in limits.items() if limit is not None},
        "clips": clips,
        "proof_clips": proof_clips,
        "store_clips": not no_stored_clips,
    }


proof_options = _group(
    "proof",
    _proof,
    click.option(
        "--execute-as",
        type=click.Choice(FLOATING),
        help="Accept that the device executes matrix products in this precision instead.",
    ),
    click.option(
        "--max-error",
        type=Number(),
        help="Largest error allowed, relative to a sample's spread; to tighten.",
        show_default="by precision",
    ),
    click.option(
        "--min-cosine", type=Number(), help="Smallest cosine allowed; to tighten.", show_default="by precision"
    ),
    click.option(
        "--min-agreement",
        type=Number(),
        help="Smallest share of equal first classes allowed; to tighten.",
        show_default="by precision",
    ),
    click.option(
        "--clips",
        type=click.Path(path_type=Path),
        multiple=True,
        help="Your clips to prove the engine on, before made ones fill up: a video file, a manifest, .tar shards "
        "or a folder; may be repeated.",
    ),
    click.option(
        "--proof-clips",
        type=click.IntRange(min=1),
        help="How many clips to prove the engine on; made ones fill up to it. 64 by default, and fewer of a model so "
        "large that they would take more than 30 % of the build: ten of the base model.",
    ),
    click.option(
        "--no-stored-clips",
        is_flag=True,
        help="Keep your --clips out of the engine's folder. The self-test stores up to six of them where the engine is "
        "made for yours and computes no made clip within its limits.",
    ),
)
"""What an engine must prove, as ``proof``: fields of the settings of a build."""


def _expectation(*, expect: Path | None, expect_from: str | None) -> Expectation | None:
    if expect is not None and expect_from is not None:
        raise ConfigError("give either --expect FILE or --expect-from SCRIPT.py:FUNCTION, not both")
    if expect_from is not None:
        return Expectation.of_function(expect_from)
    return None if expect is None else Expectation(path=expect)


expect_options = _group(
    "expectation",
    _expectation,
    click.option(
        "--expect",
        type=click.Path(path_type=Path),
        help="What your own model computes: JSON lines of a clip (or inputs, an .npz) and its logits or label. The "
        "loaded model must compute the same, or nothing is built.",
    ),
    click.option(
        "--expect-from",
        metavar="SCRIPT.py:FUNCTION",
        help="The same, computed now by a function of yours: function(audio=, image=) on prepared tensors returns "
        "logits. This runs the script.",
    ),
)
"""Where the outputs of the user's own model come from, as ``expectation``; None if neither option is used."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where an engine goes.

    Args:
        folder: of the engine; None for the default one.
        variants: modalities that get an engine of their own in it.
        cached: engines are taken from the cache and stored there.
    """

    folder: Path | None
    variants: tuple[Modality, ...]
    cached: bool


def _output(*, output: Path | None, modalities: str, no_cache: bool) -> Destination:
    return Destination(folder=output, variants=parse_modalities(modalities), cached=not no_cache)


output_options = _group(
    "destination",
    _output,
    click.option(
        "--output", type=click.Path(path_type=Path), help="Engine folder.", show_default="out/<target>-<precision>"
    ),
    click.option(
        "--modalities",
        default="",
        metavar="audiovisual,audio,video",
        help="Also for clips without picture or without sound, in the same folder.",
        show_default="all that was finetuned",
    ),
    click.option("--no-cache", is_flag=True, help="Build also what the cache holds, and store no copy there."),
)
"""Where an engine goes and which variants are in it, as ``destination``."""


def parse_modalities(text: str) -> tuple[Modality, ...]:
    """``"audiovisual,audio,video"`` as the modalities that get an engine of their own; nothing for an empty text.

    Raises:
        ConfigError: an unknown modality, or no audiovisual first.
    """
    first, *variants = text.split(",") if text else ["audiovisual"]
    if first != "audiovisual" or len(set(variants)) < len(variants) or not set(variants) <= {"audio", "video"}:
        raise ConfigError(f"--modalities {text!r} must be audiovisual, then audio, video or both, with commas")
    return tuple(variants)  # type: ignore[arg-type]
