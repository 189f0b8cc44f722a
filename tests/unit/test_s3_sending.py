"""Parts on their way to the engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from hmacfs.errors import StoreUnavailable, TooLarge
from hmacfs.stores.s3.bucket import FileSection
from hmacfs.stores.s3.sending import PARTS_LIMIT, PartSender
from hmacfs.stores.s3.spool import Spool
from hmacfs.system.threads import FileCalls, ThreadOffload


class Engine:
    """Takes parts; each waits until its number is let through."""

    def __init__(self) -> None:
        self.parts: dict[int, bytes] = {}
        self.waiting: set[int] = set()
        self.failing: set[int] = set()
        self.most = 0
        self._events: dict[int, Event] = {}

    def put(self, number: int, section: FileSection) -> None:
        self.waiting.add(number)
        self.most = max(self.most, len(self.waiting))
        try:
            self._event(number).wait()
        finally:
            self.waiting.discard(number)
        if number in self.failing:
            raise StoreUnavailable
        with open(section.fd, "rb", closefd=False, buffering=0) as file:
            file.seek(section.offset)
            self.parts[number] = file.read(section.length)
            file.seek(section.offset + section.length)

    def let(self, *numbers: int) -> None:
        for number in numbers:
            self._event(number).set()

    def _event(self, number: int) -> Event:
        return self._events.setdefault(number, Event())


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, FileCalls(ThreadOffload(1)))


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def sender(spool: Spool, engine: Engine) -> Iterator[PartSender]:
    made = PartSender(spool, engine.put)
    yield made
    made.close()
    assert spool.used == 0
    assert engine.waiting == set()


def send(sender: PartSender, data: bytes) -> None:
    sender.current.write(memoryview(data))
    sender.send()


def part(number: int) -> bytes:
    return bytes([number]) * (10 + number)


def test_one_is_sent_while_the_next_one_fills(sender: PartSender, engine: Engine) -> None:
    def send_all() -> None:
        for number in range(1, 5):
            send(sender, part(number))

    sending = gevent.spawn(send_all)
    gevent.idle()
    assert engine.waiting == {1}
    engine.let(1)
    gevent.idle()
    assert engine.waiting == {2}
    engine.let(2, 3, 4)
    sending.get(timeout=5)
    sender.wait()
    assert engine.parts == {number: part(number) for number in range(1, 5)}
    assert engine.most == 1


def test_a_file_that_is_used_again_has_nothing_of_what_was_in_it(
    sender: PartSender, engine: Engine, spool: Spool
) -> None:
    engine.let(*range(1, 6))
    parts = [b"a" * 5000, b"b" * 4000, b"c" * 3, b"d" * 4096, b""]
    for data in parts:
        send(sender, data)
        assert spool.used <= 9000
    sender.wait()
    assert list(engine.parts.values()) == parts
    assert spool.used == 0


def test_what_a_reservation_shrinks_by_is_taken_up(spool: Spool, engine: Engine) -> None:
    """Also where each part is sent before the next one begins: the files could do with less space until then."""
    files: dict[int, int] = {}
    sender, received = PartSender(spool, engine.put), 0
    engine.let(*range(1, 6))
    for _ in range(5):
        sender.current.write(memoryview(bytes(1000)))
        received += 1000
        fd = sender.current.fd
        files[os.fstat(fd).st_ino] = fd
        sender.send()
        gevent.idle()
        assert sum(os.fstat(fd).st_size for fd in files.values()) == min(received, 2000)
    sender.close()


def test_what_one_fails_at_the_next_step_raises(sender: PartSender, engine: Engine) -> None:
    engine.failing.add(1)
    engine.let(1)
    send(sender, part(1))
    with pytest.raises(StoreUnavailable):
        send(sender, part(2))
    assert sender.number == 2
    assert engine.parts == {}


def test_who_waits_can_be_killed(sender: PartSender, engine: Engine, spool: Spool) -> None:
    send(sender, part(1))
    waiting = gevent.spawn(sender.wait)
    gevent.idle()
    waiting.kill()
    assert engine.waiting == set()
    sender.close()
    assert spool.used == 0


def test_there_are_no_more_parts_than_the_engine_takes(spool: Spool, engine: Engine) -> None:
    sender = PartSender(spool, engine.put, number=PARTS_LIMIT)
    engine.let(PARTS_LIMIT)
    send(sender, b"last")
    with pytest.raises(TooLarge):
        send(sender, b"one more")
    sender.close()
    assert list(engine.parts) == [PARTS_LIMIT]
