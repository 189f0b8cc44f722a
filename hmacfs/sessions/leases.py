"""The lock on an unfinished upload where machines share no kernel: a lease, which is an entry in the session store.

Whoever writes the upload renews its lease; a dead holder's is over after ``LEASE_SECONDS`` at most, and until then a
newcomer is told to come again. The entry's value is the holder's random name, and the word ``wanted`` while somebody
waits: the holder looks for it once a second, and lets go.

What it cannot do: keep apart two holders that do not see the same store (``ReplicatedSessionStore.leases``), nor notice
that a machine was halted in a way that its clocks do not know of. The store of unfinished uploads is safe without it.
"""

from __future__ import annotations

import dataclasses
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from hmacfs.errors import SessionStoreUnavailable, Superseded, WriterBusy
from hmacfs.system.clocks import MARGIN_SECONDS, boot_clock
from hmacfs.uploads.contracts.entries import Entries, Entry

LEASE_SECONDS = 30.0
#: How long a newcomer waits for the writer to let go. A lease that is over by then is taken.
TAKEOVER_SECONDS = 10.0
#: A holder looks so often whether another one wants the upload.
LOOK_SECONDS = 1.0

_POLL_SECONDS = 0.1
#: Each fails only if somebody changed the entry since it was read: asked, or withdrew that.
_ATTEMPTS = 5
_WANTED = " wanted"


@dataclasses.dataclass(frozen=True, slots=True)
class LeaseTimes:
    """In seconds. lease: how long one lasts without being renewed. patience: how long ``Locker.wait`` may take. look:
    see ``LOOK_SECONDS``. clock, sleep: of this process, for tests."""

    lease: float = LEASE_SECONDS
    patience: float = TAKEOVER_SECONDS
    look: float = LOOK_SECONDS
    clock: Callable[[], float] = boot_clock
    sleep: Callable[[float], None] | None = None


class LeaseLocker:
    """A ``Locker`` over entries. Raises ``SessionStoreUnavailable`` too."""

    def __init__(self, entries: Entries, times: LeaseTimes | None = None) -> None:
        self._entries = entries
        self._times = times or LeaseTimes()
        # Asked for here: in a gevent worker it is cooperative only after the fork.
        self._sleep = self._times.sleep or time.sleep

    def acquire(self, key: str) -> EntryLease | None:
        entry_key = _entry_key(key)
        return self._take(entry_key, None) or self._take(entry_key, self._entries.read(entry_key))

    def wait(self, key: str, may_ask: Callable[[], bool]) -> EntryLease:
        """See ``Locker``."""
        entry_key = _entry_key(key)
        deadline = self._times.clock() + self._times.patience
        has_asked = False
        try:
            while True:
                entry = self._entries.read(entry_key)
                lease = self._take(entry_key, entry)
                if lease is not None:
                    return lease
                if not may_ask() or self._times.clock() > deadline:
                    raise WriterBusy
                has_asked = self._ask(entry_key, entry) or has_asked
                self._sleep(_POLL_SECONDS)
        except BaseException:
            if has_asked:
                self._withdraw(entry_key)  # others that wait for the same ask again
            raise

    def _take(self, entry_key: str, entry: Entry | None) -> EntryLease | None:
        """The lease, if this is the entry, and it is over."""
        if entry is not None and entry.seconds_left > 0:
            return None
        began, holder = self._times.clock(), secrets.token_hex(8)
        version = self._entries.replace(entry_key, _version(entry), holder, self._times.lease)
        return None if version is None else EntryLease(self._entries, self._times, entry_key, holder, version, began)

    def _ask(self, entry_key: str, entry: Entry | None) -> bool:
        """Whether the holder is asked by this."""
        if entry is None or entry.value.endswith(_WANTED):
            return False
        return self._entries.replace(entry_key, entry.version, entry.value + _WANTED, None) is not None

    def _withdraw(self, entry_key: str) -> None:
        with suppress(SessionStoreUnavailable):
            entry = self._entries.read(entry_key)
            if entry is not None and entry.value.endswith(_WANTED):
                self._entries.replace(entry_key, entry.version, entry.value.removesuffix(_WANTED), None)


