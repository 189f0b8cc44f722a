"""The use cases of an upload session: create, append, probe, finish, abort, expire (PROTOCOL section 6).

One core for all dialects. What is stored is the truth about the offset; the session's record only says what the upload
is to become.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, Protocol, TypeVar

from hmacfs.errors import (
    ChecksumMismatch,
    HmacfsError,
    NameTaken,
    OffsetMismatch,
    SessionConflict,
    SessionExpired,
    SessionStoreUnavailable,
    SessionUnknown,
    TooLarge,
    TooManySessions,
    WriterBusy,
)
from hmacfs.naming import StoredName
from hmacfs.uploads.contracts import SessionStore
from hmacfs.uploads.session import NEXT, Session, State, new_token
from hmacfs.uploads.whole import Counted, Space

BodyT = TypeVar("BodyT", bound=Counted, contravariant=True)
FactsT = TypeVar("FactsT", covariant=True)

log = logging.getLogger("hmacfs.uploads")

#: When a client with too many unfinished uploads may come again, in seconds: one of them may be done then.
_RETRY_AFTER = 60


class Digest(Protocol):
    """What ``hashlib`` objects offer."""

    def update(self, data: memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class Writer(Protocol[FactsT]):
    """The right to write one unfinished upload, at ``fd``'s position: the end of the ``length`` bytes it has.

    ``is_wanted`` says whether another writer asked for it; ``stored`` measures anew; ``publish`` makes the file visible
    and removes the unfinished upload, or raises ``NameTaken``.
    """

    fd: int
    length: int

    def is_wanted(self) -> bool: ...

    def truncate(self, length: int) -> None: ...

    def stored(self) -> int: ...

    def publish(self, name: StoredName, content_type: str | None) -> FactsT: ...


class Partials(Protocol[FactsT]):
    """The unfinished uploads. ``writer`` raises ``SessionUnknown`` and ``WriterBusy``; it asks a present writer to let
    go if the stored bytes end at ``offset``. ``discard`` refuses (False) while somebody writes."""

    def create(self, token: str) -> None: ...

    def length(self, token: str) -> int | None: ...

    def writer(self, token: str, offset: int) -> AbstractContextManager[Writer[FactsT]]: ...

    def discard(self, token: str) -> bool: ...

    def untouched_since(self, before: float) -> list[str]: ...


class PieceReceiver(Protocol[BodyT]):
    """Moves a request body into a file, as for whole uploads; stops with ``TakenOver`` once ``is_wanted`` says so."""

    def receive(
        self,
        body: BodyT,
        fd: int,
        *,
        limit: int,
        digest: Digest | None = None,
        is_wanted: Callable[[], bool] | None = None,
    ) -> int: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Progress(Generic[FactsT]):
    """How far an upload is. ``facts`` are the finished file's, ``None`` until then."""

    session: Session
    offset: int
    facts: FactsT | None = None

    @property
    def is_finished(self) -> bool:
        return self.facts is not None or self.session.state is State.FINISHED


