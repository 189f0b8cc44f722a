"""Shared entries, and leases that are made of them, between processes: one suite for all stores that several can open.

A module that runs it has a subclass of ``ProcessesContract`` and a fixture ``backend``, whose ``words`` say how another
process opens it (``tests.contracts.opening``).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hmacfs.sessions.leases import LeaseLocker, LeaseTimes
from tests.contracts.session_stores import Backend
from tests.servers import reaper

ROOT = Path(__file__).parents[2]
KEY = "k" * 32
RIVALS = 4
ROUNDS = 10
#: Of a lease.
SECONDS = 3.0


class OtherMachine:
    """A process that uses the backend, and reads one command."""

    def __init__(self, words: tuple[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.programs.with_entries", *words, str(SECONDS)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        reaper.watch_group(self.process.pid)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
        reaper.forget_group(self.process.pid)


StartMachine = Callable[[], OtherMachine]


class ProcessesContract:
    """The suite."""

    @pytest.fixture
    def start_machine(self, backend: Backend) -> Iterator[StartMachine]:
        backend.open().ping()
        with ExitStack() as stack:

            def start() -> OtherMachine:
                machine = OtherMachine(backend.words)
                stack.callback(machine.kill)
                return machine

            yield start

    @pytest.fixture
    def locker(self, backend: Backend) -> LeaseLocker:
        return LeaseLocker(backend.open().entries, LeaseTimes(lease=SECONDS))

    def test_of_rivals_in_several_processes_one_makes_it(self, start_machine: StartMachine) -> None:
        machines = [start_machine() for _ in range(RIVALS)]
        assert [machine.line() for machine in machines] == ["ready"] * RIVALS
        for machine in machines:
            machine.tell("race " + " ".join(f"key-{number}" for number in range(ROUNDS)))
        made = [map(int, machine.line().split()) for machine in machines]
        assert list(map(sum, zip(*made, strict=True))) == [1] * ROUNDS

    def test_a_killed_holder_s_lease_is_had_within_its_time(
        self, start_machine: StartMachine, locker: LeaseLocker
    ) -> None:
        machine = start_machine()
        machine.tell(f"hold {KEY}")
        assert [machine.line(), machine.line()] == ["ready", "held"]
        assert locker.acquire(KEY) is None
        machine.kill()
        began = time.monotonic()
        lease = locker.wait(KEY, lambda: True)
        assert time.monotonic() - began < SECONDS + 2
        lease.check()
        assert not lease.is_wanted()
        lease.release()

    def test_a_living_holder_lets_go(self, start_machine: StartMachine, locker: LeaseLocker) -> None:
        machine = start_machine()
        machine.tell(f"hold {KEY}")
        assert [machine.line(), machine.line()] == ["ready", "held"]
        lease = locker.wait(KEY, lambda: True)
        assert machine.line() == "let go"
        lease.release()

    def test_a_living_holder_keeps_it_beyond_its_first_time(
        self, start_machine: StartMachine, locker: LeaseLocker
    ) -> None:
        machine = start_machine()
        machine.tell(f"hold {KEY}")
        assert [machine.line(), machine.line()] == ["ready", "held"]
        ends = time.monotonic() + 1.5 * SECONDS
        while time.monotonic() < ends:
            assert locker.acquire(KEY) is None
            time.sleep(0.05)
