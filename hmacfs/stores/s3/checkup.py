"""What an operator wants to know of a bucket before a server uses it: each thing tried, and told in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from hmacfs.errors import HmacfsError, StorageFailed, StoreUnavailable
from hmacfs.stores.s3.bucket import Attributes, Bucket, ConditionFailed, Doubt, InvalidPart, NoSuchUpload
from hmacfs.stores.s3.exclusive import CONTRADICTION, fail_note
from hmacfs.stores.s3.failures import EngineError
from hmacfs.stores.s3.probe import Verdict, trial_folder, try_conditional_writes

#: Signatures are good for 15 minutes before and after the engine's time.
_CLOCK_ERROR_SECONDS = 15 * 60
_CLOCK_WARNING_SECONDS = 60
_BODY = b"hmac-file-server -check -online"
#: Errors of the engine about who asks, not about what that one may do.
_OF_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "InvalidSecurity", "NotSignedUp"}
    | {"RequestTimeTooSkewed", "AuthorizationHeaderMalformed"}
)
_FAILURES = (HmacfsError, Doubt, ConditionFailed, InvalidPart, NoSuchUpload)
_VERDICTS = {
    Verdict.EXCLUSIVE: "",
    Verdict.RACING: "of several at once more than one succeeds: claims in the session store have to decide, as with "
    'S3ConditionalWrites = "off"',
    Verdict.IGNORED: "conditions are ignored: claims in the session store have to decide, as with "
    'S3ConditionalWrites = "off"',
}


_CONDITIONS = "conditional writes"


class Finding(NamedTuple):
    """problem: a sentence, empty if all is well. is_tolerable: whether a server works all the same."""

    subject: str
    problem: str = ""
    is_tolerable: bool = False


class Checkup:
    """Of one bucket. clock_offset: how many seconds the engine's clock is ahead, ``None`` if it did not tell. reserved:
    what the keys of our own begin with. told: see ``ExclusiveWrites``."""

    def __init__(
        self, bucket: Bucket, clock_offset: Callable[[], float | None], reserved: str, *, told: bool | None
    ) -> None:
        self._bucket = bucket
        self._clock_offset = clock_offset
        self._told = told
        self._folder = trial_folder(reserved)
        self._fail_note = fail_note(reserved)

    def run(self) -> Iterator[Finding]:
        """Each finding as soon as it is there. Nothing stays in the bucket."""
        key, large = f"{self._folder}object", f"{self._folder}large"
        try:
            problem = self._problem(lambda: self._bucket.check(self._folder))
            code = _code(problem)
            is_reached = problem is None or code != ""
            yield Finding("connection", "" if is_reached else str(problem))
            if not is_reached:
                return
            yield self._clock()
            is_recognised = code not in _OF_CREDENTIALS
            yield Finding("credentials", "" if is_recognised else str(problem))
            if not is_recognised:
                return
            yield Finding("bucket", str(problem or ""))
            if code == "NoSuchBucket":
                return
            yield from self._objects(key)
            yield from self._parts(large)
            yield self._conditions()
        finally:
            self._clean_up(key, large)

    def _clock(self) -> Finding:
        offset = self._clock_offset()
        if offset is None:
            return Finding("clock", "the engine did not tell its time", is_tolerable=True)
        if abs(offset) < _CLOCK_WARNING_SECONDS:
            return Finding("clock")
        which = "behind" if offset > 0 else "ahead of"
        sentence = f"this machine's is {abs(offset):.0f} s {which} the engine's"
        if abs(offset) >= _CLOCK_ERROR_SECONDS:
            sentence += ", which then takes no signature: set it by NTP"
        # Not all engines mind. Of one that does, the credentials are what is refused.
        return Finding("clock", sentence, is_tolerable=True)

    def _objects(self, key: str) -> Iterator[Finding]:
        bucket = self._bucket
        attributes = Attributes("text/plain", {"hmacfs-check": "1"})
        yield (stored := self._tried("put", lambda: bucket.put(key, _BODY, attributes)))
        if not stored.problem:
            yield self._tried("head", lambda: _same_attributes(bucket, key, attributes))
            yield self._tried("get", lambda: _same_bytes(bucket, key))
            yield self._tried("list", lambda: _listed(bucket, self._folder, key))
            yield self._tried("delete", lambda: _deleted(bucket, key))

    def _parts(self, key: str) -> Iterator[Finding]:
        bucket, begun = self._bucket, list[str]()
        yield (
            found := self._tried("multipart create", lambda: begun.append(bucket.begin_multipart(key, Attributes())))
        )
        if found.problem:
            return
        etags: dict[int, str] = {}
        yield (
            found := self._tried("multipart part", lambda: etags.update({1: bucket.put_part(key, begun[0], 1, _BODY)}))
        )
        yield self._tried("multipart list", lambda: _listed_parts(bucket, key, begun[0], etags))
        if not found.problem:
            yield self._tried("multipart complete", lambda: bucket.complete(key, begun[0], etags))
        yield self._tried("multipart abort", lambda: bucket.abort(key, bucket.begin_multipart(key, Attributes())))

    def _conditions(self) -> Finding:
        problems: list[str] = []

        def look() -> None:
            if self._told and self._bucket.head(self._fail_note) is not None:
                problems.append(f"{self._fail_note}: {CONTRADICTION}")
            problems.append(_VERDICTS[try_conditional_writes(self._bucket, self._folder)])

        failure = self._problem(look)
        if self._told is False:
            return Finding(_CONDITIONS, str(failure or ""), is_tolerable=True)
        problem = next(filter(None, problems), "")
        if problem or failure is None:
            return Finding(_CONDITIONS, problem, is_tolerable=self._told is None)
        # A server that is told makes no trial, which asks more of an engine than its uploads do.
        is_slow = isinstance(failure.error, StoreUnavailable)
        return Finding(_CONDITIONS, str(failure), is_tolerable=bool(self._told) and is_slow)

    def _tried(self, subject: str, call: Callable[[], object]) -> Finding:
        return Finding(subject, str(self._problem(call) or ""))

    def _problem(self, call: Callable[[], object]) -> _Problem | None:
        try:
            call()
        except (*_FAILURES, _Unexpected) as error:
            return _Problem(error)
        return None

    def _clean_up(self, *keys: str) -> None:
        for key in keys:
            with suppress(*_FAILURES):
                for upload in self._bucket.uploads(key):
                    self._bucket.abort(key, upload.upload_id)
            with suppress(*_FAILURES):
                self._bucket.delete(key)


class _Unexpected(Exception):
    """An answer that is none of an error, and wrong."""


class _Problem(NamedTuple):
    error: Exception

    def __str__(self) -> str:
        """What the engine said, where it said something."""
        cause = self.error.__cause__
        if isinstance(self.error, StoreUnavailable):
            return f"cannot be reached: {cause or self.error}"
        if isinstance(self.error, StorageFailed) and cause is not None:
            return str(cause)
        return str(cause or self.error)


def _code(problem: _Problem | None) -> str:
    """The engine's word for it; empty if that is not what went wrong, or it has none."""
    cause = None if problem is None else problem.error.__cause__
    return cause.code if isinstance(cause, EngineError) else ""