class EntryLease:
    """A ``Lease``, for several greenlets. holder: its name, in the entry. began: when it was asked for."""

    def __init__(
        self, entries: Entries, times: LeaseTimes, entry_key: str, holder: str, version: int, began: float
    ) -> None:
        self._entries = entries
        self._times = times
        self._key = entry_key
        self._holder = holder
        self._version = version
        self._ends = 0.0
        self._note_renewal(began)
        self._next_look = began + times.look
        self._is_wanted = False
        #: It is another's, or was given back.
        self._is_gone = False
        #: Held during calls of the store that may change what is above: a renewal must not undo a release.
        self._calling = threading.Lock()

    def check(self) -> None:
        if self._is_due():
            with self._calling:
                self._renew_if_due()
        if self._is_gone:
            raise Superseded

    def is_wanted(self) -> bool:
        if self._times.clock() >= self._next_look and self._calling.acquire(blocking=False):
            try:
                self._next_look = self._times.clock() + self._times.look
                with suppress(SessionStoreUnavailable):
                    self._look(renews=self._is_due())
            finally:
                self._calling.release()
        return self._is_wanted or self._is_gone

    def release(self) -> None:
        """Where the store is away, it runs out."""
        with self._calling:
            if not self._is_gone:
                self._is_gone = True
                with suppress(SessionStoreUnavailable):
                    self._remove()

    # -- during calls ---------------------------------------------------------------------------------

    def _renew_if_due(self) -> None:
        """Raises ``SessionStoreUnavailable`` if nobody can tell whose it is."""
        if not self._is_due():
            return  # another greenlet has renewed it
        try:
            self._look(renews=True)
        except SessionStoreUnavailable:
            if self._seconds_left() <= 0:
                raise

    def _look(self, *, renews: bool) -> None:
        """Learn whether it is wanted or gone; unless it is gone, it is in the store afterwards."""
        if self._is_gone or (renews and self._put(self._version)):
            return
        for _ in range(_ATTEMPTS):
            entry = self._entries.read(self._key)
            if entry is not None and entry.value.removesuffix(_WANTED) == self._holder:
                self._version, self._is_wanted = entry.version, entry.value.endswith(_WANTED)
                if not renews:
                    return
            elif self._seconds_left() <= 0 or (entry is not None and entry.seconds_left > 0):
                self._is_gone = True
                return
            # Else nobody can have had it meanwhile: the store has lost it, or is another than before.
            if self._put(_version(entry)):
                return

    def _put(self, version: int | None) -> bool:
        """Begin its time anew, if the entry has this version."""
        began = self._times.clock()
        value = self._holder + _WANTED if self._is_wanted else self._holder
        made = self._entries.replace(self._key, version, value, self._times.lease)
        if made is None:
            return False
        self._version = made
        self._note_renewal(began)
        return True

    def _remove(self) -> None:
        for _ in range(_ATTEMPTS):
            if self._entries.remove(self._key, self._version):
                return
            entry = self._entries.read(self._key)
            if entry is None or entry.value.removesuffix(_WANTED) != self._holder:
                return
            self._version = entry.version

    # -- time -----------------------------------------------------------------------------------------

    def _note_renewal(self, began: float) -> None:
        self._ends = began + self._times.lease - MARGIN_SECONDS

    def _seconds_left(self) -> float:
        return self._ends - self._times.clock()

    def _is_due(self) -> bool:
        """Whether less than half of it is left."""
        return not self._is_gone and self._seconds_left() < self._times.lease / 2


def _entry_key(key: str) -> str:
    return f"lease {key}"


def _version(entry: Entry | None) -> int | None:
    return None if entry is None else entry.version
