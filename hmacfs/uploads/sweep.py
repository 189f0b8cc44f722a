"""Removing expired uploads. Pure: it decides, by what the stores say."""

from __future__ import annotations

import math

from hmacfs.uploads.contracts.sessions import SessionStore
from hmacfs.uploads.contracts.stores import PartialUploads
from hmacfs.uploads.progress import SweepResult, UploadLimits
from hmacfs.uploads.session import Session
from hmacfs.uploads.writers import Writers


def sweep(
    sessions: SessionStore,
    partials: PartialUploads,
    writers: Writers,
    limits: UploadLimits,
    now: float,
    batch: int,
) -> SweepResult:
    """Remove, each with its bytes, sessions that no byte came for within ``SessionTTL`` and sessions past their
    deadline; then bytes as old that no session knows. An upload that is being written is never touched. Raises
    ``SessionStoreUnavailable``: what cannot be looked up is not removed. ``batch``: sessions looked at at once."""
    before = now - limits.ttl

    def discard(session: Session) -> bool:
        return writers.discard(session.key, math.inf if now >= limits.deadline(session) else before)

    removed, limit, is_all = 0, batch, False
    while not is_all:
        found = sessions.stale(before, limit)
        gone = [session for session in found if discard(session)]
        for session in gone:
            sessions.remove(session.key)
        removed += len(gone)
        is_all = len(found) < limit
        limit = batch + len(found) - len(gone)  # found again: those that got bytes since their record was saved
    orphans = 0
    for key in partials.untouched_since(before):
        if sessions.get(key) is None and writers.discard(key, before):
            orphans += 1
    return SweepResult(removed, orphans)
