"""Every command and every Python block that a person copies, from a help, the README or docs/, runs as it is printed.

All commands are understood, in a folder that has files of the names they use. Those that take seconds also run, over
few clips and with recipes of tiny models. The Python blocks run on the engine that the first command builds.
"""

from __future__ import annotations

import importlib
import json
import re
import runpy
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from help_examples import EVERY, PAGES, PROGRAMS, ROOT, Example, blocks, examples, sessions

from kdcmae.bench.run.peers import find_peer
from kdcmae.cli.commands import KdcmaeCommand
from kdcmae.runtime import load_engine

EXAMPLES = examples()
EXAMPLE_PAGES = [page for page in PAGES if page.parent.parent.name == "examples"]
TRAINING_TESTS = Path(__file__).parents[1] / "training"

LONG = {
    "kdcmae-bench ablation": "trains for hours",
    "kdcmae-bench accuracy": "writes a table into the README that it is given",
    "kdcmae-bench compare": "compares runs of the suite",
    "kdcmae-bench keep": "builds a dozen engines",
    "kdcmae-bench kernels": "measures kernels for minutes, or needs a GPU",
    "kdcmae-bench out/": "times models for minutes",
    "kdcmae-bench profile": "writes a table into the README that it is given",
    "kdcmae-bench readme": "writes tables into the README",
    "kdcmae-bench suite": "measures for ten minutes",
    "kdcmae data synth out/avsynth": "makes 600 clips for minutes; the tests of that command make fewer",
    "kdcmae-compile --budget-ms": "builds every candidate",
    "kdcmae-compile --target openvino --precision int8": "builds twice",
    "kdcmae-compile --target openvino --checkpoint": "builds as the first example does",
    "kdcmae-compile --target trt": "needs TensorRT",
    "kdcmae-compile diagnose": "builds once more and compares layer by layer",
    "kdcmae-compile --target onnx": "builds as the first example does",
    "kdcmae-compile diff": "compares two engines; the tests of that command do",
    "ONEDNN_MAX_CPU_ISA=AVX2 kdcmae-compile": "takes effect in a process of its own only, and builds",
    "kdcmae-compile --target openvino --precision bf16 --preset base": "builds the base model",
    "kdcmae pretrain --data out/avsynth/": "trains; the helps' examples of that command run",
    "kdcmae finetune --data avsynth:1200": "trains for minutes; the helps' examples of that command run",
    "kdcmae finetune --data out/avsynth/train.jsonl --validation": "trains; the helps' examples of that command run",
    "kdcmae evaluate classification out/finetuned": "needs a run's checkpoint; the helps' examples of that command run",
    "kdcmae demo": "serves until Ctrl-C; tests/export starts it",
    "kdcmae export web": "needs onnxruntime-web, which tests/export has",
    "kdcmae listen out/ov --camera": "needs a camera and a microphone",
    "torchrun": "starts eight processes",
}
"""Examples that are only parsed, by how their lines begin, and why."""


def is_long(example: Example) -> bool:
    line = example.line.removeprefix("TRITON_INTERPRET=1 ")
    return any(f"{line} ".startswith(start) for start in LONG)


def touch_files(folder: Path) -> None:
    """Empty files and folders of the names that examples use."""
    for example in EXAMPLES:
        for word in example.words(folder):
            path = folder / word
            if word.startswith(("out/", "http")) and not path.suffix:
                path.mkdir(parents=True, exist_ok=True)
            elif path.suffix and path.suffix[1:].isalnum() and not word.startswith("-"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    (folder / "another.mp4").touch()


@pytest.fixture(scope="module")
def folder_of_names(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    touch_files(folder)
    return folder


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.line)
def test_an_example_is_understood_by_its_command(example, folder_of_names, monkeypatch):
    reached = []

    def stop(self: KdcmaeCommand, ctx: click.Context) -> None:
        reached.append(ctx.command_path)
        ctx.exit()

    for command in {type(command) for command in EVERY.values() if not isinstance(command, click.Group)}:
        monkeypatch.setattr(command, "invoke", stop)
    monkeypatch.chdir(folder_of_names)
    program, *words = example.words(folder_of_names)
    result = CliRunner().invoke(PROGRAMS[program], words, prog_name=program)
    assert result.exit_code == 0, result.output
    assert reached or "help" in words


def test_commands_that_take_files_have_an_example_and_long_ones_are_examples():
    lines = [example.line for example in EXAMPLES]
    assert len(lines) == len(set(lines)) >= 40
    for start in LONG:
        assert any(f"{line} ".startswith(start) for line in lines), start


def tiny_recipes(random_runs, monkeypatch) -> None:
    """Recipes of tiny models for one epoch of few clips; everything else of them stays."""
    from kdcmae.training.recipes import RECIPES, rescaled

    for name, recipe in RECIPES.items():
        training = replace(rescaled(recipe.training, 1), batch_size=4, workers=0)
        sizes = {**random_runs.SIZES, **(random_runs.DECODER if recipe.stage == "pretrain" else {})}
        monkeypatch.setitem(RECIPES, name, replace(recipe, training=training, preset="tiny", sizes=sizes))
    monkeypatch.setattr("kdcmae.data.avsynth.memory.CLIPS", {"train": 32, "valid": 6, "test": 6})


def make_files(folder: Path, random_runs) -> None:
    """What the examples name: clips, their lists, checkpoints, and an engine with its device card."""
    import torch

    from kdcmae import KDCMAE, assets, load_classifier
    from kdcmae.checkpoints import save_checkpoint
    from kdcmae.data.avsynth.files import generate

    generate(folder / "out" / "demo" / "avsynth", clips=1, split="test")
    manifest = generate(folder / "out" / "avsynth", clips=12)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    listed = [{**row, **{key: f"out/avsynth/{row[key]}" for key in ("path", "mask")}} for row in rows]
    for name in ("train.jsonl", "test.jsonl", "clips.jsonl"):
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in listed))
    (folder / "videos.csv").write_text("path\n" + "".join(f"{row['path']}\n" for row in listed))
    for name in ("classes.csv", "labels.csv"):
        shutil.copy(manifest.with_name("labels.csv"), folder / name)
    for name in ("clip.mp4", "another.mp4", "concert.mp4"):
        shutil.copy(folder / listed[0]["path"], folder / name)
    shutil.copy(assets.checkpoint("classifier"), folder / "model.safetensors")
    torch.save(load_classifier(folder / "model.safetensors").state_dict(), folder / "model.pth")
    model = KDCMAE.from_preset("tiny", **random_runs.SIZES, **random_runs.DECODER)
    torch.save(model.state_dict(), folder / "cav-mae.pth")
    torch.save({"model": random_runs.image_mae()}, folder / "mae.pth")
    (folder / "out" / "pretrained").mkdir()
    for name in ("pretrained.safetensors", "out/pretrained/model.safetensors"):
        save_checkpoint(model, folder / name)


