"""Processes that train together: joining them, distributing a model over them, and averaging metrics."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from kdcmae.collectives import world_size
from kdcmae.errors import ConfigError, DeviceError
from kdcmae.layers import Block
from kdcmae.training.settings import Parallelism

__all__ = ["Spread", "gathered", "joined", "mean_over_ranks", "spread"]


@contextmanager
def joined(device: str = "auto") -> Iterator[torch.device]:
    """Join the process group of ``torchrun``, if any, and leave it at the end.

    An object that holds a distributed model, such as a Trainer, must not outlive the context. The group is destroyed
    with its last reference; if that is a model's, PyTorch holds the interpreter lock while it waits for the group's
    thread, which may itself wait for the lock.

    Args:
        device: ``cpu`` (ranks talk through gloo), ``cuda`` (nccl; this rank's GPU), or ``auto``.

    Yields:
        This process's device.

    Raises:
        DeviceError: no GPU where one was asked for.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("no CUDA device on this machine; use --device cpu")
    place = torch.device(device)
    if device == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(place)
    if "WORLD_SIZE" not in os.environ:
        yield place
        return
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield place
        dist.barrier()  # ranks that leave a gloo group at different times sometimes abort at exit
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # its frames refer to the model
        raise
    finally:
        gc.collect()  # distributed models are part of reference cycles
        dist.destroy_process_group()


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over ranks of a tensor that has the same shape on each; NaN where one has NaN."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= world_size()
    return values


def gathered(value: Any) -> list[Any]:
    """A small Python object of every rank, in rank order."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


class Spread(Protocol):
    """A model distributed over the ranks. State dicts are complete and on the CPU; if sharded, on rank 0 only."""

    module: nn.Module
    """The model itself, whose parameters are optimised."""
    model: nn.Module
    """The module to call, so that gradients are exchanged."""

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        """Context of forward and backward of one of several batches; gradients are exchanged after the last."""

    def evaluating(self) -> AbstractContextManager[nn.Module]:
        """The model itself, in evaluation mode and without gradients until the context ends."""

    def model_state(self) -> dict[str, Any]: ...

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]: ...

    def load(self, optimizer: Optimizer, model_state: dict[str, Any], optimizer_state: dict[str, Any]) -> None: ...

    def load_model(self, model_state: dict[str, Any]) -> None:
        """Load weights only; rank 0 has to provide them."""


def spread(model: nn.Module, parallel: Parallelism, device: torch.device) -> Spread:
    """Distribute a model over the devices of all ranks.

    Args:
        model: on the CPU; changed in place. No device ever holds all of a sharded model.
        parallel: across ranks.

    Raises:
        ConfigError: sharding without other ranks.
    """
    if parallel == "fsdp":
        return _Sharded(model, device)
    model.to(device)
    return _Replicated(model) if world_size() > 1 else _Single(model)


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[nn.Module]:
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        model.train()


class _Single:
    """The whole model in one process."""

    def __init__(self, model: nn.Module) -> None:
        self.module = self.model = model

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def evaluating(self) -> AbstractContextManager[nn.Module]:
        return _evaluation(self.module)

    def model_state(self) -> dict[str, Any]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.module.state_dict().items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return optimizer.state_dict()

    def load(self, optimizer: Optimizer, model_state: dict[str, Any], optimizer_state: dict[str, Any]) -> None:
        self.module.load_state_dict(model_state)
        optimizer.load_state_dict(optimizer_state)

    def load_model(self, model_state: dict[str, Any]) -> None:
        self.module.load_state_dict(model_state)


class _Replicated(_Single):
    """A copy in every process, gradients averaged by DistributedDataParallel."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        # Blocks hold three pairs of LayerNorms, and a stage of the model uses some of them only.
        self.model = self.replicas = DistributedDataParallel(model, find_unused_parameters=True)

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if last else self.replicas.no_sync()


class _Sharded:
    """Every process holds a part of each tensor (FSDP2) and fetches a block's tensors when it runs."""

    _whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    # Parameters that a stage of the model does not use have no optimiser state.
    _partial = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        if not dist.is_initialized():
            raise ConfigError("parallel=fsdp shards over processes: start the run with torchrun")
        ranks = init_device_mesh(device.type, (world_size(),))
        # Each call moves the tensors of its module to the mesh's device and keeps this rank's part of them.
        for module in model.modules():
            if isinstance(module, Block):
                fully_shard(module, mesh=ranks)
        self.shards: FSDPModule = fully_shard(model, mesh=ranks)
        if hasattr(model, "forward_features"):  # also called, beside forward()
            register_fsdp_forward_method(model, "forward_features")
        self.module = self.model = model  # sharded in place

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        self.shards.set_requires_gradient_sync(last)
        return nullcontext()

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        with _evaluation(self.model) as model:
            yield model
        # Parameters outside of the blocks stay unsharded after a forward pass, for the backward pass; a state is made
        # of shards.
        self.shards.reshard()

    def model_state(self) -> dict[str, Any]:
        return get_model_state_dict(self.model, options=self._whole)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return get_optimizer_state_dict(self.model, optimizer, options=self._whole)

    def load(self, optimizer: Optimizer, model_state: dict[str, Any], optimizer_state: dict[str, Any]) -> None:
        set_model_state_dict(self.model, model_state, options=self._whole)
        set_optimizer_state_dict(self.model, optimizer, optimizer_state, options=self._partial)

    def load_model(self, model_state: dict[str, Any]) -> None:
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(self.model, dict(model_state), options=options)  # replaces the mapping's values by shards
