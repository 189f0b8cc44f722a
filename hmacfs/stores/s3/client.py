"""The operations of S3 on one bucket, over HTTP."""

from __future__ import annotations

import contextlib
import enum
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, NoReturn, TypeVar

from hmacfs.errors import BadName, HmacfsError, NameTaken, NoSpace, StorageFailed, StoreUnavailable
from hmacfs.protocol.conditions import WHOLE, ByteRange
from hmacfs.stores.s3 import answers
from hmacfs.stores.s3.answers import ErrorAnswer, Unreadable
from hmacfs.stores.s3.bucket import (
    NO_ATTRIBUTES,
    Attributes,
    ConditionFailed,
    Doubt,
    FileSection,
    InvalidPart,
    ListedObject,
    ListedUpload,
    NoSuchUpload,
    ObjectInfo,
    OutOfRange,
    Part,
    Payload,
)
from hmacfs.stores.s3.connection import Lost, PayloadFailed, Silent, Unreached
from hmacfs.stores.s3.connections import Connections
from hmacfs.stores.s3.credentials import credentials_of
from hmacfs.stores.s3.download import S3Download
from hmacfs.stores.s3.failures import EngineError, Kind, kind_of
from hmacfs.stores.s3.observer import CallObserver, NoObserver
from hmacfs.stores.s3.options import S3Options, address_of
from hmacfs.stores.s3.response import Response
from hmacfs.stores.s3.signing import Signer
from hmacfs.system.threads import FileCalls

R = TypeVar("R")
T = TypeVar("T")

_AGENT = {"User-Agent": "hmac-file-server", "Accept-Encoding": "identity"}
#: The pause before the first repetition; each further one is twice as long, up to ``retry_delay``.
_FIRST_PAUSE = 0.05
#: Of ``check``, instead of ``S3Timeout``: it connects, and it asks.
_CHECK_SECONDS = 2.5


class _Absent(Exception):
    """404, for the object."""


class _Failed(Exception):
    """A failure after which the same request may succeed. is_stale: for want of a connection that was still open.
    is_done: the request was carried out, and only its answer cannot be read."""

    def __init__(self, message: str, *, is_stale: bool = False, is_done: bool = False) -> None:
        super().__init__(message)
        self.is_stale = is_stale
        self.is_done = is_done


class _Repeat(enum.Enum):
    """When a request is made again after a transient failure. UNDONE: unless it is known to have been carried out."""

    ALWAYS = enum.auto()
    UNDONE = enum.auto()
    NEVER = enum.auto()


class _Call(NamedTuple):
    """A request before it is signed. timeout: if it is to be shorter than ``S3Timeout``."""

    operation: str
    method: str
    target: str
    headers: Mapping[str, str] = {}
    payload: Payload = b""
    timeout: float = 0.0


_NO_UPLOAD: Mapping[Kind, type[Exception]] = {Kind.NO_UPLOAD: NoSuchUpload, Kind.ABSENT: NoSuchUpload}
#: What the caller of an operation is told by an exception of its own. What is not here is nothing that should happen.
_EXPECTED: Mapping[str, Mapping[Kind, type[Exception]]] = {
    "put": {Kind.CONDITION: ConditionFailed},
    "head": {Kind.ABSENT: _Absent},
    "get": {Kind.ABSENT: _Absent, Kind.CONDITION: ConditionFailed, Kind.RANGE: OutOfRange},
    "delete": {Kind.ABSENT: _Absent, Kind.CONDITION: ConditionFailed},
    "put_part": _NO_UPLOAD,
    "parts": _NO_UPLOAD,
    "abort": _NO_UPLOAD,
    "complete": {**_NO_UPLOAD, Kind.CONDITION: ConditionFailed, Kind.INVALID_PART: InvalidPart},
}
_BAD_NAME = "The name is not one that this server's store can take."


