"""``kdcmae listen``: an engine on a live stream, from a camera and a microphone, a file at its own pace, or a pipe."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from kdcmae.cli.common import KdcmaeCommand, Number, note, thread_count
from kdcmae.cli.ending import Run
from kdcmae.errors import ConfigError
from kdcmae.extras import VIDEO, require_installed
from kdcmae.media.kinds import KINDS, Kind, Modality
from kdcmae.terminal import bar, line, redrawn, say, style, table

if TYPE_CHECKING:
    from kdcmae.media.capture import Source
    from kdcmae.runtime import Engine
    from kdcmae.runtime.streaming.results import StreamResult, StreamStatistics
    from kdcmae.runtime.streaming.stream import Stream

__all__ = ["command"]

_OF_DEVICES: dict[tuple[bool, bool], Modality] = {
    (True, True): "audiovisual",
    (True, False): "video",
    (False, True): "audio",
}
"""What there is, by whether there are a camera and a microphone."""

_SOURCES_OF_OPTIONS = {
    "modality": ("file", "pipe"),
    "pace": ("file",),
    "format_": ("pipe",),
    "options": ("pipe", "camera", "microphone"),
}
"""The sources that an option is for, where it is not for all."""

_FILE_PATIENCE_S = 10.0  # files may hold seconds of sound between their frames; nothing of them comes late


@click.command("listen", cls=KdcmaeCommand)
@click.argument("engine", type=click.Path(path_type=Path))
@click.option("--file", type=click.Path(path_type=Path), help="A media file, at the pace at which it plays.")
@click.option("--pipe", is_flag=True, help="Standard input: Matroska, or what --format says.")
@click.option("--camera", metavar="DEVICE", help="A camera by ffmpeg's name, such as /dev/video0.")
@click.option("--microphone", metavar="DEVICE", help="A microphone by ffmpeg's name, such as default.")
@click.option(
    "--modality",
    type=click.Choice(["audiovisual", "audio", "video"]),
    help="What a file or a pipe has, where the engine has a variant for that.",
    show_default="what the engine takes",
)
@click.option("--hop", type=Number(min=0, min_open=True), default=0.25, help="Seconds from one result to the next.")
@click.option(
    "--window",
    type=Number(min=0, min_open=True),
    help="Seconds that are scored at once.",
    show_default="what the model hears",
)
@click.option("--top", type=click.IntRange(min=1), default=3, help="Labels to show.")
@click.option("--seconds", type=Number(min=0, min_open=True), help="Stop after so long.", show_default="never")
@click.option("--pace", type=Number(min=0), default=1.0, help="Of a file, times real time; 0 is as fast as it goes.")
@click.option("--format", "format_", metavar="NAME", help="Of a pipe, in ffmpeg's words, such as s16le.")
@click.option(
    "--option",
    "options",
    metavar="KEY=VALUE",
    multiple=True,
    help="An option of ffmpeg for the devices or the pipe, such as framerate=30; may be repeated.",
)
@click.option("--threads", type=thread_count, help="CPU threads.", show_default="the engine's or its library's")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per result, and one for the summary.")
def command(
    engine: Path,
    file: Path | None,
    pipe: bool,
    camera: str | None,
    microphone: str | None,
    modality: Modality | None,
    hop: float,
    window: float | None,
    top: int,
    seconds: float | None,
    pace: float,
    format_: str | None,
    options: tuple[str, ...],
    threads: int | None,
    as_json: bool,
) -> None:
    """Label a live stream with an ENGINE: what a camera sees and a microphone hears, four times a second.

    Needs numpy, the engine's library and PyAV, not torch. An engine with variants (--modalities) also takes a camera or
    a microphone alone. Ctrl-C ends it with a summary.

    \b
    kdcmae listen out/ov --camera /dev/video0 --microphone default
    kdcmae listen out/ov --file clip.mp4
    ffmpeg -i clip.mp4 -f matroska - | kdcmae listen out/ov --pipe --json
    """
    from kdcmae.runtime import load_engine
    from kdcmae.runtime.streaming.capturing import capturing

    require_installed("av", install=VIDEO)
    given = sum((file is not None, pipe, camera is not None or microphone is not None))
    if given != 1:
        raise ConfigError("give one source: --file FILE, --pipe, or --camera DEVICE and --microphone DEVICE")
    _require_used(click.get_current_context())
    settings = dict(_option(text) for text in options)
    live = file is None and not pipe
    with load_engine(engine, threads=threads) as loaded:
        if live:
            modality = _modality(loaded, camera=camera is not None, microphone=microphone is not None)
        stream = loaded.stream(
            hop=hop,
            window=window,
            modality=modality,
            top=top,
            patience=0.5 if live else _FILE_PATIENCE_S,
            overrun="drop" if live or (file is not None and pace) else "block",
        )
        kinds = KINDS[modality or loaded.manifest.model["modality"]]
        sources = _sources(kinds, file, camera, microphone, format_, settings)
        show = _JsonLines() if as_json else _Display(top)
        try:
            with stream, capturing(stream, sources, pace=pace):
                _listen(stream, show, seconds)
        except KeyboardInterrupt:
            click.get_current_context().ensure_object(Run).interrupted = False  # this is how a stream ends
        show.summary(stream.statistics)


def _require_used(context: click.Context) -> None:
    """Raise :class:`ConfigError` for an option that the source does not use."""
    options = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    given = {name for name in context.params if context.get_parameter_source(name) is not ParameterSource.DEFAULT}
    for name, sources in _SOURCES_OF_OPTIONS.items():
        if name in given and given.isdisjoint(sources):
            users = " or ".join(options[source] for source in sources)
            raise ConfigError(f"{options[name]} is for {users}; leave it out")


def _listen(stream: Stream, show: _JsonLines | _Display, seconds: float | None) -> None:
    began = time.monotonic()
    for result in stream:
        show.result(result, stream)
        if seconds is not None and time.monotonic() - began >= seconds:
            return


def _modality(engine: Engine, *, camera: bool, microphone: bool) -> Modality:
    """What the devices have of what the engine takes.

    Raises:
        ConfigError: the engine takes more.
    """
    modality: Modality = engine.manifest.model["modality"]
    wanted: Modality = _OF_DEVICES[camera, microphone]
    if wanted == modality or wanted in engine.variants:
        return wanted
    if wanted == "audiovisual":
        return modality
    missing = {"video": "--microphone", "audio": "--camera"}[wanted]
    raise ConfigError(
        f"{engine.folder} takes {modality} input: add {missing} DEVICE, or rebuild it with --modalities "
        f"to take {wanted} alone"
    )


def _sources(
    kinds: tuple[Kind, ...],
    file: Path | None,
    camera: str | None,
    microphone: str | None,
    format_: str | None,
    options: dict[str, str],
) -> Sequence[Source]:
    from kdcmae.media import capture

    if file is not None:
        return [capture.media_file(file, kinds)]
    devices = [capture.camera(camera, options)] if camera is not None else []
    if microphone is not None:
        devices.append(capture.microphone(microphone, options))
    return devices or [capture.pipe(sys.stdin.buffer, kinds, format=format_, options=options)]


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ConfigError(f"--option {text}: give KEY=VALUE, such as framerate=30")
    return name, value


class _JsonLines:
    """Results as one JSON object per line."""

    def result(self, result: StreamResult, stream: Stream) -> None:
        say(json.dumps(asdict(result)))

    def summary(self, statistics: StreamStatistics) -> None:
        say(json.dumps({"summary": asdict(statistics)}))


class _Display:
    """Results for people: on a terminal the latest one in place, with bars; elsewhere a line each."""

    def __init__(self, top: int) -> None:
        self._top, self._shown = top, 0

    def result(self, result: StreamResult, stream: Stream) -> None:
        if not sys.stdout.isatty():
            labels = "  ".join(f"{line(label.label)} {label.score:.2f}" for label in result.predictions)
            late = "  late" if result.missed else ""
            say(f"{result.end_s:8.2f} s  {labels}  ({result.latency_ms:.0f} ms{late})")
            return
        statistics = stream.statistics
        misses = style(f"{statistics.deadline_misses} late", "red" if statistics.deadline_misses else "")
        head = (
            f"{result.end_s:.2f} s, {result.latency_ms:.0f} ms, {misses}, {statistics.dropped_windows} dropped "
            f"of {statistics.windows + statistics.dropped_windows}"
        )
        rows = [(label.label, f"{label.score:.2f}", bar(label.score)) for label in result.predictions]
        self._shown = redrawn([head, *table((), rows, right=(1,)).splitlines()], self._shown)

    def summary(self, statistics: StreamStatistics) -> None:
        latency = f"latency {statistics.latency_p50_ms:.0f} ms, p90 {statistics.latency_p90_ms:.0f} ms"
        facts = [
            f"{statistics.windows} {'result' if statistics.windows == 1 else 'results'}",
            *([latency] if statistics.windows else []),
            f"{statistics.deadline_misses} late",
            f"{statistics.dropped_windows} dropped",
        ]
        counted = {
            "windows without a frame": statistics.unscored_windows,
            "late frames": statistics.late_frames,
            "jumps of the clock": statistics.restarts,
            "s of missing sound": round(statistics.silence_s, 1),
            "s of sound that came twice": round(statistics.overlap_s, 1),
        }
        facts += [f"{count} {name}" for name, count in counted.items() if count]
        note(", ".join(facts))
