"""What continuous integration does about the browser and the ffmpeg program that tests want."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / ".ci" / "run"

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="no .ci/run beside the tests")


@pytest.fixture
def ci(tmp_path):
    """Runs the script where only some programs are there, each as a line of shell."""

    def run(*, container: str = "", **programs: str | None) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "checkout" / ".ci" / "run"
        script.parent.mkdir(parents=True)
        shutil.copy(SCRIPT, script)
        (script.parent / "container").write_text(f"#!{shutil.which('bash')}\n{container}\n")
        (script.parent / "container").chmod(0o755)
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in ("bash", "dirname", "cp"):
            (folder / name).symlink_to(str(shutil.which(name)))
        programs = {
            "make": 'echo "make $1, browser ${REQUIRE_BROWSER:-not} required"',
            "id": "echo 0",
            "ffmpeg": "",
            **programs,
        }
        programs = {name: line for name, line in programs.items() if line is not None}
        for name, line in programs.items():
            (folder / name).write_text(f"#!{shutil.which('bash')}\n{line}\n")
            (folder / name).chmod(0o755)
        environment = {key: value for key, value in os.environ.items() if key != "REQUIRE_BROWSER"}
        return subprocess.run(
            [str(shutil.which("bash")), str(script)],
            env={**environment, "PATH": str(folder), "BIN": str(folder)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_browser_that_is_there_is_required(ci):
    done = ci(chromium="")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "make test, browser 1 required\nmake check, browser 1 required\n"


def test_a_browser_that_apt_brings_is_required(ci):
    done = ci(**{"apt-get": '[[ "$*" == *chromium* ]] && cp "$BIN/id" "$BIN/chromium"; exit 0'})
    assert (done.returncode, done.stderr) == (0, "")
    assert "make test, browser 1 required" in done.stdout


@pytest.mark.parametrize("programs", [{}, {"apt-get": "exit 100"}, {"apt-get": ""}, {"apt-get": "", "id": "echo 1000"}])
def test_where_no_browser_can_be_had_that_is_said_last(ci, programs):
    done = ci(**programs)
    assert done.returncode == 0
    assert "browser not required" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("WARNING: THE PAGES WERE NOT TESTED")


def test_the_ffmpeg_program_is_brought_or_missed_aloud(ci):
    done = ci(chromium="", ffmpeg=None)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].startswith("WARNING: CLIPS WERE NOT COMPARED WITH FFMPEG")


def test_the_ffmpeg_program_that_apt_brings_is_used(ci):
    brings = '[[ "$*" == *ffmpeg* ]] && cp "$BIN/id" "$BIN/ffmpeg"; exit 0'
    done = ci(chromium="", ffmpeg=None, **{"apt-get": brings})
    assert (done.returncode, done.stderr) == (0, "")


def test_a_failing_test_fails_the_run(ci):
    assert ci(make="exit 3", chromium="").returncode == 3


def test_a_build_that_fails_as_in_a_container_fails_the_run(ci):
    assert ci(chromium="", container="exit 4").returncode == 4


def test_where_no_container_can_be_imitated_that_is_said(tmp_path):
    script = SCRIPT.with_name("container")
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run([script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].startswith("WARNING: NOTHING WAS BUILT AS IN A CONTAINER")
