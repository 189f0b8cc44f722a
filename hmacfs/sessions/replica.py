"""What the replicated store needs of the stores that stand in for each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hmacfs.uploads.contracts.entries import Entries
from hmacfs.uploads.contracts.sessions import SessionRecords
from hmacfs.uploads.session import Session


class EntryTable(Entries, Protocol):
    """The entries that one store has."""

    def forget(self) -> None:
        """Those that have been over for ``KEPT_SECONDS``."""


class Replica(SessionRecords, Protocol):
    """A store that can be resynchronised from another.

    Its "cannot tell" (see ``SessionRecords``) is ``SessionStoreUnreachable``, by which its circuit opens.
    """

    @property
    def name(self) -> str:
        """For logs and metrics: ``redis``, ``postgres``, ``mysql`` or ``sqlite``."""

    @property
    def timeout(self) -> float:
        """Seconds after which an operation on an unreachable backend gives up."""

    @property
    def concurrency(self) -> int:
        """How many operations at once the store takes."""

    @property
    def is_durable(self) -> bool:
        """True if acknowledged writes survive a restart of the backend, and nothing is evicted. If not, a missing
        record proves nothing."""

    @property
    def entries(self) -> EntryTable:
        """Those in the same backend. They are not copied from one store to another."""

    def put(self, session: Session) -> Session:
        """Store the record as it is, unless a newer copy is there; return the one that is there afterwards.

        If another open session holds its slot, it is stored without a claim to it: ``get`` has it, ``find`` does not.
        """

    def keys_since(self, touched: float) -> list[str]:
        """The keys of all sessions last touched at that Unix time or later, the oldest first."""

    def is_complete(self) -> bool:
        """Whether nothing has been lost since ``mark_complete``, as far as the store can know."""

    def mark_complete(self) -> None:
        """Record that the store has everything that it should, until its backend loses something."""

    def on_loss(self, callback: Callable[[], None]) -> None:
        """Call back, from the operation that finds it, when the backend turns out to be another one, or to have been
        restarted: then it may have lost what it had."""
