"""Removing what nobody will go on with. Pure: it decides, by what the stores say."""

from __future__ import annotations

from hmacfs.uploads.contracts import Facts, Partials, SessionStore
from hmacfs.uploads.progress import Swept


def sweep(sessions: SessionStore, partials: Partials[Facts], before: float, batch: int) -> Swept:
    """Remove sessions without a sign of life since ``before`` (Unix seconds) with their bytes, and bytes as old that no
    session knows. An upload that is being written is never touched. Raises ``SessionStoreUnavailable``: what cannot be
    looked up is not removed. ``batch``: sessions looked at at once."""
    removed, limit, is_all = 0, batch, False
    while not is_all:
        found = sessions.stale(before, limit)
        gone = [session for session in found if partials.discard(session.token, before)]
        for session in gone:
            sessions.remove(session.token)
        removed += len(gone)
        is_all = len(found) < limit
        limit = batch + len(found) - len(gone)  # those that bytes came for since come again
    orphans = 0
    for token in partials.untouched_since(before):
        if sessions.get(token) is None and partials.discard(token, before):
            orphans += 1
    return Swept(removed, orphans)
