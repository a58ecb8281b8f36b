from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from kdcmae import KDCMAE, KDCMAEClassifier, load_classifier
from kdcmae.assets import default_checkpoint
from kdcmae.compile import expectation
from kdcmae.compile.cli.model import load_model
from kdcmae.compile.expectation import compare_with_trained
from kdcmae.compile.modalities import with_input_of
from kdcmae.compile.models import EngineModel, classifier_model, feature_model, reference
from kdcmae.compile.settings import Expectation
from kdcmae.data.avsynth.files import generate
from kdcmae.data.clip import read_clip
from kdcmae.errors import ConfigError, DataError, GateError
from kdcmae.media.frame_numbers import MIDDLE_FRAME
from kdcmae.runtime import feeding

FACTS = {"name": "shipped", "source": "the package", "random_weights": False}
SIZES = {"embed_dim": 64, "num_heads": 1, "specific_depth": 1, "audio_length": 64, "image_size": 32}


@pytest.fixture(scope="module")
def model() -> EngineModel:
    return classifier_model(load_classifier(default_checkpoint()), **FACTS)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("avsynth")
    generate(folder, split="test", clips=3)
    return sorted((folder / "test").glob("*.mp4"))


@pytest.fixture(scope="module")
def prepared(model: EngineModel, clips: list[Path]) -> list[dict[str, Any]]:
    """Each clip as the model's inputs."""
    names = [spec.name for spec in model.inputs]
    read = [read_clip(path) for path in clips]
    return [
        feeding.from_clip(names, model.preprocessing, clip.waveform, 16_000, [clip.frames[MIDDLE_FRAME]])
        for clip in read
    ]


@pytest.fixture(scope="module")
def logits(model: EngineModel, prepared: list[dict[str, Any]]) -> list[list[float]]:
    return [reference(model, inputs)["logits"][0].tolist() for inputs in prepared]


def lines(path: Path, entries: list[dict[str, Any]]) -> Expectation:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8-sig")
    return Expectation(path=path)


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Expectation]:
    """A script whose function is this one."""

    def make(function: Callable[..., Any]) -> Expectation:
        script = tmp_path / "mine.py"
        script.write_text("from kdcmae.compile import expectation\noutputs = expectation.of_the_test\n")
        monkeypatch.setattr(expectation, "of_the_test", function, raising=False)
        return Expectation.of_function(f"{script}:outputs")

    return make


def test_a_file_of_logits(model, clips, logits, tmp_path):
    entries = [{"clip": str(clip), "logits": found} for clip, found in zip(clips, logits, strict=True)]
    rung = compare_with_trained(model, lines(tmp_path / "mine.jsonl", entries))
    assert (rung.name, rung.status, rung.agreement) == ("trained", "passed", 1.0)
    assert rung.errors["logits"] < 1e-6
    assert "mine.jsonl on 3 samples, 100% have the same first class, errors are relative" in rung.note
    assert "scores differ by 0.0% on average" in rung.note
    shuffled = [{**entry, "logits": entry["logits"][::-1]} for entry in entries]
    with pytest.raises(GateError, match=r"only 0% of the first classes.*the classes are permuted; nothing was built"):
        compare_with_trained(model, lines(tmp_path / "mine.jsonl", shuffled))
    gross = [{**entry, "logits": (np.array(entry["logits"]) / 3).tolist()} for entry in entries]
    with pytest.raises(GateError, match=r"scores differ by .*on average \(allowed 5%\)"):
        compare_with_trained(model, lines(tmp_path / "mine.jsonl", gross))


def test_a_file_of_labels(model, clips, logits, tmp_path):
    first = [int(np.argmax(found)) for found in logits]
    named = [{"clip": str(clip), "label": model.labels[c]} for clip, c in zip(clips, first, strict=True)]
    numbered = [{"clip": str(clip), "labels": [c, (c + 1) % 12]} for clip, c in zip(clips, first, strict=True)]
    for entries in (named, numbered):
        rung = compare_with_trained(model, lines(tmp_path / "mine.jsonl", entries))
        assert (rung.agreement, rung.errors) == (1.0, {})
    wrong = [{**entry, "label": model.labels[(c + 1) % 12]} for entry, c in zip(named, first, strict=True)]
    with pytest.raises(GateError, match="only 0% of the first classes are the same"):
        compare_with_trained(model, lines(tmp_path / "mine.jsonl", wrong))


