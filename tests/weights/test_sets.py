from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdcmae.errors import CheckpointError, ConfigError
from kdcmae.weights.sets import as_float32, choose_weights

STATE = {"pos_embed_a": torch.arange(3.0), "blocks_a.0.norm1.weight": torch.ones(2), "mlp_head.1.bias": torch.zeros(1)}
AVERAGE = {name: tensor + 1 for name, tensor in STATE.items()}

WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
PREFIXES = st.lists(st.sampled_from((*WRAPPERS, "model.", "net.")), max_size=4).map("".join)
CONTAINERS = st.lists(st.sampled_from(("model", "state_dict", "model_state_dict", "net", "module")), max_size=3)
AVERAGES = st.sampled_from(("ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model"))
BESIDE = {"epoch": 3, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}, "args": "--lr 1"}


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def contained(state: Any, keys: list[str]) -> Any:
    for key in keys:
        state = {key: state, **BESIDE}
    return state


def same(found: dict[str, Tensor], state: dict[str, Tensor]) -> bool:
    return found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


@given(prefix=PREFIXES, keys=CONTAINERS, order=st.permutations(list(STATE)))
def test_containers_and_prefixes_change_nothing(prefix: str, keys: list[str], order: list[str]) -> None:
    tree = contained(prefixed({name: STATE[name] for name in order}, prefix), keys)
    assert same(choose_weights(tree, None, "m.pth"), STATE)
    assert same(choose_weights(tree, "model", "m.pth"), STATE)
    with pytest.raises(CheckpointError, match="no ema weights are among them"):
        choose_weights(tree, "ema", "m.pth")


@given(data=st.data())
def test_parts_of_a_model_may_be_wrapped(data: st.DataObject) -> None:
    wrapped = {}
    for name, tensor in STATE.items():
        parts = name.split(".")
        for place in range(len(parts)):
            parts[place] = "".join(data.draw(st.lists(st.sampled_from(WRAPPERS), max_size=2))) + parts[place]
        wrapped[".".join(parts)] = tensor
    assert same(choose_weights(wrapped, None, "m.pth"), STATE)


@given(key=AVERAGES, inside=CONTAINERS, prefix=PREFIXES, first=st.booleans(), flat=st.booleans())
def test_of_two_sets_the_caller_chooses(key: str, inside: list[str], prefix: str, first: bool, flat: bool) -> None:
    average = contained(prefixed(AVERAGE, prefix), inside)
    parts = {"model": prefixed(STATE, prefix), key: average}
    tree = parts if first else dict(reversed(parts.items()))
    if flat:
        tree = {**prefixed(STATE, "model." + prefix), **prefixed(AVERAGE, f"{key}." + prefix)}
    assert same(choose_weights(tree, "model", "m.pth"), STATE)
    assert same(choose_weights(tree, "ema", "m.pth"), AVERAGE)
    with pytest.raises(
        CheckpointError, match=r"holds .*\(model, \d tensors\).*--weights model or --weights ema"
    ) as caught:
        choose_weights(tree, None, "m.pth")
    assert "(ema, " in str(caught.value)


def test_modules_that_average_count_beside_the_weights() -> None:
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 1)).state_dict()
    assert set(averaged) == {"n_averaged", "module.weight", "module.bias"}
    found = choose_weights({"swa_model": averaged, "model": {"weight": torch.ones(1, 2)}}, "ema", "m.pth")
    assert set(found) == {"weight", "bias"}
    assert set(choose_weights(averaged, None, "m.pth")) == {"weight", "bias"}
    pair = {**prefixed(STATE, "online_model."), **prefixed(AVERAGE, "ema_model."), "step": torch.tensor(3)}
    assert same(choose_weights(pair, "ema", "m.pth"), AVERAGE)
    assert same(choose_weights(pair, "model", "m.pth"), STATE)


def test_the_state_of_our_own_runs_has_two_sets_once_it_averages() -> None:
    state = {"model": STATE, "average": {"mean": None, "count": 0}, "optimizer": {}}
    assert same(choose_weights(state, None, "state.pt"), STATE)
    state["average"] = {"mean": AVERAGE, "count": 2}
    with pytest.raises(CheckpointError, match=r"average\.mean \(ema, 3 tensors\)"):
        choose_weights(state, None, "state.pt")


def test_an_average_alone_is_taken() -> None:
    assert same(choose_weights({"state_dict_ema": AVERAGE, "epoch": 1}, None, "m.pth"), AVERAGE)
    with pytest.raises(CheckpointError, match=r"state_dict_ema \(ema, 3 tensors\): no model weights are among them"):
        choose_weights({"state_dict_ema": AVERAGE}, "model", "m.pth")


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([1, 2], r"it holds a list, and no tensors by name"),
        ({}, r"it holds an empty mapping"),
        ({"epoch": 3, "optimizer": {}}, r"it holds epoch \(int\), optimizer \(a mapping of 0\)"),
        ({**STATE, "num_batches_tracked": 3}, r"num_batches_tracked \(int\) among its tensors"),
        ({**STATE, "module.pos_embed_a": torch.ones(1)}, r"holds pos_embed_a twice: as pos_embed_a and as module\.pos"),
        ({"model": STATE, "net": STATE}, r"model \(model, 3 tensors\), net \(model, 3 tensors\): save the one"),
    ],
)
def test_a_doubt_is_named_with_what_there_is(tree: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        choose_weights(tree, None, "m.pth")


def test_a_container_that_holds_itself() -> None:
    tree: dict[str, Any] = OrderedDict()
    tree["model"] = tree
    with pytest.raises(CheckpointError, match="no tensors by name"):
        choose_weights(tree, None, "m.pth")


def test_an_unknown_choice() -> None:
    with pytest.raises(ConfigError, match="weights='best' must be model or ema"):
        choose_weights(STATE, "best", "m.pth")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
def test_floating_weights_become_float32(dtype: torch.dtype) -> None:
    single = as_float32({"a": torch.nn.Parameter(torch.tensor([1.5, -2.0], dtype=dtype))}, "m.pth")
    assert single["a"].dtype == torch.float32
    assert single["a"].tolist() == [1.5, -2.0]
    assert not single["a"].requires_grad


@pytest.mark.parametrize(
    ("tensor", "name"),
    [
        (torch.ones(2, dtype=torch.int8), "int8"),
        (torch.ones(2, dtype=torch.int64), "int64"),
        (torch.ones(2, dtype=torch.bool), "bool"),
        (torch.ones(2, dtype=torch.complex64), "complex64"),
        (torch.ones(2).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.ones(2, 2).to_sparse(), "float32, sparse_coo"),
        (torch.ones(2, device="meta"), r"without data \(device meta\)"),
    ],
)
def test_converted_weights_are_refused(tensor: Tensor, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"b is {name}: quantised or converted"):
        as_float32({"a": torch.ones(2), "b": tensor}, "m.pth")


def test_values_beyond_float32_are_refused() -> None:
    with pytest.raises(CheckpointError, match="NaN or infinite values in a"):
        as_float32({"a": torch.tensor([1e300], dtype=torch.float64)}, "m.pth")
