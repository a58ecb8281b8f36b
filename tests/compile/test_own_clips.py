"""A user's own model, with classes and clips of its own: what is said of them, and how its accuracy is measured."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import tarfile
import wave
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from kdcmae.checkpoints import save_checkpoint
from kdcmae.compile import cases, models
from kdcmae.compile.cache import cache_key
from kdcmae.compile.cli.classes import named_classes, require_clips
from kdcmae.compile.quantize.accuracy import Evaluation
from kdcmae.compile.quantize.calibration import load_clips
from kdcmae.compile.quantize.listed import (
    CALIBRATED,
    EVALUATED,
    calibration_note,
    choosing_half,
    list_calibration,
    list_data,
    require_labels,
)
from kdcmae.compile.quantize.quantizer import Quantizer
from kdcmae.compile.settings import CompileSettings, QuantizationSettings
from kdcmae.data.images import write_image
from kdcmae.data.manifest import ClipRecord, LabelMap, frame_path, write_manifest
from kdcmae.errors import ConfigError, DataError, GateError
from kdcmae.runtime.manifest import BatchRange

LABELS = ("dog", "rain", "violin")
BATCH = BatchRange(1, 1, 1)
INT8 = ("--target", "onnx", "--precision", "int8")


def write_clips(folder: Path, count: int, *, labels: tuple[str, ...] = LABELS) -> list[ClipRecord]:
    """Clips of half a second of noise and one picture, as the published manifests list them."""
    rng = np.random.default_rng(0)
    (folder / "frames" / "frame_5").mkdir(parents=True)
    records = []
    for number in range(count):
        name = f"clip{number}"
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(rng.integers(-9000, 9000, 8000).astype("<i2").tobytes())
        write_image(frame_path(folder / "frames", name, 5), rng.integers(256, size=(40, 48, 3)).astype(np.uint8))
        own = (labels[number % 3], labels[0]) if number % 4 == 1 else (labels[number % 3],)
        records.append(ClipRecord(id=name, labels=own, wav=folder / f"{name}.wav", frames_folder=folder / "frames"))
    return records


def write_shard(path: Path, records: list[ClipRecord]) -> Path:
    """The same clips in a tar file."""
    with tarfile.open(path, "w") as shard:
        for record in records:
            assert record.wav is not None
            members = {
                "wav": record.wav.read_bytes(),
                "jpg": record.frames[5].read_bytes(),
                "json": json.dumps({"labels": list(record.labels)}).encode(),
            }
            for extension, content in members.items():
                member = tarfile.TarInfo(f"{record.id}.{extension}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[ClipRecord]:
    return write_clips(tmp_path_factory.mktemp("own"), 12)


@pytest.fixture(scope="module")
def manifest(records) -> Path:
    assert records[0].wav is not None
    path = records[0].wav.parent / "own.json"
    write_manifest(path, records)
    return path


@pytest.fixture(scope="module")
def model(smallest):
    return models.classifier_model(smallest, name="mine", source="a file", random_weights=False)


@pytest.fixture(scope="module")
def multi(smallest, tmp_path_factory) -> Path:
    """The same model with independent scores, as a checkpoint."""
    path = tmp_path_factory.mktemp("multi") / "multi.safetensors"
    copy = type(smallest)(dataclasses.replace(smallest.config, multi_label=True)).eval()
    copy.load_state_dict(smallest.state_dict())
    save_checkpoint(copy, path)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--max-drop", "1"),
            "'rising disc', say nothing of model.safetensors, which has 'dog', 'rain', 'violin'",
        ),
        (
            ("--max-drop", "1", "--evaluation", "{manifest}"),
            "such as 'cat', is a class of model.safetensors",
        ),
        (("--max-drop", "1", "--evaluation", "{folder}"), "its clips have no labels, and accuracy needs them"),
        (("--task", "features", "--max-drop", "1"), "--max-drop cannot act: it is about the accuracy of a classifier"),
    ],
)
def test_clips_that_cannot_measure_a_model_are_refused_before_anything_is_loaded(
    options, message, run, checkpoint, tmp_path
):
    foreign = write_clips(tmp_path, 3, labels=("cat", "snow", "drum"))
    write_manifest(tmp_path / "own.json", foreign)
    places = {"manifest": tmp_path / "own.json", "folder": tmp_path / "frames"}
    given = [option.format(**places) for option in options]
    result = run(*INT8, "--checkpoint", checkpoint, "--output", tmp_path / "engine", *given)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "load PyTorch" not in result.stderr


def test_a_search_refuses_made_clips_for_a_model_of_its_own(run, checkpoint, tmp_path):
    result = run("--target", "onnx", "--budget-ms", "100", "--checkpoint", checkpoint, "--output", tmp_path / "engine")
    assert result.exit_code == 2
    assert "give clips with its labels as --evaluation MANIFEST" in result.stderr


def test_what_is_refused_needs_no_torch(checkpoint, tmp_path):
    script = (
        "import sys; from kdcmae.compile.cli.classes import require_clips; "
        "from kdcmae.compile.settings import QuantizationSettings; from pathlib import Path\n"
        "try: require_clips(dict(preset=None, checkpoint=Path(sys.argv[1]), labels=None, task='classify'), "
        "QuantizationSettings(evaluation='avsynth:4'), measured=True)\n"
        "except Exception as error: print(type(error).__name__, 'torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(checkpoint)], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert result.stdout.split() == ["DataError", "False"]


def test_made_clips_that_calibrate_a_model_of_its_own_are_named(run, checkpoint, manifest, tmp_path):
    folder = tmp_path / "engine"
    arguments = (*INT8, "--checkpoint", checkpoint, "--output", folder, "--max-drop", "100")
    result = run(*arguments, "--calibration", "avsynth:4", "--evaluation", manifest)
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "made clips" in line]
    assert line.startswith("note: calibrated on AVSynth: these made clips are not like those that model.safetensors")
    assert "give clips of its own: --calibration MANIFEST" in line
    precision = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["precision"]
    assert "not like those that model was trained on" in precision["calibration"]["note"]
    accuracy = precision["accuracy"]
    assert (accuracy["metric"], accuracy["clips"], accuracy["source"]) == ("top-1", 6, "own.json")
    shown = f"{accuracy['drop']:.2f} points lost (95 % interval {accuracy['interval'][0]:.2f} to"
    assert shown in result.stdout
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert shown in report
    assert "not like those that model was trained on" in report


def test_a_multi_label_model_is_measured_in_map_on_shards_and_calibrated_on_a_folder(run, multi, records, tmp_path):
    shard = write_shard(tmp_path / "own.tar", records)
    sounds = tmp_path / "folder"
    sounds.mkdir()
    write_shard(sounds / "a.tar", records[:6])
    folder = tmp_path / "engine"
    arguments = (*INT8, "--checkpoint", multi, "--output", folder, "--max-drop", "100", "--json")
    result = run(*arguments, "--calibration", sounds, "--evaluation", shard)
    assert result.exit_code == 0, result.stderr
    assert "made clips" not in result.stderr
    precision = json.loads(result.stdout)["manifest"]["precision"]
    assert precision["calibration"] == {"source": "folder", "clips": 6}
    assert precision["accuracy"]["metric"] == "mAP"
    assert precision["accuracy"]["source"] == "own.tar"


def test_map_is_what_a_multi_label_model_loses(smallest, manifest):
    """Its best class stays the best, so that top-1 sees nothing."""
    config = dataclasses.replace(smallest.config, multi_label=True)
    copy = type(smallest)(config).eval()
    copy.load_state_dict(smallest.state_dict())
    model = models.classifier_model(copy, name="mine", source="a file", random_weights=False)
    evaluation = Evaluation.on(model, manifest, BATCH)

    def spoilt(feed):
        logits = models.reference(model, feed)["logits"]
        best = logits == logits.max(axis=1, keepdims=True)
        return {"logits": np.where(best, logits, -logits - 100)}

    accuracy = evaluation.report(spoilt)
    assert accuracy.most == EVALUATED
    assert accuracy.loss.metric == "mAP"
    assert accuracy.agreement == 100
    assert accuracy.loss.points != 0


def test_ids_of_a_label_file_stand_for_its_names(tmp_path):
    listed = tmp_path / "labels.csv"
    listed.write_text("index,mid,display_name\n0,/m/a,dog\n1,/m/b,rain\n2,/m/c,violin\n", encoding="utf-8")
    write_manifest(tmp_path / "own.json", write_clips(tmp_path / "own", 3, labels=("/m/a", "/m/b", "/m/c")))
    clips = list_data(tmp_path / "own.json", split="test", most=9)
    require_labels(clips, LabelMap.read(listed), model="mine")
    with pytest.raises(DataError, match=r"they are ids; give --labels the CSV index,mid,display_name"):
        require_labels(clips, LabelMap(LABELS, LABELS), model="mine")
    with pytest.raises(DataError, match="whose classes have no names: name them with --labels FILE"):
        require_labels(clips, None, model="mine")


def test_the_ids_of_a_label_file_reach_the_model(checkpoint, tmp_path):
    from kdcmae.compile.cli.model import load_model

    listed = tmp_path / "labels.csv"
    listed.write_text("index,mid,display_name\n0,/m/a,dog\n1,/m/b,rain\n2,/m/c,violin\n", encoding="utf-8")
    options = {"task": "classify", "preset": None, "random_weights": False, "inputs": "tensor", "keep": 1.0}
    model = load_model(checkpoint=checkpoint, labels=listed, keep_by="energy", **options)
    assert model.classes == LabelMap(LABELS, ("/m/a", "/m/b", "/m/c"))


def test_some_unknown_labels_are_counted_and_one_is_shown(records):
    clips = dataclasses.replace(
        list_data("avsynth:2", split="test", most=9),
        source="own.json",
        records=[dataclasses.replace(records[0], labels=("dogs",)), *records[1:4]],
    )
    with pytest.raises(DataError, match=r"1 of 4 clips have a label that mine does not have, .* mean 'dog'"):
        require_labels(clips, LabelMap(LABELS, LABELS), model="mine")
    bare = dataclasses.replace(clips, records=[dataclasses.replace(records[0], labels=()), *records[1:4]])
    with pytest.raises(DataError, match="1 of 4 clips have no labels, such as 'clip0'"):
        require_labels(bare, LabelMap(LABELS, LABELS), model="mine")


def test_classes_that_nobody_named_are_asked_for(tmp_path, manifest):
    nameless = tmp_path / "nameless.pth"
    nameless.write_bytes(b"PK\x03\x04")
    options = {"preset": None, "checkpoint": nameless, "labels": None, "task": "classify"}
    for data in (manifest, "avsynth:4"):
        wanted = QuantizationSettings(evaluation=data, calibration="avsynth:4")
        with pytest.raises(DataError, match=r"whose classes have no names.*--labels FILE"):
            require_clips(options, wanted, measured=True)
    assert "nameless.pth" in require_clips(options, wanted, measured=False)


def test_the_models_own_classes_in_another_order_are_refused(checkpoint, tmp_path, run):
    swapped = tmp_path / "labels.txt"
    swapped.write_text("rain\ndog\nviolin\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="its class 0 is 'dog', and the file says 'rain'"):
        named_classes(checkpoint, swapped)
    result = run("--target", "onnx", "--checkpoint", checkpoint, "--labels", swapped, "--output", tmp_path / "engine")
    assert (result.exit_code, "in another order" in result.stderr) == (2, True)
    swapped.write_text("pluie\nchien\nviolon\n", encoding="utf-8")
    assert named_classes(checkpoint, swapped) == LabelMap(*[("pluie", "chien", "violon")] * 2)


def test_only_models_that_know_other_clips_are_warned_of_made_ones():
    assert "mine" in calibration_note("avsynth:4", LABELS, model="mine")
    assert "mine" in calibration_note("avsynth", (), model="mine")
    assert calibration_note("avsynth:4", ("rising disc", "dog"), model="mine") == ""
    assert calibration_note("own.json", LABELS, model="mine") == ""


def test_the_shipped_model_is_not_warned_of_made_clips():
    options = {"preset": None, "checkpoint": None, "labels": None, "task": "classify"}
    assert require_clips(options, QuantizationSettings(evaluation="avsynth:4"), measured=True) == ""
    untrained = {**options, "preset": "tiny", "random_weights": True}
    assert require_clips(untrained, QuantizationSettings(), measured=True) == ""


def test_some_broken_clips_are_left_out_and_named_and_many_are_too_many(model, tmp_path):
    records = write_clips(tmp_path, 12)
    for record in records[:3]:
        assert record.wav is not None
        record.wav.write_bytes(b"no sound")
        write_manifest(tmp_path / "own.json", records)
        if record is records[0]:
            clips = load_clips(model, tmp_path / "own.json", BATCH, split="train")
            assert clips.count == 11
            assert list(clips.broken) == ["clip0"]
            evaluation = Evaluation.on(model, tmp_path / "own.json", BATCH)
            accuracy = evaluation.report(lambda feed: models.reference(model, feed)).to_dict()
            assert accuracy["clips"] + accuracy["clips_that_chose"] == 11
            assert list(accuracy["broken"]) == ["clip0"]
    with pytest.raises(DataError, match=r"2 of 12 clips cannot be used.*kdcmae data check"):
        load_clips(model, tmp_path / "own.json", BATCH, split="train")


def test_one_broken_clip_of_a_handful_is_left_out(model, tmp_path):
    records = write_clips(tmp_path, 3)
    assert records[1].wav is not None
    records[1].wav.unlink()
    write_manifest(tmp_path / "own.json", records)
    assert load_clips(model, tmp_path / "own.json", BATCH, split="train").ids == ("clip0", "clip2")


def test_batches_are_put_together_from_clips_and_filled_with_the_last(model, manifest):
    clips = load_clips(model, manifest, BatchRange(5, 5, 5), split="train")
    sizes = [batch["audio"].shape[0] for batch in clips.batches]
    assert sizes == [5, 5, 5]
    last = clips.batches[2]["audio"]
    assert np.array_equal(last[1], last[4])
    assert not np.array_equal(last[0], last[1])
    assert [len(clips.batches), len(clips.batches[:2]), clips.part([3]).ids] == [3, 2, ("clip3",)]


def test_halves_depend_on_the_ids_alone():
    ids = [f"clip{number}" for number in range(101)]
    chooses = choosing_half(ids)
    assert len(chooses) == 50
    assert choosing_half(ids[::-1]) == chooses
    assert len(chooses & choosing_half(ids[:50])) > 15


def test_clips_that_report_do_not_calibrate(model, manifest):
    """One manifest for both is the first thing people try."""
    clips = load_clips(model, manifest, BATCH, split="train", evaluation=manifest)
    assert set(clips.ids) == choosing_half([f"clip{number}" for number in range(12)])
    assert load_clips(model, manifest, BATCH, split="train", evaluation="avsynth:4").count == 12


@pytest.mark.parametrize(("listed", "expected"), [(5000, CALIBRATED), (600, CALIBRATED), (9, 4)])
def test_one_manifest_for_both_still_calibrates_on_many_clips(listed, expected, tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text("".join(f'{{"path": "{number}.mp4"}}\n' for number in range(listed)), encoding="utf-8")
    clips = list_calibration(path, split="train", evaluation=path)
    chooses = choosing_half([record.id for record in list_data(path, split="test", most=EVALUATED).records])
    ids = {record.id for record in clips.records}
    assert len(clips.records) == len(ids) == expected
    assert ids <= chooses
    assert int(max(ids, key=int)) - int(min(ids, key=int)) > 0.5 * listed  # spread over all of it
    assert len(list_calibration(path, split="train", evaluation=None).records) == min(listed, CALIBRATED)


def test_a_file_is_the_same_under_another_path(manifest, tmp_path, monkeypatch):
    monkeypatch.chdir(manifest.parent)
    (link := tmp_path / "link.json").symlink_to(manifest)
    for other in (manifest, Path(manifest.name), str(link)):
        assert len(list_calibration(Path(manifest.name), split="train", evaluation=other).records) == 6


@pytest.mark.parametrize("rounds", [True, False])
def test_an_engine_that_rounds_is_proved_on_batches_of_the_user_s_own_clips(rounds, smallest, manifest):
    """Made ones may lie beyond its ranges; float32 has none, and gets noise."""
    model = models.classifier_model(smallest, name="mine", source="a file", random_weights=False)
    batch = BatchRange(1, 2, 4)
    *batches, yours = cases.proof(cases.on_clips(model), batch, [manifest], rounds=rounds, wanted=12)
    assert [(case.batch, case.clips) for case in batches] == [(2, ""), (1, ""), (4, "")]
    own = {sample.tobytes() for inputs in (yours.inputs, *yours.more) for sample in inputs["audio"]}
    assert len(own) == yours.samples == 12
    assert all({sample.tobytes() for sample in case.inputs["audio"]} <= own for case in batches) is rounds
    for case in batches:
        np.testing.assert_array_equal(case.reference["logits"], models.reference(model, case.inputs)["logits"])


def test_a_clip_that_reports_leaves_none_to_calibrate_on(tmp_path):
    write_manifest(tmp_path / "own.json", write_clips(tmp_path, 1))
    with pytest.raises(DataError, match=r"none of 1 clips is left to calibrate on.*give --calibration other clips"):
        list_calibration(tmp_path / "own.json", split="train", evaluation=tmp_path / "own.json")


@pytest.mark.parametrize(("measuring", "expected"), [({}, 12), ({"max_drop": 100.0}, 6), ({"searched": True}, 6)])
def test_clips_are_held_back_only_where_accuracy_is_measured(measuring, expected, model, manifest):
    wanted = QuantizationSettings(calibration=manifest, evaluation=manifest, **measuring)
    settings = CompileSettings(target="onnx", precision="int8", batch=BATCH, quantization=wanted)
    assert Quantizer(model, settings, lambda name: nullcontext())._calibration["clips"] == expected


def test_accuracy_needs_a_clip_to_choose_and_one_to_report(model, tmp_path):
    write_manifest(tmp_path / "own.json", write_clips(tmp_path, 1))
    with pytest.raises(DataError, match="needs two clips at least, one to choose and one to report"):
        Evaluation.on(model, tmp_path / "own.json", BATCH)


def test_outputs_that_are_not_finite_fail_the_gate(model, manifest):
    evaluation = Evaluation.on(model, manifest, BATCH)
    with pytest.raises(GateError, match="logits is not finite for 6 of 6 clips"):
        evaluation.choose(lambda feed: {"logits": np.full((1, 3), np.nan, np.float32)})


def test_a_folder_counts_in_the_cache_by_its_files(tmp_path):
    def key() -> str:
        clips = QuantizationSettings(calibration=tmp_path)
        settings = CompileSettings(target="onnx", precision="int8", batch=BATCH, quantization=clips)
        return cache_key({}, dataclasses.asdict(settings))

    (tmp_path / "a.mp4").write_bytes(b"1")
    assert (first := key()) == key()
    (tmp_path / "b.mp4").write_bytes(b"1")
    assert key() != first
