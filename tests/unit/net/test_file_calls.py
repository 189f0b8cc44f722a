"""Slow and failing disks."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from hmacfs.retry import Retry
from hmacfs.system.threads import (
    SLOW_CALL_SECONDS,
    SLOW_FOR_SECONDS,
    FileCalls,
    ProcessorWait,
    ThreadOffload,
    seconds_waited_for_processor,
)


def test_a_slow_disk_is_noticed_and_forgotten() -> None:
    now = [0.0]
    disk = FileCalls(ThreadOffload(1), clock=lambda: now[0], processor_wait=lambda: 0.0)

    def slow_after(seconds: float) -> bool:
        def call() -> str:
            now[0] += seconds
            return "done"

        assert disk(call) == "done"
        return disk.is_slow

    assert slow_after(SLOW_CALL_SECONDS / 2) is False
    assert slow_after(SLOW_CALL_SECONDS * 2) is False
    assert slow_after(SLOW_CALL_SECONDS / 2) is False
    assert slow_after(SLOW_CALL_SECONDS * 2) is True
    assert slow_after(SLOW_FOR_SECONDS + 1) is True
    now[0] += SLOW_FOR_SECONDS + 1
    assert slow_after(0) is False


def test_busy_processors_do_not_make_a_disk_slow() -> None:
    now, waited = [0.0], [0.0]
    disk = FileCalls(ThreadOffload(1), clock=lambda: now[0], processor_wait=lambda: waited[0])

    def wait_for_processor() -> None:
        now[0] += SLOW_CALL_SECONDS * 2
        waited[0] += SLOW_CALL_SECONDS * 1.5

    for _ in range(5):
        disk(wait_for_processor)
        assert not disk.is_slow


def test_a_doubt_passes() -> None:
    now = [0.0]
    disk = FileCalls(ThreadOffload(1), clock=lambda: now[0], processor_wait=lambda: 0.0)

    def slow() -> None:
        now[0] += SLOW_CALL_SECONDS * 2

    for _ in range(3):
        disk(slow)
        assert not disk.is_slow
        now[0] += SLOW_FOR_SECONDS + 1


def test_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr(time, "sleep", rests.append)
    failures = [OSError(errno.ESTALE, "stale"), OSError(errno.EMFILE, "many")]

    def operation() -> str:
        if failures:
            raise failures.pop()
        return "done"

    assert Retry(5, 2.0)(operation) == "done"
    assert rests == [2.0, 2.0]
    failures.extend([OSError(errno.EIO, "broken"), OSError(errno.EAGAIN, "again")])
    with pytest.raises(OSError, match="broken"):
        Retry(5, 2.0)(operation)
    failures.extend(OSError(errno.EAGAIN, "again") for _ in range(3))
    with pytest.raises(OSError, match="again"):
        Retry(2, 0.0)(operation)


def schedstat_fds() -> list[int]:
    """The descriptors that tell how long some thread waited."""
    found = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").endswith("/schedstat"):
                found.append(fd)
        except FileNotFoundError:  # that of the list itself
            continue
    return found


def test_each_thread_reads_its_own_wait_from_one_descriptor_until_it_ends() -> None:
    wait, before = ProcessorWait(), len(schedstat_fds())
    assert 0 <= wait() <= wait()
    assert len(schedstat_fds()) == before + 1
    of_thread: list[str] = []

    def read() -> None:
        wait()
        wait()
        mine = [os.readlink(f"/proc/self/fd/{fd}") for fd in schedstat_fds()]
        of_thread.extend(link for link in mine if f"/task/{threading.get_native_id()}/" in link)
        assert len(mine) == before + 2

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert len(of_thread) == 1
    assert len(schedstat_fds()) == before + 1
    wait.forget()
    assert len(schedstat_fds()) == before


def test_a_child_does_not_read_the_wait_of_its_parent() -> None:
    seconds_waited_for_processor()
    child = os.fork()
    if child == 0:
        seconds_waited_for_processor()
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in schedstat_fds()]
        os._exit(0 if [link for link in links if f"/{os.getpid()}/" in link] == links != [] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_wait_that_cannot_be_read_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(errno.ESRCH, "no such process")

    monkeypatch.setattr(os, "pread", refuse)
    assert ProcessorWait()() == 0.0
