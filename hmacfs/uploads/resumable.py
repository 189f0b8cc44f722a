"""The use cases of an upload session: create, append, probe, finish, abort, expire (docs/protocol.md, section 6).

One core for all dialects. What is stored is the truth about the offset; the session's record only says what the upload
is to become.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from hmacfs.errors import (
    DeletionForbidden,
    DigestMismatch,
    HmacfsError,
    NameTaken,
    NoSpace,
    OffsetMismatch,
    SessionConflict,
    SessionEnded,
    SessionExpired,
    SessionStoreUnavailable,
    SessionUnknown,
    Superseded,
    TooLarge,
    WriterBusy,
)
from hmacfs.protocol.digests import digests_of_file
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.claims import with_claims, with_known_claims
from hmacfs.uploads.contracts.locks import Lease, Locker
from hmacfs.uploads.contracts.requests import Digest, Receiver, RequestBody, Space
from hmacfs.uploads.contracts.sessions import SessionStore
from hmacfs.uploads.contracts.stores import FileStore, PartialUpload
from hmacfs.uploads.creation import Creation, Plan
from hmacfs.uploads.files import FileMetadata
from hmacfs.uploads.progress import Progress, SweepResult, UploadLimits, became, of_file, transition
from hmacfs.uploads.session import Session, State
from hmacfs.uploads.sweep import sweep
from hmacfs.uploads.tokens import SessionTokens, key_of
from hmacfs.uploads.writers import Writers

log = logging.getLogger("hmacfs.uploads")


class ResumableUploads:
    """The use cases. ``clock`` gives Unix seconds."""

    def __init__(
        self,
        sessions: SessionStore,
        store: FileStore,
        locker: Locker,
        receiver: Receiver,
        space: Space,
        limits: UploadLimits,
        clock: Callable[[], float],
        tokens: SessionTokens,
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._partials = store.partials
        self._writers = Writers(store.partials, locker)
        self._receiver = receiver
        self._space = space
        self.limits = limits
        self._clock = clock
        self._tokens = tokens
        self._creation = Creation(sessions, store, space, limits, clock, tokens, self._end)

    def create(self, plan: Plan) -> Session:
        """Begin an upload. Two requests that begin the same slot at once get the same session, be it of another
        ``dialect``. Raises ``TooLarge``, ``NoSpace``, ``NameTaken``, ``TooManySessions``, ``SessionStoreUnavailable``.
        """
        session = self._creation(plan) or self.find(plan.name)
        if session is None:  # it ended meanwhile
            raise NameTaken if self._store.exists(plan.name) else SessionConflict
        return session

    def check_name(self, name: StoredName) -> None:
        """Raises ``NameTaken``."""
        self._creation.check_name(name)

    def token_of(self, session: Session) -> str | None:
        """What proves the right to write this upload; ``None`` if this server cannot tell any more."""
        return self._tokens.of(session)

    def find(self, name: StoredName) -> Session | None:
        """The open session of a slot, ``None`` if there is none. Raises ``SessionExpired``,
        ``SessionStoreUnavailable``."""
        session = self._sessions.find(name.path)
        if session is None:
            return None
        self._check_age(session)
        if not self._partials.exists(session.key):
            self._end_without_bytes(session)
            return None
        return session

    def unfinished(self, name: StoredName, may_know: Callable[[Session], bool]) -> Progress | None:
        """How far the open upload of a slot is; ``None`` if there is none, none that the client ``may_know`` of, or one
        that will fail with its next piece, since its name is another file's. Nothing is finished: see
        ``finish_if_complete``. Raises ``SessionExpired``, ``SessionStoreUnavailable``."""
        session = self._sessions.find(name.path)
        if session is None or not may_know(session):
            return None
        is_taken = self._store.exists(name)  # asked before: the upload may become the file in the next moment
        stored = self._partials.stat(session.key)
        if stored is not None:
            session = self.limits.as_stored(session, stored)
        if self.limits.is_over(session, self._clock()):
            raise SessionExpired
        if stored is None:
            self._end_without_bytes(session)
            return None
        has_lost = is_taken and stored.length != session.length
        return None if has_lost else Progress(session, stored.length)

    def find_finished(self, name: StoredName, dialect: str) -> Session | None:
        """The slot's upload of that dialect that became the stored file; ``None`` if there is no file, or it came in
        another way. Raises ``SessionStoreUnavailable``."""
        info = self._store.stat(name)
        session = self._sessions.find_finished(name.path) if info is not None else None
        if session is None or info is None or session.dialect != dialect or not became(session, info):
            return None
        return session

    def get(self, token: str) -> Session:
        """The session of a token, finished ones included. Raises ``SessionUnknown``, ``SessionEnded``,
        ``SessionExpired``, ``SessionStoreUnavailable``."""
        key = key_of(token)
        session = self._sessions.get(key) if key is not None else None
        if session is None:
            raise SessionUnknown
        if session.state is State.ABORTED:
            raise SessionEnded
        self._check_age(session)
        return session

    def up_to_date(self, session: Session, offset: int | None = None) -> Session:
        """A session of numbered chunks as it was last saved. offset: how much is stored, if that is known: if it is
        more than up to ``next_chunk_at``, a later chunk was broken off, or this record is an older copy.

        Raises ``SessionStoreUnavailable``.
        """
        if offset is not None and offset <= session.next_chunk_at:
            return session
        return self._sessions.newest(session.key) or session

    def _check_age(self, session: Session) -> None:
        """The record may not know when the last byte came: the file does."""
        now = self._clock()
        if self.limits.is_over(session, now):
            stored = self._partials.stat(session.key)
            if stored is None or self.limits.is_over(self.limits.as_stored(session, stored), now):
                raise SessionExpired

    def progress(self, session: Session) -> Progress:
        """How far it is. An upload that has all its bytes and was not finished (its process was killed, no session
        store could be reached) is finished now: its client has nothing more to send.

        Raises what ``finish_if_complete`` raises.
        """
        stored = self._partials.stat(session.key) if session.state is State.OPEN else None
        if stored is None:
            return self._ended(session)
        return self.finish_if_complete(Progress(self.limits.as_stored(session, stored), stored.length))

    def finish_if_complete(self, progress: Progress) -> Progress:
        """Finish an upload that has all its bytes; else it is as far as ``progress`` tells, without another look.

        Raises ``SessionUnknown`` if its bytes are gone, ``SessionEnded``, ``NameTaken``, ``DigestMismatch``,
        ``WriterBusy``, ``NoSpace``, ``SessionStoreUnavailable``.
        """
        session = progress.session
        if progress.offset != session.length:
            return progress
        try:
            with self._writers.open(session.key, progress.offset) as upload:
                return self._finish_stored(session, upload)
        except SessionUnknown:  # its writer has just finished it
            return self._ended(session)

    def _ended(self, session: Session) -> Progress:
        """The progress of an upload whose bytes are elsewhere. Raises ``SessionUnknown`` if they are nowhere, and
        ``SessionEnded`` if another file has its name."""
        if session.state is State.OPEN:  # when it was read
            session = self._sessions.newest(session.key) or session
        if session.state is State.ABORTED:
            raise SessionEnded
        if session.state is State.OPEN:
            info = self._store.stat(StoredName.from_text(session.path))
            if info is None:
                raise SessionUnknown
            session = transition(of_file(session, info), State.FINISHED, self._clock())
        return Progress(session, session.length or 0)

    def is_stored(self, session: Session) -> bool:
        """Whether the file that a finished upload became is (still) there."""
        info = self._store.stat(StoredName.from_text(session.path))
        return info is not None and became(session, info)

    def append(
        self,
        session: Session,
        offset: int,
        body: RequestBody,
        size: int | None,
        *,
        digest: Digest | None = None,
        file_claims: str = "",
        is_last: bool = False,
        after: Callable[[Session, int], Session] | None = None,
        restart: bool = False,
        length: int | None = None,
    ) -> Progress:
        """Append ``body`` (``size`` bytes if it says so) at ``offset``, and finish the upload if that completes it.

        digest: nothing of the piece is kept unless what this claims of it holds. file_claims: of a piece that may be
        the last, what is claimed of the whole file; if that does not hold, the upload ends. is_last: the upload is
        complete after this piece, whatever its length. after: what changes in the record once the piece is stored.
        restart: the piece is kept whole or not at all, and bytes stored after ``offset`` are of an earlier attempt at
        it. length: the whole file's, which may be told once for an upload that began without it.

        Raises ``OffsetMismatch``, before anything that the piece would be refused for at the right offset;
        ``TooLarge``, ``BadRequest`` (another ``length`` than before, or one that is less than is stored),
        ``SessionConflict`` (the last piece leaves a gap), ``Superseded``, what the digests raise, ``NameTaken``,
        ``NoSpace``, what the body raises, and ``SessionStoreUnavailable``. What arrived before that is kept, except
        where it says otherwise.
        """
        if session.state is not State.OPEN:
            return self._append_to_ended(session, offset, size)
        if size is not None and offset + size > self.limits.size_of(session):
            self._check_offset(session, offset, restart=restart)
            raise TooLarge
        with self._upload(session, offset, restart=restart) as upload:
            if self._is_published(session, upload):
                return self._finish_stored(session, upload)
            if restart:
                self._check_is_newest(session)
            if offset > upload.length or (offset < upload.length and not restart):
                raise OffsetMismatch(upload.length)
            if not restart:
                session = self._with_length(session, length, offset, size or 0)
            if is_last or size is None or offset + size == session.length:
                session = with_claims(self._sessions, session, upload, file_claims)
            self._receive(session, upload, offset, body, size, digest, restart=restart)
            touched = self.limits.last_touch(session, self._clock())
            record_is_due = after is not None or self.limits.record_is_due(session, touched)
            if record_is_due or upload.length > offset:
                session = dataclasses.replace(session, touched=touched)
            session = after(session, upload.length) if after else session
            if upload.length == session.length or (is_last and session.length is None):
                return self._finish(session, upload)
            session = self._sessions.save(session) if record_is_due else session
            if is_last:
                raise SessionConflict("The last piece leaves the file shorter than it was announced.")
            return Progress(session, upload.length)

    def _check_offset(self, session: Session, offset: int, *, restart: bool) -> None:
        """Without the lock: nobody has to let go for a piece that is refused in any case. Raises ``OffsetMismatch``."""
        stored = self._partials.stat(session.key)
        if stored is None:
            raise OffsetMismatch(self._ended(session).offset)
        if stored.length != offset and not restart:
            raise OffsetMismatch(stored.length)

    def _with_length(self, session: Session, length: int | None, offset: int, size: int) -> Session:
        """The session with the whole file's length, if that is known by now: another writer may have told it since
        ``session`` was read. Raises ``BadRequest``, ``TooLarge``."""
        if session.length is None:
            session = self._sessions.newest(session.key) or session
        told = self.limits.with_length(session, length, offset, size)
        return session if told is session else self._sessions.save(told)

    def _append_to_ended(self, session: Session, offset: int, size: int | None) -> Progress:
        progress = self._ended(session)
        if offset != progress.offset:
            raise OffsetMismatch(progress.offset)
        if size:
            raise TooLarge
        return progress

    def _upload(self, session: Session, offset: int, *, restart: bool) -> PartialUpload:
        """The upload for writing, for which a present writer lets go; a loser learns the offset."""
        try:
            return self._writers.open_to_restart(session.key) if restart else self._writers.open(session.key, offset)
        except WriterBusy:
            self._check_offset(session, offset, restart=restart)
            raise
        except SessionUnknown:  # its writer has finished it while this one waited
            raise OffsetMismatch(self._ended(session).offset) from None

    def _is_published(self, session: Session, upload: PartialUpload) -> bool:
        """Whether the name is this upload's already. Raises ``NameTaken`` if it is another's, which ends this one."""
        name = StoredName.from_text(session.path)
        if not self._store.exists(name):
            return False
        if not upload.is_published(name):
            self._abort_name_taken(session, upload)
            raise NameTaken
        return True

    def _check_is_newest(self, session: Session) -> None:
        """Raises ``SessionConflict`` if the session was read before another writer went on with it: then the bytes
        after its boundary are acknowledged."""
        known = self._sessions.newest(session.key)
        if known is None or dataclasses.replace(known, touched=session.touched, revision=session.revision) != session:
            raise SessionConflict("Another connection continued this upload.")

    def _receive(
        self,
        session: Session,
        upload: PartialUpload,
        offset: int,
        body: RequestBody,
        size: int | None,
        digest: Digest | None,
        *,
        restart: bool,
    ) -> None:
        """Store a piece. What arrived of one that fails is kept, unless it is one that is kept whole or not at all."""
        limit, size = self.limits.size_of(session) - offset, self.limits.expected(session, offset, size)
        deadline, atomic = self.limits.deadline(session), restart or digest is not None
        space = upload.space_of(offset, size, atomic=atomic)
        try:
            with self._space.reserve(space, body) as reserved, upload.begin(offset, atomic=atomic) as piece:
                cover = reserved.cover if space is None else None
                must_end = partial(self._must_end, upload.lease, deadline)
                try:
                    self._receiver.receive(body, piece, limit=limit, digest=digest, is_wanted=must_end, cover=cover)
                except (NoSpace, TooLarge):
                    piece.roll_back()
                    raise
                if digest is not None:
                    digest.check()
        except HmacfsError as error:
            if upload.length > offset:
                self._touch(session)
            if isinstance(error, Superseded) and self._clock() >= deadline:
                raise SessionExpired from None
            raise

    def _must_end(self, lease: Lease, deadline: float) -> bool:
        return lease.is_wanted() or self._clock() >= deadline

    def _touch(self, session: Session) -> None:
        """Note that bytes came, though the piece failed. What the client is told of is the failure."""
        touched = self.limits.last_touch(session, self._clock())
        if not self.limits.record_is_due(session, touched):
            return
        try:
            self._sessions.save(dataclasses.replace(session, touched=touched))
        except SessionStoreUnavailable:
            log.debug("that a part of a piece arrived could not be recorded")

    def _finish_stored(self, session: Session, upload: PartialUpload) -> Progress:
        """``_finish`` for an upload of which another request stored the last byte. Raises ``SessionEnded`` too."""
        return self._finish(with_known_claims(self._sessions, session, upload), upload)

    def _finish(self, session: Session, upload: PartialUpload) -> Progress:
        """The file is what counts: once it is visible, the upload succeeded, whether or not that can be recorded. If
        what is claimed of it does not hold, the upload ends: which bytes are wrong cannot be known."""
        digest = digests_of_file(session.file_claims)
        try:
            with self._space.reserve(upload.space_to_publish):
                if digest is not None:
                    upload.feed(digest)
                    digest.check()
                info = upload.publish(StoredName.from_text(session.path), FileMetadata(session.content_type))
        except (NameTaken, DigestMismatch):
            self._abort_name_taken(session, upload)
            raise
        finished = dataclasses.replace(session, length=info.size, etag=info.etag)
        return Progress(self._record_end(finished, State.FINISHED), info.size, info)

    def _abort_name_taken(self, session: Session, upload: PartialUpload) -> None:
        """End an upload whose name is taken, or whose bytes are not the announced ones. Its bytes go only once that is
        recorded, else it would seem that they are the file."""
        self._sessions.save(transition(session, State.ABORTED, self._clock()))
        upload.discard()

    def _record_end(self, session: Session, state: State) -> Session:
        """Record a session's end. The file says more than the record: one that cannot be written now can wait."""
        ended = transition(session, state, self._clock())
        try:
            return self._sessions.save(ended)
        except SessionStoreUnavailable:
            log.warning("the end of an upload session could not be recorded yet")
            return ended

    def _end_without_bytes(self, session: Session) -> None:
        """It was finished, or its bytes were lost with the disk: either way it cannot go on."""
        info = self._store.stat(StoredName.from_text(session.path))
        if info is None:
            self._record_end(session, State.ABORTED)
        else:
            self._record_end(of_file(session, info), State.FINISHED)

    def _end(self, session: Session) -> None:
        """End an upload for another one, also if it is being written. Raises ``WriterBusy``,
        ``SessionStoreUnavailable``."""
        try:
            with self._writers.open(session.key, None) as upload:
                if self._is_published(session, upload):
                    self._finish_stored(session, upload)
                else:
                    self._abort_name_taken(session, upload)
        except (NameTaken, DigestMismatch, SessionEnded):
            return  # it has ended
        except SessionUnknown:
            newest = self._sessions.newest(session.key)
            if newest is not None and newest.state is State.OPEN:
                self._end_without_bytes(newest)

    def abort(self, session: Session) -> None:
        """Forget an upload that nobody was told of. Raises ``WriterBusy`` if its writer does not let go."""
        if session.state is State.OPEN:
            with suppress(SessionUnknown), self._writers.open(session.key, None) as upload:
                upload.discard()
        self._sessions.remove(session.key)

    def terminate(self, session: Session) -> None:
        """Give an upload up, also if it is being written. Its record stays until the sweep: so it is known to be gone.

        Raises ``DeletionForbidden`` for one that became a file, ``SessionUnknown`` if nothing is left of it,
        ``WriterBusy`` if its writer does not let go, and ``SessionStoreUnavailable``: then its bytes are still there.
        """
        if session.state is State.OPEN:
            try:
                with self._writers.open(session.key, None) as upload:
                    if not self._is_published(session, upload):
                        self._abort_name_taken(session, upload)
                        return
                    session = self._finish_stored(session, upload).session
            except (NameTaken, DigestMismatch, SessionEnded):  # it has ended
                return
            except SessionUnknown:  # its writer finished it, or gave it up, while this one waited
                session = self._ended(session).session
        if not self.is_stored(session):
            raise SessionUnknown
        raise DeletionForbidden

    def sweep(self, batch: int = 100) -> SweepResult:
        """Remove expired sessions with their bytes, and bytes that no session knows. An upload that is being written
        is never touched. Raises ``SessionStoreUnavailable``: what cannot be looked up is not removed."""
        return sweep(self._sessions, self._partials, self._writers, self.limits, self._clock(), batch)
