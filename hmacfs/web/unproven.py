"""Look-ups in the session store for clients that have shown no right yet.

Some requests can be judged only with the session's record: whether a signature over a length is an unfinished upload's,
and whether a token is anybody's. Any client can send them, as often as it likes. So they share a part of the store's
connections, with a few at once for each client address. Signed requests do not wait for them, nor do tokens that were
good before. The file store, where a look can be a listing, is not asked about a token that no session has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from hmacfs.addresses import network_of
from hmacfs.caching import RecentKeys
from hmacfs.errors import SessionStoreBusy
from hmacfs.semaphore import FairSemaphore
from hmacfs.uploads.session import Session
from hmacfs.uploads.tokens import key_of

#: Look-ups for one client address at once, waiting ones included.
PER_CLIENT = 8
#: Seconds that a look-up waits for a turn.
PATIENCE = 2.0
#: Sessions of which a process remembers that their tokens are no guesses.
_KNOWN_LIMIT = 4096


class UnprovenLookups:
    """Turns at half of the operations that the session store takes at once (``concurrency``)."""

    def __init__(self, concurrency: int) -> None:
        self._turns = FairSemaphore(max(1, concurrency // 2))
        self._asking: Counter[str] = Counter()
        self._known = RecentKeys[str](_KNOWN_LIMIT)

    def is_known(self, token: str) -> bool:
        """Whether the token is that of a session that was found here before, so that it cannot be a guess. Asks
        nobody."""
        key = key_of(token)
        return key is not None and key in self._known

    def remember(self, session: Session) -> None:
        """It was found, or made: who sends its token needs no turn."""
        self._known.add(session.key)

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