def invoked(example: Example, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What goes wrong when an example runs in a folder; empty where nothing does."""
    monkeypatch.chdir(folder)
    program, *words = example.words(folder)
    result = CliRunner().invoke(PROGRAMS[program], words, prog_name=program)
    if example.written is not None:
        (folder / example.written).write_text(result.stdout)
    return "" if result.exit_code == 0 else f"{example.line}\n{result.output}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, quick_builds: None) -> Path:
    """A folder of everything that examples and Python blocks name: files, engines and a device card."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TRAINING_TESTS))
        make_files(folder, importlib.import_module("random_run"))
        failures = [invoked(_line("kdcmae-compile --target openvino"), folder, patch)]
        (built,) = (path for path in (folder / "out").iterdir() if path.name.startswith("openvino"))
        for name in ("openvino-fp32", "ov", "demo/openvino"):
            if name != built.name:
                shutil.copytree(built, folder / "out" / name)
        failures.append(invoked(next(example for example in EXAMPLES if example.written), folder, patch))
    shutil.copy(folder / "nuc.json", folder / "board.json")
    assert not any(failures), failures
    return folder


def _line(text: str) -> Example:
    return next(example for example in EXAMPLES if example.line == text)


@pytest.mark.slow
def test_examples_run_as_printed(made, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINING_TESTS))
    tiny_recipes(importlib.import_module("random_run"), monkeypatch)
    ran_already = (_line("kdcmae-compile --target openvino"), *(example for example in EXAMPLES if example.written))
    failures = []
    # Those of one help or page follow each other in one folder.
    for number, path in enumerate(dict.fromkeys(example.path for example in EXAMPLES)):
        folder = tmp_path / str(number)
        shutil.copytree(made, folder)
        for example in EXAMPLES:
            if example.path == path and example not in ran_already and not is_long(example):
                failures.append(invoked(example, folder, monkeypatch))
    assert not any(failures), "\n\n".join(filter(None, failures))


@pytest.mark.slow
def test_python_blocks_run_as_printed(made, monkeypatch):
    monkeypatch.chdir(made)
    ran = 0
    for page in PAGES:
        for block in blocks(page, "python"):
            exec(compile(block, str(page), "exec"), {"__name__": page.stem})
            ran += 1
    assert ran >= 3


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in EXAMPLE_PAGES if sessions(page)], ids=lambda page: page.parent.name)
def test_examples_print_what_their_readme_shows(page, made, monkeypatch, capsys):
    monkeypatch.chdir(made)
    ((command, printed),) = sessions(page)
    python, script, *arguments = shlex.split(command)
    assert python == "python"
    monkeypatch.setattr("sys.argv", [script, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    assert _without_digits(captured.out) == _without_digits(printed)


def test_the_example_of_a_peer_runs_an_engine(engine):
    peer = find_peer(str(ROOT / "examples" / "bench-peer" / "plain_onnx.py"))
    subject = peer.load(str(engine), 1)
    inputs = {spec.name: np.zeros((2, *spec.shape[1:]), np.float32) for spec in subject.facts.inputs}
    with load_engine(engine) as loaded:
        np.testing.assert_allclose(subject.run(inputs)["logits"], loaded.infer(inputs)["logits"], atol=1e-5)


def _without_digits(text: str) -> str:
    return re.sub(r"\d", "0", text)
