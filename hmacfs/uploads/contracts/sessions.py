"""What the use cases need of a session store."""

from __future__ import annotations

from typing import Protocol

from hmacfs.uploads.session import CountedBy, Session


class SessionRecords(Protocol):
    """Remembers upload sessions, shared by all workers (and by all machines that share the backend).

    Duties of a store:
    - Every call is cooperative: it may switch greenlets but never blocks the event loop.
    - "I cannot tell" is ``SessionStoreUnavailable``, never ``None`` and never an empty list.
    - Once ``create`` or ``save`` has returned, every worker sees the record.
    - A call raises ``SessionStoreUnavailable`` for a failure of the backend that retrying may cure; whatever else it
      raises is a defect.
    - Records of ended sessions are kept until ``remove``: the use cases and the sweep decide about that.

    Duties of the caller: it writes a session's record only while it holds that upload's writer lock (except
    ``create``), so that two saves of one key never race; it does not keep a record across requests.
    """

    def create(self, session: Session) -> bool:
        """Add a new session. False, and no change, if an open session with the same non-null ``slot`` exists."""

    def get(self, key: str) -> Session | None:
        """The session of this key, in any state, or ``None`` if this store has none."""

    def find(self, slot: str) -> Session | None:
        """The open session with this ``slot``, or ``None``."""

    def find_finished(self, slot: str) -> Session | None:
        """Of the finished sessions with this ``slot``, the one last touched, or ``None``."""

    def save(self, session: Session) -> Session:
        """Store a changed record (inserting it if it is missing) and return it with its new ``revision``."""

    def remove(self, key: str) -> None:
        """Forget a session; no error if there is none."""

    def stale(self, touched_before: float, limit: int) -> list[Session]:
        """At most ``limit`` sessions of any state last touched before that Unix time, the oldest first."""

    def of_path(self, path: str) -> list[Session]:
        """All sessions of this path, in any state."""

    def count_open(self, by: CountedBy, who: str) -> int:
        """How many open sessions there are with this owner, or of this site."""

    def open_of(self, by: CountedBy, who: str, limit: int) -> list[Session]:
        """At most ``limit`` of those sessions, those that were touched longest ago first."""

    def count_by_state(self) -> dict[str, int]:
        """How many sessions there are in each state, for metrics."""

    def ping(self) -> None:
        """Return if the store answers; raise ``SessionStoreUnavailable`` if not."""

    def close(self) -> None:
        """Give back connections and threads."""


class SessionStore(SessionRecords, Protocol):
    """One that may consist of several, not all of which every worker reaches at any time."""

    def newest(self, key: str) -> Session | None:
        """The newest copy of a session that any of them has, as far as they can be reached; ``None`` if none has it."""
