"""The operations of S3 on one bucket, over HTTP."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from hmacfs.errors import StorageFailed
from hmacfs.protocol.conditions import WHOLE, ByteRange
from hmacfs.stores.s3 import answers
from hmacfs.stores.s3.answers import ErrorAnswer, Unreadable
from hmacfs.stores.s3.bucket import (
    NO_ATTRIBUTES,
    Attributes,
    ConditionFailed,
    Doubt,
    InvalidPart,
    ListedObject,
    ListedUpload,
    NoSuchUpload,
    ObjectInfo,
    OutOfRange,
    Part,
    Payload,
)
from hmacfs.stores.s3.calls import Call, Caller, Repeat, error_for
from hmacfs.stores.s3.connections import Connections
from hmacfs.stores.s3.credentials import credentials_of
from hmacfs.stores.s3.download import S3Download
from hmacfs.stores.s3.failures import Kind
from hmacfs.stores.s3.observer import CallObserver, NoObserver
from hmacfs.stores.s3.options import S3Options, address_of
from hmacfs.stores.s3.response import Response
from hmacfs.stores.s3.signing import Signer
from hmacfs.system.threads import FileCalls

T = TypeVar("T")

#: Of ``check``, instead of ``S3Timeout``: it connects, and it asks.
_CHECK_SECONDS = 2.5


class _Absent(Exception):
    """404, for the object."""


_IF_ABSENT = {Kind.ABSENT: _Absent}
_IF_CONDITION = {Kind.CONDITION: ConditionFailed}
_IF_NO_UPLOAD = {Kind.NO_UPLOAD: NoSuchUpload, Kind.ABSENT: NoSuchUpload}


class S3Bucket:
    """A ``Bucket`` in an engine that speaks S3. Made in each process after its fork."""

    def __init__(self, options: S3Options, file_calls: FileCalls, observer: CallObserver | None = None) -> None:
        self._address = address_of(options)
        self._signer = Signer(self._address, options.region, credentials_of(options))
        self._connections = Connections(self._address, options.ca_file, options.timeout, file_calls)
        self._observer = observer or NoObserver()
        self._caller = Caller(
            self._signer,
            self._connections,
            self._observer,
            max_retries=options.max_retries,
            retry_delay=options.retry_delay,
        )

    @property
    def clock_offset(self) -> float | None:
        """See ``Caller``."""
        return self._caller.clock_offset

    def now(self) -> float:
        return time.time() + (self.clock_offset or 0.0)

    # -- objects ----------------------------------------------------------------------------------

    def put(self, key: str, payload: Payload, attributes: Attributes = NO_ATTRIBUTES, *, is_new: bool = False) -> str:
        headers = answers.headers_of(attributes)
        if is_new:
            headers["If-None-Match"] = "*"
        call = Call("put", "PUT", self._address.target(key), headers, payload, _IF_CONDITION)
        return self._caller.perform(call, _etag_of, Repeat.NEVER if is_new else Repeat.ALWAYS)

    def head(self, key: str) -> ObjectInfo | None:
        try:
            return self._caller.perform(Call("head", "HEAD", self._address.target(key), expected=_IF_ABSENT), _head_of)
        except _Absent:
            return None

    def get(self, key: str, wanted: ByteRange = WHOLE, *, etag: str = "") -> S3Download | None:
        headers = {"If-Match": etag} if etag else {}
        if wanted != WHOLE:
            headers["Range"] = _range_of(wanted)
        expected = {**_IF_ABSENT, **_IF_CONDITION, Kind.RANGE: OutOfRange}
        call = Call("get", "GET", self._address.target(key), headers, expected=expected)
        try:
            return self._caller.perform(call, lambda response: S3Download(response, self._observer))
        except _Absent:
            return None

    def delete(self, key: str, *, etag: str = "") -> None:
        headers = {"If-Match": etag} if etag else {}
        expected = {**_IF_ABSENT, **_IF_CONDITION}
        call = Call("delete", "DELETE", self._address.target(key), headers, expected=expected)
        try:
            self._caller.perform(call, Response.text, before_repeat=lambda: self._check_is_there(key, etag))
        except _Absent:
            pass
        except ConditionFailed:
            # Some say so if there is no object; and the first of two attempts may have deleted it.
            if self.head(key) is not None:
                raise

    def _check_is_there(self, key: str, etag: str) -> None:
        """Whether to repeat a deletion: the attempt before may have succeeded, and another object been stored since,
        which engines that ignore ``If-Match`` would delete. Raises ``_Absent``, ``ConditionFailed``."""
        if not etag:
            return
        stored = self.head(key)
        if stored is None:
            raise _Absent
        if stored.etag != etag:
            raise ConditionFailed

    def pages(self, prefix: str, *, limit: int = 1000) -> Iterator[Sequence[ListedObject]]:
        return self._pages("list", "", _listing_of(prefix, limit), answers.listed_objects)

    def check(self, prefix: str) -> None:
        target = self._address.target("", _listing_of(prefix, 1))
        call = Call("check", "GET", target, timeout=_CHECK_SECONDS)
        self._caller.try_once(call, lambda response: answers.listed_objects(response.text()))

    def presigned(self, key: str, *, seconds: int, overrides: Mapping[str, str]) -> str:
        return self._signer.presign(self._address.target(key, dict(overrides)), seconds)

    # -- multipart uploads ------------------------------------------------------------------------

    def begin_multipart(self, key: str, attributes: Attributes) -> str:
        target = self._address.target(key, {"uploads": ""})
        call = Call("begin_multipart", "POST", target, answers.headers_of(attributes))
        # Each one that is begun stays until somebody aborts it.
        return self._caller.perform(call, lambda response: answers.upload_id(response.text()), Repeat.UNDONE)

    def put_part(self, key: str, upload_id: str, number: int, payload: Payload) -> str:
        target = self._address.target(key, {"partNumber": str(number), "uploadId": upload_id})
        return self._caller.perform(Call("put_part", "PUT", target, payload=payload, expected=_IF_NO_UPLOAD), _etag_of)

    def parts(self, key: str, upload_id: str) -> Sequence[Part]:
        found: dict[int, Part] = {}
        for page in self._pages("parts", key, {"uploadId": upload_id}, answers.listed_parts, _IF_NO_UPLOAD):
            for part in page:
                known = found.get(part.number)
                if known is None or known.modified <= part.modified:  # SeaweedFS also lists what was replaced
                    found[part.number] = part
        return [found[number] for number in sorted(found)]

    def complete(self, key: str, upload_id: str, etags: Mapping[int, str], *, etag: str = "") -> str:
        headers = {"Content-Type": "application/xml"} | ({"If-Match": etag} if etag else {})
        target = self._address.target(key, {"uploadId": upload_id})
        expected = {**_IF_NO_UPLOAD, **_IF_CONDITION, Kind.INVALID_PART: InvalidPart}
        if etag:  # it is the object that is not there, else it would be NoSuchUpload
            expected[Kind.ABSENT] = ConditionFailed
        call = Call("complete", "POST", target, headers, answers.completion_request(etags), expected)
        completed = self._caller.perform(call, lambda response: _completed(call, response), Repeat.NEVER)
        return completed or self._etag_after(call, key)

    def _etag_after(self, call: Call, key: str) -> str:
        """Of an object that was completed, where the engine (Ceph 16) does not tell it."""
        try:
            info = self.head(key)
        except StorageFailed as error:
            raise Doubt(f"{call.operation}: {error.for_log()}", may_repeat=True) from error
        return "" if info is None else info.etag

    def abort(self, key: str, upload_id: str) -> None:
        target = self._address.target(key, {"uploadId": upload_id})
        with contextlib.suppress(NoSuchUpload):
            self._caller.perform(Call("abort", "DELETE", target, expected=_IF_NO_UPLOAD), Response.text)

    def uploads(self, key: str) -> Sequence[ListedUpload]:
        asked = {"uploads": "", "prefix": key, "encoding-type": "url"}
        pages = self._pages("uploads", "", asked, lambda body: answers.listed_uploads(body, key))
        return list(dict.fromkeys(upload for page in pages for upload in page if upload.key == key))

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._connections.close()

    def _pages(
        self,
        operation: str,
        key: str,
        query: Mapping[str, str],
        read: Callable[[bytes], tuple[list[T], dict[str, str]]],
        expected: Mapping[Kind, type[Exception]] = {},
    ) -> Iterator[list[T]]:
        """A listing in pages, none of them empty. read: of an answer, the entries and the parameters that ask for the
        next page. One that leads to itself is the last: no engine may keep its caller for ever."""
        more: dict[str, str] | None = {}
        while more is not None:
            call = Call(operation, "GET", self._address.target(key, {**query, **more}), expected=expected)
            page, following = self._caller.perform(call, lambda response: read(response.text()))
            if page:
                yield page
            more = following if following and following != more else None


def _completed(call: Call, response: Response) -> str:
    """The object's entity tag. An error may stand inside a 200."""
    result = answers.completion(response.text())
    if isinstance(result, ErrorAnswer):
        raise error_for(call, result)
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
