"""Look-ups in the session store for clients that have shown no right yet.

Some requests can be judged only with the session's record: whether a signature over a length is an unfinished upload's,
and whether a token is that of an upload that has ended. Any client can send them, as often as it likes. So they share a
part of the store's connections, with a few at once for each client address. Signed requests do not wait for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hmacfs.addresses import network_of
from hmacfs.errors import SessionStoreBusy
from hmacfs.semaphore import FairSemaphore
from hmacfs.uploads.contracts.stores import PartialInfo
from hmacfs.uploads.tokens import key_of

#: Look-ups for one client address at once, waiting ones included.
PER_CLIENT = 8
#: Seconds that a look-up waits for a turn.
PATIENCE = 2.0


class UnprovenLookups:
    """Turns at half of the operations that the session store takes at once (``concurrency``).

    stat: how far the unfinished upload with that key is, ``None`` if no bytes of one are stored here.
    """

    def __init__(self, concurrency: int, stat: Callable[[str], PartialInfo | None]) -> None:
        self._stat = stat
        self._turns = FairSemaphore(max(1, concurrency // 2))
        self._asking: Counter[str] = Counter()

    def is_known(self, token: str) -> bool:
        """Whether the token is that of an upload with stored bytes, so that it cannot be a guess. Asks no session
        store."""
        key = key_of(token)
        return key is not None and self._stat(key) is not None

    @contextmanager
    def turn(self, client: str) -> Iterator[None]:
        """To be held during the look-up. Raises ``SessionStoreBusy``."""
        who = network_of(client)
        if self._asking[who] >= PER_CLIENT:
            raise SessionStoreBusy
        self._asking[who] += 1
        try:
            if not self._turns.acquire(PATIENCE):
                raise SessionStoreBusy
            try:
                yield
            finally:
                self._turns.release()
        finally:
            self._asking[who] -= 1
            if not self._asking[who]:
                del self._asking[who]
