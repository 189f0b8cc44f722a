"""Spreading connections evenly over the workers.

All workers wait at the same listeners, and the kernel does not care who of them takes a connection: left alone, it was
not rare that one of two had three of sixteen uploads and the other thirteen, while a processor stood idle. So a worker
that has more connections than another gives way for a moment. An idle connection counts as much as an upload.
"""

from __future__ import annotations

import contextlib
import mmap
import secrets
import socket
import time
from typing import Any

import gevent
from gevent.server import StreamServer

from hmacfs.server.peer_limits import PeerBound

#: How far ahead of the one with the fewest connections a worker may be: so many, and a share of those.
SLACK = 2
SLACK_SHARE = 8
#: How long a worker that is ahead leaves a connection to the others.
GIVE_WAY_SECONDS = 0.001
#: How often in vain. Then the others are stuck, and it takes what comes for so long.
GIVE_WAY_TIMES = 5
ALONE_SECONDS = 0.1
#: Of a request on a connection that is closed at once.
_THROWN_AWAY = 64 * 1024


class ConnectionCounts:
    """How many connections each worker has, in memory that they share. Workers are known by their age."""

    #: If two workers whose ages are so far apart live at once, one of them does not count.
    PLACES = 256

    def __init__(self) -> None:
        numbers = memoryview(mmap.mmap(-1, 8 * (2 * self.PLACES + 1))).cast("q")
        self._ages, self._counts = numbers[: self.PLACES], numbers[self.PLACES : -1]
        self._accepted = numbers[-1:]

    def publish(self, age: int, connections: int) -> None:
        place = age % self.PLACES
        self._ages[place], self._counts[place] = age, connections + 1

    def withdraw(self, age: int) -> None:
        """That worker takes no more connections, or has ended."""
        place = age % self.PLACES
        if self._ages[place] == age:
            self._counts[place] = 0

    def fewest(self) -> int:
        """Of all workers that take connections."""
        return min((count for count in self._counts if count), default=1) - 1

    def note_accepted(self) -> None:
        """Some worker took a connection."""
        self._accepted[0] += 1  # two at once may count as one

    @property
    def accepted(self) -> int:
        """Another number after each connection that any worker took."""
        return self._accepted[0]


class WorkerCount:
    """One worker's part of the load. It counts from ``begin`` to ``end``."""

    def __init__(self, connection_counts: ConnectionCounts, age: int) -> None:
        self._loads = connection_counts
        self._age = age
        self._connections = 0
        self._takes_part = False

    def begin(self) -> None:
        self._takes_part = True
        self._loads.publish(self._age, self._connections)

    def end(self) -> None:
        self._takes_part = False
        self._loads.withdraw(self._age)

    @property
    def is_ahead(self) -> bool:
        """Whether another worker should take the next connection."""
        fewest = self._loads.fewest()
        return self._connections > fewest + SLACK + fewest // SLACK_SHARE

    @property
    def accepted(self) -> int:
        """See ``ConnectionCounts.accepted``."""
        return self._loads.accepted

    def accept(self) -> None:
        """This worker took a connection."""
        self._loads.note_accepted()
        self._change(1)

    def close(self) -> None:
        """One of them has ended."""
        self._change(-1)

    def _change(self, by: int) -> None:
        self._connections += by
        if self._takes_part:
            self._loads.publish(self._age, self._connections)


class BalancedServer(StreamServer):
    """gevent's server, which gives way to the other workers, and turns peers away that have too many connections.

    says_why: whether those are told so, in HTTP; not over TLS, which they have not begun.
    """

    def __init__(
        self,
        listener: Any,
        share: WorkerCount,
        *,
        peers: PeerBound | None = None,
        says_why: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(listener, **options)
        self._share = share
        self._peers = peers
        self._says_why = says_why
        self._rests = 0
        self._accepted = 0
        self._alone_until = 0.0

    def do_read(self) -> Any:
        """The next connection, ``None`` if there is none or another worker should take it."""
        if self._gives_way():
            self.stop_accepting()
            gevent.spawn_later(GIVE_WAY_SECONDS, self._go_on)
            return None
        accepted = super().do_read()
        return accepted if accepted and self._admits(*accepted) else None

    def _gives_way(self) -> bool:
        if not self._share.is_ahead or time.monotonic() < self._alone_until:
            return False
        if self._accepted != self._share.accepted:  # the last rest was not in vain
            self._accepted, self._rests = self._share.accepted, 0
        if self._rests == GIVE_WAY_TIMES:
            self._rests = 0
            self._alone_until = time.monotonic() + ALONE_SECONDS
            return False
        self._rests += 1
        return True

    def _admits(self, sock: Any, address: Any) -> bool:
        if self._peers is not None and not self._peers.admit(address):
            _turn_away(sock, says_why=self._says_why)
            return False
        self._share.accept()
        return True

    def _go_on(self) -> None:
        if self.started:
            self.start_accepting()

    def do_close(self, *accepted: Any) -> None:
        """gevent calls it once for each connection, whatever becomes of it."""
        super().do_close(*accepted)
        self._share.close()
        if self._peers is not None:
            self._peers.leave(accepted[1])

    def take_what_waits(self) -> None:
        """Take the connections that the kernel has made already. Their clients may have sent requests; when the last
        worker closes the listener, the kernel resets those that nobody took."""
        with contextlib.suppress(OSError):  # no descriptors left, or the first of them is gone again
            while not self.full() and (accepted := super().do_read()):
                if self._admits(*accepted):
                    self.do_handle(*accepted)


def _turn_away(sock: Any, *, says_why: bool) -> None:
    """Close a connection that is not to be. Nothing is waited for: a request that is here already is thrown away, since
    a close with unread data is a reset, which may overtake the answer."""
    raw = getattr(sock, "_sock", sock)
    text = "Your address has too many connections open."
    with contextlib.suppress(OSError):
        if says_why:
            raw.send(
                (
                    "HTTP/1.1 429 Too Many Requests\r\nServer: hmacfs\r\nConnection: close\r\nRetry-After: 5\r\n"
                    f"X-Request-ID: {secrets.token_hex(8)}\r\nContent-Type: text/plain; charset=utf-8\r\n"
                    f"Content-Length: {len(text) + 1}\r\n\r\n{text}\n"
                ).encode()
            )
        raw.recv(_THROWN_AWAY, getattr(socket, "MSG_TRUNC", 0))
    sock.close()
