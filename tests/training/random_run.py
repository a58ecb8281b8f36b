"""A run over random clips, small enough for tests; also a script, for tests that kill it.

As a script: ``random_run.py STAGE FOLDER [key=value ...] [--resume]``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcmae import KDCMAE, KDCMAEClassifier
from kdcmae.collectives import rank, world_size
from kdcmae.data.broken import BrokenClips
from kdcmae.training.loop import Trainer
from kdcmae.training.run import Run, Summary
from kdcmae.training.settings import FinetuningSettings, TrainingSettings, parse_overrides
from kdcmae.training.tasks import Batch, FinetuningTask, PretrainingTask

SIZES = {"audio_length": 64, "image_size": 32, "embed_dim": 64, "num_heads": 1, "specific_depth": 1}
DECODER = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 1}
CLASSES = 3
KINDS = {"pretrain": TrainingSettings, "finetune": FinetuningSettings}
DEFAULTS = {
    "learning_rate": 1e-3,
    "epochs": 2,
    "decay_start_epoch": 1,
    "decay_every_epochs": 1,
    "batch_size": 4,
    "log_every_steps": 1,
    "checkpoint_every_steps": 3,
}


class RandomBatches:
    """Random clips in a seeded order, in whole batches or each once; ``broken`` ones hold NaN."""

    def __init__(
        self, settings: TrainingSettings, *, clips: int = 24, broken: tuple[int, ...] = (), whole_batches: bool = True
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.clips = {
            "audio": torch.randn(clips, 64, 128, generator=generator),
            "image": torch.randn(clips, 3, 32, 32, generator=generator),
            "target": torch.eye(CLASSES)[torch.randint(CLASSES, (clips,), generator=generator)],
            "index": torch.arange(clips),
        }
        for clip in broken:
            self.clips["audio"][clip] = torch.nan
        self.broken = BrokenClips(clips)
        self.seed = settings.seed
        self.left_over = 0 if whole_batches else 1
        self.whole = settings.batch_size // settings.accumulation_steps

    @property
    def batches_per_epoch(self) -> int:
        return len(self.clips["index"]) // self.whole

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.clips["index"]))
        share = self.whole // world_size()
        for number in range(start, self.batches_per_epoch + self.left_over):
            first = number * self.whole + rank() * share
            chosen = torch.from_numpy(order[first : first + share])
            if len(chosen):
                yield {name: tensor[chosen] for name, tensor in self.clips.items()}

    def clip_id(self, index: int) -> str:
        return f"clip_{index}"


def random_run(
    stage: str,
    output: Path,
    *,
    model: Mapping[str, Any] | None = None,
    batches: Mapping[str, Any] | None = None,
    validation: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Run:
    """A run of either stage; ``changes`` are settings, ``model`` fields of its configuration.

    ``batches`` and ``validation`` are arguments of :class:`RandomBatches`. By default finetuning is measured on the
    clips that it learns from, and pretraining is not.
    """
    settings = KINDS[stage](**{**DEFAULTS, **changes})
    source = RandomBatches(settings, **(batches or {}))
    torch.manual_seed(settings.seed)
    measured = None if validation is None else RandomBatches(settings, **validation)
    common = {"train": source, "settings": settings, "output": output, "validation": measured}
    if stage == "pretrain":
        pretraining = KDCMAE.from_preset("tiny", **SIZES, **DECODER, **(model or {}))
        return Run(model=pretraining, task=PretrainingTask(pretraining, settings.seed), **common)
    classifier = KDCMAEClassifier.from_preset("tiny", num_classes=CLASSES, **SIZES, **(model or {}))
    task = FinetuningTask(classifier, settings.label_smoothing)
    return Run(model=classifier, task=task, **{**common, "validation": measured or source})


def image_mae() -> dict[str, torch.Tensor]:
    """An image MAE over 2 x 2 patches, of these sizes and with the published names: two blocks, one decoder block."""
    dim, decoder_dim, patch = SIZES["embed_dim"], DECODER["decoder_embed_dim"], 16
    shapes = {
        "cls_token": (1, 1, dim), "pos_embed": (1, 5, dim), "patch_embed.proj.weight": (dim, 3, patch, patch),
        "patch_embed.proj.bias": (dim,), "norm.weight": (dim,), "norm.bias": (dim,),
        "mask_token": (1, 1, decoder_dim), "decoder_pos_embed": (1, 5, decoder_dim),
        "decoder_embed.weight": (decoder_dim, dim), "decoder_embed.bias": (decoder_dim,),
        "decoder_norm.weight": (decoder_dim,), "decoder_norm.bias": (decoder_dim,),
        "decoder_pred.weight": (3 * patch**2, decoder_dim), "decoder_pred.bias": (3 * patch**2,),
        **_block("blocks.0", dim), **_block("blocks.1", dim), **_block("decoder_blocks.0", decoder_dim),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _block(prefix: str, dim: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a block's tensors, by name."""
    shapes = {"norm1": (dim,), "norm2": (dim,), "attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim)}
    shapes |= {"mlp.fc1": (4 * dim, dim), "mlp.fc2": (dim, 4 * dim)}
    named = {f"{prefix}.{name}.weight": shape for name, shape in shapes.items()}
    return named | {f"{prefix}.{name}.bias": shape[:1] for name, shape in shapes.items()}


def trainer(run: Run, *, resume: bool = False) -> Trainer:
    """A quiet trainer."""
    return Trainer(run, device=torch.device("cpu"), resume=resume, progress=None)


def train(run: Run, *, resume: bool = False) -> Summary:
    """Run to the end, quietly."""
    return trainer(run, resume=resume).fit()


def main(stage: str, folder: str, *options: str) -> None:
    torch.set_num_threads(1)
    pairs = [option for option in options if option != "--resume"]
    settings = parse_overrides(pairs, {"settings": KINDS[stage]})["settings"]
    train(random_run(stage, Path(folder), **settings), resume="--resume" in options)


if __name__ == "__main__":
    main(*sys.argv[1:])
