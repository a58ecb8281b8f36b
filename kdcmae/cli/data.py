"""``kdcmae data``: make, extract, check and measure the clips that models learn from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdcmae import host
from kdcmae.cli.common import KdcmaeGroup, Number, json_option, note, print_json
from kdcmae.data.broken import BROKEN_LIMIT
from kdcmae.errors import GateError
from kdcmae.terminal import progress_bar, say, table

if TYPE_CHECKING:
    from kdcmae.data.check import Problem
    from kdcmae.media.resampling import Mono

__all__ = ["command"]

_REPORT_FILE = "report.json"
_SHOWN = 50  # most problems in a table; --json has all
_SHARES = {"train": 0.7, "valid": 0.15, "test": 0.15}

_PATH = click.Path(path_type=Path)


_processes_option = click.option(
    "--processes", type=click.IntRange(min=1), default=host.usable_cpus, show_default="one per core", help="To work in."
)


_mono_option = click.option(
    "--mono",
    type=click.Choice(["mean", "left"]),
    default="mean",
    show_default=True,
    help="How several channels become one; the published extraction takes the left one.",
)


@click.group(name="data", cls=KdcmaeGroup)
def command() -> None:
    """Make, extract, check and measure clips.

    CLIPS is a manifest (the published JSON over extracted clips, or CSV or JSON lines over videos with the columns
    path, labels, separated by ';', and optionally id), a .tar shard, a folder of shards, or a folder of clips without
    labels.
    """


@command.command(name="synth")
@click.argument("folder", metavar="OUT", type=_PATH)
@click.option("--clips", type=click.IntRange(min=12), default=600, show_default=True, help="In all three splits.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the data set.")
@_processes_option
@json_option
def synth(folder: Path, clips: int, seed: int, processes: int, as_json: bool) -> None:
    """Make AVSynth: short MP4 clips of twelve classes, with masks of what sounds.

    70 % of the clips are for training, 15 % each for validation and testing. Equal seeds give equal clips.

    \b
    kdcmae data synth out/avsynth --clips 600
    kdcmae finetune --data out/avsynth/train.jsonl --recipe avsynth-finetune --output out/finetuned
    """
    from kdcmae.data.avsynth.files import generate
    from kdcmae.data.avsynth.scene import AVSYNTH_VERSION

    counts = {split: round(share * clips) for split, share in _SHARES.items() if split != "train"}
    counts = {"train": clips - sum(counts.values()), **counts}
    splits = {}
    for split, count in counts.items():
        with progress_bar(split, count) as on_clip:
            manifest = generate(folder, clips=count, seed=seed, split=split, processes=processes, on_clip=on_clip)
        splits[split] = {"manifest": str(manifest), "clips": count}
        if not as_json:
            say(f"{count:>6} clips  {manifest}")
    if as_json:
        labels = str(folder / "labels.csv")
        print_json({"avsynth_version": AVSYNTH_VERSION, "seed": seed, "splits": splits, "labels": labels})


@command.command(name="extract")
@click.argument("data", metavar="CLIPS", type=_PATH)
@click.argument("folder", metavar="OUT", type=_PATH)
@click.option(
    "--image-size", type=click.IntRange(min=16), default=224, show_default=True, help="Side of the frames in pixels."
)
@click.option(
    "--seconds",
    type=Number(min=0, min_open=True),
    help="Length taken of each clip, from its start: its sound, and the time its frames are spread over.",
    show_default="10.255, what the published models hear",
)
@_mono_option
@click.option(
    "--broken-limit",
    type=Number(0, 1),
    default=BROKEN_LIMIT,
    show_default=True,
    help="Share of clips that may fail.",
)
@_processes_option
@json_option
def extract_videos(
    data: Path,
    folder: Path,
    image_size: int,
    seconds: float | None,
    mono: Mono,
    broken_limit: float,
    processes: int,
    as_json: bool,
) -> None:
    """Turn videos into 16 kHz sound and ten frames, and a manifest of them.

    Run again, it goes on where it stood; clips whose video or settings changed are made again. Clips that cannot
    be decoded are left out of the new manifest; OUT/report.json says why. Exits with 1 if they are more than the
    limit; what was decoded is kept.

    \b
    kdcmae data extract videos.csv extracted
    kdcmae pretrain --data extracted/manifest.json --output out/pretrained
    """
    import json

    from kdcmae.data.extract import MANIFEST_FILE, WINDOW_S, extract
    from kdcmae.data.shard_files import list_clips
    from kdcmae.files.disk import writing
    from kdcmae.files.replacing import replacing

    records = list_clips(data)
    with progress_bar("extract", len(records)) as on_clip:
        outcome = extract(
            records,
            folder,
            image_size=image_size,
            seconds=WINDOW_S if seconds is None else seconds,
            mono=mono,
            processes=processes,
            on_clip=on_clip,
        )
    document = {"manifest": str(folder / MANIFEST_FILE), **asdict(outcome)}
    with writing(folder / _REPORT_FILE), replacing(folder / _REPORT_FILE) as partial:
        partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(document)
    else:
        say(f"{outcome.extracted} clips extracted, {outcome.kept} done before, {len(outcome.failed)} failed")
        say(document["manifest"])
    failed = f"{len(outcome.failed)} of {len(records)} clips failed"
    if len(outcome.failed) > broken_limit * len(records):
        raise GateError(
            f"{failed}, more than the limit of {broken_limit:.2%}; {folder / _REPORT_FILE} says why: "
            "replace them and run again, or raise --broken-limit"
        )
    if outcome.failed:
        note(f"note: {failed}; {folder / _REPORT_FILE} says why")


@command.command(name="stats")
@click.argument("data", metavar="CLIPS", type=_PATH)
@click.option(
    "--audio-frames",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="Frames of sound that the model takes.",
)
@_mono_option
@click.option("--write", is_flag=True, help="Keep them beside the clips, where training finds them.")
@_processes_option
@json_option
def stats(data: Path, audio_frames: int, mono: Mono, write: bool, processes: int, as_json: bool) -> None:
    """Measure the mean and standard deviation of the spectrogram, padding included, as published.

    A fresh model is trained with what --write keeps: CLIPS.stats.json beside a manifest or a shard, stats.json in a
    folder of shards. A model that starts from a checkpoint keeps the checkpoint's, unless --set says otherwise.

    \b
    kdcmae data stats clips.jsonl --write
    """
    from kdcmae.data.shard_files import list_clips
    from kdcmae.data.statistics import statistics_path, write_statistics
    from kdcmae.data.stats import spectrogram_stats

    if write:
        statistics_path(data)  # refused before hours of measuring
    records = list_clips(data)
    with progress_bar("measure", len(records)) as on_clip:
        measured = spectrogram_stats(
            records, audio_frames=audio_frames, mono=mono, processes=processes, on_clip=on_clip
        )
    kept = None
    if write:
        values = {"fbank_mean": measured.mean, "fbank_std": measured.std, "mono": mono}
        kept = write_statistics(data, values, audio_frames=audio_frames, clips=measured.clips)
    if as_json:
        written = None if kept is None else str(kept)
        print_json({"audio_frames": audio_frames, "mono": mono, **asdict(measured), "written": written})
    else:
        say(f"fbank_mean {measured.mean:.4f}\nfbank_std  {measured.std:.4f}\nover {measured.clips} clips")
        options = f"--set fbank_mean={measured.mean:.4f} --set fbank_std={measured.std:.4f} --set mono={mono}"
        say(f"train with {options}" if kept is None else f"kept in {kept}")
    if measured.broken:
        note(f"note: {len(measured.broken)} clips could not be read; `kdcmae data check` says why")


@command.command(name="check")
@click.argument("data", metavar="CLIPS", type=_PATH)
@click.option("--labels", "label_file", type=_PATH, help="The classes, as text or CSV; without it no label is checked.")
@click.option("--shortest", "shortest_s", type=Number(), default=1.0, show_default=True, help="Seconds of sound.")
@click.option("--silence", "silence_db", type=Number(), default=-60.0, show_default=True, help="Peak in dB full scale.")
@_processes_option
@json_option
def check(
    data: Path, label_file: Path | None, shortest_s: float, silence_db: float, processes: int, as_json: bool
) -> None:
    """Find missing, corrupt, short and silent clips and unknown labels before a long run does.

    Every clip is read to its end. Exits with 1 if there are problems. A clip longer than a minute is worth a warning
    alone: of it the first minute is decoded.
    """
    from kdcmae.data.check import check_clips
    from kdcmae.data.manifest import LabelMap
    from kdcmae.data.shard_files import list_clips

    records = list_clips(data)
    labels = None if label_file is None else LabelMap.read(label_file)
    with progress_bar("check", len(records)) as on_clip:
        problems = check_clips(
            records, labels, shortest_s=shortest_s, silence_db=silence_db, processes=processes, on_clip=on_clip
        )
    affected = len({problem.clip_id for problem in problems if not problem.is_warning})
    if as_json:
        print_json({"clips": len(records), "affected": affected, "problems": [asdict(item) for item in problems]})
    else:
        _show(problems)
        say(f"{len(records) - affected} of {len(records)} clips are fine")
    if affected:
        raise GateError(f"{affected} of {len(records)} clips have problems")


@command.command(name="speed")
@click.argument("data", metavar="CLIPS", type=_PATH)
@click.option("--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Processes that read.")
@click.option("--seconds", type=Number(min=0), default=10.0, show_default=True, help="To measure for.")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Clips per batch.")
@json_option
def speed(data: Path, workers: int, seconds: float, batch_size: int, as_json: bool) -> None:
    """Measure how many clips per second reach a model, as in the published finetuning, and in how much memory."""
    from kdcmae.data.augment import Augmentation
    from kdcmae.data.dataset import ClipDataset, DatasetSettings
    from kdcmae.data.loader import training_loader
    from kdcmae.data.sampling import BatchSampler, Shuffled
    from kdcmae.data.shard_files import list_clips
    from kdcmae.data.speed import measure_speed

    records = list_clips(data)
    augmentation = Augmentation(frequency_mask=48, time_mask=192, mixup_rate=0.5)
    dataset = ClipDataset(records, None, DatasetSettings(frames="random", augmentation=augmentation))
    sampler = BatchSampler(Shuffled(len(records), seed=0), batch_size=min(batch_size, len(records)), drop_last=True)
    measured = measure_speed(training_loader(dataset, sampler, workers=workers), seconds=seconds)
    if as_json:
        print_json({"workers": workers, "batch_size": batch_size, **asdict(measured)})
        return
    say(f"{measured.clips_per_s:.1f} clips/s with {workers} workers, over {measured.seconds:.1f} s")
    for name, peak_mb in (("this process", measured.peak_rss_mb), ("largest worker", measured.worker_peak_rss_mb)):
        if peak_mb:
            say(f"{peak_mb:.0f} MB at most in {name}")


def _show(problems: list[Problem]) -> None:
    if not problems:
        return
    rows = [(problem.clip_id, problem.kind, problem.detail) for problem in problems[:_SHOWN]]
    say(table(("clip", "problem", "detail"), rows))
    if len(problems) > _SHOWN:
        say(f"and {len(problems) - _SHOWN} more; --json lists all")
