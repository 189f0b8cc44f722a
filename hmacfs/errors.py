"""What can go wrong, one class each. No HTTP here: ``web.problems`` says which status each becomes.

``reason`` is a stable word: clients see it in the problem's ``type``, operators as a metric's label. The message is for
the client, so it never holds a secret, a path of this machine or a stack; what the operator needs beyond that travels
as ``__cause__`` and goes to the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from hmacfs.cut import cut
from hmacfs.masking import mask


class HmacfsError(Exception):
    """Anything this project refuses or fails at. ``str(error)`` is one sentence that a client may see."""

    reason: ClassVar[str] = "error"
    sentence: ClassVar[str] = "The request failed."

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.sentence)


# -- the request is not well-formed ---------------------------------------------------------------


class BadName(HmacfsError):
    """The path is no legal name of a stored file (docs/protocol.md, section 1)."""

    reason = "bad-name"
    sentence = "The path is not a legal file name."


class BadRequest(HmacfsError):
    """A header or parameter is malformed or contradicts another."""

    reason = "bad-request"
    sentence = "The request is malformed."


class MethodNotAllowed(HmacfsError):
    """The path does not have this method; ``allowed`` are those that it has."""

    reason = "method-not-allowed"
    sentence = "Method Not Allowed."

    def __init__(self, allowed: Sequence[str], message: str | None = None) -> None:
        super().__init__(message)
        self.allowed = allowed


class LengthRequired(HmacfsError):
    """The signature covers a length and the request gives none."""

    reason = "length-required"
    sentence = "This upload needs a Content-Length."


class TooLarge(HmacfsError):
    """More than ``UploadMaxSize``, declared or received."""

    reason = "too-large"
    sentence = "The file is larger than this server accepts."


class BadCoding(HmacfsError):
    """The body is in a content coding (RFC 9110 section 8.4): what is stored could not be given back as it was
    meant."""

    reason = "content-coding"
    sentence = "The body has a Content-Encoding; send the file's bytes as they are."


class IsForm(HmacfsError):
    """The body is a form, or a POST that is no upload in any dialect."""

    reason = "not-an-upload"
    sentence = "To upload, send the file itself by PUT, as in: curl -T FILE URL; or speak tus 1.0.0."


class DigestMismatch(HmacfsError):
    """The body, or the whole file, has another digest than a header of the request says. Nothing was stored."""

    reason = "digest-mismatch"
    sentence = "The digest does not match the bytes received."


# -- the request is not allowed -------------------------------------------------------------------


class BadSignature(HmacfsError):
    """Missing, malformed, wrong or expired: the client is not told which bytes were wrong."""

    reason = "bad-signature"
    sentence = "The signature is missing, wrong or expired."


class ForPages(HmacfsError):
    """A browser wants to run the file, or to style a page with it."""

    reason = "for-pages"
    sentence = "Uploaded files can be looked at and saved; none is a script, a worker or a style sheet of a page."


class BadToken(HmacfsError):
    """The bearer token is missing, malformed, wrongly signed or of a foreign algorithm."""

    reason = "bad-token"
    sentence = "The bearer token is missing or not valid."


class TokenExpired(HmacfsError):
    """The bearer token's time is over."""

    reason = "token-expired"
    sentence = "The bearer token has expired."


class SlotMismatch(HmacfsError):
    """The bearer token was made for another slot or file name."""

    reason = "slot-mismatch"
    sentence = "The bearer token belongs to another slot."


class SizeMismatch(HmacfsError):
    """The bearer token was made for another file size."""

    reason = "size-mismatch"
    sentence = "The length differs from the one in the bearer token."


class DeletionForbidden(HmacfsError):
    """The upload has become a file, and files are not deleted here."""

    reason = "deletion-forbidden"
    sentence = "The upload is complete, and this server does not delete files."


