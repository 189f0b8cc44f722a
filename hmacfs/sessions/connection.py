"""One session store of a replicated pair: whether it can be reached, and since when it may lack what the other has."""

from __future__ import annotations

import time
from collections.abc import Callable

from hmacfs.circuit_breaker import CircuitBreaker
from hmacfs.errors import SessionStoreBusy, SessionStoreUnreachable
from hmacfs.sessions.replica import Replica


class StoreConnection(CircuitBreaker[Replica]):
    """A store behind a circuit breaker: ``call`` raises ``SessionStoreUnreachable`` and ``SessionStoreBusy``.

    longest_pause: seconds of back-off at most (``RetryDelay``). on_transition: called with this connection, and with
    the cause when the store is lost, with ``None`` when it is back.

    stale_since: since which Unix time the store may lack what another has, or hold an older copy; 0 if that began
    before this process did; ``None`` if it has everything.
    """

    def __init__(
        self,
        store: Replica,
        *,
        longest_pause: float,
        on_transition: Callable[[StoreConnection, BaseException | None], None],
    ) -> None:
        super().__init__(
            store,
            failure=SessionStoreUnreachable,
            overload=SessionStoreBusy,
            longest_pause=longest_pause,
            on_transition=self._changed,
        )
        self.name = store.name
        self.stale_since: float | None = None
        self._tell = on_transition

    def start(self) -> Exception | None:
        """As ``CircuitBreaker.start``: a store that cannot be reached then is stale since before this process."""
        self.stale_since = 0.0
        error = super().start()
        if error is None:
            self.stale_since = None
        return error

    def mark_stale(self) -> None:
        """From now on the store may lack records, though it answers."""
        if self.stale_since is None:
            self.stale_since = time.time()

    def close(self) -> None:
        super().close()
        self.server.close()

    def _changed(self, cause: BaseException | None) -> None:
        if cause is not None:
            self.mark_stale()
        self._tell(self, cause)
