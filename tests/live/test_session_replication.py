"""The replicated store over real ones that die, hang, forget and come back, in a process like a worker's."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.live.replication_scenarios import FAILED, PASSED
from tests.servers import folder_of, require, require_binary

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parents[2]

SCENARIOS = [
    ("redis_killed_and_restarted_empty", "postgres"),
    ("redis_hangs_and_goes_on", "postgres"),
    ("redis_hangs_and_goes_on", "mysql"),
    ("many_requests_find_redis_hanging_at_once", "postgres"),
    ("redis_restarted_from_an_old_snapshot", "postgres"),
    ("redis_evicts_keys", "mysql"),
    ("the_database_is_killed_beside_redis", "postgres"),
    ("the_database_is_killed_beside_redis", "mysql"),
    ("the_active_database_is_killed", "postgres"),
    ("the_active_database_is_killed", "mysql"),
    ("stores_come_one_after_the_other", "postgres"),
    ("a_database_that_missed_sessions_does_not_deny_them", "mysql"),
    ("slots_stay_unique_over_transitions", "postgres"),
    ("what_is_removed_during_an_outage_stays_removed", "mysql"),
    ("a_sweep_sees_the_newest_copies", "mysql"),
    ("the_database_hangs_beside_redis", "postgres"),
    ("the_database_hangs_beside_redis", "mysql"),
    ("the_database_takes_a_second_for_each_statement", "postgres"),
    ("the_database_takes_a_second_for_each_statement", "mysql"),
    ("everybody_comes_at_once_to_a_fresh_worker", "postgres"),
    ("everybody_comes_at_once_to_a_fresh_worker", "mysql"),
    ("everybody_comes_at_once_to_sqlite", "postgres"),
    ("sqlite_is_locked_by_another_process", "postgres"),
]


class Worker:
    """A process that gevent has patched, with a database of its own, for one scenario after the other."""

    def __init__(self, database: str, folder: Path, database_folder: Path) -> None:
        command = [
            sys.executable,
            "-W",
            "error",
            "-m",
            "tests.programs.replication_worker",
            database,
            str(folder),
            str(database_folder),
        ]
        self._process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT
        )

    def run(self, scenario: str) -> tuple[bool, str]:
        """Whether it passed, and what it printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{scenario}\n")
        self._process.stdin.flush()
        printed: list[str] = []
        for line in self._process.stdout:
            if line.strip() in (PASSED, FAILED):
                return line.strip() == PASSED, "".join(printed)
            printed.append(line)
        return False, "".join(printed)

    def close(self) -> None:
        self._process.communicate()

    @property
    def has_ended(self) -> bool:
        """Whether a scenario hung so long that it was ended."""
        return self._process.poll() is not None


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Worker]]:
    """A function that gives the worker with that database, started when it is first asked for."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(database: str) -> Worker:
            require_binary("redis-server")
            if database == "mysql":
                require_binary("mariadbd")
                require(find_spec("MySQLdb"), "mysqlclient")
            else:
                require_binary("postgres")
            folder = stack.enter_context(folder_of(database))
            worker = Worker(database, tmp_path_factory.mktemp(database), folder)
            stack.callback(worker.close)
            return worker

        def living(database: str) -> Worker:
            if start(database).has_ended:  # its failure is its own
                start.cache_clear()
            return start(database)

        yield living


@pytest.mark.parametrize(("scenario", "database"), SCENARIOS)
def test_no_session_is_lost(workers: Callable[[str], Worker], scenario: str, database: str) -> None:
    passed, printed = workers(database).run(scenario)
    print(printed)
    assert passed, printed
