from __future__ import annotations

import dataclasses

import pytest

from kdcmae.config import ObjectiveConfig, PretrainingConfig
from kdcmae.errors import ConfigError
from kdcmae.training.settings import FinetuningSettings, TrainingSettings, changed, parse_overrides

NEEDED = {"learning_rate": 1e-3, "epochs": 2, "decay_start_epoch": 1, "decay_every_epochs": 1, "batch_size": 4}
KINDS = {"settings": FinetuningSettings, "model": PretrainingConfig}


def test_overrides_reach_the_dataclass_that_has_them():
    parsed = parse_overrides(
        [
            *("learning_rate=1e-4", "epochs=3", "balanced=true", "betas=0.9, 0.95", "clip_grad_norm=none"),
            *("precision=bf16", "mask_ratio=0.5", "distilled_latents=joint,audio", "complementary=False"),
        ],
        KINDS,
    )
    assert parsed == {
        "settings": {
            "learning_rate": 1e-4,
            "epochs": 3,
            "balanced": True,
            "betas": (0.9, 0.95),
            "clip_grad_norm": None,
            "precision": "bf16",
        },
        "model": {"mask_ratio": 0.5, "distilled_latents": ("joint", "audio"), "complementary": False},
    }
    assert type(parsed["settings"]["epochs"]) is int


def test_every_setting_can_be_written_as_text():
    for kind in (FinetuningSettings, ObjectiveConfig):
        values = {field.name: field.default for field in dataclasses.fields(kind)} | (
            NEEDED if kind is FinetuningSettings else {}
        )
        texts = [f"{k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in values.items()]
        assert parse_overrides(texts, {"it": kind})["it"] == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rte=1", "did you mean 'learning_rate'"),
        ("mask_ration=0.5", "did you mean 'mask_ratio'"),
        ("qqqq=1", "unknown setting 'qqqq'; --set help lists all"),
        ("epochs", "write key=value"),
        ("epochs=2.5", "epochs=2.5 is not a whole number"),
        ("epochs=true", "epochs=true is not a whole number"),
        ("learning_rate=fast", "learning_rate=fast is not a number"),
        ("balanced=1", "balanced=1 is not true or false"),
    ],
)
def test_bad_overrides(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_overrides([text], KINDS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"accumulation_steps": 3}, "not a multiple of accumulation_steps=3"),
        ({"clip_grad_norm": 0.0}, "clip_grad_norm"),
        ({"average_from_epoch": 3}, "an epoch from 1 to epochs=2"),
        ({"precision": "fp8"}, "precision='fp8' must be one of auto, fp32, bf16, fp16"),
        ({"parallel": "fsdp", "precision": "fp16"}, "bf16"),
        ({"trained": "tail"}, "trained='tail' must be one of all, head"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"head_learning_rate_factor": 0.0}, "head_learning_rate_factor"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_values_out_of_range(values, message):
    with pytest.raises(ConfigError, match=message):
        FinetuningSettings(**{**NEEDED, **values})


def test_only_what_decides_the_losses_counts_as_changed():
    before = dataclasses.asdict(TrainingSettings(**NEEDED))
    now = {**before, "workers": 7, "epochs": 9, "seed": 3}
    assert changed(before, now) == ["seed: 0 -> 3"]
