from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdcmae.errors import EngineError, GateError
from kdcmae.files import publishing
from kdcmae.files.publishing import check_destination, publish, staging


@pytest.fixture
def no_exchange(monkeypatch):
    """Makes the system refuse to exchange two folders, with an error of this number."""

    def make(number):
        def refuse(*_):
            ctypes.set_errno(number)
            return -1

        monkeypatch.setattr(publishing.ctypes, "CDLL", lambda *_, **__: SimpleNamespace(renameat2=refuse))

    return make


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


def test_files_of_an_engine_are_no_more_private_than_others(tmp_path):
    with staging(tmp_path / "engine") as partial:
        write(partial, "new")
        (partial / "model.data").touch(mode=0o600)
        publish(partial, tmp_path / "engine")
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    assert {path.name: path.stat().st_mode for path in (tmp_path / "engine").iterdir()} == {
        "manifest.json": usual,
        "model.data": usual,
    }


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


KILLED = """
import os, signal, sys; from pathlib import Path; from kdcmae.files import publishing
publishing._exchange = lambda *_: False
"""


def killed(code, *arguments):
    process = subprocess.run([sys.executable, "-c", KILLED + code, *map(str, arguments)], check=False)
    assert process.returncode == -signal.SIGKILL


def test_a_killed_build_is_cleaned_up_by_the_next(tmp_path):
    target = tmp_path / "engine"
    killed(
        "with publishing.staging(Path(sys.argv[1])) as partial:\n"
        "    (partial / 'half').write_text('written')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n",
        target,
    )
    assert not target.exists()
    assert len(os.listdir(tmp_path)) == 1
    with staging(target) as partial:
        write(partial, "new")
        publish(partial, target)
    assert os.listdir(tmp_path) == ["engine"]


def test_a_build_killed_between_the_steps_of_publishing_gets_its_old_engine_back(tmp_path):
    target = tmp_path / "engine"
    target.mkdir()
    write(target, "old")
    killed(
        "rename = os.rename\n"
        "def killed_at_the_second_step(source, target):\n"
        "    if Path(source).name == 'staged' and not Path(target).exists():\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    rename(source, target)\n"
        "os.rename = killed_at_the_second_step\n"
        "with publishing.staging(Path(sys.argv[1])) as partial:\n"
        "    (partial / 'manifest.json').write_text('new')\n"
        "    publishing.publish(partial, Path(sys.argv[1]))\n",
        target,
    )
    assert not target.exists()
    with staging(target):
        assert (target / "manifest.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["engine"]


def test_two_builds_of_one_process_do_not_meet(tmp_path):
    target = tmp_path / "engine"
    with staging(target) as first:
        write(first, "first")
        with staging(target) as second:
            assert second != first
            write(second, "second")
        write(first, "first again")
        publish(first, target)
    assert (target / "manifest.json").read_text() == "first again"
    assert os.listdir(tmp_path) == ["engine"]


def test_a_running_build_of_another_process_is_left_alone(tmp_path):
    code = (
        "import sys; from pathlib import Path; from kdcmae.files.publishing import staging\n"
        "with staging(Path(sys.argv[1])):\n"
        "    print('building', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    target = tmp_path / "engine"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"building\n"
        with staging(target):
            assert len(os.listdir(tmp_path)) == 2
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == []


def test_what_no_lock_belongs_to_is_not_taken_for_abandoned(tmp_path):
    other = tmp_path / ".engine.partial-4194000"
    other.mkdir()
    write(other, "half")
    with staging(tmp_path / "engine"):
        assert (other / "manifest.json").read_text() == "half"


def test_where_nothing_can_be_locked_nothing_is_abandoned(tmp_path, fails):
    fails("filelock.lock_descriptor", OSError(errno.ENOLCK, os.strerror(errno.ENOLCK)))
    target = tmp_path / "engine"
    with staging(target) as first, staging(target) as second:
        assert first.is_dir()
        assert second.is_dir()
        write(second, "new")
        publish(second, target)
    assert os.listdir(tmp_path) == ["engine"]


def test_a_name_with_wildcards_is_a_name(tmp_path):
    with staging(tmp_path / "engine[12]*") as partial:
        with staging(tmp_path / "engine1") as other:
            assert other.is_dir()
        assert partial.is_dir()
        write(partial, "new")
        publish(partial, tmp_path / "engine[12]*")
    assert os.listdir(tmp_path) == ["engine[12]*"]


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "in steps"])
def test_builds_at_once_leave_one_whole_engine(exchange, tmp_path, no_exchange):
    """As case 27 in threads: a reader of a folder that was there before finds one all the time, where it can be had."""
    if exchange and not can_exchange(tmp_path):
        pytest.skip("no exchange on this file system")
    if not exchange:
        no_exchange(errno.EINVAL)
    target = tmp_path / "engine"
    target.mkdir()
    write(target, "0")
    missing, stop = [], threading.Event()

    def build(number):
        for _ in range(20):
            with staging(target) as partial:
                write(partial, str(number))
                publish(partial, target)

    def read():
        while not stop.is_set():
            if not (target / "manifest.json").exists():
                missing.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(build, range(3)))
    stop.set()
    reader.join()
    assert os.listdir(tmp_path) == ["engine"]
    assert (target / "manifest.json").read_text() in "012"
    assert not (exchange and missing)