def test_prepared_inputs_show_fine_differences(model, prepared, logits, tmp_path):
    entries = []
    for number, (inputs, found) in enumerate(zip(prepared, logits, strict=True)):
        np.savez(tmp_path / f"{number}.npz", **{name: array[0] for name, array in inputs.items()})
        entries.append({"inputs": f"{number}.npz", "logits": found})
    rung = compare_with_trained(model, lines(tmp_path / "mine.jsonl", entries))
    assert rung.gate.max_error == 1e-2
    off = [{**entry, "logits": (1.03 * np.array(entry["logits"])).tolist()} for entry in entries]
    with pytest.raises(GateError, match=r"outputs differ by .* of their spread on the same inputs \(allowed 1%\)"):
        compare_with_trained(model, lines(tmp_path / "mine.jsonl", off))


@functools.cache
def trained(change: Callable[[KDCMAEClassifier], object] = lambda model: None, **overrides: Any) -> KDCMAEClassifier:
    classifier = load_classifier(default_checkpoint(), **overrides)
    with torch.no_grad():
        change(classifier)
    return classifier


def noisy(classifier: KDCMAEClassifier) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in classifier.parameters():
        parameter.mul_(1 + 0.03 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize(
    "outputs",
    [
        lambda audio, image: trained()(audio, image),
        lambda audio, image: trained()(audio, image) - 7,  # no score of a softmax changes
        lambda audio, image: {"logits": trained()(audio, image)},
        lambda audio, image: [trained()(audio, image).numpy()],
    ],
)
def test_the_same_model_passes(outputs, model, mine):
    rung = compare_with_trained(model, mine(outputs))
    assert rung.agreement == 1.0
    assert rung.errors["logits"] < 1e-5


@pytest.mark.parametrize(
    "outputs",
    [
        lambda audio, image: trained(num_heads=4)(audio, image),
        lambda audio, image: trained(noisy)(audio, image),
        lambda audio, image: trained()(audio, image).roll(1, dims=1),
        lambda audio, image: trained()(audio, image).flip(0),
        lambda audio, image: trained()(audio + 0.2, image),
        lambda audio, image: trained()(audio, image.flip(1)),
        lambda audio, image: trained()(audio, None),
        lambda audio, image: 1.1 * trained()(audio, image),
    ],
    ids=["heads", "weights", "classes", "rows", "norm", "colours", "modality", "temperature"],
)
def test_faults_before_the_ladder_are_found(outputs, model, mine):
    with pytest.raises(GateError, match=r"the loaded model does not compute what mine\.py:outputs says"):
        compare_with_trained(model, mine(outputs))


def test_of_independent_scores_a_constant_is_a_fault(mine):
    sigmoid = classifier_model(trained(multi_label=True), **FACTS)
    assert compare_with_trained(sigmoid, mine(lambda audio, image: trained()(audio, image))).status == "passed"
    with pytest.raises(GateError, match="of their spread"):
        compare_with_trained(sigmoid, mine(lambda audio, image: trained()(audio, image) - 1))


def test_features(mine):
    torch.manual_seed(0)
    pretrained = KDCMAE.from_preset("tiny", **SIZES, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=1).eval()
    model = feature_model(pretrained, **FACTS)

    def features(audio: torch.Tensor, image: torch.Tensor) -> Any:
        return tuple(tokens.mean(dim=1) for tokens in pretrained.forward_features(audio, image))

    assert compare_with_trained(model, mine(features)).agreement is None
    with pytest.raises(GateError, match="of their spread"):
        compare_with_trained(model, mine(lambda audio, image: features(audio, image)[::-1]))
    with pytest.raises(ConfigError, match="does not classify; use --expect-from"):
        compare_with_trained(model, Expectation(path=Path("mine.jsonl")))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("", "expects nothing"),
        ("7", "line 1: is 7 instead of an object"),
        ('{"clip": "a.mp4"}', "line 1: needs one field clip .* has clip"),
        ('{"clip": "a.mp4", "logits": [1], "label": "a"}', "line 1: needs one field clip"),
        ('{"label": "a"}', "line 1: needs one field clip"),
        ('{"clip": "absent.mp4", "label": 0}', "line 1: .*absent.mp4"),
        ('{"inputs": "absent.npz", "label": 0}', "line 1: .*absent.npz cannot be read as arrays audio, image"),
        ('{"inputs": "short.npz", "label": 0}', r"line 1: audio has shape \(1, 3, 128\), expected"),
        ('{"inputs": "a.npz", "logits": [1, 2]}', "line 1: has 2 logits, and the model has 12 classes"),
        ('{"inputs": "a.npz", "logits": "x"}', "line 1: field logits must be a list of numbers"),
        ('{"inputs": "a.npz", "logits": [NaN, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]}', "line 1: .* NaN"),
        ('{"inputs": "a.npz", "label": "unheard"}', "line 1: unknown label 'unheard'.*--labels FILE"),
        ('{"inputs": "a.npz", "label": 12}', "line 1: 12 is neither a label nor a class from 0 to 11"),
    ],
)
def test_lines_that_cannot_be_used(entry, message, model, prepared, tmp_path):
    np.savez(tmp_path / "a.npz", **prepared[0])
    np.savez(tmp_path / "short.npz", audio=np.zeros((3, 128)), image=prepared[0]["image"])
    (tmp_path / "mine.jsonl").write_text(entry)
    with pytest.raises(DataError, match=message):
        compare_with_trained(model, Expectation(path=tmp_path / "mine.jsonl"))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("outputs = 3", "has no function outputs"),
        ("def outputs(audio, image): raise KeyError('gone')", "failed: KeyError: 'gone'"),
        ("import no_such_module", "failed: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)", "failed: SystemExit: 3"),
        ("def outputs(audio, image): return audio.mean(), 1.0", r"returned \(\), float; expected .* logits \(2, 12\)"),
        ("def outputs(audio, image): return [[0] * 12] * 2", "expected floating-point logits"),
    ],
)
def test_functions_that_cannot_be_used(script, message, model, tmp_path):
    (tmp_path / "mine.py").write_text(script)
    with pytest.raises(ConfigError, match=message):
        compare_with_trained(model, Expectation.of_function(f"{tmp_path / 'mine.py'}:outputs"))


