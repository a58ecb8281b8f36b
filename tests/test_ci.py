"""What continuous integration does about the programs that it wants: a browser, ffmpeg, the emulation of aarch64."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / ".ci" / "run"

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="no .ci/run beside the tests")

FETCH = "mkdir -p build/cache; touch build/cache/.onnxruntime-web"  # what `make test` does where npm can


@pytest.fixture
def ci(tmp_path):
    """Runs the script where only some programs are there, each as a line of shell."""

    def run(
        *,
        container: str = "",
        aarch64: str = "echo aarch64",
        avx2: str = "",
        pythons: str = "",
        cpp: str = "",
        web: bool = True,
        **programs: str | None,
    ) -> subprocess.CompletedProcess[str]:
        checkout = tmp_path / "checkout"
        script = checkout / ".ci" / "run"
        for path, line in (
            (checkout / ".ci/container", container),
            (checkout / "tests/aarch64/run", aarch64),
            (checkout / "tests/avx2/run", avx2),
            (checkout / "tests/runtime/pythons", pythons),
            (checkout / "tests/cpp/run", cpp),
        ):
            path.parent.mkdir(parents=True)
            path.write_text(f"#!{shutil.which('bash')}\n{line}\n")
            path.chmod(0o755)
        shutil.copy(SCRIPT, script)
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in ("bash", "dirname", "cp", "cat", "mktemp", "mkdir", "rm", "touch"):
            (folder / name).symlink_to(str(shutil.which(name)))
        programs = {
            "make": 'echo "make $1, browser ${REQUIRE_BROWSER:-not} required"; ' + (FETCH if web else ""),
            "id": "echo 0",
            **dict.fromkeys(("ffmpeg", "qemu-aarch64-static", "mmdebstrap", "cmake"), ""),
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
    assert (
        done.stdout
        == "".join(f"make {target}, browser 1 required\n" for target in ("test", "test-capped", "check")) + "aarch64\n"
    )


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


def test_the_emulation_of_aarch64_that_apt_brings_is_used(ci):
    brings = 'for name in qemu-aarch64-static mmdebstrap; do cp "$BIN/id" "$BIN/$name"; done'
    done = ci(chromium="", mmdebstrap=None, **{"qemu-aarch64-static": None, "apt-get": brings})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("aarch64\n")


@pytest.mark.parametrize("missing", [{"mmdebstrap": None}, {"aarch64": "exit 3"}])
def test_where_aarch64_cannot_be_emulated_that_is_said_aloud(ci, missing):
    done = ci(chromium="", **missing)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].startswith("WARNING: AARCH64 WAS NOT TESTED")


def test_where_the_header_cannot_be_built_that_is_said_aloud(ci):
    done = ci(chromium="", cpp="exit 3")
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].startswith("WARNING: THE C++ HEADER WAS NOT TESTED")


@pytest.mark.parametrize(
    ("failing", "code"),
    [
        ({"make": "exit 3"}, 3),
        ({"aarch64": "exit 1"}, 1),
        ({"container": "exit 4"}, 4),
        ({"pythons": "exit 1"}, 1),
        ({"avx2": "exit 5"}, 5),
        ({"avx2": "exit 5", "pythons": "exit 6"}, 6),
        ({"cpp": "exit 1"}, 1),
    ],
)
def test_a_failing_test_fails_the_run(ci, failing, code):
    assert ci(chromium="", **failing).returncode == code


def test_where_no_container_can_be_imitated_that_is_said(tmp_path):
    script = SCRIPT.with_name("container")
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run([script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].startswith("WARNING: NOTHING WAS BUILT AS IN A CONTAINER")


def test_a_page_that_could_not_be_run_is_said_last(ci):
    done = ci(chromium="", web=False)
    assert done.returncode == 0
    assert "WARNING: THE PAGE OF AN ENGINE WAS NOT TESTED" in done.stderr
