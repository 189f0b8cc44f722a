"""What the use cases of an upload session take and give: values, and their limits. Pure."""

from __future__ import annotations

import dataclasses

from hmacfs.errors import BadRequest, TooLarge
from hmacfs.uploads.contracts.stores import PartialInfo
from hmacfs.uploads.files import FileInfo
from hmacfs.uploads.session import TRANSITIONS, Session, State

#: How many times ``SessionTTL`` an upload lives in all.
_LIFETIMES = 7
#: How far a record may lag behind the last byte, in seconds and as a share of the sessions' lifetime. The unfinished
#: upload's own time is exact; what writing the record for each piece would cost is most of what a session costs.
_TOUCH_SECONDS, _TOUCH_SHARE = 60.0, 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far an upload is. ``info`` is the finished file's, ``None`` until then."""

    session: Session
    offset: int
    info: FileInfo | None = None

    @property
    def is_finished(self) -> bool:
        return self.info is not None or self.session.state is State.FINISHED


@dataclasses.dataclass(frozen=True, slots=True)
class SweepResult:
    """What a sweep removed: expired sessions, and unfinished uploads that no session knew. failed: how many of both it
    could not remove. failure: why it could not remove the first of them, for the operator."""

    sessions: int
    orphans: int
    failed: int = 0
    failure: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class UploadLimits:
    """max_size in bytes; ttl in seconds since the last byte; per_client: open sessions of one owner; per_path: of one
    path."""

    max_size: int
    ttl: float
    per_client: int
    per_path: int

    def deadline(self, session: Session) -> float:
        """Unix seconds at which an upload ends whatever comes: a byte now and then does not keep it for ever."""
        return session.created + _LIFETIMES * self.ttl

    def is_over(self, session: Session, now: float) -> bool:
        """Whether it has expired, by what it tells of its last byte."""
        is_past_deadline = session.state is State.OPEN and now >= self.deadline(session)
        return is_past_deadline or session.is_expired(now, self.ttl)

    def as_stored(self, session: Session, stored: PartialInfo) -> Session:
        """The session with the time of the last byte, which its record may not know."""
        return dataclasses.replace(session, touched=max(session.touched, self.last_touch(session, stored.touched)))

    def record_is_due(self, session: Session, touched: float) -> bool:
        """Whether the record has to be told that bytes came at that time."""
        return touched - session.touched >= min(_TOUCH_SECONDS, _TOUCH_SHARE * self.ttl)

    def last_touch(self, session: Session, now: float) -> float:
        """What an open session's ``touched`` becomes with a byte at ``now``: then it expires at its deadline at the
        latest, and the sweep finds it by the same rule as all others."""
        return min(now, self.deadline(session) - self.ttl)

    def size_of(self, session: Session) -> int:
        """How many bytes an upload may have."""
        return self.max_size if session.length is None else session.length

    def expected(self, session: Session, offset: int, size: int | None) -> int | None:
        """How many bytes a piece has at most that does not tell its ``size``; ``None`` if nobody knows."""
        return size if size is not None or session.length is None else session.length - offset

    def with_length(self, session: Session, length: int | None, offset: int, size: int) -> Session:
        """The session once its client has told the whole file's ``length`` with a piece of ``size`` bytes; the same
        object if it knows that, or none is told. Raises ``BadRequest``, ``TooLarge``."""
        if length is not None and (length < offset or session.length not in (None, length)):
            raise BadRequest("The upload's length cannot change, nor be less than what there is of it.")
        told = session if length in (None, session.length) else dataclasses.replace(session, length=length)
        if not offset + size <= self.size_of(told) <= self.max_size:
            raise TooLarge
        return told


def transition(session: Session, state: State, now: float) -> Session:
    """The session in its next state, since ``now``: its end is remembered for ``SessionTTL`` from then on."""
    assert state in TRANSITIONS[session.state]
    return dataclasses.replace(session, state=state, touched=now)


def became(session: Session, info: FileInfo) -> bool:
    """Whether this is the file that a finished upload became, as far as its record tells."""
    return session.etag in ("", info.etag) and session.length == info.size


def of_file(session: Session, info: FileInfo) -> Session:
    """The session of an upload that became this file, though that could not be recorded."""
    return dataclasses.replace(session, length=info.size if session.length is None else session.length, etag=info.etag)
