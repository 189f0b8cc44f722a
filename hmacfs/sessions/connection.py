"""One store as the chain sees it: reachable or not, and who finds out when that changes."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from hmacfs.errors import SessionStoreBusy, SessionStoreUnavailable
from hmacfs.semaphore import FairSemaphore
from hmacfs.sessions.replica import Replica

R = TypeVar("R")

log = logging.getLogger("hmacfs.sessions")

#: Seconds until the first look whether a lost store is back; each further pause is twice the last.
FIRST_PAUSE = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class SessionStoreStatus:
    """name: of the store. since: the Unix time at which it became healthy, or ceased to be."""

    name: str
    is_healthy: bool
    since: float


class StoreConnection:
    """Calls a store while it can be reached. Once it cannot, a call fails at once, without waiting, until a background
    probe has found the store again.

    longest_pause: seconds between two looks of the probe (``RetryDelay``); the first come sooner. on_edge: called
    with the cause when the store is lost, with ``None`` when it is back (then from the probe's thread).

    behind: since which Unix time the store may lack what another has, or hold an older copy; 0 if that began before
    this process did; ``None`` if it has everything.

    Threads here are greenlets in a gevent worker and real ones elsewhere; in neither does a call hold the lock while
    it waits for a store.
    """

    def __init__(
        self, store: Replica, *, longest_pause: float, on_edge: Callable[[StoreConnection, BaseException | None], None]
    ) -> None:
        self.store = store
        self.name = store.name
        self.behind: float | None = None
        #: Raised at each edge: what a call finds out about the store concerns only the time since the last one.
        self.generation = 0
        self._is_healthy = False
        self._since = time.time()
        self._longest_pause = max(longest_pause, FIRST_PAUSE)
        self._on_edge = on_edge
        self._turns = FairSemaphore(store.concurrency)
        #: How many calls have come back with an answer.
        self._answered = 0
        self._edges = threading.Lock()
        self._closed = threading.Event()

    @property
    def is_healthy(self) -> bool:
        return self._is_healthy

    def status(self) -> SessionStoreStatus:
        return SessionStoreStatus(self.name, self._is_healthy, self._since)

    def start(self) -> SessionStoreUnavailable | None:
        """Look for the store for the first time; why it cannot be reached."""
        try:
            self.store.ping()
        except SessionStoreUnavailable as error:
            self.behind = 0.0
            self._begin_probe()
            return error
        self._is_healthy = True
        return None

    def call(self, operation: Callable[[Replica], R], *, insist: bool = False) -> R:
        """The operation's result. It costs the time of one unanswered call at most: whoever had to wait for a turn
        while others found the store lost does not try it as well. Raises ``SessionStoreUnavailable``.

        Raises ``SessionStoreBusy`` if no turn came in that time because of this process' other calls: their number says
        nothing about the store, which goes on to count as healthy. ``insist``: instead, wait for as long as the store
        answers others, and before all of them. That is for what another store has been told already.
        """
        generation = self.generation
        if not self._is_healthy:
            raise SessionStoreUnavailable
        self._take_turn(generation, insist=insist)
        try:
            if generation != self.generation:
                raise SessionStoreUnavailable
            result = operation(self.store)
            self._answered += 1
            return result
        except SessionStoreUnavailable as error:
            self._set_health(generation, healthy=False, cause=error)
            raise
        finally:
            self._turns.release()

    def _take_turn(self, generation: int, *, insist: bool) -> None:
        """A store that answered nobody for as long as its timeout is lost, however many wait for it."""
        while True:
            answered = self._answered
            if self._turns.acquire(self.store.timeout, first=insist):
                return
            if generation != self.generation:
                raise SessionStoreUnavailable
            if answered == self._answered:
                stuck = TimeoutError(
                    f"all its {self.store.concurrency} connections were busy for {self.store.timeout:g} s"
                )
                self._set_health(generation, healthy=False, cause=stuck)
                raise SessionStoreUnavailable from stuck
            if not insist:
                raise SessionStoreBusy

    def doubt(self) -> None:
        """Let it count as behind from now on, though it answers."""
        self.behind = time.time() if self.behind is None else self.behind

    def close(self) -> None:
        self._closed.set()
        self.store.close()

    def _set_health(self, generation: int, *, healthy: bool, cause: BaseException | None) -> None:
        """Pass an edge, unless another was passed since ``generation``."""
        with self._edges:
            if generation != self.generation:
                return
            self.generation += 1
            self._is_healthy = healthy
            self._since = time.time()
        if not healthy:
            self.doubt()
            self._begin_probe()
        self._on_edge(self, cause)

    def _begin_probe(self) -> None:
        threading.Thread(target=self._probe, args=(self.generation,), daemon=True).start()

    def _probe(self, generation: int) -> None:
        pause = FIRST_PAUSE
        while not self._closed.wait(pause):
            try:
                self.store.ping()
            except SessionStoreUnavailable:
                pause = min(2 * pause, self._longest_pause)
            except Exception:
                if not self._closed.is_set():  # else its connection was closed under it
                    log.exception("looking for session store %s failed", self.name)
                pause = self._longest_pause
            else:
                self._set_health(generation, healthy=True, cause=None)
                return
