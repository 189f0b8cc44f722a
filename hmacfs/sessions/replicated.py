"""Redis and a database as one session store that loses no session when either goes away.

While both can be reached, every session is written to both. Reads are answered by the first; a record that it lacks is
looked up in the second and put back, so a Redis that restarts empty or evicts keys costs a look-up and no session. A
store that could not be reached for a while, or whose server turned out to have been restarted, is *stale*: until it is
resynchronised (the sessions of that time are copied from the other), a record read from it is compared with the
other's, and the higher revision counts. "No such session" is believed only where it can be known; else it is
``SessionStoreUnavailable``. A store that this process asks too much at once is not lost: that request is refused
(``SessionStoreBusy``) and neither store becomes stale, since a write that one has accepted waits for the other.

What it cannot do:
- Each worker finds out for itself which stores it can reach. If one worker has lost Redis and another has not (a Redis
  that hung for a second), the other's ``get`` and ``find`` may give a record from Redis that is older, until the first
  has found Redis again (``RetryDelay`` at most) and has copied what it had saved meanwhile. ``newest`` asks both, and
  is used where a file has more bytes than its record knows of. If at that moment the other worker has lost the
  database too, its client sends a chunk again that was acknowledged.
- A slot has one open session as long as all workers reach at least one store in common. If one reaches only Redis and
  another only the database, both may open a session for it; afterwards the slot belongs to the one that Redis knows,
  and the other's bytes are swept when they expire.
  Likewise the uploads of a path, an owner and a site are counted in one store, which does not know of those.
- A session removed from one store while the other is away may come back with that one, as it was then; the sweep
  removes it again.
- What was saved to one store while the other was away is lost if the first is lost before the other is back.

Entries (``uploads.contracts.entries``) are in one store each, since two cannot change them as one: see ``leases`` and
``claims``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from hmacfs.errors import SessionStoreBusy, SessionStoreUnavailable, SessionStoreUnreachable
from hmacfs.sessions.codec import save_with, supersedes
from hmacfs.sessions.connection import StoreConnection
from hmacfs.sessions.replica import Replica
from hmacfs.sessions.routed_entries import RoutedEntries
from hmacfs.uploads.contracts.entries import Entries
from hmacfs.uploads.session import CountedBy, Session, State

R = TypeVar("R")

log = logging.getLogger("hmacfs.sessions")

#: Seconds by which the clocks of machines that share the stores may differ, and a call may be under way.
CLOCK_MARGIN = 60.0
#: Removals remembered for a store that is away. Beyond them, the sweep removes those sessions again.
REMOVALS_LIMIT = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicationStatus:
    """active: the name of the store that answers reads; empty if none can be reached. is_up: by each store's name,
    whether it can be reached."""

    active: str
    is_up: Mapping[str, bool]


class ReplicatedSessionStore:
    """A ``SessionStore`` over one store, or over two that stand in for each other; the first is preferred.

    ttl: ``SessionTTL``. retry_delay: ``StoreConnection``'s ``longest_pause``. A failed operation is not repeated here:
    the other store is asked at once, or the client is told when to come again.
    """

    def __init__(self, stores: Sequence[Replica], *, ttl: float, retry_delay: float) -> None:
        self._connections = [
            StoreConnection(store, longest_pause=retry_delay, on_transition=self._report) for store in stores
        ]
        self._ttl = ttl
        self._resynchronising = threading.Lock()
        self._removals: dict[str, set[str]] = {one.name: set() for one in self._connections}
        for connection, cause in [(one, one.start()) for one in self._connections]:
            if cause is not None:
                self._report(connection, cause)
        if len(self._connections) > 1:
            self._watch(self._connections[0])
        durable = [one for one in self._connections if one.server.is_durable] or self._connections
        self._leases = RoutedEntries(partial(self._ask_first, self._connections))
        self._claims = RoutedEntries(partial(self._ask_first, durable[:1]))

    def status(self) -> ReplicationStatus:
        """What this worker knows of its stores. Asks none of them."""
        return ReplicationStatus(self._active(), {one.name: one.is_closed for one in self._connections})

    @property
    def concurrency(self) -> int:
        """How many operations at once each of its stores takes."""
        return min(one.server.concurrency for one in self._connections)

    @property
    def leases(self) -> Entries:
        """Entries in the first store that this worker can reach, for what must not stand still: while workers disagree
        about that, or right after they changed over, two may have the same entry. A change to one that the other store
        has is told as lost, and what is read there may be older than what was written here."""
        return self._leases

    @property
    def claims(self) -> Entries:
        """Entries in one store only, the durable one if there is any: while it cannot be reached, there are none.
        Without a database they are as safe as Redis is: one that evicts or restarts without its data forgets them."""
        return self._claims

    def forget_entries(self) -> None:
        """Forget those that have been over for ``KEPT_SECONDS``, in the stores that can be reached."""
        for connection in self._connections:
            with contextlib.suppress(SessionStoreUnavailable):
                connection.call(lambda store: store.entries.forget())

    # -- the contract ---------------------------------------------------------------------------------

    def create(self, session: Session) -> bool:
        holding: list[StoreConnection] = []
        for connection in self._connections:
            try:
                is_new = connection.call(lambda store: store.create(session), insist=bool(holding))
            except SessionStoreUnreachable:
                continue
            if not is_new:
                for other in holding:
                    self._remove_from(other, session.key)
                return False
            holding.append(connection)
        if not holding:
            raise SessionStoreUnreachable
        self._give_to_recovered(holding, session)
        return True

    def get(self, key: str) -> Session | None:
        return self._look_up(lambda store: store.get(key), must_know=True)

    def newest(self, key: str) -> Session | None:
        copies = self._ask_all(lambda store: store.get(key))
        newest: Session | None = None
        for _, copy in copies:
            if copy is not None and (newest is None or supersedes(copy, newest)):
                newest = copy
        if newest is not None:
            for connection, copy in copies:
                if copy is None or supersedes(newest, copy):
                    self._copy_to(connection, newest)
        return newest

    def find(self, slot: str) -> Session | None:
        for _ in self._connections:
            session = self._look_up(lambda store: store.find(slot), must_know=False)
            if session is None or session.state is State.OPEN:
                return session
            # The first store's index was stale, and is right now.
        return None

    def find_finished(self, slot: str) -> Session | None:
        session = self._look_up(lambda store: store.find_finished(slot), must_know=False)
        return session if session is not None and session.state is State.FINISHED else None

    def save(self, session: Session) -> Session:
        return save_with(self._put, session)

    def remove(self, key: str) -> None:
        done = [self._remove_from(connection, key) for connection in self._connections]
        if not any(done):
            raise SessionStoreUnreachable

    def stale(self, touched_before: float, limit: int) -> list[Session]:
        answers = self._ask_all(lambda store: store.stale(touched_before, limit))
        if len(answers) < len(self._connections) and any(self._may_lack(one) for one, _ in answers):
            raise SessionStoreUnreachable  # the other may know that they were touched since
        found = {session.key: session for _, sessions in answers for session in sessions}
        if len(answers) > 1:
            found = {key: self._newest(session) for key, session in found.items()}
        stale = [session for session in found.values() if session.touched < touched_before]
        return sorted(stale, key=lambda session: (session.touched, session.key))[:limit]

    def of_path(self, path: str) -> list[Session]:
        return self._ask_fullest(lambda store: store.of_path(path))

    def count_open(self, by: CountedBy, who: str) -> int:
        return self._ask_fullest(lambda store: store.count_open(by, who))

    def open_of(self, by: CountedBy, who: str, limit: int) -> list[Session]:
        return self._ask_fullest(lambda store: store.open_of(by, who, limit))

    def count_by_state(self) -> dict[str, int]:
        return self._ask_fullest(lambda store: store.count_by_state())

    def ping(self) -> None:
        with contextlib.suppress(SessionStoreBusy):  # it answers others
            self._ask_first(self._connections, lambda store: store.ping())

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    # -- reading --------------------------------------------------------------------------------------

    def _ask_all(self, operation: Callable[[Replica], R], *, writes: bool = False) -> list[tuple[StoreConnection, R]]:
        """The answers of all stores that can be reached, at least one. writes: once one store has accepted it, the
        other must have it too."""
        answers: list[tuple[StoreConnection, R]] = []
        for connection in self._connections:
            with contextlib.suppress(SessionStoreUnreachable):
                answers.append((connection, connection.call(operation, insist=writes and bool(answers))))
        if not answers:
            raise SessionStoreUnreachable
        return answers

    @staticmethod
    def _ask_first(
        connections: Sequence[StoreConnection], operation: Callable[[Replica], R], *, insist: bool = False
    ) -> R:
        """The answer of the first store that can be reached."""
        for connection in connections:
            with contextlib.suppress(SessionStoreUnreachable):
                return connection.call(operation, insist=insist)
        raise SessionStoreUnreachable

    def _look_up(self, operation: Callable[[Replica], Session | None], *, must_know: bool) -> Session | None:
        """must_know: do not believe a store alone that may have evicted the session."""
        without: list[StoreConnection] = []
        for connection in self._connections:
            try:
                session = connection.call(operation)
            except SessionStoreUnreachable:
                continue
            if session is None:
                without.append(connection)
                continue
            for other in without:
                self._copy_to(other, session)
            return session if connection.stale_since is None else self._newest(session)
        self._check_absence(without, must_know=must_know)
        return None

    def _check_absence(self, without: Sequence[StoreConnection], *, must_know: bool) -> None:
        """Raise ``SessionStoreUnreachable`` if a session may exist though these stores, which answered, lack it."""
        if len(without) == len(self._connections):
            return
        if not without or any(self._may_lack(one) or (must_know and not one.server.is_durable) for one in without):
            raise SessionStoreUnreachable

    def _may_lack(self, connection: StoreConnection) -> bool:
        """Whether sessions that live still may be known to the other store only. A process cannot know what happened
        before it started, so it believes what it finds."""
        since = connection.stale_since
        return bool(since) and time.time() - (since or 0.0) < self._ttl

    def _newest(self, session: Session) -> Session:
        """The newest copy of a session that was read a moment ago."""
        try:
            newest = self.newest(session.key)
        except SessionStoreUnreachable:
            return session
        return newest if newest is not None and supersedes(newest, session) else session

    def _ask_fullest(self, operation: Callable[[Replica], R]) -> R:
        """A durable store knows of all sessions; one that is stale, or evicts, may not."""
        by_worth = sorted(self._connections, key=lambda one: (one.stale_since is not None, not one.server.is_durable))
        return self._ask_first(by_worth, operation)

    # -- writing --------------------------------------------------------------------------------------

    def _put(self, session: Session) -> Session:
        newest, answers = session, self._ask_all(lambda store: store.put(session), writes=True)
        for _, stored in answers:
            if stored is not session and supersedes(stored, newest):
                newest = stored
        if len(answers) < len(self._connections):
            self._give_to_recovered([connection for connection, _ in answers], session)
        return newest

    def _give_to_recovered(self, reached: Sequence[StoreConnection], session: Session) -> None:
        """A store that recovered during this write was resynchronised from the state before it: give it this record
        too."""
        for connection in self._connections:
            if connection.is_closed and connection not in reached:
                self._copy_to(connection, session)

    @staticmethod
    def _copy_to(connection: StoreConnection, session: Session) -> None:
        try:
            connection.call(lambda store: store.put(session), insist=True)
        except SessionStoreUnreachable:
            log.debug("session store %s was lost before it got its copy of a session", connection.name)

    def _remove_from(self, connection: StoreConnection, key: str) -> bool:
        """Whether it is done; if not, it will be once the store is back."""
        try:
            connection.call(lambda store: store.remove(key), insist=True)
        except SessionStoreUnreachable:
            pending = self._removals[connection.name]
            if len(pending) < REMOVALS_LIMIT:
                pending.add(key)
            return False
        return True

    # -- transitions ----------------------------------------------------------------------------------

    def _active(self) -> str:
        return next((one.name for one in self._connections if one.is_closed), "")

    def _report(self, connection: StoreConnection, cause: BaseException | None) -> None:
        """One line for each transition of a circuit."""
        active = self._active()
        if cause is None:
            log.info("session store %s is back: using %s", connection.name, active)
            self._resynchronise()
            return
        reason = cause.__cause__ or cause
        told = " ".join(f"{type(reason).__name__}: {reason}".split())  # a driver's may have several lines
        consequence = f"using {active}" if active else "resumable uploads are unavailable"
        log.warning("session store %s is lost (%s): %s", connection.name, told, consequence)

    def _watch(self, connection: StoreConnection) -> None:
        """Resynchronise a store that forgets, now and whenever it may have forgotten something."""
        connection.server.on_loss(lambda: self._has_restarted(connection))
        try:
            if not connection.call(lambda store: store.is_complete(), insist=True):
                connection.stale_since = 0.0
                self._resynchronise_in_background()
        except SessionStoreUnreachable:
            log.debug("session store %s was lost at once", connection.name)

    def _has_restarted(self, connection: StoreConnection) -> None:
        if connection.is_closed:  # else it is stale already, and resynchronised once it is back
            log.info("session store %s was restarted: resynchronising it with the other", connection.name)
            connection.mark_stale()
            self._resynchronise_in_background()

    def _resynchronise_in_background(self) -> None:
        threading.Thread(target=self._resynchronise, daemon=True).start()

    def _resynchronise(self) -> None:
        """Bring stale stores up to date, as far as both can be reached; else the next transition comes here."""
        with self._resynchronising:
            for target in self._connections:
                source = next((one for one in self._connections if one is not target and one.is_closed), None)
                if target.stale_since is None or source is None:
                    continue
                try:
                    self._copy_missed(source, target)
                except SessionStoreUnreachable:
                    log.debug("session store %s could not be resynchronised yet", target.name)
                except Exception:
                    log.exception("session store %s could not be resynchronised", target.name)

    def _copy_missed(self, source: StoreConnection, target: StoreConnection) -> None:
        generation, stale_since = target.generation, target.stale_since or 0.0
        pending = self._removals[target.name]
        for key in list(pending):
            if not self._remove_from(target, key):
                raise SessionStoreUnreachable
            pending.discard(key)
        is_complete = target.call(lambda store: store.is_complete(), insist=True)
        since = stale_since - CLOCK_MARGIN if is_complete else 0.0
        keys = source.call(lambda store: store.keys_since(since), insist=True)
        for key in keys:
            self._copy(source, target, key)
        target.call(lambda store: store.mark_complete(), insist=True)
        if target.generation == generation:
            target.stale_since = None
        log.debug("session store %s was given %d sessions that it may have missed", target.name, len(keys))

    @staticmethod
    def _copy(source: StoreConnection, target: StoreConnection, key: str) -> None:
        session = source.call(lambda store: store.get(key), insist=True)
        if session is not None:
            target.call(lambda store: store.put(session), insist=True)