def _same_attributes(bucket: Bucket, key: str, attributes: Attributes) -> None:
    stored = bucket.head(key)
    if stored is None:
        raise _Unexpected("what was stored is not there")
    kept = stored.attributes
    if kept.content_type != attributes.content_type or dict(kept.metadata) != dict(attributes.metadata):
        raise _Unexpected("type and metadata are not kept, which this server needs")


def _same_bytes(bucket: Bucket, key: str) -> None:
    download = bucket.get(key)
    if download is None:
        raise _Unexpected("what was stored is not there")
    try:
        if b"".join(download.pieces(4096)) != _BODY:
            raise _Unexpected("what was stored comes back as something else")
    finally:
        download.close()


def _listed(bucket: Bucket, folder: str, key: str) -> None:
    if [listed.key for page in bucket.pages(folder) for listed in page] != [key]:
        raise _Unexpected("what was stored is not listed")


def _deleted(bucket: Bucket, key: str) -> None:
    bucket.delete(key)
    if bucket.head(key) is not None:
        raise _Unexpected("what was deleted is still there")


def _listed_parts(bucket: Bucket, key: str, upload_id: str, etags: dict[int, str]) -> None:
    if [part.number for part in bucket.parts(key, upload_id)] != list(etags):
        raise _Unexpected("the parts that were stored are not listed")
    if not any(upload.upload_id == upload_id for upload in bucket.uploads(key)):
        raise _Unexpected("a multipart upload that was begun is not listed, so that the sweep cannot find it")
