from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from kdcmae.data.parallel import map_in_processes
from kdcmae.errors import DataError


def test_one_process_is_this_one() -> None:
    assert list(map_in_processes(lambda item: (item, os.getpid()), range(3), processes=1)) == [
        (item, os.getpid()) for item in range(3)
    ]


def test_results_come_in_order_and_errors_arrive() -> None:
    assert list(map_in_processes(partial(pow, 2), range(40), processes=2)) == [2**item for item in range(40)]
    with pytest.raises(ZeroDivisionError):
        list(map_in_processes(partial(divmod, 1), [1, 0], processes=2))


def test_a_process_that_dies_is_reported_with_its_item() -> None:
    with pytest.raises(DataError, match="a process died, killed or crashed by one of: 7"):
        list(map_in_processes(os._exit, [7], processes=2))


def test_processes_end_with_a_parent_that_is_killed() -> None:
    code = (
        "import time\n"
        "from kdcmae.data.parallel import map_in_processes\n"
        "results = map_in_processes(abs, range(40), processes=2)\n"
        "print(next(results), flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"0\n"
    parent.kill()
    parent.communicate(timeout=30)  # returns once the last process that can write there is gone


INTERRUPTED = """
import os, time
from kdcmae.data.parallel import map_in_processes

def nap(seconds):
    print("napping", flush=True)
    time.sleep(seconds)

if __name__ == "__main__":
    try:
        list(map_in_processes(nap, [DELAY] * 2, processes=2))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the processes in /proc")
@pytest.mark.parametrize("while_starting", [True, False])
def test_ctrl_c_is_answered_by_the_parent_alone(while_starting: bool, tmp_path: Path) -> None:
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED.replace("DELAY", "0" if while_starting else "0.5"))
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    if while_starting:  # the first worker is there, and neither has run anything
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while process.poll() is None and len(children.read_text().split()) < 2:
            time.sleep(0.001)
    else:
        assert process.stdout.readline() == "napping\n"
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out.endswith("interrupted\n")
    assert err == ""
