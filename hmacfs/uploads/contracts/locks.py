"""What the use cases need of a lock on an unfinished upload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Lease(Protocol):
    """The right to write one upload, for as long as its holder keeps it.

    The kernel's lock ends with its holder. One that ends with its time can be lost by a holder that was frozen.
    """

    def check(self) -> None:
        """Raises ``Superseded`` if another one has it by now, ``SessionStoreUnavailable`` if nobody can tell. A store
        that is not locked by the kernel calls it before each change."""

    def is_wanted(self) -> bool:
        """Whether another one asked for the upload (``Locker.wait``), or has it by now. The holder looks some times a
        second while it writes, and lets go."""

    def release(self) -> None:
        """Give it back. No error if it is lost already; called more than once, it does nothing more."""


class Locker(Protocol):
    """Sees to it that one at a time writes an upload, over all processes and machines that share the store.

    Apart from the store, since not every store can lock: a folder has the kernel's file locks, which end with their
    process; for machines without a shared file system a lease in the session store does it, which ends with its time.
    It saves double work and mixed pieces; that no acknowledged byte is lost is ensured by the store.

    Both raise ``SessionUnknown`` if they see that there is no such upload, which they need not.
    """

    def acquire(self, key: str) -> Lease | None:
        """The lease, or at once ``None`` if another one has it."""

    def wait(self, key: str, may_ask: Callable[[], bool]) -> Lease:
        """Ask the present holder to let go until it does. may_ask: asked before each time; False ends it. Cooperative.
        Raises ``WriterBusy``."""
