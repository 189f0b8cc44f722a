"""What machines that share no kernel need of a store that they share: entries that change by compare-and-swap.

An entry stands for a right that ends with its time: the lease on an unfinished upload (``sessions.leases``), the claim
on a name in an engine that ignores conditional writes.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

#: For so long at least an entry that is over can still be read: who takes it over has to end first, or to
#: complete, what its holder had begun.
KEPT_SECONDS = 86_400.0


class Entry(NamedTuple):
    """version: names this state of the entry; no other one ever had it, so an entry that was removed and made again is
    told from its former self. seconds_left: until it is over, by the clock of the store; not above 0 once it is."""

    value: str
    version: int
    seconds_left: float


class Entries(Protocol):
    """A table of entries, shared by all processes and machines.

    Duties of a store:
    - Every call is cooperative: it may switch greenlets but never blocks the event loop.
    - A change is atomic: of all that are made to one version at once, one succeeds. Whoever reads afterwards sees it.
    - "I cannot tell" is ``SessionStoreUnavailable``, never ``None`` or ``False``. A change that raised it may have been
      made, or be made within the store's timeout.
    - Its own clock alone says when an entry is over: those of the machines may differ. It does nothing then: an entry
      that is over can be read and changed as any other, and is forgotten after ``KEPT_SECONDS`` at the earliest.
    - A change that a store repeats, since its first answer was lost, is told of as made.

    Duties of the caller:
    - Its keys begin with a word that says what they are for, and a space. They and the values are texts of any length.
    - The value says whose it is, by a random name: after ``SessionStoreUnavailable`` the caller reads, and knows by it
      whether its change was made.
    - It takes over an entry only once it is over. What it was told of ``seconds_left`` was true when the store
      answered; of an entry of its own it counts from before it asked, by a clock that no one sets.
    - It bears that a store that evicts, or that is replaced by one which lags, forgets an entry before its time.
    """

    def read(self, key: str) -> Entry | None:
        """The entry, over or not; ``None`` if there is none."""

    def replace(self, key: str, version: int | None, value: str, seconds: float | None) -> int | None:
        """Change the entry that has this version, or make one if ``version`` is ``None`` and there is none. The new
        version; ``None``, and no change, if somebody was faster. seconds: until it is over; ``None``: when it would
        have been over without the change."""

    def remove(self, key: str, version: int) -> bool:
        """Forget the entry that has this version. False, and no change, if it has another one; true if there is
        none."""
