from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from kdcmae import KDCMAEClassifier, load_classifier
from kdcmae.assets import default_checkpoint
from kdcmae.cli import main
from kdcmae.data.avsynth.files import generate
from kdcmae.errors import ConfigError
from kdcmae.training.distillation import DistillationTask, answer_loss, likeness_loss
from kdcmae.training.loop import Trainer
from kdcmae.training.run import Run
from kdcmae.training.settings import DistillationSettings

QUICK = ("--set", "workers=0", "--set", "embed_dim=16", "--set", "num_heads=1", "--batch-size", "4", "--epochs", "1")


def logits(seed: int, classes: int = 5) -> torch.Tensor:
    return torch.randn(6, classes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("multi_label", [False, True])
def test_answers_are_compared_as_probabilities(multi_label, temperature):
    student, teacher = logits(0), logits(1)
    ours, theirs = student.double() / temperature, teacher.double() / temperature
    if multi_label:
        p, q = theirs.sigmoid(), ours.sigmoid()
        divergence = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    else:
        p, q = theirs.softmax(1), ours.softmax(1)
        divergence = (p * (p / q).log()).sum(1).mean()
    loss = answer_loss(student, teacher, temperature=temperature, multi_label=multi_label)
    torch.testing.assert_close(loss.double(), divergence * temperature**2, atol=1e-5, rtol=1e-5)
    same = answer_loss(teacher, teacher, temperature=temperature, multi_label=multi_label)
    assert abs(same.item()) < 1e-6


def test_a_constant_on_all_logits_of_one_softmax_is_no_difference():
    student, teacher = logits(0), logits(1)
    moved = answer_loss(student - 8, teacher + 3, temperature=2.0, multi_label=False)
    torch.testing.assert_close(moved, answer_loss(student, teacher, temperature=2.0, multi_label=False))


def test_likeness_ignores_width_scale_rotation_and_what_all_clips_share():
    teacher = logits(2, classes=8)
    rotation = torch.linalg.qr(logits(3, classes=6)[:, :6])[0]
    wider = torch.cat([logits(4, classes=6) @ rotation, torch.zeros(6, 10)], dim=1)
    assert likeness_loss(wider, teacher) > 0.01
    padded = torch.cat([3 * teacher + 7, torch.full((6, 4), 2.0)], dim=1)
    assert likeness_loss(padded, teacher).item() == pytest.approx(0, abs=1e-10)
    assert likeness_loss(wider[:1], teacher[:1]).item() == 0


def batch(random_runs) -> dict[str, torch.Tensor]:
    return next(iter(random_runs.RandomBatches(DistillationSettings(**random_runs.DEFAULTS)).batches(0, 0)))


def pair(random_runs, **changes) -> tuple[KDCMAEClassifier, DistillationTask]:
    """A student, and the task of teaching it."""
    torch.manual_seed(0)
    sizes = random_runs.SIZES
    teacher = KDCMAEClassifier.from_preset("tiny", num_classes=random_runs.CLASSES, **{**sizes, "embed_dim": 128})
    student = KDCMAEClassifier.from_preset("tiny", num_classes=random_runs.CLASSES, **sizes)
    return student, DistillationTask(student, teacher, DistillationSettings(**{**random_runs.DEFAULTS, **changes}))


def test_a_student_learns_from_clips_without_labels_and_its_teacher_stays(random_runs):
    student, task = pair(random_runs, teacher_weight=1.0)
    unlabelled = {name: tensor for name, tensor in batch(random_runs).items() if name != "target"}
    before = {name: tensor.clone() for name, tensor in task.teacher.state_dict().items()}
    score = task.score(student.train(), unlabelled, 0)
    score.loss.backward()
    assert not task.teacher.training
    assert all(parameter.grad is None for parameter in task.teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.mlp_head.parameters())
    assert "accuracy" not in score.metrics
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.teacher.state_dict().items())


def test_labels_and_teacher_share_the_loss(random_runs):
    given = batch(random_runs)
    losses = {}
    for weight in (1.0, 0.25):
        student, task = pair(random_runs, teacher_weight=weight, feature_weight=0.5)
        losses[weight] = task.score(student, given, 0)
    labels = task._loss(student(given["audio"], given["image"]), given["target"], task.label_smoothing)
    answers, features = (losses[1.0].metrics[name] for name in ("answers", "features"))
    torch.testing.assert_close(losses[0.25].loss, 0.25 * answers + 0.5 * features + 0.75 * labels)


