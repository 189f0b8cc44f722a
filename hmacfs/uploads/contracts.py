"""What the upload use cases need of the outside, and what they promise in return."""

from __future__ import annotations

from typing import Protocol

from hmacfs.uploads.session import Session


class SessionStore(Protocol):
    """Remembers upload sessions, shared by all workers (and by all machines that share the backend).

    Duties of a store:
    - Every call is cooperative: it may switch greenlets but never blocks the event loop.
    - "I cannot tell" is ``SessionStoreUnavailable``, never ``None`` and never an empty list.
    - Once ``create`` or ``save`` has returned, every worker sees the record.
    - A call raises ``SessionStoreUnavailable`` for a failure of the backend that retrying may cure; whatever else it
      raises is a defect.
    - Records of ended sessions are kept until ``remove``: the use cases and the sweep decide about that.

    Duties of the caller: it writes a session's record only while it holds that upload's writer lock (except
    ``create``), so that two saves of one token never race; it does not keep a record across requests.
    """

    def create(self, session: Session) -> bool:
        """Add a new session. False, and no change, if an open session with the same non-null ``slot`` exists."""

    def get(self, token: str) -> Session | None:
        """The session of this token, in any state, or ``None`` if this store has none."""

    def newest(self, token: str) -> Session | None:
        """The same from whichever part of the store has the newest copy. Costs more than ``get``, and is exact also
        where another process could not reach every part when it saved."""

    def find(self, slot: str) -> Session | None:
        """The open session with this ``slot``, or ``None``."""

    def save(self, session: Session) -> Session:
        """Store a changed record (inserting it if it is missing) and return it with its new ``revision``."""

    def remove(self, token: str) -> None:
        """Forget a session; no error if there is none."""

    def stale(self, touched_before: float, limit: int) -> list[Session]:
        """At most ``limit`` sessions of any state last touched before that Unix time, the oldest first."""

    def count_open(self, owner: str) -> int:
        """How many open sessions this client has."""

    def count_by_state(self) -> dict[str, int]:
        """How many sessions there are in each state, for metrics."""

    def ping(self) -> None:
        """Return if the store answers; raise ``SessionStoreUnavailable`` if not."""

    def close(self) -> None:
        """Give back connections and threads."""
