"""The model in float32 on the GPU, replayed from a CUDA graph between two events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kdcmae.bench.run.peers import Peer
from kdcmae.bench.run.subjects import INDUCTOR_ROUNDING, Arrays, TorchSubject, load_torch_model
from kdcmae.errors import DeviceError

__all__ = ["PEER"]


class _CudaSubject(TorchSubject):
    kind = "torch CUDA graph"

    def __init__(self, source: str, threads: int) -> None:
        import torch

        if not torch.cuda.is_available():
            raise DeviceError("PyTorch finds no CUDA device")
        from kdcmae.bench.machine.clock import CudaClock

        super().__init__(load_torch_model(source), threads)
        self._device = torch.device("cuda")
        self._call = self._call.to(self._device)
        self._clock = CudaClock(self._device)
        self._timed: Callable[[float], list[float]] | None = None
        self.facts = replace(self.facts, device="cuda", boundary="device", tolerance=INDUCTOR_ROUNDING)

    def run(self, inputs: Arrays) -> Arrays:
        """One forward pass on the GPU, with copies there and back."""
        with self._torch.inference_mode():
            return {"logits": self._call(**self._on_device(inputs)).cpu().numpy()}

    def window(self, inputs: Arrays, seconds: float) -> list[float]:
        """Latencies in ms between the two events."""
        from kdcmae.bench.machine.clock import GRAPH_WARM

        with self._torch.inference_mode(), self._clock.running():
            if self._timed is None:
                tensors = self._on_device(inputs)
                self._timed = self._clock.prepare(lambda: self._call(**tensors), GRAPH_WARM)
            return [time_us / 1e3 for time_us in self._timed(seconds)]

    def _on_device(self, inputs: Arrays) -> dict[str, Any]:
        return {name: self._torch.from_numpy(array).to(self._device) for name, array in inputs.items()}


PEER = Peer(
    name="torch-cuda",
    label="PyTorch CUDA graph",
    about="PyTorch on the GPU, replayed from a CUDA graph",
    open=_CudaSubject,
    needs="a CUDA device",
    precision="fp32",
    suite=("fp32",),
)
