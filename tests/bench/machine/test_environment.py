"""The facts around a measurement."""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest

from kdcmae.bench.machine.environment import describe_environment, git_commit


@pytest.fixture
def checkout(tmp_path):
    """A git checkout with one committed file."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    root = tmp_path / "checkout"
    (root / "inner").mkdir(parents=True)
    (root / "file").write_text("one")
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", root, *command], check=True, env={**os.environ, **identity})
    return root.resolve()


def test_the_environment_names_machine_versions_and_load():
    facts = describe_environment()
    assert facts["libraries"]["numpy"] == np.__version__
    assert facts["host"]["cpus"] >= facts["usable_cpus"] >= 1
    assert facts["load_average_1min"] is None or facts["load_average_1min"] >= 0


def test_the_commit_is_that_of_the_checkout(checkout):
    commit = git_commit(checkout)
    assert len(commit) == 40
    (checkout / "file").write_text("two")
    assert git_commit(checkout) == f"{commit}-dirty"


def test_somebody_elses_checkout_is_not_ours(checkout):
    assert git_commit(checkout / "inner") is None


def test_no_checkout_or_no_git_is_no_error(tmp_path, monkeypatch):
    assert git_commit(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert git_commit(tmp_path) is None