class RateLimited(HmacfsError):
    """Too many requests from this client; ``retry_after`` in seconds."""

    reason = "rate-limited"
    sentence = "Too many requests."

    def __init__(self, retry_after: int, message: str | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


# -- the store's state forbids it -----------------------------------------------------------------


class NameTaken(HmacfsError):
    """A file of this name exists, or another request completed it first."""

    reason = "name-taken"
    sentence = "A file of this name already exists."


class UploadRunning(HmacfsError):
    """Another upload of this name is running, and its client sends; come again after ``retry_after`` seconds."""

    reason = "upload-running"
    sentence = "An upload of this name is running already."
    retry_after = 5


class NotFound(HmacfsError):
    """No such file. A folder is none: its name may tell who a user is, so nobody learns that it exists."""

    reason = "not-found"
    sentence = "There is no such file."


class UploadUnfinished(NotFound):
    """The upload has not become a file yet."""

    reason = "upload-unfinished"
    sentence = "The upload is not complete yet."


class PreconditionFailed(HmacfsError):
    """The request's condition does not hold for the stored file, whose entity tag is ``etag``; ``None`` without one."""

    reason = "precondition-failed"
    sentence = "The file is not the one that the request expects."

    def __init__(self, etag: str | None, message: str | None = None) -> None:
        super().__init__(message)
        self.etag = etag


class RangeNotSatisfiable(HmacfsError):
    """No byte of the file is in the range asked for; ``size`` (in bytes) and ``etag`` are the file's."""

    reason = "range-not-satisfiable"
    sentence = "The file ends before the range asked for."

    def __init__(self, size: int, etag: str, message: str | None = None) -> None:
        super().__init__(message)
        self.size = size
        self.etag = etag


class NoSpace(HmacfsError):
    """The disk or a quota is full, or would be with this upload."""

    reason = "no-space"
    sentence = "There is not enough space for this file."


class TooMuchReserved(RateLimited):
    """With this upload its client would have more of the free space than one may (``MaxReservedPerClient``)."""

    reason = "too-much-reserved"
    sentence = "With this file your running uploads would take more of the free space than one client may."


class StorageFailed(HmacfsError):
    """The disk failed; where and why is in ``where``, ``__cause__`` and the log, never in the answer."""

    reason = "storage-failed"
    sentence = "The server could not store or read the file."

    def __init__(self, message: str | None = None, *, where: str = "") -> None:
        super().__init__(message)
        self.where = where

    def for_log(self) -> str:
        """What failed, with its path, and why: one line for the operator."""
        cause = self.__cause__
        why = (getattr(cause, "strerror", None) or str(cause)) if cause is not None else str(self).rstrip(".")
        return ": ".join(part for part in ("storage failed", cut(self.where), why) if part)


class StoreUnavailable(StorageFailed):
    """The store does not answer, or says that it cannot serve now; again after ``retry_after`` seconds."""

    reason = "store-unavailable"
    sentence = "The server's store cannot be reached at the moment."
    retry_after = 5


class StoreStarting(HmacfsError):
    """The store is still finding out what it can do: not ready yet, and nothing is wrong. No request fails by it."""

    sentence = "What the server's store can do is still being tried."


class StoreMissing(StoreUnavailable):
    """``StoreDir`` is not there, or its disk is not mounted; it may come back."""

    reason = "store-missing"
    sentence = "The server's store is not there at the moment."
    retry_after = 60


# -- the body does not arrive ---------------------------------------------------------------------


class IncompleteBody(HmacfsError):
    """The client closed the connection before the declared length was there."""

    reason = "body-cut-short"
    sentence = "The body ended before its declared length."


class BadBody(HmacfsError):
    """The body's chunked framing is broken."""

    reason = "bad-body"
    sentence = "The body's framing is broken."


class PeerTimeout(HmacfsError):
    """No byte came (or went) for the time allowed."""

    reason = "stalled"
    sentence = "No data arrived for too long."


class ShuttingDown(HmacfsError):
    """The server is stopping and cannot wait for the rest."""

    reason = "stopping"
    sentence = "The server is stopping."


# -- upload sessions ------------------------------------------------------------------------------


class SessionUnknown(HmacfsError):
    """No such upload session (never was, or was removed)."""

    reason = "session-unknown"
    sentence = "There is no such upload."


class SessionEnded(HmacfsError):
    """The upload session was given up, or lost its name to another file."""

    reason = "session-ended"
    sentence = "The upload was given up."


class SessionExpired(HmacfsError):
    """The upload session existed and its time is over."""

    reason = "session-expired"
    sentence = "The upload has expired."


class OffsetMismatch(HmacfsError):
    """A piece does not start where the stored bytes end; ``offset`` is where they do."""

    reason = "offset-mismatch"
    sentence = "The piece does not start at the current offset."

    def __init__(self, offset: int, message: str | None = None) -> None:
        super().__init__(message)
        self.offset = offset


class SessionConflict(HmacfsError):
    """The request contradicts what the session was created with, or what it has become."""

    reason = "session-conflict"
    sentence = "The request contradicts the upload it continues."


class Superseded(HmacfsError):
    """Another writer asked for this upload; what arrived until then is kept."""

    reason = "taken-over"
    sentence = "Another connection took over this upload."


class WriterBusy(HmacfsError):
    """Another writer holds this upload and did not let go in time."""

    reason = "writer-busy"
    sentence = "Another connection is writing this upload."


class ChecksumMismatch(HmacfsError):
    """A piece does not match the checksum sent with it; nothing of it is kept."""

    reason = "checksum-mismatch"
    sentence = "The checksum does not match the bytes received."


class TooManySessions(RateLimited):
    """This client has ``MaxSessionsPerClient`` unfinished uploads already."""

    reason = "too-many-sessions"
    sentence = "Too many unfinished uploads."


class SessionStoreUnavailable(HmacfsError):
    """No session store can answer now: none is reachable, or this process asks too much of it. It never means that a
    session does not exist."""

    reason = "session-store-unavailable"
    sentence = "Resumable uploads are unavailable for the moment."

    def __init__(self, message: str | None = None, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SessionStoreUnreachable(SessionStoreUnavailable):
    """A session store's backend does not serve: another store may."""


class SessionStoreBusy(SessionStoreUnavailable):
    """The session store answers, but too many requests of this process ask it at once. That is no reason to ask
    another store: nothing was done, and the client may come again."""

    reason = "session-store-busy"
    sentence = "Too many requests ask for resumable uploads at this moment."

    def __init__(self, message: str | None = None, retry_after: int = 1) -> None:
        super().__init__(message, retry_after)


# -- start-up -------------------------------------------------------------------------------------


class NotAllowed(HmacfsError):
    """This process lacks a right on its own machine; the message names the path and the remedy, for an operator."""

    reason = "not-allowed"
    sentence = "The server lacks a right."


class ConfigError(HmacfsError):
    """The configuration cannot be used; the message is one line that an operator can act on. What may be a password in
    it is not shown."""

    reason = "bad-config"
    sentence = "The configuration cannot be used."

    def __init__(self, message: str) -> None:
        super().__init__(mask(message))


class ForeignConfig(ConfigError):
    """The configuration file is another program's. ``translations``: its keys as they are called here, one a line."""

    def __init__(self, message: str, translations: list[str]) -> None:
        super().__init__(message)
        self.translations = translations


def for_operator(error: BaseException) -> str:
    """What failed and why: for the log and for commands, not for clients."""
    text = error.for_log() if isinstance(error, StorageFailed) else str(error)
    return text or type(error).__name__
