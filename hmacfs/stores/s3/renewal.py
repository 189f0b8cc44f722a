"""A lease that is kept while its holder waits for the engine."""

from __future__ import annotations

import gevent
from gevent.event import Event

from hmacfs.errors import SessionStoreUnavailable, Superseded
from hmacfs.uploads.contracts.locks import Lease

#: How often it is looked at whether the lease is to be renewed.
_LOOK_SECONDS = 1.0


class Renewal:
    """Renews a lease in a greenlet until it is lost, or ``stop`` is called: so the holder's calls of the engine have to
    end (see ``Connection.set_limits``). Whether it is lost the holder asks before each change."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._is_over = Event()
        self._greenlet = gevent.spawn(self._renew)

    def _renew(self) -> None:
        while not self._is_over.wait(_LOOK_SECONDS):
            try:
                self._lease.check()
            except Superseded:
                return
            except SessionStoreUnavailable:  # it may be reached again before another one takes the lease
                continue

    def stop(self) -> None:
        """Returns once no call is under way."""
        self._is_over.set()
        self._greenlet.join()
