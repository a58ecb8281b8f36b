"""Facts of machines, as their systems tell them."""

from __future__ import annotations

import platform

import pytest

from kdcmae import host


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


V2, V1 = {"proc/self/cgroup": "0::/a/b\n"}, {"proc/self/cgroup": "3:cpuset:/\n2:cpu,cpuacct:/docker/1234\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 8),
        (V2, 8),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 8),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "250000 100000\n"}, 2),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"}, 1),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "6400000 100000\n"}, 8),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),  # in a container
        ({"proc/self/cgroup": "0::/../../a\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "nonsense\n"}, 8),
        ({**V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({**V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n"}, 3),
    ],
)
def test_a_quota_counts_in_whole_cpus(files, cpus, tmp_path):
    write(tmp_path, files)
    assert host.usable_cpus(tmp_path, affinity=range(8)) == cpus


def test_affinity_counts(tmp_path):
    affinity = {3, 5}
    write(tmp_path, {**V2, "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n"})
    assert host.usable_cpus(tmp_path, affinity=affinity) == 2
    assert host.cpu_numbers(tmp_path, affinity=affinity) == (3, 5)
    write(tmp_path, {"sys/fs/cgroup/a/b/cpu.max": "100000 100000\n"})
    assert host.cpu_numbers(tmp_path, affinity=affinity) == (3,)


X86 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t: fpu\n\nprocessor\t: 1\nmodel name\t: another\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd\nCPU part\t: 0xd08\n\nprocessor\t: 1\nCPU part\t: 0xd0b\n"


@pytest.mark.parametrize(
    ("cpuinfo", "board", "name"),
    [
        (X86, "", "AMD EPYC"),
        (X86, "A board\0", "AMD EPYC"),
        (ARM, "Raspberry Pi 5 Model B\0", "Raspberry Pi 5 Model B"),
    ],
)
def test_a_processor_is_named_as_the_system_names_it_or_its_board(cpuinfo, board, name, tmp_path):
    (tmp_path / "proc" / "device-tree").mkdir(parents=True)
    (tmp_path / "proc" / "cpuinfo").write_text(cpuinfo)
    if board:
        (tmp_path / "proc" / "device-tree" / "model").write_text(board)
    assert host.cpu_name(tmp_path) == name


def test_a_core_without_a_name_is_a_number(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(ARM)
    assert host.cpu_name(tmp_path).endswith(" core 0xd08")


def test_a_system_that_says_nothing_has_its_own_word(tmp_path):
    assert host.cpu_name(tmp_path) == platform.processor()
