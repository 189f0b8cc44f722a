"""Spreading connections evenly over the workers.

All workers wait at the same listeners, and the kernel does not care who of them takes a connection: left alone, it was
not rare that one of two had three of sixteen uploads and the other thirteen, while a processor stood idle. So a worker
that has more connections than another gives way for a moment.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import gevent
from gevent.server import StreamServer

#: How far ahead of the one with the fewest connections a worker may be: so many, and a share of those.
SLACK = 2
SLACK_SHARE = 8
#: How long a worker that is ahead leaves a connection to the others.
GIVE_WAY_SECONDS = 0.001
#: How often in a row. Then it takes the next one: the others may be stuck.
GIVE_WAY_TIMES = 5


class Loads:
    """How many connections each worker has, in memory that they share. Workers are known by their age."""

    #: More workers than that share places: the figures are less exact then.
    PLACES = 256

    def __init__(self) -> None:
        self._numbers = memoryview(mmap.mmap(-1, 4 * self.PLACES)).cast("I")

    def publish(self, age: int, connections: int) -> None:
        self._numbers[age % self.PLACES] = connections + 1

    def withdraw(self, age: int) -> None:
        """That worker takes no more connections, or has ended."""
        self._numbers[age % self.PLACES] = 0

    def fewest(self) -> int:
        """Of all workers that take connections."""
        return min((number for number in self._numbers if number), default=1) - 1


class Share:
    """One worker's part of the load."""

    def __init__(self, loads: Loads, age: int) -> None:
        self._loads = loads
        self._age = age
        self._connections = 0
        self._is_over = False
        loads.publish(age, 0)

    @property
    def is_ahead(self) -> bool:
        """Whether another worker should take the next connection."""
        fewest = self._loads.fewest()
        return self._connections > fewest + SLACK + fewest // SLACK_SHARE

    def add(self, change: int) -> None:
        self._connections += change
        if not self._is_over:
            self._loads.publish(self._age, self._connections)

    def end(self) -> None:
        """This worker takes no more connections."""
        self._is_over = True
        self._loads.withdraw(self._age)


class FairServer(StreamServer):
    """gevent's server, which gives way to the other workers. ``handle`` tells ``share`` when a connection has ended."""

    def __init__(self, listener: Any, share: Share, **options: Any) -> None:
        super().__init__(listener, **options)
        self._share = share
        self._gave_way = 0

    def do_read(self) -> Any:
        """The next connection, ``None`` if there is none or another worker should take it."""
        if self._gave_way < GIVE_WAY_TIMES and self._share.is_ahead:
            self._gave_way += 1
            self.stop_accepting()
            gevent.spawn_later(GIVE_WAY_SECONDS, self._go_on)
            return None
        accepted = super().do_read()
        if accepted:
            self._gave_way = 0
            self._share.add(1)
        return accepted

    def _go_on(self) -> None:
        if self.started:
            self.start_accepting()

    def take_what_waits(self) -> None:
        """Take the connections that the kernel has made already. Their clients may have sent requests; when the last
        worker closes the listener, the kernel resets those that nobody took."""
        with contextlib.suppress(OSError):  # no descriptors left, or the first of them is gone again
            while not self.full() and (accepted := super().do_read()):
                self._share.add(1)
                self.do_handle(*accepted)
