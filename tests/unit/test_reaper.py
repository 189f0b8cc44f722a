"""A test run that is killed leaves no servers and no folders behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from tests.servers import wait_until
from tests.servers.reaper import left_behind

ROOT = Path(__file__).parents[2]


def test_what_is_left_is_what_was_not_taken_away() -> None:
    lines = [
        b"+group 10\n",
        b"+folder /tmp/a b\n",
        b"+group 11\n",
        b"-group 10\n",
        b"-folder /tmp/none\n",
        b"+group 11\n",
    ]
    assert left_behind(lines) == [("folder", "/tmp/a b"), ("group", "11")]


def test_a_run_that_is_killed_leaves_nothing() -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.programs.run_to_be_killed"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    with run.stdout:
        folder, _, leader = run.stdout.readline().strip().rpartition(" ")
    server = psutil.Process(int(leader))
    wait_until(server.children)
    crowd = [server, *server.children()]
    assert Path(folder).is_dir()
    run.kill()
    run.wait()
    wait_until(lambda: not any(is_alive(process) for process in crowd), what="the end of the server")
    wait_until(lambda: not Path(folder).exists(), what="the end of its folder")


def is_alive(process: psutil.Process) -> bool:
    """Where nobody waits for orphans, one that has ended stays as a zombie."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
