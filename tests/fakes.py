"""Stand-ins in memory for servers, of which each passes the same suite as the real ones (``tests.contracts``)."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable

from hmacfs.errors import SessionStoreUnreachable
from hmacfs.rates.window import Unreachable, Window
from hmacfs.sessions.codec import save_with, supersedes
from hmacfs.sessions.replica import EntryTable
from hmacfs.uploads.contracts.entries import KEPT_SECONDS, Entry
from hmacfs.uploads.session import CountedBy, Session, State


class MemorySessions:
    """What one backend remembers. records: by key. without_claim: the keys of those whose slot was another's when they
    were stored."""

    def __init__(self) -> None:
        self.records: dict[str, Session] = {}
        self.without_claim: set[str] = set()
        self.entries = EntryState()
        self.lock = threading.Lock()

    def holder(self, slot: str) -> Session | None:
        """The open session that the slot belongs to."""
        matching = (one for one in self.records.values() if one.slot == slot and one.state is State.OPEN)
        return next((one for one in matching if one.key not in self.without_claim), None)


class EntryState:
    """The entries of one backend: value, version and end of each."""

    def __init__(self) -> None:
        self.of_key: dict[str, tuple[str, int, float]] = {}
        self.lock = threading.Lock()


class MemoryEntries:
    """An ``EntryTable`` in memory.

    state: what it shares with other tables of the same backend. is_away: whether it cannot be reached. asked: how many
    calls there were.
    """

    def __init__(self, clock: Callable[[], float] = time.time, state: EntryState | None = None) -> None:
        self.is_away = False
        self.asked = 0
        self._clock = clock
        self._state = state or EntryState()

    def begin(self) -> None:
        """Called at the beginning of each operation, for subclasses that fail or delay them."""
        self.asked += 1
        if self.is_away:
            raise SessionStoreUnreachable

    def read(self, key: str) -> Entry | None:
        self.begin()
        found = self._state.of_key.get(key)
        if found is None:
            return None
        value, version, ends = found
        return Entry(value, version, ends - self._clock())

    def replace(self, key: str, version: int | None, value: str, seconds: float | None) -> int | None:
        self.begin()
        with self._state.lock:
            _, known, ends = self._state.of_key.get(key, ("", None, self._clock()))
            if known != version:
                return None
            made = secrets.randbits(63)
            self._state.of_key[key] = (value, made, ends if seconds is None else self._clock() + seconds)
            return made

    def remove(self, key: str, version: int) -> bool:
        self.begin()
        with self._state.lock:
            found = self._state.of_key.get(key)
            if found is not None and found[1] != version:
                return False
            self._state.of_key.pop(key, None)
            return True

    def forget(self) -> None:
        self.begin()
        with self._state.lock:
            before = self._clock() - KEPT_SECONDS
            for key in [key for key, (_, _, ends) in self._state.of_key.items() if ends < before]:
                del self._state.of_key[key]


class _EntriesOfStore(MemoryEntries):
    def __init__(self, store: MemorySessionStore, state: EntryState) -> None:
        super().__init__(state=state)
        self._store = store

    def begin(self) -> None:
        self._store.begin()


class MemorySessionStore:
    """A ``Replica`` in memory.

    sessions: what it shares with other stores of the same backend. is_away: whether it cannot be reached.
    """

    timeout, concurrency, is_durable = 5.0, 100, True

    def __init__(self, name: str = "memory", sessions: MemorySessions | None = None) -> None:
        self.name = name
        self.is_away = False
        self._sessions = sessions or MemorySessions()
        self.entries: EntryTable = _EntriesOfStore(self, self._sessions.entries)

    @property
    def records(self) -> dict[str, Session]:
        return self._sessions.records

    def begin(self, *, is_write: bool = False) -> None:
        """Called at the beginning of each operation, for subclasses that count or delay them."""
        if self.is_away:
            raise SessionStoreUnreachable

    def create(self, session: Session) -> bool:
        self.begin(is_write=True)
        with self._sessions.lock:
            if session.key in self.records:
                return True
            if session.slot is not None and self._sessions.holder(session.slot) is not None:
                return False
            self.records[session.key] = session
            return True

    def get(self, key: str) -> Session | None:
        self.begin()
        return self.records.get(key)

    def find(self, slot: str) -> Session | None:
        self.begin()
        with self._sessions.lock:
            return self._sessions.holder(slot)

    def find_finished(self, slot: str) -> Session | None:
        self.begin()
        matching = self._matching(lambda one: one.slot == slot and one.state is State.FINISHED)
        return matching[-1] if matching else None

    def put(self, session: Session) -> Session:
        self.begin(is_write=True)
        with self._sessions.lock:
            stored = self.records.get(session.key)
            if stored is not None and not supersedes(session, stored):
                return stored
            if stored is None and session.slot is not None and self._sessions.holder(session.slot) is not None:
                self._sessions.without_claim.add(session.key)
            self.records[session.key] = session
            return session

    def save(self, session: Session) -> Session:
        return save_with(self.put, session)

    def remove(self, key: str) -> None:
        self.begin(is_write=True)
        with self._sessions.lock:
            self.records.pop(key, None)
            self._sessions.without_claim.discard(key)

    def stale(self, touched_before: float, limit: int) -> list[Session]:
        self.begin()
        return self._matching(lambda one: one.touched < touched_before)[:limit]

    def keys_since(self, touched: float) -> list[str]:
        self.begin()
        return [one.key for one in self._matching(lambda one: one.touched >= touched)]

    def of_path(self, path: str) -> list[Session]:
        self.begin()
        return self._matching(lambda one: one.path == path)

    def count_open(self, by: CountedBy, who: str) -> int:
        return len(self.open_of(by, who, len(self.records)))

    def open_of(self, by: CountedBy, who: str, limit: int) -> list[Session]:
        self.begin()
        if not who and by is CountedBy.SITE:
            return []
        return self._matching(lambda one: one.state is State.OPEN and getattr(one, by) == who)[:limit]

    def count_by_state(self) -> dict[str, int]:
        self.begin()
        return {str(state): len(self._matching(lambda one: one.state is state)) for state in State}  # noqa: B023

    def ping(self) -> None:
        self.begin()

    def close(self) -> None:
        """There is nothing to give back."""

    def is_complete(self) -> bool:
        return True

    def mark_complete(self) -> None:
        """It forgets nothing."""

    def on_loss(self, callback: Callable[[], None]) -> None:
        """It forgets nothing."""

    def _matching(self, is_sought: Callable[[Session], bool]) -> list[Session]:
        """Those that were touched longest ago first."""
        with self._sessions.lock:
            return sorted(filter(is_sought, self.records.values()), key=lambda one: (one.touched, one.key))


class MemoryRateCounter:
    """A ``RemoteCounter`` in memory. asked: how often it counted."""

    timeout, concurrency = 0.2, 4

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.windows: dict[str, Window] = {}
        self.is_reachable = True
        self.asked = 0
        self._clock = clock
        self._lock = threading.Lock()

    def hit(self, key: str, left: float, amount: int) -> Window:
        self.ping()
        with self._lock:
            self.asked += 1
            now = self._clock()
            known = self.windows.get(key)
            if known is None or known.ends <= now:
                known = Window(0, now + left)
            self.windows[key] = Window(known.hits + amount, known.ends)
            return self.windows[key]

    def forget(self, key: str) -> None:
        self.ping()
        with self._lock:
            self.windows.pop(key, None)

    def ping(self) -> None:
        if not self.is_reachable:
            raise Unreachable("gone")