@dataclasses.dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep removed: expired sessions, and unfinished uploads that no session knew."""

    sessions: int
    orphans: int


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """max_size in bytes; ttl in seconds since the last byte; per_client: open sessions of one owner."""

    max_size: int
    ttl: float
    per_client: int


class ResumableUploads(Generic[BodyT, FactsT]):
    """The use cases. ``exists`` says whether a name is taken; ``clock`` gives Unix seconds."""

    def __init__(
        self,
        sessions: SessionStore,
        partials: Partials[FactsT],
        receiver: PieceReceiver[BodyT],
        space: Space,
        exists: Callable[[StoredName], bool],
        limits: Limits,
        clock: Callable[[], float],
    ) -> None:
        self._sessions = sessions
        self._partials = partials
        self._receiver = receiver
        self._space = space
        self._exists = exists
        self.limits = limits
        self._clock = clock

    def create(
        self,
        name: StoredName,
        length: int | None,
        content_type: str | None,
        owner: str,
        *,
        by_slot: bool,
        metadata: str = "",
    ) -> Session:
        """Begin an upload; of the name's slot if ``by_slot``, else known by its token alone.

        Two requests that begin the same slot at once get the same session. Raises ``TooLarge``, ``NoSpace``,
        ``NameTaken``, ``TooManySessions``, ``SessionStoreUnavailable``.
        """
        if length is not None and length > self.limits.max_size:
            raise TooLarge
        if self._exists(name):
            raise NameTaken
        if self._sessions.count_open(owner) >= self.limits.per_client:
            raise TooManySessions(_RETRY_AFTER)
        now, token = self._clock(), new_token()
        slot = name.path if by_slot else None
        session = Session(token, name.path, slot, length, content_type, owner, now, now, metadata=metadata)
        with self._space.reserve(length or 0):
            self._partials.create(token)
        try:
            if self._sessions.create(session):
                return session
        except BaseException:
            self._partials.discard(token)
            raise
        self._partials.discard(token)
        found = self.find(name)
        if found is None:  # it ended meanwhile: its bytes are a file now, or it was aborted
            raise SessionConflict
        return found

    def find(self, name: StoredName) -> Session | None:
        """The open session of a slot, ``None`` if there is none. Raises ``SessionExpired``,
        ``SessionStoreUnavailable``."""
        session = self._sessions.find(name.path)
        if session is None:
            return None
        self._check_age(session)
        if self._partials.length(session.token) is None:
            # It was finished, or its bytes were lost with the disk: either way it cannot go on.
            self._end(session, State.FINISHED if self._exists(name) else State.ABORTED)
            return None
        return session

    def get(self, token: str) -> Session:
        """The session of a token, finished ones included. Raises ``SessionUnknown``, ``SessionExpired``,
        ``SessionStoreUnavailable``."""
        session = self._sessions.get(token)
        if session is None or session.state is State.ABORTED:
            raise SessionUnknown
        self._check_age(session)
        return session

    def _check_age(self, session: Session) -> None:
        if session.is_expired(self._clock(), self.limits.ttl):
            raise SessionExpired

    def progress(self, session: Session) -> Progress[FactsT]:
        """How far it is. Raises ``SessionUnknown`` if its bytes are gone."""
        stored = self._partials.length(session.token)
        if stored is not None and session.state is State.OPEN:
            return Progress(session, stored)
        if session.state is State.FINISHED or self._exists(StoredName.from_text(session.path)):
            finished = dataclasses.replace(session, state=State.FINISHED)
            return Progress(finished, session.length or 0)
        raise SessionUnknown

    def append(
        self,
        session: Session,
        offset: int,
        body: BodyT,
        size: int | None,
        *,
        digest: Digest | None = None,
        expected: bytes = b"",
        is_last: bool = False,
        after: Callable[[Session, int], Session] | None = None,
        restart: bool = False,
    ) -> Progress[FactsT]:
        """Append ``body`` (``size`` bytes if it says so) at ``offset``, and finish the upload if that completes it.

        digest, expected: nothing of the piece is kept unless its digest is the expected one. is_last: the upload is
        complete after this piece, whatever its length. after: what changes in the record once the piece is stored.
        restart: bytes stored behind ``offset`` are of an earlier attempt at this piece, and are dropped.

        Raises ``OffsetMismatch``, ``TooLarge``, ``SessionConflict`` (the last piece leaves a gap), ``TakenOver``,
        ``ChecksumMismatch``, ``NameTaken``, ``NoSpace``, what the body raises, and ``SessionStoreUnavailable``. What
        arrived before that is kept, except where it says otherwise.
        """
        limit = self.limits.max_size if session.length is None else session.length
        if size is not None and offset + size > limit:
            raise TooLarge
        with self._writer(session, offset, restart=restart) as writer:
            if restart and writer.length > offset:
                writer.truncate(offset)
            if writer.length != offset:
                raise OffsetMismatch(writer.length)
            with self._space.reserve(size or 0, body):
                self._receive(writer, body, limit - offset, digest, expected)
            stored = writer.stored()
            touched = dataclasses.replace(session, touched=self._clock())
            session = self._sessions.save(after(touched, stored) if after else touched)
            if stored != session.length and not (is_last and session.length is None):
                if is_last:
                    raise SessionConflict("The last piece leaves the file shorter than it was announced.")
                return Progress(session, stored)
            return self._finish(session, writer, stored)

    @contextmanager
    def _writer(self, session: Session, offset: int, *, restart: bool) -> Iterator[Writer[FactsT]]:
        """The writer, for whom a present one gives way; a loser learns the offset."""
        asked_at = (self._partials.length(session.token) or 0) if restart else offset
        try:
            with self._partials.writer(session.token, asked_at) as writer:
                yield writer
        except WriterBusy:
            stored = self._partials.length(session.token)
            if stored is not None and stored != offset:
                raise OffsetMismatch(stored) from None
            raise

    def _receive(self, writer: Writer[FactsT], body: BodyT, limit: int, digest: Digest | None, expected: bytes) -> None:
        began_at = writer.length
        try:
            self._receiver.receive(body, writer.fd, limit=limit, digest=digest, is_wanted=writer.is_wanted)
        except TooLarge:
            writer.truncate(began_at)
            raise
        except HmacfsError:
            if digest is not None:
                writer.truncate(began_at)
            raise
        if digest is not None and digest.digest() != expected:
            writer.truncate(began_at)
            raise ChecksumMismatch

    def _finish(self, session: Session, writer: Writer[FactsT], stored: int) -> Progress[FactsT]:
        name = StoredName.from_text(session.path)
        try:
            facts = writer.publish(name, session.content_type)
        except NameTaken:
            self._end(session, State.ABORTED)
            self._partials.discard(session.token)
            raise
        finished = dataclasses.replace(session, length=stored)
        return Progress(self._end(finished, State.FINISHED), stored, facts)

    def _end(self, session: Session, state: State) -> Session:
        """Record a session's end. The file says more than the record: one that cannot be written now can wait."""
        assert state in NEXT[session.state]
        ended = dataclasses.replace(session, state=state)
        try:
            return self._sessions.save(ended)
        except SessionStoreUnavailable:
            log.warning("the end of an upload session could not be recorded yet")
            return ended

    def abort(self, session: Session) -> None:
        """Give an upload up. Raises ``WriterBusy`` if somebody keeps writing it."""
        if session.state is State.OPEN:
            length = self._partials.length(session.token)
            if length is not None:
                with self._partials.writer(session.token, length):
                    self._end(session, State.ABORTED)
                if not self._partials.discard(session.token):
                    raise WriterBusy
        self._sessions.remove(session.token)

    def sweep(self, batch: int = 100) -> Swept:
        """Remove expired sessions with their bytes, and bytes that no session knows. An upload that is being written
        is never touched. Raises ``SessionStoreUnavailable``: what cannot be looked up is not removed."""
        before = self._clock() - self.limits.ttl
        sessions = 0
        while found := self._sessions.stale(before, batch):
            removed = 0
            for session in found:
                if self._partials.discard(session.token):
                    self._sessions.remove(session.token)
                    removed += 1
            sessions += removed
            if removed < len(found) or len(found) < batch:
                break
        orphans = 0
        for token in self._partials.untouched_since(before):
            if self._sessions.get(token) is None and self._partials.discard(token):
                orphans += 1
        return Swept(sessions, orphans)
