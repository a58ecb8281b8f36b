"""Which table a GPU gets, and that the shipped attention tables are whole."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="the tables name Triton kernels")

from kdcmae.kernels import configs
from kdcmae.kernels.attention import launches

DIRECTIONS = ("forward", "backward")
TABLES = {
    name: table
    for architecture in configs.ARCHITECTURES
    for name, table in configs.shipped_tables("attention", architecture).items()
}


def test_an_unknown_gpu_gets_the_default():
    assert configs.table_of("attention", "Some GPU of 2031", 210) is TABLES["default"]


def test_the_cpu_gets_the_default():
    assert configs.table("attention", torch.device("cpu")) is TABLES["default"]


def test_a_hopper_gets_the_table_of_its_architecture():
    assert configs.table_of("attention", "NVIDIA H100 80GB HBM3", 90) is TABLES["sm_90"]


def test_a_gpu_with_too_little_shared_memory_keeps_to_the_vendor():
    assert set(configs.table_of("attention", "Tesla T4", 75)["vendor_from_length"].values()) == {1}
    assert len(configs.table_of("patch_embed", "Tesla T4", 75)["vendor_dtypes"]) == 3


def test_a_table_that_names_the_gpu_comes_first():
    files = {
        "default": {"device": "*", "architectures": [90], "attention": "default"},
        "a_family": {"device": "*", "architectures": [90], "attention": "family", "patch_embed": "family"},
        "h200": {"device": "NVIDIA H200*", "architectures": [90], "attention": "exact"},
    }
    assert configs.table_of("attention", "NVIDIA H200 NVL", 90, files) == "exact"
    assert configs.table_of("attention", "NVIDIA H100", 90, files) == "family"
    assert configs.table_of("patch_embed", "NVIDIA H200", 90, files) == "family"
    assert configs.table_of("attention", "NVIDIA A100", 80, files) == "default"


@pytest.mark.parametrize("architecture", configs.ARCHITECTURES)
def test_the_tables_an_architecture_may_get_include_the_one_a_nameless_gpu_gets(architecture):
    nameless = configs.table_of("attention", "", architecture)
    assert any(nameless is table for table in configs.shipped_tables("attention", architecture).values())


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_rows_cover_every_length_dtype_and_head_size(table, direction):
    rows = launches._parse(table[direction])
    for bits in (16, 32):
        for head_size in launches.HEAD_SIZES:
            longest = [row.max_length for row in rows if (row.bits, row.head_size) == (bits, head_size)]
            assert longest == sorted(set(longest)), "a row behind a longer one is never reached"
            assert longest[-1] == 1024


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_resident_rows_hold_what_they_promise(table, direction):
    for row in launches._parse(table[direction]):
        if row.kernel == "resident":
            assert sum(row.rows) >= row.max_length
        if (direction, row.kernel) != ("forward", "resident"):
            assert row.rows[1] == 0


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_the_vendor_takes_no_later_than_the_rows_end(table):
    limits = table["vendor_from_length"]
    assert set(limits) == {"float32", "float16", "bfloat16"}
    assert all(1 <= limit <= 1025 for limit in limits.values())