@pytest.mark.parametrize("text", ["mine.py", "mine:outputs", "mine.py:", "mine.py:a-b"])
def test_names_of_functions(text):
    with pytest.raises(ConfigError, match=r"such as mine\.py:logits"):
        Expectation.of_function(text)


def test_a_script_leaves_torch_as_it_was(model, tmp_path):
    (tmp_path / "beside.py").write_text("SHIFT = 0.0\n")
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom beside import SHIFT\nfrom kdcmae import load_classifier\n"
        "from kdcmae.assets import default_checkpoint\n"
        "classifier = load_classifier(default_checkpoint())\n"
        "torch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\n"
        "def outputs(audio, image):\n    return classifier(audio, image) + SHIFT\n"
    )
    compare_with_trained(model, Expectation.of_function(f"{tmp_path / 'mine.py'}:outputs"))
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_a_variant_for_one_modality_does_not_claim_the_comparison(model, mine):
    rung = compare_with_trained(model, mine(lambda audio, image: trained()(audio, image)))
    whole = dataclasses.replace(model, trained=rung)
    assert with_input_of(whole, "audio").trained is None


SCRIPT = """
from kdcmae import load_classifier
print("this is not JSON")
def outputs(audio, image):
    return load_classifier({checkpoint!r})(audio, image) * {scale}
"""


def test_the_command_compares_before_it_builds(checkpoint: Path, run: Callable[..., Result], tmp_path: Path) -> None:
    options = ("--target", "openvino", "--precision", "fp32", "--checkpoint", checkpoint, "--output", tmp_path / "ov")
    (tmp_path / "mine.py").write_text(SCRIPT.format(checkpoint=str(checkpoint), scale=1))
    (tmp_path / "other.py").write_text(SCRIPT.format(checkpoint=str(checkpoint), scale=-1))
    refused = run(*options, "--expect-from", f"{tmp_path / 'other.py'}:outputs")
    assert refused.exit_code == 1
    assert "the loaded model does not compute what other.py:outputs says" in refused.stderr
    assert not (tmp_path / "ov").exists()
    result = run(*options, "--expect-from", f"{tmp_path / 'mine.py'}:outputs", "--json")
    assert result.exit_code == 0, result.stderr
    first, *ladder = json.loads(result.stdout)["manifest"]["parity"]
    assert (first["name"], first["status"], ladder[0]["name"]) == ("trained", "passed", "program")
    assert "trained" in (tmp_path / "ov" / "report.html").read_text(encoding="utf-8")
    both = run(*options, "--expect", "a.jsonl", "--expect-from", "a.py:b")
    assert both.exit_code == 2
    assert "give either --expect FILE or --expect-from" in both.stderr


def test_a_model_that_was_compared_says_so() -> None:
    options = {"checkpoint": None, "task": "classify", "preset": None, "random_weights": False, "labels": None}
    loaded = load_model(**options, inputs="tensor", keep=1.0, keep_by="energy")
    assert loaded.trained is None
