"""The guard over free space, alone and with other processes."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from hmacfs.addresses import NetworkShares
from hmacfs.admission.shares import ClientShares
from hmacfs.admission.space import FRESH_SECONDS, PLENTY_BYTES, STEP_BYTES, SpaceGuard
from hmacfs.errors import NoSpace, TooMuchReserved
from hmacfs.system import processes
from hmacfs.system.shared_rows import SharedRows
from hmacfs.system.shared_sums import SLOT, SLOTS, SharedSums
from tests.programs import program

OTHER = program("announce_sum.py")


@dataclasses.dataclass
class Body:
    received: int = 0
    client: str = ""
    is_here: bool = False


@dataclasses.dataclass
class FileSystem:
    free: int | None
    measured: int = 0
    now: float = 0.0

    def free_bytes(self) -> int | None:
        self.measured += 1
        return self.free

    def guard(self, folder: Path, least: int = 0) -> SpaceGuard:
        return SpaceGuard(self.free_bytes, lambda: least, SharedSums(folder / "sums"), lambda: self.now)


def other(folder: Path, number: int) -> subprocess.Popen[str]:
    """Another process that announces a number, until its input ends."""
    process = subprocess.Popen(
        [sys.executable, OTHER, str(folder / "sums"), str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "announced\n"
    return process


def test_what_is_reserved_is_not_there_for_others(tmp_path: Path) -> None:
    guard = FileSystem(free=1000).guard(tmp_path, least=100)
    with guard.reserve(600):
        assert guard.uploads == 1
        with pytest.raises(NoSpace), guard.reserve(301):
            pass
        with guard.reserve(300):
            assert guard.uploads == 2
    assert guard.uploads == 0
    with guard.reserve(900):
        pass
    with pytest.raises(NoSpace), guard.reserve(901):
        pass


def test_bytes_that_arrived_are_the_file_systems_and_no_longer_reserved(tmp_path: Path) -> None:
    disk, body = FileSystem(free=1000), Body()
    guard = disk.guard(tmp_path)
    with guard.reserve(800, body):
        body.received, disk.free = 700, 300
        with guard.reserve(200):
            pass
        with pytest.raises(NoSpace), guard.reserve(201):
            pass


def test_space_for_a_body_of_unknown_length_is_reserved_as_it_arrives(tmp_path: Path) -> None:
    disk, body = FileSystem(free=10 * STEP_BYTES), Body()
    guard = disk.guard(tmp_path)
    with guard.reserve(None, body) as first:
        with guard.reserve(10 * STEP_BYTES):  # none is reserved for what has not come
            pass
        body.received = 100
        assert first.cover(100, 0) == STEP_BYTES + 100
        disk.free = 10 * STEP_BYTES - 100
        with pytest.raises(NoSpace), guard.reserve(9 * STEP_BYTES - 99):
            pass
        with guard.reserve(9 * STEP_BYTES - 100):
            body.received = STEP_BYTES
            assert first.cover(STEP_BYTES, 100) == STEP_BYTES + 100
            disk.free = 9 * STEP_BYTES
            body.received = STEP_BYTES + 101
            with pytest.raises(NoSpace):  # 100 bytes that were reserved and one more, none of them written
                first.cover(STEP_BYTES + 101, STEP_BYTES)


def test_bodies_of_unknown_length_share_what_is_left(tmp_path: Path) -> None:
    guard = FileSystem(free=3 * STEP_BYTES).guard(tmp_path)
    with ExitStack() as stack:
        reserved = [stack.enter_context(guard.reserve(None, Body())) for _ in range(8)]
        assert sum(one.cover(1, 0) for one in reserved[:3]) == 3 * STEP_BYTES
        for one in reserved[3:]:
            with pytest.raises(NoSpace):
                one.cover(1, 0)


def shared_guard(folder: Path, disk: FileSystem, share: Callable[[int], int]) -> SpaceGuard:
    """Of which clients of a network "a/b" may have as many bytes as ``share`` says, and all of "a" twice as many."""

    def networks(client: str) -> NetworkShares:
        return ((client, 1), (client.partition("/")[0], 2)) if client else ()

    shares = ClientShares(SharedRows(folder / "rows", places=64), networks, share)
    return SpaceGuard(disk.free_bytes, lambda: 100, SharedSums(folder / "sums"), lambda: disk.now, shares)


def test_a_client_has_its_share_of_what_may_be_used(tmp_path: Path) -> None:
    guard = shared_guard(tmp_path, FileSystem(free=1100), lambda free: free // 2)
    with guard.reserve(500, Body(client="a/1")):
        for too_much in (Body(client="a/1"), Body(client="a/1", received=1)):
            with pytest.raises(TooMuchReserved), guard.reserve(1, too_much):
                pass
        for other in (Body(client="a/1", is_here=True), Body(client=""), Body(client="b/1"), Body(client="a/2")):
            with guard.reserve(500, other):
                pass
    with pytest.raises(TooMuchReserved), guard.reserve(501, Body(client="a/1")):
        pass
    with pytest.raises(NoSpace), guard.reserve(1001, Body(client="a/1")):
        pass
    with guard.reserve(500, Body(client="a/1")):
        pass


def test_where_little_is_reserved_it_is_counted_all_the_same(tmp_path: Path) -> None:
    def counted() -> list[int]:
        with rows:
            return [found.number for found in rows.find(b"\0reserved by a/1")]

    rows = SharedRows(tmp_path / "rows", places=64)
    shares = ClientShares(rows, lambda client: ((client, 1),), lambda free: 64_000)
    disk = FileSystem(free=3 * PLENTY_BYTES)
    guard = SpaceGuard(disk.free_bytes, lambda: 0, SharedSums(tmp_path / "sums"), lambda: disk.now, shares)
    with guard.reserve(400, Body(client="a/1")):
        body = Body(client="a/1")
        with guard.reserve(300, body):
            assert counted() == [700]
            body.received = 100
            shares.publish()
            assert counted() == [600]
            with guard.reserve(63_400, Body(client="a/1")):
                assert counted() == [64_000]
            with pytest.raises(TooMuchReserved), guard.reserve(63_401, Body(client="a/1")):
                pass
        assert counted() == [400]
    assert counted() == [0]
    shares.publish()
    assert counted() == []


def test_a_wide_network_has_some_shares(tmp_path: Path) -> None:
    guard = shared_guard(tmp_path, FileSystem(free=10**6), lambda free: 50)
    with ExitStack() as stack:
        for client in ("a/1", "a/2", "b/1", "c/1"):
            stack.enter_context(guard.reserve(50, Body(client=client)))
        with pytest.raises(TooMuchReserved), guard.reserve(1, Body(client="a/3")):
            pass
    with guard.reserve(50, Body(client="a/3")):
        pass


def test_what_has_arrived_is_no_longer_a_part_of_the_share(tmp_path: Path) -> None:
    guard = shared_guard(tmp_path, FileSystem(free=10**6), lambda free: 100)
    first, second = Body(client="a/1"), Body(client="a/1")
    with guard.reserve(100, first):
        first.received = 60
        with guard.reserve(40, second):
            second.received = 10
            with pytest.raises(TooMuchReserved), guard.reserve(31, Body(client="a/1")):
                pass
            with guard.reserve(30, Body(client="a/1")):
                pass
    with guard.reserve(100, Body(client="a/1")):
        pass


def test_bodies_of_unknown_length_are_held_to_the_share(tmp_path: Path) -> None:
    guard = shared_guard(tmp_path, FileSystem(free=3 * PLENTY_BYTES), lambda free: STEP_BYTES + 10)
    with guard.reserve(None, Body(client="a/1", received=5)) as first:
        assert first.cover(5, 0) == STEP_BYTES + 5
        with guard.reserve(None, Body(client="a/1", received=5)) as second:
            assert second.cover(5, 0) == 5
            assert second.cover(6, 5) == 15
            with pytest.raises(TooMuchReserved):
                second.cover(21, 15)
            with guard.reserve(None, Body(client="b/1", received=5)) as other:
                assert other.cover(5, 0) == STEP_BYTES + 5


def test_with_plenty_of_space_it_is_measured_now_and_then_only(tmp_path: Path) -> None:
    disk = FileSystem(free=3 * PLENTY_BYTES)
    guard = disk.guard(tmp_path)
    for _ in range(100):
        with guard.reserve(10):
            pass
    assert disk.measured == 1
    disk.now += FRESH_SECONDS * 1.1
    with guard.reserve(10):
        pass
    assert disk.measured == 2
    with guard.reserve(2 * PLENTY_BYTES + 1):
        pass
    assert disk.measured == 3


def test_bodies_that_are_here_are_counted_and_reserve_nothing_where_there_is_plenty(tmp_path: Path) -> None:
    disk = FileSystem(free=3 * PLENTY_BYTES)
    guard = disk.guard(tmp_path)
    with guard.reserve(10):
        pass
    with guard.reserve(100, Body(is_here=True)), guard.reserve(100, Body(is_here=True)):
        assert guard.uploads == 2
        with guard.reserve(3 * PLENTY_BYTES):
            assert guard.uploads == 3
    assert guard.uploads == 0
    disk.free, disk.now = 1000, disk.now + 2 * FRESH_SECONDS
    with guard.reserve(600, Body(is_here=True)), pytest.raises(NoSpace), guard.reserve(401, Body(is_here=True)):
        pass
    assert guard.uploads == 0


def test_other_processes_count_while_they_live(tmp_path: Path) -> None:
    guard = FileSystem(free=1000).guard(tmp_path)
    process = other(tmp_path, 800)
    with guard.reserve(200):
        pass
    with pytest.raises(NoSpace), guard.reserve(201):
        pass
    process.kill()
    process.wait()
    with guard.reserve(1000):
        pass
    process.communicate()


def test_slots_of_dead_processes_are_taken_again(tmp_path: Path) -> None:
    for _ in range(3):
        process = other(tmp_path, 5)
        process.communicate()
    sums = SharedSums(tmp_path / "sums")
    slots = SharedSums.file_of(tmp_path / "sums").read_bytes()[-SLOTS * SLOT.size :]
    assert len([process for process, *_ in SLOT.iter_unpack(slots) if process]) == 1
    assert sums.of_others() == 0


def test_a_process_that_got_the_number_of_a_dead_one_is_not_taken_for_it(tmp_path: Path) -> None:
    mine = SharedSums(tmp_path / "sums")
    process = other(tmp_path, 800)
    assert mine.of_others() == 800
    with SharedSums.file_of(tmp_path / "sums").open("r+b") as file:
        file.seek((1 - SLOTS) * SLOT.size + 8, os.SEEK_END)  # the second slot: when its process started
        file.write((1).to_bytes(8, sys.byteorder))
    assert mine.of_others() == 0
    process.communicate()


def test_a_file_of_another_size_is_put_right(tmp_path: Path) -> None:
    SharedSums.file_of(tmp_path / "sums").write_bytes(os.urandom(3))
    sums = SharedSums(tmp_path / "sums")
    sums.announce(7)
    process = other(tmp_path, 5)
    assert sums.of_others() == 5
    process.communicate()


def test_a_removed_table_is_made_again_with_the_numbers_of_those_that_look(tmp_path: Path) -> None:
    mine = SharedSums(tmp_path / "sums")
    mine.announce(7)
    SharedSums.file_of(tmp_path / "sums").unlink()
    mine.repair()
    process = other(tmp_path, 5)
    assert mine.of_others() == 5
    slots = SharedSums.file_of(tmp_path / "sums").read_bytes()[-SLOTS * SLOT.size :]
    assert [number for *_, number in SLOT.iter_unpack(slots) if number] == [7, 5]
    process.communicate()


def test_servers_of_another_layout_have_a_table_of_their_own(tmp_path: Path) -> None:
    """An update may begin while the older server still runs."""

    class Newer(SharedSums):
        VERSION = SharedSums.VERSION + 1

    sums, newer = SharedSums(tmp_path / "sums"), Newer(tmp_path / "sums")
    for table in (sums, newer):
        table.announce(5)
        table.repair()
    process = other(tmp_path, 800)
    assert (sums.of_others(), newer.of_others()) == (800, 0)
    process.communicate()


def test_in_a_full_table_a_number_has_no_slot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SharedSums(tmp_path / "sums")
    parent = processes.Process(os.getppid(), 0)
    with SharedSums.file_of(tmp_path / "sums").open("r+b") as file:
        file.seek(-SLOTS * SLOT.size, os.SEEK_END)
        file.write(SLOT.pack(*parent, 1) * SLOTS)
    full = SharedSums(tmp_path / "sums")
    assert "is full" in caplog.text
    full.announce(7)
    assert full.of_others() == SLOTS


def test_what_is_said_of_free_space(tmp_path: Path) -> None:
    words = FileSystem(free=5).guard(tmp_path, least=7).describe()
    assert words == "5 bytes are free, 7 must stay free (MinFreeSpace)"
    with pytest.raises(NoSpace, match=f"^{re.escape(words)}: uploads are refused.$"):
        FileSystem(free=5).guard(tmp_path, least=7).check()


def test_a_file_system_that_does_not_tell_its_size_has_no_number_to_say(tmp_path: Path) -> None:
    guard = FileSystem(free=None).guard(tmp_path, least=7)
    guard.check()
    assert "None" not in guard.describe()
    assert "does not tell" in guard.describe()
