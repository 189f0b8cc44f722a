"""Removing expired uploads. Pure: it decides, by what the stores say."""

from __future__ import annotations

import logging
import math

from hmacfs.errors import HmacfsError, SessionStoreUnavailable, StoreUnavailable, for_operator
from hmacfs.uploads.contracts.sessions import SessionStore
from hmacfs.uploads.contracts.stores import PartialUploads
from hmacfs.uploads.progress import SweepResult, UploadLimits
from hmacfs.uploads.session import Session
from hmacfs.uploads.writers import Writers

log = logging.getLogger("hmacfs.uploads")

#: So often the store could not be reached, and nothing succeeded between: it is away, and each further try may take as
#: long as its timeout.
_HOPELESS = 10


def sweep(
    sessions: SessionStore,
    partials: PartialUploads,
    writers: Writers,
    limits: UploadLimits,
    now: float,
    batch: int,
) -> SweepResult:
    """Remove, each with its bytes, sessions that no byte came for within ``SessionTTL`` and sessions past their
    deadline; then bytes as old that no session knows. An upload that is being written is never touched, and one that
    cannot be removed does not keep the others. ``batch``: sessions looked at at once.

    Raises ``SessionStoreUnavailable``: what cannot be looked up is not removed; ``StoreUnavailable`` if the store is
    away.
    """
    before = now - limits.ttl
    removal = _Removal(writers)

    def discard(session: Session) -> bool:
        return removal.discard(session.key, math.inf if now >= limits.deadline(session) else before)

    removed, limit, is_all = 0, batch, False
    while not is_all:
        found = sessions.stale(before, limit)
        gone = [session for session in found if discard(session)]
        for session in gone:
            sessions.remove(session.key)
        removed += len(gone)
        is_all = len(found) < limit
        # Found again: those that got bytes since their record was saved, and those that cannot be removed.
        limit = batch + len(found) - len(gone)
    orphans = 0
    for key in partials.untouched_since(before):
        if sessions.get(key) is None and removal.discard(key, before):
            orphans += 1
    return SweepResult(removed, orphans, len(removal.failed), removal.failure)


class _Removal:
    """Of one sweep. failed: the keys of what could not be removed. failure: see ``SweepResult``."""

    def __init__(self, writers: Writers) -> None:
        self._writers = writers
        self._unreached_in_a_row = 0
        self.failed: set[str] = set()
        self.failure = ""

    def discard(self, key: str, untouched_since: float) -> bool:
        """See ``Writers``. What has failed once is left to the next sweep."""
        if key in self.failed:
            return False
        try:
            is_gone = self._writers.discard(key, untouched_since)
        except SessionStoreUnavailable:
            raise
        except Exception as error:
            self._note(key, error)
            return False
        self._unreached_in_a_row = 0
        return is_gone

    def _note(self, key: str, error: Exception) -> None:
        if not isinstance(error, HmacfsError):
            log.error("an expired upload cannot be removed", exc_info=error)
        if isinstance(error, StoreUnavailable):
            self._unreached_in_a_row += 1
            if self._unreached_in_a_row == _HOPELESS:
                raise error
        self.failed.add(key)
        self.failure = self.failure or for_operator(error)