class S3Bucket:
    """A ``Bucket`` in an engine that speaks S3. Made in each process after its fork."""

    def __init__(self, options: S3Options, file_calls: FileCalls, observer: CallObserver | None = None) -> None:
        self._options = options
        self._address = address_of(options)
        self._signer = Signer(self._address, options.region, credentials_of(options))
        self._connections = Connections(self._address, options.ca_file, options.timeout, file_calls)
        self._observer = observer or NoObserver()
        self._last_date = ("", 0.0)

    @property
    def clock_offset(self) -> float | None:
        """By how many seconds the engine's clock is ahead of this machine's, as its last answer said; in whole seconds,
        and ``None`` if it said nothing."""
        text, received = self._last_date
        said = answers.http_time(text)
        return said - received if said else None

    def now(self) -> float:
        return time.time() + (self.clock_offset or 0.0)

    # -- objects ----------------------------------------------------------------------------------

    def put(self, key: str, payload: Payload, attributes: Attributes = NO_ATTRIBUTES, *, is_new: bool = False) -> str:
        headers = answers.headers_of(attributes)
        if is_new:
            headers["If-None-Match"] = "*"
        call = _Call("put", "PUT", self._address.target(key), headers, payload)
        return self._perform(call, _etag_of, _Repeat.NEVER if is_new else _Repeat.ALWAYS)

    def head(self, key: str) -> ObjectInfo | None:
        try:
            return self._perform(_Call("head", "HEAD", self._address.target(key)), _head_of)
        except _Absent:
            return None

    def get(self, key: str, wanted: ByteRange = WHOLE, *, etag: str = "") -> S3Download | None:
        headers = {"If-Match": etag} if etag else {}
        if wanted != WHOLE:
            headers["Range"] = _range_of(wanted)
        call = _Call("get", "GET", self._address.target(key), headers)
        try:
            return self._perform(call, lambda response: S3Download(response, self._observer))
        except _Absent:
            return None

    def delete(self, key: str, *, etag: str = "") -> None:
        call = _Call("delete", "DELETE", self._address.target(key), {"If-Match": etag} if etag else {})
        try:
            self._perform(call, Response.text)
        except _Absent:
            pass
        except ConditionFailed:
            # Some say so if there is no object; and the first of two attempts may have deleted it.
            if self.head(key) is not None:
                raise

    def pages(self, prefix: str, *, limit: int = 1000) -> Iterator[Sequence[ListedObject]]:
        return self._pages("list", "", _listing_of(prefix, limit), answers.listed_objects)

    def check(self, prefix: str) -> None:
        target = self._address.target("", _listing_of(prefix, 1))
        call = _Call("check", "GET", target, timeout=_CHECK_SECONDS)
        try:
            self._attempt(call, lambda response: answers.listed_objects(response.text()), is_new=True)
        except (_Failed, Silent) as error:
            raise StoreUnavailable(where=call.operation) from error

    def presigned(self, key: str, *, seconds: int, overrides: Mapping[str, str]) -> str:
        return self._signer.presign(self._address.target(key, dict(overrides)), seconds)

    # -- multipart uploads ------------------------------------------------------------------------

    def begin_multipart(self, key: str, attributes: Attributes) -> str:
        target = self._address.target(key, {"uploads": ""})
        call = _Call("begin_multipart", "POST", target, answers.headers_of(attributes))
        # Each one that is begun stays until somebody aborts it.
        return self._perform(call, lambda response: answers.upload_id(response.text()), _Repeat.UNDONE)

    def put_part(self, key: str, upload_id: str, number: int, payload: Payload) -> str:
        target = self._address.target(key, {"partNumber": str(number), "uploadId": upload_id})
        return self._perform(_Call("put_part", "PUT", target, payload=payload), _etag_of)

    def parts(self, key: str, upload_id: str) -> Sequence[Part]:
        found: dict[int, Part] = {}
        for page in self._pages("parts", key, {"uploadId": upload_id}, answers.listed_parts):
            for part in page:
                known = found.get(part.number)
                if known is None or known.modified <= part.modified:  # SeaweedFS also lists what was replaced
                    found[part.number] = part
        return [found[number] for number in sorted(found)]

    def complete(self, key: str, upload_id: str, etags: Mapping[int, str], *, etag: str = "") -> str:
        headers = {"Content-Type": "application/xml"} | ({"If-Match": etag} if etag else {})
        target = self._address.target(key, {"uploadId": upload_id})
        call = _Call("complete", "POST", target, headers, answers.completion_request(etags))
        completed = self._perform(call, lambda response: self._completed(call, response), _Repeat.NEVER)
        return completed or self._etag_after(call, key)

    def _etag_after(self, call: _Call, key: str) -> str:
        """Of an object that was completed, where the engine (Ceph 16) does not tell it."""
        try:
            info = self.head(key)
        except StorageFailed as error:
            raise Doubt(f"{call.operation}: {error.for_log()}", may_repeat=True) from error
        return "" if info is None else info.etag

    def abort(self, key: str, upload_id: str) -> None:
        target = self._address.target(key, {"uploadId": upload_id})
        with contextlib.suppress(NoSuchUpload):
            self._perform(_Call("abort", "DELETE", target), Response.text)

    def uploads(self, key: str) -> Sequence[ListedUpload]:
        asked = {"uploads": "", "prefix": key, "encoding-type": "url"}
        pages = self._pages("uploads", "", asked, lambda body: answers.listed_uploads(body, key))
        return list(dict.fromkeys(upload for page in pages for upload in page if upload.key == key))

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._connections.close()

    # -- requests ---------------------------------------------------------------------------------

    def _pages(
        self,
        operation: str,
        key: str,
        query: Mapping[str, str],
        read: Callable[[bytes], tuple[list[T], dict[str, str]]],
    ) -> Iterator[list[T]]:
        """A listing in pages, none of them empty. read: of an answer, the entries and the parameters that ask for the
        next page. One that leads to itself is the last: no engine may keep its caller for ever."""
        more: dict[str, str] | None = {}
        while more is not None:
            call = _Call(operation, "GET", self._address.target(key, {**query, **more}))
            page, following = self._perform(call, lambda response: read(response.text()))
            if page:
                yield page
            more = following if following and following != more else None

    def _perform(self, call: _Call, read: Callable[[Response], R], repeat: _Repeat = _Repeat.ALWAYS) -> R:
        """What ``read`` makes of the answer; after transient failures a request that may be repeated is. Raises
        ``Doubt`` only for one that never is."""
        attempts, needs_new = 0, False
        while True:
            try:
                return self._attempt(call, read, is_new=needs_new)
            except _Failed as error:
                if repeat is _Repeat.NEVER:
                    raise Doubt(str(error), may_repeat=True) from error
                if repeat is _Repeat.UNDONE and error.is_done:
                    raise StoreUnavailable(where=call.operation) from error
                if error.is_stale and not needs_new:
                    needs_new = True
                elif attempts < self._options.max_retries:
                    time.sleep(self._pause(attempts))  # cooperative in a gevent worker
                    attempts += 1
                else:
                    raise StoreUnavailable from error
                self._observer.note_retry()
            except Silent as error:
                if repeat is _Repeat.NEVER:
                    raise Doubt(f"{call.operation}: {error}", may_repeat=False) from error
                raise StoreUnavailable(where=call.operation) from error

    def _pause(self, attempts: int) -> float:
        """Exponential back-off with jitter, so that what failed together does not come again together."""
        longest: float = min(_FIRST_PAUSE * 2**attempts, self._options.retry_delay)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    def _attempt(self, call: _Call, read: Callable[[Response], R], *, is_new: bool = False) -> R:
        """One request. Raises ``_Failed`` if the same may be tried again, ``Silent``, and what the answer says."""
        before, outcome, is_done = time.monotonic(), "lost", False
        try:
            response = self._send(call, is_new=is_new)
            is_done = response.status < 300
            try:
                result = read(response) if is_done else self._refused(call, response)
            except BaseException:
                response.close()
                raise
            finally:
                self._observer.note_bytes(_length(call.payload), response.received)
            outcome = "ok"
            return result
        except Unreached as error:
            outcome = "unreachable"
            if error.is_untrusted:
                raise StorageFailed from error
            raise StoreUnavailable(where=call.operation) from error
        except Silent:
            outcome = "timeout"
            raise
        except (Lost, Unreadable) as error:
            is_stale = isinstance(error, Lost) and error.was_kept
            raise _Failed(f"{call.operation}: {error}", is_stale=is_stale, is_done=is_done) from error
        except PayloadFailed as error:
            raise StorageFailed(where=call.operation) from error
        except _Failed:
            outcome = "failed"
            raise
        except (_Absent, ConditionFailed, NoSuchUpload, InvalidPart, OutOfRange):
            outcome = "ok"
            raise
        except HmacfsError:
            outcome = "refused"
            raise
        finally:
            self._observer.note_call(call.operation, time.monotonic() - before, outcome)

    def _send(self, call: _Call, *, is_new: bool) -> Response:
        headers = self._signer.sign(call.method, call.target, call.headers) | _AGENT
        if call.method in ("PUT", "POST"):
            headers["Content-Length"] = str(_length(call.payload))
        response = self._connections.request(
            call.method, call.target, headers, call.payload, is_new=is_new, timeout=call.timeout
        )
        self._last_date = (response.headers.get("date") or "", time.time())
        return response

    def _refused(self, call: _Call, response: Response) -> NoReturn:
        answer = answers.error_of(response.status, response.headers, response.text())
        raise self._error(call, answer)

    def _error(self, call: _Call, answer: ErrorAnswer) -> Exception:
        """What to raise for an answer that is an error."""
        kind, cause = kind_of(answer), EngineError(call.operation, answer)
        expected = _EXPECTED.get(call.operation, {})
        if kind is Kind.ABSENT and call.operation == "complete" and "If-Match" in call.headers:
            kind = Kind.CONDITION  # it is the object that is not there, else it would be NoSuchUpload
        error: Exception
        if kind is Kind.FAILED:
            error = _Failed(str(cause))
        elif kind is Kind.FULL:
            error = NoSpace()
        elif kind is Kind.FOLDER and call.method in ("PUT", "POST"):
            error = NameTaken()
        elif kind in (Kind.NAME, Kind.FOLDER):
            error = BadName(_BAD_NAME)
        elif kind in expected:
            error = expected[kind](str(cause))
        else:
            error = StorageFailed()
        error.__cause__ = cause
        return error

    def _completed(self, call: _Call, response: Response) -> str:
        result = answers.completion(response.text())
        if isinstance(result, ErrorAnswer):
            raise self._error(call, result)
        return result


def _etag_of(response: Response) -> str:
    response.text()
    etag = response.headers.get("etag")
    if not etag:
        raise Unreadable("the answer has no entity tag")
    return etag


def _head_of(response: Response) -> ObjectInfo:
    response.text()
    return answers.info_of(response.headers, answers.length_of(response.headers))


def _listing_of(prefix: str, limit: int) -> dict[str, str]:
    return {"list-type": "2", "prefix": prefix, "max-keys": str(limit), "encoding-type": "url"}


def _range_of(wanted: ByteRange) -> str:
    first, last = ("" if position is None else str(position) for position in wanted)
    return f"bytes={first}-{last}"


def _length(payload: Payload) -> int:
    return payload.length if isinstance(payload, FileSection) else len(payload)
