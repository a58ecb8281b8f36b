"""The two commands, from AVSynth to a checkpoint, and what they refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kdcmae import load_classifier, load_pretrained
from kdcmae.cli import main
from kdcmae.cli.finetune import command as finetune
from kdcmae.cli.pretrain import command as pretrain
from kdcmae.data.avsynth.files import generate
from kdcmae.training.recipes import RECIPES
from kdcmae.training.tracking import read_metrics

DATA = ("--data", "avsynth:8", "--validation", "avsynth:4")
SHORT = {"epochs": 1, "batch_size": 4, "workers": 0, "log_every_steps": 1, "average_from_epoch": "none"}
SIZES = {"embed_dim": 64, "num_heads": 1, "specific_depth": 1}
DECODER = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 1}


def run(*arguments: object, **settings: object) -> Result:
    pairs = [part for key, value in {**SHORT, **settings}.items() for part in ("--set", f"{key}={value}")]
    return CliRunner().invoke(main, [*map(str, arguments), *pairs])


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> dict:
    output = tmp_path_factory.mktemp("pretrained") / "new" / "folder"
    result = run("pretrain", *DATA, "--output", output, "--json", **SIZES, **DECODER)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_pretraining_writes_a_checkpoint_a_log_and_its_settings(pretrained, tmp_path):
    model = load_pretrained(pretrained["weights"])
    assert (model.config.audio_length, model.config.image_size, model.config.embed_dim) == (208, 112, 64)
    assert (pretrained["recipe"], pretrained["steps"], pretrained["broken"]) == ("avsynth-pretrain", 2, {})
    assert {"loss", "distillation", "validation_contrastive"} <= pretrained["metrics"].keys()
    folder = Path(pretrained["weights"]).parent
    assert len(read_metrics(folder / "metrics.jsonl")) == 3  # two steps and a validation
    settings = json.loads((folder / "settings.json").read_text())
    assert (settings["batch_size"], settings["model.embed_dim"], settings["betas"]) == (4, 64, [0.95, 0.999])


@pytest.mark.parametrize(("modality", "options"), [("audiovisual", ()), ("audio", ("--linear-probe",))])
def test_finetuning_from_that_checkpoint(modality, options, pretrained, tmp_path):
    weights = pretrained["weights"]
    arguments = ("--checkpoint", weights, "--modality", modality, "--output", tmp_path, "--json")
    result = run("finetune", *DATA, *arguments, *options)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["transfer"]["fresh"] == [f"mlp_head.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")]
    assert "decoder_pred_a.weight" in summary["transfer"]["left"]
    classifier = load_classifier(summary["weights"])
    assert classifier.config.modality == modality
    assert (len(classifier.labels), classifier.labels[0]) == (12, "rising disc")
    assert "accuracy" in summary["metrics"]


def test_without_validation_a_run_says_so_and_keeps_no_best(pretrained, tmp_path):
    manifest = tmp_path / "clips.jsonl"
    generate(tmp_path, clips=4)
    assert (tmp_path / "train.jsonl").rename(manifest)
    data = ("--data", manifest, "--recipe", "avsynth-finetune", "--checkpoint", pretrained["weights"])
    result = run("finetune", *data, "--output", tmp_path / "run", warmup_steps=0)
    assert result.exit_code == 0, result.output
    assert "warm-up" not in result.stderr
    assert "without --validation nothing is measured" in result.stderr
    assert "weights of the last epoch, 1, in:" in result.stderr
    assert {path.name for path in (tmp_path / "run").glob("*.safetensors")} == {"model.safetensors", "last.safetensors"}


def test_without_what_draws_a_run_says_what_to_install_and_goes_on(pretrained, tmp_path, monkeypatch):
    for module in ("PIL", "tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    result = run("finetune", *DATA, "--checkpoint", pretrained["weights"], "--output", tmp_path)
    assert result.exit_code == 0, result.output
    for missing in ("a log for TensorBoard: tensorboard", "pictures of its curves: PIL"):
        assert f"without {missing} is not installed; install it with: pip install 'kdcmae[train]'" in result.stderr
    assert not list(tmp_path.glob("*.png"))
    assert not (tmp_path / "tensorboard").exists()


def test_going_on_needs_resume(pretrained):
    folder = Path(pretrained["weights"]).parent
    again = run("pretrain", *DATA, "--output", folder, **SIZES, **DECODER)
    assert again.exit_code == 2
    assert "already holds a run; go on with --resume" in again.stderr
    resumed = run("pretrain", *DATA, "--output", folder, "--resume", **{**SIZES, **DECODER, "epochs": 2})
    assert resumed.exit_code == 0, resumed.output
    assert "going on after step 2" in resumed.stderr
    assert resumed.stdout.strip() == str(folder / "model.safetensors")
    longer = {**SIZES, **DECODER, "epochs": 3}
    moved = run(*("pretrain", *DATA, "--validation", "avsynth:6", "--output", folder, "--resume"), **longer)
    assert moved.exit_code == 0, moved.output
    assert "the validation clips are not those that epoch" in moved.stderr
    assert "best: epoch 3, validation loss" in moved.stderr
    other = run("pretrain", "--data", "avsynth:9", "--output", folder, "--resume", **SIZES, **DECODER)
    assert other.exit_code == 2
    assert "holds a run with other settings: data.clips" in other.stderr


def test_short_options_set_what_they_say_and_the_schedule_follows(pretrained, tmp_path):
    quick = ("--set", "workers=0", "--set", "log_every_steps=1", "--batch-size", "4", "--lr", "3e-4")
    words = ["finetune", *DATA, "--output", str(tmp_path), "--checkpoint", pretrained["weights"], *quick]
    result = CliRunner().invoke(main, [*words, "--epochs", "2", "--patience", "1", "--json"])
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "settings.json").read_text())
    names = ("epochs", "batch_size", "learning_rate", "early_stop_epochs")
    assert [settings[name] for name in names] == [2, 4, 3e-4, 1]
    # Of 12 epochs the rate falls after 8, and the weights are averaged from the 11th on.
    assert (settings["decay_start_epoch"], settings["average_from_epoch"]) == (1, 2)
    assert "epochs 12 -> 2, decay_start_epoch 8 -> 1" in result.stderr
    assert "batch_size 16 -> 4" in result.stderr
    assert "rises over warmup_steps=50 and this run has 4" in result.stderr
    assert "--set warmup_steps=0" in result.stderr
    summary = json.loads(result.stdout)
    assert summary["best"]["metric"] == "accuracy"
    assert summary["final"]["weights"] == ("average" if summary["epochs"] == 2 else "best")
    (tmp_path / "settings.json").write_text("half of th")  # it is for people; the state knows the schedule
    longer = CliRunner().invoke(main, [*words, "--epochs", "3", "--resume"])
    assert longer.exit_code == 0, longer.output
    assert "warmup_steps=0" not in longer.stderr  # it cannot be changed any more
    assert json.loads((tmp_path / "settings.json").read_text())["average_from_epoch"] == 2


def test_a_run_without_a_state_yet_starts_over_with_any_number_of_epochs(pretrained, tmp_path):
    """Killed before its first saved state, it has left its settings."""
    longer = {"epochs": 12, "decay_start_epoch": 8, "decay_every_epochs": 1, "average_from_epoch": 11}
    (tmp_path / "settings.json").write_text(json.dumps(longer))
    words = ("finetune", *DATA, "--output", str(tmp_path), "--checkpoint", pretrained["weights"], "--resume")
    result = CliRunner().invoke(main, [*words, "--set", "workers=0", "--batch-size", "4", "--epochs", "1"])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "settings.json").read_text())["average_from_epoch"] == 1


@pytest.mark.parametrize(
    ("command", "arguments", "settings", "message"),
    [
        ("pretrain", (), {"learning_rte": 1}, "did you mean 'learning_rate'"),
        ("pretrain", (), {"balanced": "true"}, "unknown setting 'balanced'"),
        ("pretrain", (), {"batch_size": 9}, "fill one batch of 9"),
        ("pretrain", (), {"batch_size": 1}, "raise batch_size to 2 or more, or set contrastive_weight=0"),
        ("pretrain", (), {"batch_size": 2, "accumulation_steps": 2}, "contrasts each clip with no other"),
        ("pretrain", ("--recipe", "vggsound-pretrian"), {}, "did you mean 'vggsound-pretrain'"),
        ("pretrain", ("--data", "avsynth:many"), {}, "such as avsynth:2000"),
        ("pretrain", ("--data", "nothing.jsonl"), {}, "nothing.jsonl: cannot be read"),
        ("pretrain", ("--checkpoint", "nothing.pth"), {}, "nothing.pth: No such file"),
        ("pretrain", ("--checkpoint", "a.pth", "--preset", "tiny"), {}, "the sizes come from a.pth"),
        ("pretrain", ("--weights", "ema"), {}, "weights=ema chooses among those of a checkpoint, and none is given"),
        ("pretrain", (), {"parallel": "fsdp"}, "torchrun"),
        ("pretrain", ("--lr", "0.1"), {"learning_rate": 0.2}, "learning_rate is set twice, to 0.2 and to 0.1"),
        ("pretrain", ("--patience", "1"), {"early_stop_epochs": 2}, "early_stop_epochs is set twice"),
        ("finetune", (), {"num_classes": 3}, "num_classes comes from the classes of the data"),
        ("finetune", (), {"accumulation_steps": 3}, "not a multiple of accumulation_steps=3"),
        ("finetune", ("--labels", "nothing.csv"), {}, "nothing.csv: cannot be read"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(command, arguments, settings, message, tmp_path):
    result = run(command, *DATA, "--output", tmp_path / "run", *arguments, **settings)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("command", "stage"), [(pretrain, "pretrain"), (finetune, "finetune")])
def test_the_help_names_every_recipe(command, stage):
    assert all(name in command.help for name, entry in RECIPES.items() if entry.stage == stage)