def can_exchange(folder):
    (folder / "one").mkdir()
    (folder / "other").mkdir()
    done = publishing._exchange(folder / "one", folder / "other")
    (folder / "one").rmdir()
    (folder / "other").rmdir()
    return done


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EPERM])
def test_where_folders_cannot_change_places_the_old_one_moves_aside(number, tmp_path, no_exchange):
    no_exchange(number)
    assert not can_exchange(tmp_path)
    test_a_new_engine_replaces_the_old_one(tmp_path)


def test_a_new_engine_that_cannot_move_leaves_the_old_one(tmp_path, no_exchange, monkeypatch):
    target = tmp_path / "engine"
    target.mkdir()
    write(target, "old")
    rename = os.rename

    def refuse(source, destination):
        if source.name == "staged" and not destination.exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, destination)

    no_exchange(errno.EINVAL)
    with staging(target) as partial:
        write(partial, "new")
        monkeypatch.setattr(os, "rename", refuse)
        with pytest.raises(OSError, match="Input/output error"):
            publish(partial, target)
    assert (target / "manifest.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["engine"]


@pytest.mark.parametrize(
    ("error", "free", "said"),
    [
        (
            RuntimeError("cannot write\nline 2"),
            0,
            r"cannot write to .*: 0\.0 MB left on its disk \(cannot write; line 2\); make",
        ),
        (RuntimeError("anything"), 10**9, "anything"),
        (OSError("problem writing element 1 to file"), 5 * 10**6, r"5\.0 MB left on its disk \(problem writing"),
        (OSError(errno.ENOSPC, "No space left on device", "file"), 0, "No space left on device: 'file'$"),
        (PermissionError(errno.EACCES, "Permission denied"), 0, "Permission denied$"),
        (GateError("out of tolerance"), 0, "^out of tolerance$"),
    ],
)
def test_a_disk_that_fills_up_is_said_for_libraries_that_do_not(error, free, said, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))

    def build():
        with staging(tmp_path / "engine"):
            raise error

    with pytest.raises(EngineError if "MB left" in said else type(error), match=said):
        build()


@pytest.mark.parametrize("name", [".", "..", "/", "deep/.."])
def test_a_destination_without_a_name_of_its_own_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match="choose a folder in it"):
        check_destination(Path(name))


def test_a_mounted_volume_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "lost+found").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    with pytest.raises(EngineError, match="is a mounted volume"):
        check_destination(tmp_path)
    check_destination(tmp_path / "engine")


def test_a_parent_that_cannot_be_written_to_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(EngineError, match=f"cannot write to {tmp_path}: it is read-only"):
        check_destination(tmp_path / "deep" / "engine")


def test_a_destination_below_a_file_is_refused_before_any_work(tmp_path):
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(EngineError, match=f"{tmp_path}/clip.mp4 is not a folder; choose another --output"):
        check_destination(tmp_path / "clip.mp4" / "deep" / "engine")


def test_paths_that_are_not_text(tmp_path):
    """Libraries get a path that they can open; the engine is where it belongs."""
    target = tmp_path / os.fsdecode(b"caf\xe9") / os.fsdecode(b"eng\xefne")
    for content in ("old", "new"):
        with staging(target) as partial:
            str(partial).encode()
            write(partial, content)
            publish(partial, target)
    assert (target / "manifest.json").read_text() == "new"
    assert len(os.listdir(target.parent)) == 1


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
