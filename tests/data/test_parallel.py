from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

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
