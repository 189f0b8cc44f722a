"""Redis with a database behind it, as one store that loses no session when either goes away.

While both can be reached, every session is written to both. Reads are answered by the first; what it does not have is
looked up in the second and put back, so a Redis that was restarted empty or evicts costs a lookup and no session.
A store that could not be reached for a while, or that was found to be another server than before, is *behind*: until
the sessions of that time have been copied from the other, a record read from it is compared with the other's, and the
higher revision counts. "No such session" is believed only where it can be known; else it is
``SessionStoreUnavailable``. A store that this process asks too much at once is not lost: that request is refused
(``SessionStoreBusy``) and neither store counts as behind, since a write that the one has accepted waits for the other.

What it cannot do:
- Each worker finds out for itself which stores it can reach. If one worker has lost Redis and another has not (a Redis
  that hung for a second), the other's ``get`` and ``find`` may give a record from Redis that is older, until the first
  has found Redis again (``RetryDelay`` at most) and has copied what it had saved meanwhile. ``newest`` asks both, and
  whoever sees that a file has more bytes than its record knows of uses that. If at that moment the other worker has
  lost the database too, its client sends a chunk again that was acknowledged.
- A slot has one open session as long as all workers reach the same store at least. If one reaches only Redis and
  another only the database, both may open a session for it; afterwards the slot belongs to the one that Redis knows,
  and the other's bytes are swept when they expire.
  Likewise the uploads of a path, an owner and a site are counted in one store, which does not know of those.
- A session removed from one store while the other is away may come back with that one, as it was then; the sweep
  removes it again.
- What was saved to one store while the other was away is lost if the first is lost before the other is back.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from hmacfs.errors import SessionStoreBusy, SessionStoreUnreachable
from hmacfs.sessions.codec import save_with, supersedes
from hmacfs.sessions.connection import SessionStoreStatus, StoreConnection
from hmacfs.sessions.replica import Replica
from hmacfs.uploads.session import CountedBy, Session, State

R = TypeVar("R")

log = logging.getLogger("hmacfs.sessions")

#: Seconds by which the clocks of machines that share the stores may differ, and a call may be under way.
CLOCK_MARGIN = 60.0
#: Removals remembered for a store that is away. Beyond them, the sweep removes once more.
REMOVALS_LIMIT = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicationStatus:
    """active: the name of the store that answers reads; empty if none can be reached."""

    active: str
    stores: tuple[SessionStoreStatus, ...]


class ReplicatedSessionStore:
    """A ``SessionStore`` over one store, or over two that stand in for each other; the first is preferred.

    ttl: ``SessionTTL``. retry_delay: see ``StoreConnection.longest_pause``. A failed operation is not repeated here: it
    goes to the other store at once, or to the client, who knows when to come again.
    """

    def __init__(self, stores: Sequence[Replica], *, ttl: float, retry_delay: float) -> None:
        self._links = [
            StoreConnection(store, longest_pause=retry_delay, on_transition=self._report) for store in stores
        ]
        self._ttl = ttl
        self._copying = threading.Lock()
        self._removals: dict[str, set[str]] = {link.name: set() for link in self._links}
        for link, cause in [(link, link.start()) for link in self._links]:
            if cause is not None:
                self._report(link, cause)
        if len(self._links) > 1:
            self._watch(self._links[0])

    def status(self) -> ReplicationStatus:
        """What this worker knows of its stores. Asks none of them."""
        return ReplicationStatus(self._active(), tuple(link.status() for link in self._links))

    @property
    def concurrency(self) -> int:
        """How many operations all its stores take at once."""
        return min(link.server.concurrency for link in self._links)

    # -- the contract ---------------------------------------------------------------------------------

    def create(self, session: Session) -> bool:
        holding: list[StoreConnection] = []
        for link in self._reachable():
            try:
                is_new = link.call(lambda store: store.create(session), insist=bool(holding))
            except SessionStoreUnreachable:
                continue
            if not is_new:
                for other in holding:
                    self._remove_from(other, session.key)
                return False
            holding.append(link)
        if not holding:
            raise SessionStoreUnreachable
        self._give_those_that_came_back(holding, session)
        return True

    def get(self, key: str) -> Session | None:
        return self._look_up(lambda store: store.get(key), must_know=True)

    def newest(self, key: str) -> Session | None:
        copies = list(self._ask_all(lambda store: store.get(key)))
        newest: Session | None = None
        for _, copy in copies:
            if copy is not None and (newest is None or supersedes(copy, newest)):
                newest = copy
        if newest is not None:
            for link, copy in copies:
                if copy is None or supersedes(newest, copy):
                    self._copy_to(link, newest)
        return newest

    def find(self, slot: str) -> Session | None:
        for _ in self._links:
            session = self._look_up(lambda store: store.find(slot), must_know=False)
            if session is None or session.state is State.OPEN:
                return session
            # The first store's index was behind, and is right now.
        return None

    def find_finished(self, slot: str) -> Session | None:
        session = self._look_up(lambda store: store.find_finished(slot), must_know=False)
        return session if session is not None and session.state is State.FINISHED else None

    def save(self, session: Session) -> Session:
        return save_with(self._put, session)

    def remove(self, key: str) -> None:
        done = [self._remove_from(link, key) for link in self._links]
        if not any(done):
            raise SessionStoreUnreachable

    def stale(self, touched_before: float, limit: int) -> list[Session]:
        answers = list(self._ask_all(lambda store: store.stale(touched_before, limit)))
        if len(answers) < len(self._links) and any(self._may_lack(link) for link, _ in answers):
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
        for link in self._reachable():
            try:
                link.call(lambda store: store.ping())
            except SessionStoreBusy:
                return  # it answers others
            except SessionStoreUnreachable:
                continue
            return
        raise SessionStoreUnreachable

    def close(self) -> None:
        for link in self._links:
            link.close()

    # -- reading --------------------------------------------------------------------------------------

    def _reachable(self) -> list[StoreConnection]:
        return [link for link in self._links if link.is_closed]

    def _other(self, link: StoreConnection) -> StoreConnection | None:
        """The store that stands in for this one, if it can be reached."""
        return next((other for other in self._links if other is not link and other.is_closed), None)

    def _ask_all(
        self, operation: Callable[[Replica], R], *, writes: bool = False
    ) -> Iterator[tuple[StoreConnection, R]]:
        """The answers of all stores that can be reached, at least one."""
        answered = False
        for link in self._links:
            try:
                answer = link.call(operation, insist=writes and answered)
            except SessionStoreUnreachable:
                continue
            answered = True
            yield link, answer
        if not answered:
            raise SessionStoreUnreachable

    def _look_up(self, operation: Callable[[Replica], Session | None], *, must_know: bool) -> Session | None:
        """must_know: do not take the word of a store alone that may have evicted the session."""
        silent: list[StoreConnection] = []
        for link, session in self._ask_all(operation):
            if session is not None:
                for other in silent:
                    self._copy_to(other, session)
                return self._newest(session) if link.stale_since is not None else session
            silent.append(link)
        if len(silent) < len(self._links):
            for link in silent:
                if self._may_lack(link) or (must_know and not link.server.is_durable):
                    raise SessionStoreUnreachable
        return None

    def _may_lack(self, link: StoreConnection) -> bool:
        """Whether sessions that live still may be known to the other store only. Whatever a process was started after
        it cannot know of, so it believes what it finds."""
        return bool(link.stale_since) and time.time() - (link.stale_since or 0.0) < self._ttl

    def _newest(self, session: Session) -> Session:
        """The newest copy of a session that was read a moment ago."""
        try:
            newest = self.newest(session.key)
        except SessionStoreUnreachable:
            return session
        return newest if newest is not None and supersedes(newest, session) else session

    def _ask_fullest(self, operation: Callable[[Replica], R]) -> R:
        """A durable store knows of all sessions; one that was behind, or forgets, may not."""
        by_worth = sorted(self._links, key=lambda link: (link.stale_since is not None, not link.server.is_durable))
        for link in by_worth:
            try:
                return link.call(operation)
            except SessionStoreUnreachable:
                continue
        raise SessionStoreUnreachable

    # -- writing --------------------------------------------------------------------------------------

    def _put(self, session: Session) -> Session:
        newest, reached = session, []
        for link, stored in self._ask_all(lambda store: store.put(session), writes=True):
            reached.append(link)
            newest = stored if supersedes(stored, newest) else newest
        self._give_those_that_came_back(reached, session)
        return newest

    def _give_those_that_came_back(self, reached: Sequence[StoreConnection], session: Session) -> None:
        """What came back while the others were written to was brought up to date from what they had before."""
        for link in self._reachable():
            if link not in reached:
                self._copy_to(link, session)

    @staticmethod
    def _copy_to(link: StoreConnection, session: Session) -> None:
        try:
            link.call(lambda store: store.put(session), insist=True)
        except SessionStoreUnreachable:
            log.debug("session store %s was lost before it got its copy of a session", link.name)

    def _remove_from(self, link: StoreConnection, key: str) -> bool:
        """Whether it is done; if not, it will be once the store is back."""
        try:
            link.call(lambda store: store.remove(key), insist=True)
        except SessionStoreUnreachable:
            pending = self._removals[link.name]
            if len(pending) < REMOVALS_LIMIT:
                pending.add(key)
            return False
        return True

    # -- edges ----------------------------------------------------------------------------------------

    def _active(self) -> str:
        return next((link.name for link in self._links if link.is_closed), "")

    def _report(self, link: StoreConnection, cause: BaseException | None) -> None:
        active = self._active()
        if cause is None:
            log.info("session store %s is back: using %s", link.name, active)
            self._catch_up()
            return
        reason = cause.__cause__ or cause
        told = " ".join(f"{type(reason).__name__}: {reason}".split())  # a driver's may have several lines
        consequence = f"using {active}" if active else "resumable uploads are unavailable"
        log.warning("session store %s is lost (%s): %s", link.name, told, consequence)

    def _watch(self, link: StoreConnection) -> None:
        """Compare a store that forgets with the other one, now and whenever it may have forgotten something."""
        link.server.on_loss(lambda: self._doubt(link))
        try:
            if not link.call(lambda store: store.is_complete(), insist=True):
                link.stale_since = 0.0
                self._catch_up_in_background()
        except SessionStoreUnreachable:
            log.debug("session store %s was lost at once", link.name)

    def _doubt(self, link: StoreConnection) -> None:
        if link.is_closed:  # else it is behind already, and compared once it is back
            log.info("session store %s was started anew: comparing it with the other", link.name)
            link.mark_stale()
            self._catch_up_in_background()

    def _catch_up_in_background(self) -> None:
        threading.Thread(target=self._catch_up, daemon=True).start()

    def _catch_up(self) -> None:
        """Bring stores that are behind up to date, as far as both can be reached; else the next edge comes here."""
        with self._copying:
            for link in self._links:
                source = self._other(link)
                if link.stale_since is None or source is None:
                    continue
                try:
                    self._copy_missed(source, link)
                except SessionStoreUnreachable:
                    log.debug("session store %s could not be brought up to date yet", link.name)
                except Exception:
                    log.exception("session store %s could not be brought up to date", link.name)

    def _copy_missed(self, source: StoreConnection, target: StoreConnection) -> None:
        generation, behind = target.generation, target.stale_since or 0.0
        pending = self._removals[target.name]
        for key in list(pending):
            if not self._remove_from(target, key):
                raise SessionStoreUnreachable
            pending.discard(key)
        is_complete = target.call(lambda store: store.is_complete(), insist=True)
        since = behind - CLOCK_MARGIN if is_complete else 0.0
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
