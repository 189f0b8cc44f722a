"""Beginning an upload, and how many may be open at once (docs/protocol.md, section 6).

A signature is the right to one file, so the uploads of one path share it: beyond ``MaxSessionsPerPath`` a new one ends
the one that was silent longest, and of those that have ended as many are remembered. What is left to bound is how many
*paths* one client has open; the neighbours at its address must not pay for it, so the count is the owner's where
the signature names one, and an upload that nobody goes on with makes room.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from hmacfs.addresses import WIDE_SHARES
from hmacfs.errors import NameTaken, SessionStoreUnreachable, StorageFailed, TooLarge, TooManySessions, WriterBusy
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.contracts.requests import Space
from hmacfs.uploads.contracts.sessions import SessionStore
from hmacfs.uploads.contracts.stores import FileStore
from hmacfs.uploads.files import FileMetadata
from hmacfs.uploads.progress import UploadLimits
from hmacfs.uploads.session import CountedBy, Owner, Session, State
from hmacfs.uploads.tokens import SessionTokens

#: When a client with too many unfinished uploads may come again, in seconds: one of them may be done then.
_RETRY_AFTER = 60
#: An upload that was silent for so many seconds makes room for another one of its owner.
GIVES_WAY_SECONDS = 600.0
#: Of an owner's uploads, so many of those that are silent longest are looked at for one to make room.
_OLDEST_OPEN = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What an upload is to become. by_slot: the name's slot leads to it; else its token alone. The rest as in
    ``Session``."""

    name: StoredName
    length: int | None
    content_type: str | None
    owner: Owner
    by_slot: bool
    dialect: str
    chunk_count: int = 0
    metadata: str = ""


class _Limit(NamedTuple):
    by: CountedBy
    who: str
    most: int


class Creation:
    """``end`` ends an open upload, also one that is being written: it raises ``WriterBusy``
    if a writer does not let go, and ``SessionStoreUnavailable``."""

    def __init__(
        self,
        sessions: SessionStore,
        store: FileStore,
        space: Space,
        limits: UploadLimits,
        clock: Callable[[], float],
        tokens: SessionTokens,
        end: Callable[[Session], None],
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._partials = store.partials
        self._space = space
        self._limits = limits
        self._clock = clock
        self._tokens = tokens
        self._end = end

    def __call__(self, plan: Plan) -> Session | None:
        """Begin an upload; ``None`` if the slot has an open one. Raises ``TooLarge``, ``NoSpace``, ``NameTaken``,
        ``TooManySessions``, ``SessionStoreUnavailable``."""
        if plan.length is not None and plan.length > self._limits.max_size:
            raise TooLarge
        self.check_name(plan.name)
        session = self._session(plan)
        for limit in self._limits_of(session):
            if self._count(limit) >= limit.most and not (self._replaces(plan) or self._make_room(limit)):
                raise TooManySessions(_RETRY_AFTER)
        with self._space.reserve(self._store.space_of(plan.length or 0)):
            self._partials.create(session.key, plan.name, plan.length, FileMetadata(plan.content_type))
        try:
            if self._sessions.create(session):
                self._settle(session)
                return session
        except BaseException:
            self._partials.discard(session.key)
            raise
        self._partials.discard(session.key)
        return None

    def check_name(self, name: StoredName) -> None:
        """Raises ``NameTaken``."""
        if self._store.exists(name):
            raise NameTaken

    def _session(self, plan: Plan) -> Session:
        identity, now = self._tokens.new(), self._clock()
        return Session(
            key=identity.key,
            nonce=identity.nonce,
            path=plan.name.path,
            slot=plan.name.path if plan.by_slot else None,
            length=plan.length,
            content_type=plan.content_type,
            owner=plan.owner.name,
            site=plan.owner.site,
            created=now,
            touched=now,
            metadata=plan.metadata,
            dialect=plan.dialect,
            chunk_count=plan.chunk_count,
        )

    def _settle(self, session: Session) -> None:
        """Of requests that begin uploads at the same moment, each found less than there are now; the last one sees all.
        Raises ``TooManySessions``, ``NameTaken`` and ``StorageFailed``, with nothing recorded of the new one, and
        ``SessionStoreBusy``."""
        try:
            known = self._sessions.of_path(session.path)
            if any(one.state is State.FINISHED for one in known):  # maybe since the name was looked at
                self.check_name(StoredName.from_text(session.path))
            self._settle_path(known)
            for limit in self._limits_of(session):
                if self._count(limit) > limit.most and not self._make_room(limit):
                    raise TooManySessions(_RETRY_AFTER)
        except (NameTaken, StorageFailed):
            self._sessions.remove(session.key)
            raise
        except (TooManySessions, WriterBusy):
            self._sessions.remove(session.key)
            raise TooManySessions(_RETRY_AFTER) from None
        except SessionStoreUnreachable:
            return  # it has been begun, and can go on elsewhere; a busy store is no way around the limits

    def _settle_path(self, known: Sequence[Session]) -> None:
        """known: all of one path. Raises ``WriterBusy``."""
        is_open = [session for session in known if session.state is State.OPEN]
        surplus = len(is_open) - self._limits.per_path
        if surplus > 0:
            for session in sorted(is_open, key=self._silence)[:surplus]:
                self._end(session)
        ended = sorted((one for one in known if one.state is not State.OPEN), key=lambda one: one.touched)
        for session in ended[: -self._limits.per_path]:
            self._sessions.remove(session.key)

    def _replaces(self, plan: Plan) -> bool:
        """Whether an upload of the same path will end for this one."""
        known = self._sessions.of_path(plan.name.path)
        return sum(session.state is State.OPEN for session in known) >= self._limits.per_path

    def _silence(self, session: Session) -> tuple[float, float, str]:
        """Sorts by the last byte, which the file knows exactly; by one order for all that ask at the same moment."""
        info = self._partials.stat(session.key)
        return (-math.inf if info is None else info.touched), session.created, session.key

    def _limits_of(self, session: Session) -> Iterator[_Limit]:
        # Without a name, it is a proxy on the Unix socket: one limit for all whom that speaks for would lock all out.
        if session.owner:
            yield _Limit(CountedBy.OWNER, session.owner, self._limits.per_client)
        if session.site:
            yield _Limit(CountedBy.SITE, session.site, WIDE_SHARES * self._limits.per_client)

    def _count(self, limit: _Limit) -> int:
        return self._sessions.count_open(limit.by, limit.who)

    def _make_room(self, limit: _Limit) -> bool:
        """End one upload that nobody seems to go on with; whether there was one."""
        now = self._clock()
        open_sessions = self._sessions.open_of(limit.by, limit.who, _OLDEST_OPEN)
        silences = {self._silence(session): session for session in open_sessions}
        for (touched, _, _), session in sorted(silences.items()):
            if now - touched < GIVES_WAY_SECONDS:
                return False
            with suppress(WriterBusy):
                self._end(session)
                return True
        return False
