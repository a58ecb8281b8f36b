"""CPU classes: what is read from features, names, files and oneDNN's cap."""

from __future__ import annotations

import json

import pytest

from kdcmae.errors import ConfigError
from kdcmae.runtime.cpu import CAP_VARIABLE, CLASSES, Cpu, describe_cpu, this_cpu

EVERYTHING = frozenset().union(*(one.features for one in CLASSES.values() if one.machine == "x86_64"))
LINUX_FEATURES = EVERYTHING | {"avx512_fp16", "avx512ifma", "gfni"}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_its_own_least_machine(name):
    assert describe_cpu(name).class_name == name


@pytest.mark.parametrize(
    ("name", "floating", "saturates"),
    [
        ("avx2", "fp32", True),
        ("avx2-vnni", "fp32", False),
        ("avx512", "fp32", True),
        ("avx512-bf16", "bf16", False),
        ("amx", "bf16", False),
        ("arm64", "fp32", False),
    ],
)
def test_what_a_class_executes(name, floating, saturates):
    cpu = describe_cpu(name)
    assert (cpu.fastest_floating, cpu.saturates_int8) == (floating, saturates)
    assert cpu.multiplies(cpu.fastest_floating)


def test_vnni_ends_saturation_in_every_class():
    cpu = describe_cpu("avx512")
    cascade_lake = Cpu(machine="x86_64", features=cpu.features | {"avx512_vnni"})
    assert not cascade_lake.saturates_int8
    assert cascade_lake.class_name == "avx512"


def test_arm_multiplies_fp16_where_it_says_so():
    cpu = Cpu(machine="aarch64", features=frozenset({"asimd", "asimdhp"}))
    assert (cpu.class_name, cpu.fastest_floating) == ("arm64", "fp16")


def test_a_processor_below_all_classes_has_no_class():
    cpu = Cpu(machine="x86_64", features=frozenset({"avx"}))
    assert (cpu.class_name, cpu.fastest_floating) == ("", "fp32")


@pytest.mark.parametrize(
    ("cap", "class_name"),
    [
        ("", "amx"),
        ("no such cap", "amx"),
        ("SSE41", ""),
        ("AVX2", "avx2"),
        ("avx2", "avx2"),
        ("AVX2_VNNI", "avx2-vnni"),
        ("AVX2_VNNI_2", "avx2-vnni"),
        ("AVX512_CORE", "avx512"),
        ("AVX512_CORE_VNNI", "avx512"),
        ("AVX512_CORE_BF16", "avx512-bf16"),
        ("AVX10_1_512", "avx512-bf16"),
        ("AVX512_CORE_AMX", "amx"),
    ],
)
def test_the_cap_takes_away_what_is_above_it(cap, class_name):
    assert Cpu(machine="x86_64", features=LINUX_FEATURES).capped(cap).class_name == class_name


def test_the_cap_of_the_environment_is_that_of_this_machine(monkeypatch):
    monkeypatch.delenv(CAP_VARIABLE, raising=False)
    whole = this_cpu()
    monkeypatch.setenv(CAP_VARIABLE, "SSE41")
    assert this_cpu() == whole.capped("SSE41")


def test_a_device_describes_itself(tmp_path):
    path = tmp_path / "device.json"
    facts = {"machine": "x86_64", "cpu": "Intel N100"}
    path.write_text(json.dumps({"host": facts, "cpu_features": sorted(CLASSES["avx2-vnni"].features)}))
    cpu = describe_cpu(str(path))
    assert (cpu.name, cpu.class_name) == ("Intel N100", "avx2-vnni")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cpu_features": "avx2", "host": {}}', "\x00", "[" * 99999])
def test_another_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "device.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="kdcmae doctor --json"):
        describe_cpu(str(path))


def test_an_unknown_machine_is_refused_with_the_classes():
    with pytest.raises(ConfigError, match="avx2, avx2-vnni"):
        describe_cpu("pentium")
