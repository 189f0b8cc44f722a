"""What those may ask of the session store who have not shown any right yet.

Some questions can be judged only with the session's record: whether a signature over a length is an unfinished
upload's, and whether a token is one of an upload that has ended. Anybody can ask them, as often as they like. So they
get a part of the store's connections, and each client address a few at once; what is signed goes past them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hmacfs.addresses import network_of
from hmacfs.errors import SessionStoreBusy
from hmacfs.semaphore import FairSemaphore
from hmacfs.uploads.tokens import key_of

#: Questions of one client address at once, those that wait included.
PER_CLIENT = 8
#: Seconds that a question waits for a turn.
PATIENCE = 2.0


class UnprovenLookups:
    """Turns at a part of what the session store takes at once (``concurrency`` operations).

    has_bytes: whether bytes of an unfinished upload with that key are stored here.
    """

    def __init__(self, concurrency: int, has_bytes: Callable[[str], bool]) -> None:
        self._has_bytes = has_bytes
        self._turns = FairSemaphore(max(1, concurrency // 2))
        self._asking: Counter[str] = Counter()

    def is_known(self, token: str) -> bool:
        """Whether nobody can have made the token up. Asks no session store."""
        key = key_of(token)
        return key is not None and self._has_bytes(key)

    @contextmanager
    def turn(self, client: str) -> Iterator[None]:
        """To be held during the question. Raises ``SessionStoreBusy``."""
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
