"""An upload session: what is remembered about an upload that takes more than one request.

Pure values and rules. How much has arrived is *not* here: the partial file's length is the truth about the offset, so
a session record can be lost, stale or restored without a byte being stored twice or skipped.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import NamedTuple


class State(enum.StrEnum):
    """Where a session stands. ``TRANSITIONS`` is the table of legal steps."""

    OPEN = "open"
    FINISHED = "finished"
    ABORTED = "aborted"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.OPEN: frozenset({State.OPEN, State.FINISHED, State.ABORTED}),
    State.FINISHED: frozenset(),
    State.ABORTED: frozenset(),
}


class Owner(NamedTuple):
    """Whose an upload is. name: the user that the signature names, else the client's address, for IPv6 its /64; empty
    if nobody knows. site: where the name is an IPv6 network, the /48 that it is in; else empty."""

    name: str
    site: str = ""


class CountedBy(enum.StrEnum):
    """What open sessions are counted by: a field of ``Session``."""

    OWNER = "owner"
    SITE = "site"


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """One upload session, as the session stores keep it.

    key: names the session and its partial file; a digest of its token, which stands nowhere (see ``tokens``).
    path: the stored name that the finished file will have.
    slot: for dialects that address the session by the slot URL: equal to ``path``, and unique among sessions that are
        open; ``None`` for dialects that address it by the token alone (tus), of which a path may have several.
    length: bytes of the whole file; ``None`` while unknown (numbered chunks without a total).
    content_type: the type that the finished file will be served with; ``None`` if the client gave none.
    owner, site: see ``Owner``; for ``MaxSessionsPerClient``.
    created, touched: Unix seconds; ``touched`` is when the last byte or command came, or somewhat earlier: the
        unfinished upload itself knows the exact time. Never so late that the upload would outlive
        ``UploadLimits.deadline``.
    state: see ``State``.
    chunks: numbered chunks completed so far (0 for other dialects).
    next_chunk_at: the byte of the file at which the next numbered chunk begins (0 for other dialects).
    chunk_count: how many numbered chunks the file will have; 0 for other dialects, and where it is not recorded.
    dialect: the name of the dialect that made it; a slot takes pieces of that one only. Opaque to the core.
    etag: the finished file's entity tag, by which it is told from another file of that name; empty until then, and
        where it is not recorded.
    metadata: the ``Upload-Metadata`` of a tus upload, to be given back unchanged; empty for other dialects.
    file_claims: what the client claims of the whole file, to be judged before that is visible, by whoever finishes the
        upload (see ``protocol.digests.claims_of_file``).
    nonce: what the token is derived from; empty for sessions of 1.0.0, whose key is their token.
    revision: raised by one at each save, so that of two copies the newer is known.
    """

    key: str
    path: str
    slot: str | None
    length: int | None
    content_type: str | None
    owner: str
    created: float
    touched: float
    state: State = State.OPEN
    chunks: int = 0
    metadata: str = ""
    revision: int = 0
    dialect: str = ""
    chunk_count: int = 0
    etag: str = ""
    nonce: str = ""
    site: str = ""
    next_chunk_at: int = 0
    file_claims: str = ""

    def expires(self, ttl: float) -> float:
        """Unix seconds at which the session ends if nothing more comes; ``ttl`` in seconds since the last byte."""
        return self.touched + ttl

    def is_expired(self, now: float, ttl: float) -> bool:
        return now >= self.expires(ttl)