def test_a_run_learns_its_teacher_s_answers(random_runs, tmp_path):
    student, task = pair(random_runs, teacher_weight=1.0, epochs=8, learning_rate=3e-3, decay_start_epoch=8)
    source = random_runs.RandomBatches(task.settings)
    run = Run(model=student, task=task, train=source, validation=source, settings=task.settings, output=tmp_path)
    first = task.score(student, batch(random_runs), 0).loss
    summary = Trainer(run, device=torch.device("cpu"), resume=False, progress=None).fit()
    assert task.score(student, batch(random_runs), 0).loss < 0.5 * first
    assert {"validation_agreement", "validation_teacher_accuracy"} <= summary.metrics.keys()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher_weight": 0.0}, "teacher_weight=0.0 must be above 0 and at most 1"),
        ({"teacher_weight": 1.5}, "teacher_weight=1.5 must be above 0 and at most 1"),
        ({"teacher_temperature": 0.0}, "teacher_temperature=0.0 must be a positive number"),
        ({"feature_weight": -1.0}, "feature_weight=-1.0 must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused(changes, said, random_runs):
    with pytest.raises(ConfigError, match=said):
        DistillationSettings(**{**random_runs.DEFAULTS, **changes})


def distill(*words: object) -> Result:
    return CliRunner().invoke(main, ["distill", *map(str, words)])


@pytest.fixture(scope="module")
def teacher() -> Path:
    return default_checkpoint()


def test_a_student_has_its_teacher_s_inputs_and_classes(teacher, tmp_path):
    result = distill(
        teacher, "--data", "avsynth:8", "--validation", "avsynth:4", "--output", tmp_path, *QUICK, "--json"
    )
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    theirs, ours = load_classifier(teacher).config, load_classifier(summary["weights"]).config
    assert (ours.labels, ours.audio_length, ours.fbank_mean) == (theirs.labels, theirs.audio_length, theirs.fbank_mean)
    assert ours.embed_dim == 16
    assert {"answers", "validation_teacher_accuracy"} <= summary["metrics"].keys()


def test_another_teacher_does_not_go_on_with_a_run(teacher, tmp_path):
    words = ("--data", "avsynth:8", "--validation", "avsynth:4", "--output", tmp_path / "run", *QUICK)
    assert distill(teacher, *words).exit_code == 0
    other = tmp_path / "other.safetensors"
    tensors = {name: tensor + 0.01 for name, tensor in load_file(teacher).items()}
    with teacher.open("rb") as file:
        head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    save_file(tensors, other, metadata=head["__metadata__"])
    result = distill(other, *words, "--resume")
    assert result.exit_code == 2
    assert "holds a run with other settings: teacher: " in result.stderr


def test_clips_without_labels_are_enough(teacher, tmp_path):
    generate(tmp_path, clips=4)
    records = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    manifest = tmp_path / "unlabelled.jsonl"
    manifest.write_text("".join(json.dumps({"path": record["path"]}) + "\n" for record in records))
    result = distill(teacher, "--data", manifest, "--output", tmp_path / "run", "--recipe", "avsynth-distill", *QUICK)
    assert result.exit_code == 0, result.output
    assert "the student learns from the teacher alone" in result.output
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["teacher_weight"] == 1.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "audio_length=64"), "audio_length comes from the teacher"),
        (("--set", "teacher_weight=2"), "teacher_weight=2.0 must be above 0 and at most 1"),
        (("--preset", "edge", "--checkpoint", "x"), "leave preset=edge out"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(words, said, teacher, tmp_path):
    result = distill(teacher, "--data", "avsynth:8", "--output", tmp_path / "run", *words)
    assert (result.exit_code, said in result.stderr) == (2, True), result.output
    assert not (tmp_path / "run").exists()


def test_a_teacher_without_names_of_its_classes_needs_a_file_of_them_for_labels(teacher, tmp_path):
    bare, words = tmp_path / "bare.safetensors", ("--data", "avsynth:8", "--output", tmp_path / "run", *QUICK)
    save_file(load_file(teacher), bare)
    statistics = ("--set", "fbank_mean=-4", "--set", "fbank_std=3")
    result = distill(bare, *words, *statistics)
    assert result.exit_code == 2
    assert "does not name its 12 classes" in result.stderr
    (tmp_path / "classes.txt").write_text("\n".join(load_classifier(teacher).labels))
    result = distill(bare, *words, *statistics, "--labels", tmp_path / "classes.txt", "--json")
    assert result.exit_code == 0, result.output
    student = load_classifier(json.loads(result.stdout)["weights"]).config
    assert (student.fbank_mean, student.labels) == (-4.0, load_classifier(teacher).labels)


def test_other_classes_than_the_teacher_s_are_refused(teacher, tmp_path):
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    result = distill(teacher, "--data", "avsynth:8", "--output", tmp_path / "run", "--labels", tmp_path / "classes.txt")
    assert result.exit_code == 2
    assert "has other classes than" in result.stderr
