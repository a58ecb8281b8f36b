from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kdcmae.compile.package import check_destination, publish, staging
from kdcmae.errors import EngineError


def write(folder, content):
    (folder / "manifest.json").write_text(content)


def test_a_build_appears_whole(tmp_path):
    target = tmp_path / "deep" / "engine"
    with staging(target) as partial:
        write(partial, "new")
        assert not target.exists()
        publish(partial, target)
    assert (target / "manifest.json").read_text() == "new"
    assert os.listdir(target.parent) == ["engine"]


def test_a_failed_build_leaves_the_old_engine(tmp_path):
    target = tmp_path / "engine"
    target.mkdir()
    write(target, "old")

    def failing_build():
        with staging(target) as partial:
            write(partial, "new")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        failing_build()
    assert (target / "manifest.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["engine"]


def test_a_new_engine_replaces_the_old_one(tmp_path):
    target = tmp_path / "engine"
    target.mkdir()
    write(target, "old")
    with staging(target) as partial:
        write(partial, "new")
        publish(partial, target)
    assert (target / "manifest.json").read_text() == "new"
    assert os.listdir(tmp_path) == ["engine"]


def test_a_killed_build_is_cleaned_up_by_the_next(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from kdcmae.compile.package import staging\n"
        "with staging(Path(sys.argv[1])) as partial:\n"
        "    (partial / 'half').write_text('written')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target = tmp_path / "engine"
    assert subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode == -9
    assert not target.exists()
    assert len(os.listdir(tmp_path)) == 1
    with staging(target) as partial:
        write(partial, "new")
        publish(partial, target)
    assert os.listdir(tmp_path) == ["engine"]


def test_a_build_killed_while_publishing_gets_its_old_engine_back(tmp_path):
    aside = tmp_path / ".engine.replaced-999999999"
    aside.mkdir()
    write(aside, "old")
    with staging(tmp_path / "engine"):
        assert (tmp_path / "engine" / "manifest.json").read_text() == "old"


def test_a_running_build_is_left_alone(tmp_path):
    other = tmp_path / f".engine.partial-{os.getppid()}"
    other.mkdir()
    with staging(tmp_path / "engine"):
        assert other.exists()


def test_destinations_that_are_not_engines_are_refused(tmp_path):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter1.tex").write_text("years of work")
    with pytest.raises(EngineError, match="not an engine"):
        check_destination(thesis)
    with pytest.raises(EngineError, match="not a folder"):
        check_destination(thesis / "chapter1.tex")
    empty = tmp_path / "empty"
    empty.mkdir()
    check_destination(empty)
    check_destination(tmp_path / "absent")


def test_an_unwritable_parent_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(EngineError, match=r"cannot write to .*file: .*choose another --output"),
        staging(tmp_path / "file" / "engine"),
    ):
        pass
