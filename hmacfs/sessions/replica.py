"""What the chain needs of the stores that stand in for each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hmacfs.uploads.contracts.sessions import SessionRecords
from hmacfs.uploads.session import Session


class Replica(SessionRecords, Protocol):
    """A store that can be brought up to date from another."""

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
        """Whether what it has answered to have stored outlives its server. If not, that it has no record of a session
        does not prove that there is none."""

    def put(self, session: Session) -> Session:
        """Store the record as it is, unless a newer copy is there; return the one that is there afterwards.

        If another open session holds its slot, it is stored without a claim to it: ``get`` has it, ``find`` does not.
        """

    def keys_since(self, touched: float) -> list[str]:
        """The keys of all sessions last touched at that Unix time or later, the oldest first."""

    def is_complete(self) -> bool:
        """Whether nothing has been lost since ``mark_complete``, as far as the store can know."""

    def mark_complete(self) -> None:
        """From now on the store holds all that it should."""

    def on_loss(self, callback: Callable[[], None]) -> None:
        """Call back, from whichever operation finds it, when the backend turns out to be another one, or to have been
        started anew: then it may have lost what it had."""
