"""A right that ends with its time is kept while its holder waits for the engine."""

from __future__ import annotations

from typing import Protocol

import gevent
from gevent.event import Event

from hmacfs.errors import SessionStoreUnavailable, Superseded

#: How often it is looked at whether it is to be renewed.
_LOOK_SECONDS = 1.0


class Renewable(Protocol):
    """A lease, or a claim."""

    def check(self) -> None:
        """Renew it if that is due. Raises ``Superseded`` if it is lost, ``SessionStoreUnavailable``."""


class Renewal:
    """Renews a lease or a claim in a greenlet until it is lost, or ``stop`` is called: so the holder's calls of the
    engine have to end (see ``Connection.set_limits``). Whether it is lost the holder asks before each change."""

    def __init__(self, held: Renewable) -> None:
        self._held = held
        self._is_over = Event()
        self._greenlet = gevent.spawn(self._renew)

    def _renew(self) -> None:
        while not self._is_over.wait(_LOOK_SECONDS):
            try:
                self._held.check()
            except Superseded:
                return
            except SessionStoreUnavailable:  # it may be reached again before another one takes the lease
                continue

    def stop(self) -> None:
        """Returns once no call is under way."""
        self._is_over.set()
        self._greenlet.join()
