"""The model through ``torch.compile``: the first inference compiles."""

from __future__ import annotations

from dataclasses import replace

from kdcmae.bench.run.peers import Peer
from kdcmae.bench.run.subjects import INDUCTOR_ROUNDING, TorchSubject, load_torch_model

__all__ = ["PEER"]


class _CompiledSubject(TorchSubject):
    kind = "torch.compile"

    def __init__(self, source: str, threads: int) -> None:
        super().__init__(load_torch_model(source), threads)
        self.facts = replace(self.facts, tolerance=INDUCTOR_ROUNDING)
        self._call = self._torch.compile(self._call)


PEER = Peer(
    name="torch-compile",
    label="torch.compile",
    about="PyTorch through torch.compile",
    open=_CompiledSubject,
    needs="a C++ compiler",
    precision="fp32",
    suite=("fp32",),
    slow="compiling takes minutes; kdcmae-bench preset:base torch-compile:preset:base measures it",
)
