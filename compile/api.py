"""``compile_model``: what ``kdcmae-compile`` does, as one call of a Python program."""

from __future__ import annotations

import difflib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdcmae.errors import ConfigError
from kdcmae.progress import Report, Steps
from kdcmae.runtime import Engine, load_engine

if TYPE_CHECKING:
    from kdcmae.classifier import KDCMAEClassifier
    from kdcmae.pretraining import KDCMAE

__all__ = ["compile_model"]

_log = logging.getLogger("kdcmae.compile")


def compile_model(
    model: str | os.PathLike[str] | KDCMAEClassifier | KDCMAE | Mapping[str, Any] | None = None,
    *,
    target: str | None = None,
    output: str | os.PathLike[str],
    progress: Report = lambda progress: None,
    **options: Any,
) -> Engine:
    """Compile a model to an engine folder, prove it as ``kdcmae-compile`` does, and load the engine.

    Args:
        model: path of a checkpoint; a model of this process, which stays as it is; the content of a checkpoint, as
            ``torch.load`` gives it; or None for the model that ships with the package.
        target: a name of :data:`kdcmae.runtime.targets.TARGETS`; may be left out where ``budget_ms`` is given.
        progress: gets a record when a step begins, advances or ends.
        options: those of ``kdcmae-compile``, with underscores in the place of hyphens: ``precision="int8"``,
            ``calibration="clips.jsonl"``, ``max_drop=1.0``, ``no_cache=True``. A list gives an option several times.
            ``for_`` stands for ``--for``.

    Returns:
        The engine, loaded. Notes go to the logger ``kdcmae.compile``.

    Raises:
        ConfigError: an option that there is none of, or a value that it cannot have.
        GateError: the engine would not be what was asked for; nothing was written.
        KdcmaeError: anything else that is in the way.
        OSError: a file is not there, or cannot be read or written.
    """
    from kdcmae.compile.cli.build import build, command, grouped

    with _as_file(model) as checkpoint:
        named = {"target": target, "output": output, "checkpoint": checkpoint, **options}
        try:
            context = command.make_context("compile_model", list(_arguments(command, named)))
            with context:
                values = {name: value for name, value in context.params.items() if name != "as_json"}
                folder = build(partial(Steps, progress), _log.info, **grouped(**values))
        except click.UsageError as error:
            raise ConfigError(error.format_message()) from error
    return load_engine(folder)


def _arguments(command: click.Command, options: Mapping[str, Any]) -> Iterator[str]:
    """Options as words of a command line, which are checked as the user's are.

    Raises:
        ConfigError: there is no such option, or a switch that is given something else than True or False.
    """
    known = {name: option for option in command.params for name in option.opts if option.name != "as_json"}
    for name, value in options.items():
        flag = f"--{name.rstrip('_').replace('_', '-')}"
        option = known.get(flag)
        if not isinstance(option, click.Option) or not option.expose_value:
            near = difflib.get_close_matches(flag, known, n=1)
            hint = f"; did you mean {near[0][2:].replace('-', '_')}?" if near else ""
            raise ConfigError(f"compile_model has no option {name!r}{hint}")
        if option.is_flag:
            if not isinstance(value, bool):
                raise ConfigError(f"{name}={value!r} must be True or False")
            if value:
                yield flag
        elif value is not None:
            for item in value if option.multiple and isinstance(value, (list, tuple)) else [value]:
                yield from (flag, _word(item))


def _word(value: Any) -> str:
    """A value as a word of a command line; several are joined by commas."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(_word, value))
    return os.fsdecode(value) if isinstance(value, os.PathLike) else str(value)


@contextmanager
def _as_file(model: Any) -> Iterator[str | os.PathLike[str] | None]:
    """A checkpoint file that holds the model while the block lasts."""
    if model is None or isinstance(model, (str, os.PathLike)):
        yield model
        return
    import torch

    from kdcmae import KDCMAE, KDCMAEClassifier
    from kdcmae.checkpoints import save_checkpoint

    with tempfile.TemporaryDirectory(prefix="kdcmae-model-") as folder:
        if isinstance(model, (KDCMAE, KDCMAEClassifier)):
            path = Path(folder, "model.safetensors")
            save_checkpoint(model, path)
        elif isinstance(model, Mapping):
            path = Path(folder, "model.pth")
            torch.save(model, path)
        else:
            raise ConfigError(
                f"model is of type {type(model).__name__}; give a path, a KDCMAEClassifier, a KDCMAE, or what "
                "torch.load gives"
            )
        yield path
