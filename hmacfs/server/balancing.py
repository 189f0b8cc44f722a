"""Spreading connections evenly over the workers.

All workers wait at the same listeners, and the kernel wakes any of them: left alone, it was not rare that one of two
had three of sixteen uploads and the other thirteen, while a processor stood idle. So a worker that has more
connections than another pauses before it accepts. An idle connection counts as much as an upload.
"""

from __future__ import annotations

import contextlib
import mmap
import secrets
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import gevent
from gevent.server import StreamServer

from hmacfs.protocol.http1.responses import refusal
from hmacfs.server.peer_limits import PeerBound
from hmacfs.server.worker_slots import WorkerSlots

#: A worker may have so many connections more than the one with the fewest, and a share of those besides.
SLACK = 2
SLACK_SHARE = 8
#: How long a worker that has more leaves a pending connection to the others.
PAUSE_SECONDS = 0.001
#: After this many pauses in which no worker accepted, assume that the others are stuck and accept everything for
#: ``ALONE_SECONDS``.
PAUSES_LIMIT = 5
ALONE_SECONDS = 0.1
#: How much of a request is discarded on a connection that is closed at once.
_DISCARD_BYTES = 64 * 1024


class ConnectionCounts:
    """How many connections each worker has, in memory that they share. Made before any worker is forked."""

    def __init__(self, slots: WorkerSlots) -> None:
        self._slots = slots
        numbers = memoryview(mmap.mmap(-1, 8 * (slots.COUNT + 1))).cast("q")
        #: By slot, one more than there are connections; 0 for a worker that accepts none.
        self._counts, self._accepted = numbers[:-1], numbers[-1:]

    def publish(self, slot: int, connections: int) -> None:
        self._counts[slot] = connections + 1

    def clear(self, slot: int) -> None:
        """The slot's worker accepts no more connections, or has ended."""
        self._counts[slot] = 0

    def fewest(self) -> int:
        """How many the worker with the fewest has, of all that accept connections; 0 if none does."""
        counts = self._counts
        return min((counts[slot] for slot in self._slots.in_use() if counts[slot]), default=1) - 1

    def note_accepted(self) -> None:
        """Some worker accepted a connection."""
        self._accepted[0] += 1  # two at once may count as one

    @property
    def accepted(self) -> int:
        """A number that differs after each connection that any worker accepted."""
        return self._accepted[0]


class WorkerCount:
    """One worker's number of connections, which the others see from ``begin`` to ``end`` if it has a slot."""

    def __init__(self, counts: ConnectionCounts, slot: int | None) -> None:
        self._all = counts
        self._slot = slot
        self._connections = 0
        self._is_published = False

    def begin(self) -> None:
        self._is_published = True
        self._change(0)

    def end(self) -> None:
        self._is_published = False
        if self._slot is not None:
            self._all.clear(self._slot)

    @property
    def is_ahead(self) -> bool:
        """Whether another worker should accept the next connection."""
        fewest = self._all.fewest()
        return self._connections > fewest + SLACK + fewest // SLACK_SHARE

    @property
    def accepted(self) -> int:
        """See ``ConnectionCounts.accepted``."""
        return self._all.accepted

    def accept(self) -> None:
        """This worker accepted a connection."""
        self._all.note_accepted()
        self._change(1)

    def close(self) -> None:
        """One of its connections has ended."""
        self._change(-1)

    def _change(self, by: int) -> None:
        self._connections += by
        if self._is_published and self._slot is not None:
            self._all.publish(self._slot, self._connections)


class BalancedServer(StreamServer):
    """gevent's server, which leaves connections to workers that have fewer, and turns peers away that have too many.

    says_why: whether those are told so, in HTTP; not over TLS, whose handshake has not begun. delay: asked before each
    connection for how many seconds it has to wait in the backlog.
    """

    def __init__(
        self,
        listener: Any,
        count: WorkerCount,
        *,
        peers: PeerBound | None = None,
        says_why: bool = True,
        delay: Callable[[], float] = lambda: 0.0,
        **options: Any,
    ) -> None:
        super().__init__(listener, **options)
        self._count = count
        self._peers = peers
        self._says_why = says_why
        self._delay = delay
        self._pauses = 0
        self._accepted = 0
        self._alone_until = 0.0

    def do_read(self) -> Any:
        """The next connection; ``None`` if there is none or another worker should accept it."""
        if (seconds := self._delay()) or self._must_pause():
            self.stop_accepting()
            gevent.spawn_later(seconds or PAUSE_SECONDS, self._resume)
            return None
        accepted = super().do_read()
        return accepted if accepted and self._admits(*accepted) else None

    def _must_pause(self) -> bool:
        if not self._count.is_ahead or time.monotonic() < self._alone_until:
            return False
        if self._accepted != self._count.accepted:  # a worker used the pause
            self._accepted, self._pauses = self._count.accepted, 0
        if self._pauses == PAUSES_LIMIT:
            self._pauses = 0
            self._alone_until = time.monotonic() + ALONE_SECONDS
            return False
        self._pauses += 1
        return True

    def _admits(self, sock: Any, address: Any) -> bool:
        if self._peers is not None and not self._peers.admit(address):
            _turn_away(sock, says_why=self._says_why)
            return False
        self._count.accept()
        return True

    def _resume(self) -> None:
        if self.started:
            self.start_accepting()

    def do_close(self, *accepted: Any) -> None:
        """gevent calls it once for each connection that was admitted, however it ended."""
        super().do_close(*accepted)
        self._count.close()
        if self._peers is not None:
            self._peers.leave(accepted[1])

    @property
    def running(self) -> list[gevent.Greenlet[..., Any]]:
        """The greenlets that serve its connections, or will begin to in a moment."""
        return list(self.pool or ())

    def accept_pending(self) -> None:
        """Accept the connections in the listen backlog. Their clients may have sent requests, and when the last worker
        closes the listener, the kernel resets the connections left in it."""
        with contextlib.suppress(OSError):  # no descriptors left, or the first of them is gone again
            while not self.full() and (accepted := super().do_read()):
                if self._admits(*accepted):
                    self.do_handle(*accepted)


def _turn_away(sock: Any, *, says_why: bool) -> None:
    """Close a connection that is one too many, without waiting. A request that has arrived already is discarded: a
    close with unread data is a reset, which may overtake the response."""
    raw = getattr(sock, "_sock", sock)
    with contextlib.suppress(OSError):
        if says_why:
            raw.send(
                refusal(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    "Your address has too many connections open.",
                    secrets.token_hex(8),
                    time.time(),
                    ("Retry-After", "5"),
                )
            )
        raw.recv(_DISCARD_BYTES, getattr(socket, "MSG_TRUNC", 0))
    sock.close()
