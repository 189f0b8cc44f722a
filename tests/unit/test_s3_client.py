"""The client of object stores, against a server that answers what the test has written down."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import hmac
import logging
import os
import secrets
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest

from hmacfs.config.values import Secret
from hmacfs.errors import BadName, NameTaken, NoSpace, StorageFailed, StoreUnavailable
from hmacfs.protocol.conditions import ByteRange
from hmacfs.stores.s3 import answers, connections
from hmacfs.stores.s3.bucket import (
    NO_ATTRIBUTES,
    Attributes,
    ConditionFailed,
    Doubt,
    FileSection,
    InvalidPart,
    NoSuchUpload,
    OutOfRange,
)
from hmacfs.stores.s3.client import S3Bucket
from hmacfs.stores.s3.observer import OPERATIONS, OUTCOMES
from hmacfs.stores.s3.options import S3Options, address_of
from tests.servers import free_port, require_binary, wait_until
from tests.unit.s3_script import (
    ACCESS_KEY,
    HUNG,
    LOST,
    SECRET_KEY,
    Received,
    Script,
    Step,
    answer,
    client_of,
    error,
)

ODD_KEY = "a b/ü+&%?#~é;=@:,'()*!$\"<>[]{}|\\^`.txt"
LISTED = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
COMPLETED = '<CompleteMultipartUploadResult><ETag>"whole-2"</ETag></CompleteMultipartUploadResult>'

#: A call of each operation, and an answer that it takes for success.
CALLS: dict[str, tuple[Callable[[S3Bucket], object], Step]] = {
    "put": (lambda bucket: bucket.put("key", b"data"), answer(ETag='"tag"')),
    "head": (lambda bucket: bucket.head("key"), answer(ETag='"tag"')),
    "get": (lambda bucket: bucket.get("key"), answer(200, "data", ETag='"tag"')),
    "delete": (lambda bucket: bucket.delete("key"), Step(b"HTTP/1.1 204 No Content\r\n\r\n")),
    "list": (lambda bucket: list(bucket.pages("pre")), answer(200, LISTED)),
    "begin_multipart": (
        lambda bucket: bucket.begin_multipart("key", NO_ATTRIBUTES),
        answer(200, "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>"),
    ),
    "put_part": (lambda bucket: bucket.put_part("key", "id", 1, b"data"), answer(ETag='"tag"')),
    "parts": (lambda bucket: bucket.parts("key", "id"), answer(200, "<ListPartsResult/>")),
    "abort": (lambda bucket: bucket.abort("key", "id"), Step(b"HTTP/1.1 204 No Content\r\n\r\n")),
    "uploads": (lambda bucket: bucket.uploads("key"), answer(200, "<ListMultipartUploadsResult/>")),
}
#: Those that may not be repeated.
ONCE: dict[str, tuple[Callable[[S3Bucket], object], Step]] = {
    "put new": (lambda bucket: bucket.put("key", b"data", is_new=True), answer(ETag='"tag"')),
    "complete": (lambda bucket: bucket.complete("key", "id", {1: '"tag"'}), answer(200, COMPLETED)),
}
ALL = CALLS | ONCE


class Notes:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.retries = 0
        self.sent = self.received = 0

    def note_call(self, operation: str, seconds: float, outcome: str) -> None:
        assert operation in OPERATIONS
        assert outcome in OUTCOMES
        assert 0 <= seconds < 30
        self.calls.append((operation, outcome))

    def note_retry(self) -> None:
        self.retries += 1

    def note_bytes(self, sent: int, received: int) -> None:
        self.sent += sent
        self.received += received


@pytest.fixture
def script() -> Iterator[Script]:
    with Script() as running:
        yield running


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def bucket(script: Script, notes: Notes) -> Iterator[S3Bucket]:
    with contextlib.closing(client_of(script.endpoint, notes)) as made:
        yield made


# -- what an answer means -------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ALL if name != "head"])  # whose answers have no body
@pytest.mark.parametrize(
    ("step", "expected", "cause"),
    [
        (error(403, "AccessDenied"), StorageFailed, "403 AccessDenied"),
        (error(403, "SignatureDoesNotMatch"), StorageFailed, "403 SignatureDoesNotMatch"),
        (error(403, "InvalidAccessKeyId"), StorageFailed, "403 InvalidAccessKeyId"),
        (error(403, "RequestTimeTooSkewed"), StorageFailed, "403 RequestTimeTooSkewed"),
        (error(404, "NoSuchBucket"), StorageFailed, "404 NoSuchBucket"),
        (error(307, "TemporaryRedirect"), StorageFailed, "S3Region"),
        (error(400, "AuthorizationHeaderMalformed", "<Region>eu-north-1</Region>"), StorageFailed, "eu-north-1"),
        (error(501, "NotImplemented"), StorageFailed, "501 NotImplemented"),
        (error(403, "QuotaExceeded"), NoSpace, "403 QuotaExceeded"),
        (error(507, "InsufficientStorage"), NoSpace, "507"),
        (answer(507, "<html>no XML"), NoSpace, "507"),
        (error(400, "KeyTooLongError"), BadName, "KeyTooLongError"),
        (error(400, "XMinioInvalidObjectName"), BadName, "XMinioInvalidObjectName"),
    ],
)
def test_an_error_becomes_the_exception_of_its_kind(
    script: Script, bucket: S3Bucket, notes: Notes, name: str, step: Step, expected: type[Exception], cause: str
) -> None:
    script.then(step)
    with pytest.raises(expected) as raised:
        ALL[name][0](bucket)
    assert type(raised.value) is expected
    assert cause in str(raised.value.__cause__)
    assert name.partition(" ")[0] in str(raised.value.__cause__)
    assert len(script.received) == 1
    assert [outcome for _, outcome in notes.calls] == ["refused"]


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("put new", error(412, "PreconditionFailed"), ConditionFailed),
        *(
            (name, error(409, code), NameTaken)
            for name in ("put", "put new", "begin_multipart", "put_part", "complete")
            for code in ("XMinioParentIsObject", "ExistingObjectIsDirectory")
        ),
        ("get", error(400, "XMinioObjectExistsAsDirectory"), BadName),
        ("put new", error(409, "ConditionalRequestConflict"), ConditionFailed),
        ("put", error(404, "NoSuchKey"), StorageFailed),
        ("get", error(412, "PreconditionFailed"), ConditionFailed),
        ("get", error(416, "InvalidRange"), OutOfRange),
        ("list", error(404, ""), StorageFailed),
        ("put_part", error(404, "NoSuchUpload"), NoSuchUpload),
        ("parts", error(404, "NoSuchUpload"), NoSuchUpload),
        ("parts", error(404, "NoSuchKey"), NoSuchUpload),
        ("complete", error(404, "NoSuchUpload"), NoSuchUpload),
        ("complete", error(412, "PreconditionFailed"), ConditionFailed),
        ("complete", error(400, "InvalidPart"), InvalidPart),
        ("complete", error(400, "InvalidPartOrder"), InvalidPart),
        ("complete", error(400, "EntityTooSmall"), InvalidPart),
        ("complete", error(200, "PreconditionFailed"), ConditionFailed),
        ("complete", error(200, "NoSuchUpload"), NoSuchUpload),
        ("complete", error(200, "InternalError"), Doubt),
        ("complete", error(200, "SlowDown"), Doubt),
        ("complete", error(200, "QuotaExceeded"), NoSpace),
        ("complete", answer(200, COMPLETED[:40]), Doubt),
        ("complete", answer(200, "<html>a proxy's</html>"), Doubt),
        ("list", answer(200, "<!DOCTYPE x [<!ENTITY a 'aaa'>]>" + LISTED), StoreUnavailable),
        ("list", answer(200, "<Other/>"), StoreUnavailable),
        ("begin_multipart", answer(200, "<InitiateMultipartUploadResult/>"), StoreUnavailable),
    ],
)
def test_an_error_of_an_operation(
    script: Script, bucket: S3Bucket, name: str, step: Step, expected: type[Exception]
) -> None:
    script.then(*[step] * 3)
    with pytest.raises(expected) as raised:
        ALL[name][0](bucket)
    assert type(raised.value) is expected


@pytest.mark.parametrize("status", [403, 301, 400])
def test_a_refused_head_is_a_failure(script: Script, bucket: S3Bucket, status: int) -> None:
    script.then(Step(f"HTTP/1.1 {status} No\r\nContent-Length: 99\r\n\r\n".encode()))
    with pytest.raises(StorageFailed) as raised:
        bucket.head("key")
    assert str(status) in str(raised.value.__cause__)
    assert bucket.put("key", b"") == '"tag"'  # the connection is in order


def test_what_is_not_there(script: Script, bucket: S3Bucket, notes: Notes) -> None:
    script.then(
        Step(b"HTTP/1.1 404 No\r\nContent-Length: 99\r\n\r\n"),
        error(404, "NoSuchKey"),
        error(404, "NoSuchKey"),
        error(404, "NoSuchUpload"),
    )
    assert bucket.head("key") is None
    assert bucket.get("key") is None
    bucket.delete("key")
    bucket.abort("key", "id")
    assert script.connections == 1
    assert {outcome for _, outcome in notes.calls} == {"ok"}


def test_a_deletion_that_was_repeated_is_none_that_failed(script: Script, bucket: S3Bucket) -> None:
    script.then(LOST, answer(ETag='"tag"'), error(412, "PreconditionFailed"), answer(404))
    bucket.delete("key", etag='"tag"')
    script.then(error(412, "PreconditionFailed"), answer(200))
    with pytest.raises(ConditionFailed):
        bucket.delete("key", etag='"tag"')


@pytest.mark.parametrize("failure", [LOST, error(500, "InternalError")])
def test_a_conditional_deletion_is_repeated_only_while_its_object_is_there(
    script: Script, bucket: S3Bucket, failure: Step
) -> None:
    """Some engines ignore the condition: they would delete what was stored since the first attempt."""
    script.then(failure, answer(404))
    bucket.delete("key", etag='"tag"')
    assert [request.method for request in script.received] == ["DELETE", "HEAD"]
    script.then(failure, answer(ETag='"another"'), answer(ETag='"another"'))
    with pytest.raises(ConditionFailed):
        bucket.delete("key", etag='"tag"')
    assert [request.method for request in script.received[2:]] == ["DELETE", "HEAD", "HEAD"]
    script.then(failure, answer(ETag='"tag"'), answer(204))
    bucket.delete("key", etag='"tag"')
    assert [request.method for request in script.received[5:]] == ["DELETE", "HEAD", "DELETE"]


def test_a_completion_may_take_long_and_begins_with_blanks_then(script: Script, bucket: S3Bucket) -> None:
    script.then(answer(200, '   \n<?xml version="1.0" encoding="UTF-8"?>' + COMPLETED))
    assert bucket.complete("key", "id", {2: '"b"', 1: '"a&b"'}, etag='"old"') == '"whole-2"'
    (request,) = script.received
    assert request.headers["if-match"] == '"old"'
    assert b'<PartNumber>1</PartNumber><ETag>"a&amp;b"</ETag></Part><Part><PartNumber>2<' in request.body


def test_an_engine_that_does_not_tell_the_tag_of_a_completed_object_is_asked(script: Script, bucket: S3Bucket) -> None:
    without = "<CompleteMultipartUploadResult><ETag></ETag></CompleteMultipartUploadResult>"
    script.then(answer(200, without), answer(200, ETag='"asked"'))
    assert bucket.complete("key", "id", {1: '"a"'}) == '"asked"'
    script.then(answer(200, without), error(403, ""))
    with pytest.raises(Doubt):
        bucket.complete("key", "id", {1: '"a"'})


# -- failures that pass ---------------------------------------------------------------------------


TRANSIENT = {
    "500": error(500, "InternalError"),
    "502": answer(502, "<html>a proxy's</html>"),
    "503": error(503, "SlowDown"),
    "504": answer(504),
    "RequestTimeout": error(400, "RequestTimeout"),
    "a lost answer": LOST,
    "half an answer": Step(b"HTTP/1.1 200 OK\r\nContent-Le", then="close"),
    "nonsense": Step(b"SSH-2.0-OpenSSH\r\n", then="close"),
}


@pytest.mark.parametrize(
    ("name", "failure"),
    [(name, failure) for name in CALLS for failure in TRANSIENT if (name, failure) != ("head", "RequestTimeout")],
)
def test_what_may_be_repeated_is(script: Script, bucket: S3Bucket, notes: Notes, name: str, failure: str) -> None:
    act, good = CALLS[name]
    script.then(TRANSIENT[failure], TRANSIENT[failure], good)
    result = act(bucket)
    if name == "get":
        assert b"".join(result.pieces(9)) == b"data"  # type: ignore[attr-defined]
    assert len(script.received) == 3
    assert notes.retries == 2
    assert len({(request.method, request.target, request.body) for request in script.received}) == 1


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("failure", ["503", "a lost answer"])
def test_repetitions_end(script: Script, bucket: S3Bucket, name: str, failure: str) -> None:
    script.then(*[TRANSIENT[failure]] * 9)
    with pytest.raises(StoreUnavailable) as raised:
        CALLS[name][0](bucket)
    assert len(script.received) == 3
    assert name in str(raised.value.__cause__)


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("failure", TRANSIENT)
def test_what_may_not_be_repeated_leaves_a_doubt(script: Script, bucket: S3Bucket, name: str, failure: str) -> None:
    script.then(TRANSIENT[failure])
    with pytest.raises(Doubt) as raised:
        ONCE[name][0](bucket)
    assert raised.value.may_repeat
    assert len(script.received) == 1


@pytest.mark.parametrize(
    "begun",
    [answer(200, "<html>"), Step(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n<Init", then="close")],
    ids=["unreadable", "cut"],
)
def test_a_multipart_upload_that_was_begun_is_not_begun_again(script: Script, bucket: S3Bucket, begun: Step) -> None:
    """Nobody knows its id, and it stays until a sweep finds it."""
    act, good = CALLS["begin_multipart"]
    script.then(begun, good)
    with pytest.raises(StoreUnavailable):
        act(bucket)
    assert len(script.received) == 1


def test_pauses_grow_up_to_the_longest_and_differ(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("hmacfs.stores.s3.calls.time.sleep", pauses.append)
    script.then(*[TRANSIENT["503"]] * 6)
    with (
        contextlib.closing(client_of(script.endpoint, max_retries=5, retry_delay=0.3)) as bucket,
        pytest.raises(StoreUnavailable),
    ):
        bucket.head("key")
    pauses = [pause for pause in pauses if pause]  # those of the script are none
    for pause, longest in zip(pauses, [0.05, 0.1, 0.2, 0.3, 0.3], strict=True):
        assert longest / 2 <= pause <= longest
    assert len(set(pauses)) == 5


@pytest.mark.parametrize("name", ALL)
def test_silence_is_waited_for_once(script: Script, notes: Notes, name: str) -> None:
    script.then(HUNG)
    with contextlib.closing(client_of(script.endpoint, notes, timeout=0.2)) as bucket:
        before = time.monotonic()
        with pytest.raises(Doubt if name in ONCE else StoreUnavailable) as raised:
            ALL[name][0](bucket)
        assert time.monotonic() - before < 30
    assert not isinstance(raised.value, Doubt) or not raised.value.may_repeat
    wait_until(lambda: script.received, what="the request")
    assert len(script.received) == 1
    assert [outcome for _, outcome in notes.calls] == ["timeout"]


#: An answer that never ends: in its head, or in its body.
DRIBBLED_HEAD = Step(b"HTTP/1.1 200 Word\r\nX: ", then="dribble")
DRIBBLED_BODY = Step(b'HTTP/1.1 200 Word\r\nETag: "tag"\r\nContent-Length: 1000\r\n\r\n', then="dribble")


@pytest.mark.parametrize(
    ("name", "dribbled"),
    [(name, DRIBBLED_HEAD) for name in ALL] + [(name, DRIBBLED_BODY) for name in ALL if name not in ("head", "get")],
)
def test_dribbling_is_borne_for_a_while(
    monkeypatch: pytest.MonkeyPatch, script: Script, notes: Notes, name: str, dribbled: Step
) -> None:
    monkeypatch.setattr(connections, "_PATIENCE_SECONDS", 0.1)
    script.then(dribbled)
    raises = pytest.raises(Doubt if name in ONCE else StoreUnavailable)
    with contextlib.closing(client_of(script.endpoint, notes, timeout=0.2)) as bucket, raises:
        ALL[name][0](bucket)
    assert [outcome for _, outcome in notes.calls] == ["timeout"]


def test_dribbling_of_an_object_is_borne_for_a_while(monkeypatch: pytest.MonkeyPatch, script: Script) -> None:
    monkeypatch.setattr(connections, "_PATIENCE_SECONDS", 0.1)
    script.then(DRIBBLED_BODY)
    with contextlib.closing(client_of(script.endpoint, timeout=0.2)) as bucket:
        download = bucket.get("key")
        assert download is not None
        with pytest.raises(Doubt, match="stopped coming"):
            list(download.pieces(1024))


def test_who_takes_its_time_with_an_object_that_comes_is_not_cut(
    monkeypatch: pytest.MonkeyPatch, script: Script
) -> None:
    """A slow client of ours makes the engine wait, and not the other way round."""
    monkeypatch.setattr(connections, "_PATIENCE_SECONDS", 0.0)
    script.then(answer(200, bytes(50_000), ETag='"tag"'))
    with contextlib.closing(client_of(script.endpoint, timeout=1.0)) as bucket:
        download = bucket.get("key")
        assert download is not None
        received = 0
        for data in download.pieces(2_000):
            received += len(data)
            time.sleep(0.05)  # in all more than the engine may keep us waiting
    assert received == 50_000


def test_the_check_bears_no_dribbling(script: Script) -> None:
    script.then(DRIBBLED_HEAD)
    with contextlib.closing(client_of(script.endpoint, timeout=60.0)) as bucket:
        before = time.monotonic()
        with pytest.raises(StoreUnavailable):
            bucket.check("pre")
        assert time.monotonic() - before < 5


@pytest.mark.parametrize("name", ALL)
def test_a_refused_connection_is_told_at_once(notes: Notes, name: str) -> None:
    with (
        contextlib.closing(client_of(f"http://127.0.0.1:{free_port()}", notes, retry_delay=60.0)) as bucket,
        pytest.raises(StoreUnavailable),
    ):
        ALL[name][0](bucket)
    assert [outcome for _, outcome in notes.calls] == ["unreachable"]
    assert notes.retries == 0


def test_a_host_that_does_not_exist_is_told_at_once() -> None:
    with (
        contextlib.closing(client_of("http://nowhere.invalid", retry_delay=60.0)) as bucket,
        pytest.raises(StoreUnavailable),
    ):
        bucket.head("key")


# -- connections ----------------------------------------------------------------------------------


def test_one_connection_serves_many_calls(script: Script, bucket: S3Bucket) -> None:
    for name, (act, good) in ALL.items():
        script.then(good)
        result = act(bucket)
        if name == "get":
            assert b"".join(result.pieces(2)) == b"data"  # type: ignore[attr-defined]
    assert {request.connection for request in script.received} == {1}


def test_a_connection_that_broke_while_it_was_idle_costs_no_attempt(script: Script) -> None:
    """It looks open, and breaks with the request."""
    with contextlib.closing(client_of(script.endpoint, max_retries=0)) as bucket:
        bucket.put("key", b"1")
        script.then(LOST)
        assert bucket.put("key", b"2") == '"tag"'
        assert [request.connection for request in script.received] == [1, 1, 2]
        script.then(LOST, LOST)
        with pytest.raises(StoreUnavailable):
            bucket.put("key", b"3")


def test_a_connection_that_is_known_to_have_ended_is_not_used(script: Script, bucket: S3Bucket) -> None:
    script.then(Step(answer(ETag='"tag"').answer, then="close"))
    bucket.put("key", b"1")
    ((_, idle),) = bucket._connections._idle
    wait_until(lambda: not idle.is_quiet(), what="the end of the connection")
    assert bucket.put("key", b"2", is_new=True) == '"tag"'
    assert [request.connection for request in script.received] == [1, 2]


def test_an_answer_that_comes_before_the_body_is_heard(script: Script, bucket: S3Bucket) -> None:
    script.then(Step(error(507, "InsufficientStorage").answer, then="close", on_head=True))
    with tempfile.TemporaryFile() as file:
        file.truncate(64 << 20)
        with pytest.raises((NoSpace, StoreUnavailable)) as raised:
            bucket.put("key", FileSection(file.fileno(), 0, 64 << 20))
    # A reset that overtakes the answer takes it away; then it is asked again, and the second time succeeds or not.
    assert isinstance(raised.value, NoSpace) or len(script.received) > 1


def test_a_whole_answer_gives_its_connection_back(script: Script, bucket: S3Bucket) -> None:
    """With its last byte: whoever got that need not ask for more."""
    script.then(answer(200, b"x" * 300_000))
    download = bucket.get("key")
    assert download is not None
    pieces, received = download.pieces(100_000), 0
    while received < 300_000:
        received += len(next(pieces))
    bucket.put("key", b"")
    download.close()
    bucket.put("key", b"")
    assert [request.connection for request in script.received] == [1, 1, 1]


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "then", "connections"),
    [
        (_CHUNKED + b"5;a=b\r\n<List\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(LISTED) - 5, LISTED[5:].encode()), "keep", 1),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\n\r\n" + answer(200, LISTED).answer, "keep", 1),
        (b"HTTP/1.1 200 OK\r\n\r\n" + LISTED.encode(), "close", 2),
        (answer(200, LISTED, Connection="close").answer, "keep", 2),
        (answer(200, LISTED).answer + answer(200, "another's").answer, "keep", 2),
    ],
    ids=["chunked", "informational", "to the end", "closing", "too much"],
)
def test_how_an_answer_can_end(script: Script, bucket: S3Bucket, data: bytes, then: str, connections: int) -> None:
    script.then(Step(data, then=then))
    assert list(bucket.pages("prefix")) == []
    assert bucket.put("key", b"") == '"tag"'
    assert script.received[-1].connection == connections


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"* OK IMAP4\r\n\r\n",
        _CHUNKED + b"5\r\nhello\r\n",
        _CHUNKED + b"5\r\nhello0\r\n\r\n",
        _CHUNKED + b"ffffffffffffffffffff\r\n",
    ],
)
def test_what_is_no_answer_or_none_that_is_whole_is_asked_for_again(
    script: Script, bucket: S3Bucket, notes: Notes, data: bytes
) -> None:
    script.then(Step(data, then="close"), answer(200, LISTED))
    assert list(bucket.pages("prefix")) == []
    assert notes.calls == [("list", "lost"), ("list", "ok")]


def test_no_value_can_be_another_line(script: Script, bucket: S3Bucket) -> None:
    for value in ("a\r\nX: b", "a\nb", "a\0", "\xe9"):
        with pytest.raises(ValueError, match="printable ASCII"):
            bucket.put("key", b"", Attributes("text/plain", {"name": value}))
    assert script.received == []


def test_the_check_is_one_attempt_that_does_not_wait_for_long(script: Script) -> None:
    script.then(error(503, "SlowDown"), LOST, HUNG)
    with contextlib.closing(client_of(script.endpoint, timeout=60.0)) as bucket:
        for _ in range(3):
            before = time.monotonic()
            with pytest.raises(StoreUnavailable) as caught:
                bucket.check("pre")
            assert time.monotonic() - before < 6
            assert caught.value.for_log().count("check: ") == 1
        script.then(answer(200, LISTED))
        bucket.check("pre")
    assert len(script.received) == 4
    assert dict(parse_qsl(urlsplit(script.received[0].target).query))["max-keys"] == "1"


def test_the_clocks_difference(script: Script, bucket: S3Bucket) -> None:
    assert bucket.clock_offset is None
    bucket.put("key", b"")
    expected = dt.datetime(2026, 12, 1, tzinfo=dt.UTC).timestamp() - time.time()
    assert bucket.clock_offset == pytest.approx(expected, abs=5)
    assert bucket.now() == pytest.approx(time.time() + expected, abs=5)
    script.then(Step(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "a"\r\nDate: yesterday\r\n\r\n'))
    bucket.put("key", b"")
    assert bucket.clock_offset is None
    assert bucket.now() == pytest.approx(time.time(), abs=5)


# -- bodies ---------------------------------------------------------------------------------------


@pytest.fixture
def file() -> Iterator[tuple[int, bytes]]:
    data = secrets.token_bytes(5_000_017)
    with tempfile.TemporaryFile() as made:
        made.write(data)
        made.flush()
        yield made.fileno(), data


@pytest.mark.parametrize("read_delay", [0.0, 0.002])
def test_a_section_of_a_file_is_sent_from_the_kernel(file: tuple[int, bytes], read_delay: float, notes: Notes) -> None:
    fd, data = file
    os.lseek(fd, 77, os.SEEK_SET)
    with Script(read_delay=read_delay) as script, contextlib.closing(client_of(script.endpoint, notes)) as bucket:
        bucket.put("key", FileSection(fd, 17, 4_900_000))
        assert script.received[0].body == data[17:4_900_017]
    assert os.lseek(fd, 0, os.SEEK_CUR) == 77
    assert notes.sent == 4_900_000


def test_a_section_is_sent_again_from_its_beginning(script: Script, bucket: S3Bucket, file: tuple[int, bytes]) -> None:
    fd, data = file
    script.then(LOST, error(503, "SlowDown"))
    bucket.put_part("key", "id", 3, FileSection(fd, 100, 3_000_000))
    assert [request.body == data[100:3_000_100] for request in script.received] == [True] * 3


def test_a_file_that_is_too_short_is_a_failure_of_the_store(
    script: Script, bucket: S3Bucket, file: tuple[int, bytes]
) -> None:
    with pytest.raises(StorageFailed, match="could not store") as raised:
        bucket.put("key", FileSection(file[0], 0, 6_000_000))
    assert not isinstance(raised.value, StoreUnavailable)
    assert "ended early" in raised.value.for_log()
    assert script.received == []
    assert bucket.put("key", b"1") == '"tag"'


def test_where_there_is_no_sendfile_it_is_read(
    monkeypatch: pytest.MonkeyPatch, script: Script, bucket: S3Bucket, file: tuple[int, bytes]
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("os.sendfile", refuse)
    bucket.put("key", FileSection(file[0], 17, 4_900_000))
    assert script.received[0].body == file[1][17:4_900_017]


def test_an_engine_that_takes_nothing_is_silent(notes: Notes, file: tuple[int, bytes]) -> None:
    deaf = Step(then="hang", on_head=True)
    with Script(deaf, deaf) as script, tempfile.TemporaryFile() as large:
        large.truncate(64 << 20)
        with contextlib.closing(client_of(script.endpoint, notes, timeout=0.3)) as bucket:
            for payload in (FileSection(large.fileno(), 0, 64 << 20), bytes(64 << 20)):
                with pytest.raises(StoreUnavailable):
                    bucket.put("key", payload)
    assert [outcome for _, outcome in notes.calls] == ["timeout"] * 2


@pytest.mark.parametrize("size", [0, 1, 1024, 16 * 1024, 300_000])
def test_bytes_are_sent_whole(script: Script, bucket: S3Bucket, size: int) -> None:
    data = secrets.token_bytes(size)
    bucket.put("key", data)
    assert script.received[0].body == data
    assert script.received[0].headers["content-length"] == str(size)


def test_others_go_on_while_a_file_is_sent_in_a_worker(file: tuple[int, bytes]) -> None:
    """A worker's sockets are gevent's: an engine that reads slowly holds up nobody else."""
    program = """
import gevent.monkey; gevent.monkey.patch_all()
import gevent, os, sys, time
from hmacfs.stores.s3.bucket import FileSection
from tests.unit.s3_script import client_of
longest, last = 0.0, time.monotonic()
def tick():
    global longest, last
    while True:
        gevent.sleep(0.001)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
bucket = client_of(sys.argv[1])
ticker = gevent.spawn(tick)
gevent.sleep(0.05); longest = 0.0
before = time.monotonic()
assert bucket.put("key", FileSection(int(sys.argv[2]), 0, 5_000_000)) == '"tag"'
print(longest, time.monotonic() - before)
"""
    with Script(read_delay=0.005) as script:
        done = subprocess.run(
            [sys.executable, "-c", program, script.endpoint, str(file[0])],
            pass_fds=[file[0]],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert script.received[0].body == file[1][:5_000_000]
    longest, lasted = (float(word) for word in done.stdout.split())
    assert lasted > 0.2
    assert longest < lasted / 2


# -- downloads ------------------------------------------------------------------------------------


def test_a_download_says_what_comes(script: Script, bucket: S3Bucket, notes: Notes) -> None:
    script.then(
        answer(
            206,
            "3456",
            Content_Range="bytes 3-6/10",
            ETag='"tag"',
            Content_Type="text/plain",
            Last_Modified="Tue, 01 Dec 2026 00:00:01 GMT",
            X_Amz_Meta_HmacFS_Id="abc",
        )
    )
    download = bucket.get("key", ByteRange(3, 6), etag='"tag"')
    assert download is not None
    assert (download.first, download.count, download.info.size) == (3, 4, 10)
    assert download.info.attributes == Attributes("text/plain", {"hmacfs-id": "abc"})
    assert download.info.modified == dt.datetime(2026, 12, 1, 0, 0, 1, tzinfo=dt.UTC).timestamp()
    assert list(download.pieces(3)) == [b"345", b"6"]
    download.close()
    assert notes.received == 4
    (request,) = script.received
    assert (request.headers["range"], request.headers["if-match"]) == ("bytes=3-6", '"tag"')


@pytest.mark.parametrize(
    ("wanted", "header"),
    [(ByteRange(None, 5), "bytes=-5"), (ByteRange(7, None), "bytes=7-"), (ByteRange(0, 0), "bytes=0-0")],
)
def test_a_range_is_passed_on(script: Script, bucket: S3Bucket, wanted: ByteRange, header: str) -> None:
    script.then(answer(200, "all"))
    download = bucket.get("key", wanted)
    assert download is not None
    assert (download.first, download.count) == (0, 3)  # an engine need not heed it
    download.close()
    assert script.received[0].headers["range"] == header


@pytest.mark.parametrize(("then", "may_repeat"), [("close", True), ("hang", False)])
def test_a_download_that_ends_early_is_a_doubt(script: Script, then: str, may_repeat: bool) -> None:
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: "tag"\r\n\r\n'
    script.then(Step(head + b"x" * 500, then=then))
    with contextlib.closing(client_of(script.endpoint, timeout=0.3)) as bucket:
        download = bucket.get("key")
        assert download is not None
        pieces = download.pieces(250)
        assert [next(pieces), next(pieces)] == [b"x" * 250] * 2
        with pytest.raises(Doubt) as raised:
            next(pieces)
        assert raised.value.may_repeat is may_repeat
        download.close()
        assert bucket.put("key", b"") == '"tag"'


def test_a_download_that_is_left_takes_its_connection_with_it(script: Script, bucket: S3Bucket) -> None:
    script.then(answer(200, b"x" * 3_000_000))
    download = bucket.get("key")
    assert download is not None
    assert len(next(download.pieces(1000))) == 1000
    download.close()
    download.close()
    bucket.put("key", b"")
    assert [request.connection for request in script.received] == [1, 2]


# -- listings -------------------------------------------------------------------------------------


def test_all_pages_of_parts_are_asked_for(script: Script, bucket: S3Bucket) -> None:
    def page(numbers: range, more: str) -> Step:
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><Size>{number}0</Size><ETag>&quot;t{number}&quot;</ETag>"
            "<LastModified>2026-12-01T00:00:01.500Z</LastModified></Part>"
            for number in numbers
        )
        end = f"<IsTruncated>{bool(more)}</IsTruncated><NextPartNumberMarker>{more}</NextPartNumberMarker>"
        return answer(200, f"<ListPartsResult xmlns='http://s3'>{end}{parts}</ListPartsResult>")

    script.then(page(range(1, 3), "2"), error(503, "SlowDown"), page(range(3, 5), ""))
    parts = bucket.parts("key", "the id/+")
    assert [(part.number, part.size, part.etag) for part in parts] == [(n, n * 10, f'"t{n}"') for n in range(1, 5)]
    assert parts[0].modified == dt.datetime(2026, 12, 1, 0, 0, 1, 500_000, tzinfo=dt.UTC).timestamp()
    queries = [dict(parse_qsl(urlsplit(request.target).query)) for request in script.received]
    assert [query.get("part-number-marker") for query in queries] == [None, "2", "2"]
    assert {query["uploadId"] for query in queries} == {"the id/+"}


def test_of_a_part_that_is_listed_twice_the_newer_counts(script: Script, bucket: S3Bucket) -> None:
    entry = "<Part><PartNumber>1</PartNumber><Size>{}</Size><LastModified>2026-12-01T00:00:0{}Z</LastModified></Part>"
    for sizes in ((5, 7), (7, 5)):
        listed = "".join(entry.format(size, size) for size in sizes)
        script.then(answer(200, f"<ListPartsResult>{listed}</ListPartsResult>"))
        assert [part.size for part in bucket.parts("key", "id")] == [7]


def test_uploads_are_those_of_exactly_the_key(script: Script, bucket: S3Bucket) -> None:
    def page(*uploads: tuple[str, str], more: str = "") -> Step:
        entries = "".join(f"<Upload><Key>{key}</Key><UploadId>{name}</UploadId></Upload>" for key, name in uploads)
        end = f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated><NextKeyMarker>{more}</NextKeyMarker>"
        end += f"<NextUploadIdMarker>{more and 'm'}</NextUploadIdMarker>"
        return answer(200, f"<ListMultipartUploadsResult>{entries}{end}</ListMultipartUploadsResult>")

    script.then(
        page(("a &amp; b", "1"), ("a &amp; bc", "2"), more="x +"), page(("a &amp; b", "3"), ("a &amp; b/c", "4"))
    )
    assert [found.upload_id for found in bucket.uploads("a & b")] == ["1", "3"]
    second = dict(parse_qsl(urlsplit(script.received[1].target).query, keep_blank_values=True))
    asked = {"uploads": "", "prefix": "a & b", "encoding-type": "url"}
    assert second == {**asked, "key-marker": "x +", "upload-id-marker": "m"}


@pytest.mark.parametrize("told", ["<EncodingType>url</EncodingType>", ""])
@pytest.mark.parametrize(
    ("key", "listed"), [("a +% ü\x01", "a+%2B%25+%C3%BC%01"), ("a +%41 &", "a +%41 &#x26;")], ids=["encoded", "plain"]
)
def test_keys_of_uploads_may_be_encoded_whatever_is_said(
    script: Script, bucket: S3Bucket, key: str, listed: str, told: str
) -> None:
    entry = f"<Upload><Key>{listed}</Key><UploadId>1</UploadId></Upload>"
    script.then(answer(200, f"<ListMultipartUploadsResult>{told}{entry}</ListMultipartUploadsResult>"))
    assert [(found.key, found.upload_id) for found in bucket.uploads(key)] == [(key, "1")]


def test_keys_that_are_encoded_are_decoded(script: Script, bucket: S3Bucket) -> None:
    entry = "<Contents><Key>{}</Key><Size>1</Size><LastModified>2026-12-01T00:00:00Z</LastModified></Contents>"
    encoded = entry.format("a+b%2Bc%25/%C3%BC ")
    listing = "<ListBucketResult>{}{}</ListBucketResult>"
    script.then(answer(200, listing.format("<EncodingType>url</EncodingType>", encoded)))
    assert [[(found.key, found.size) for found in page] for page in bucket.pages("a")] == [[("a b+c%/ü ", 1)]]
    script.then(answer(200, listing.format("", encoded)))
    assert [[found.key for found in page] for page in bucket.pages("a")] == [["a+b%2Bc%25/%C3%BC "]]


def test_pages_follow_the_engines_token(script: Script, bucket: S3Bucket) -> None:
    entry = "<Contents><Key>{}</Key><Size>1</Size></Contents>"
    page = "<ListBucketResult><IsTruncated>{}</IsTruncated><NextContinuationToken>{}</NextContinuationToken>{}</ListBucketResult>"
    script.then(
        answer(200, page.format("true", "t+1", entry.format("a"))),
        answer(200, page.format("true", "t+2", "")),
        answer(200, page.format("false", "", entry.format("b"))),
    )
    assert [[found.key for found in found] for found in bucket.pages("p", limit=7)] == [["a"], ["b"]]
    queries = [dict(parse_qsl(urlsplit(request.target).query)) for request in script.received]
    assert [query.get("continuation-token") for query in queries] == [None, "t+1", "t+2"]
    assert {(query["prefix"], query["max-keys"], query["list-type"]) for query in queries} == {("p", "7", "2")}


# -- signatures and addresses ---------------------------------------------------------------------


def signature_of(request: Received, secret: str = SECRET_KEY) -> str:
    """By the letter of Amazon's description."""
    fields = dict(part.split("=", 1) for part in request.headers["authorization"].split(" ", 1)[1].split(", "))
    _, day, region, service, end = fields["Credential"].split("/")
    names = fields["SignedHeaders"].split(";")
    path, _, query = request.target.partition("?")
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parse_qsl(query, True))
    canonical = [request.method, path, "&".join(f"{name}={value}" for name, value in pairs)]
    canonical += [f"{name}:{' '.join(request.headers[name].split())}" for name in names]
    canonical += ["", ";".join(names), request.headers["x-amz-content-sha256"]]
    digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", request.headers["x-amz-date"], f"{day}/{region}/{service}/{end}", digest])
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, end):
        key = hmac.digest(key, part.encode(), "sha256")
    assert {"host", "x-amz-date", "x-amz-content-sha256"} <= set(names)
    assert fields["Signature"] == hmac.digest(key, text.encode(), "sha256").hex()
    return fields["Credential"]


def test_requests_are_signed(script: Script, bucket: S3Bucket) -> None:
    bucket.put(ODD_KEY, b"data", Attributes("text/x; y=1", {"hmacfs-id": "a  b"}), is_new=True)
    bucket.put_part(ODD_KEY, "id/+ &=", 7, b"data")
    script.then(answer(200, LISTED))
    assert list(bucket.pages("pre/ +&ü~x")) == []
    for request in script.received:
        assert signature_of(request).startswith(f"{ACCESS_KEY}/")
        assert request.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
        assert unquote(urlsplit(request.target).path).startswith("/bucket/")
    first = script.received[0]
    assert unquote(first.target) == f"/bucket/{ODD_KEY}"
    assert "%25" in first.target
    assert "%2525" not in first.target
    assert (first.headers["if-none-match"], first.headers["x-amz-meta-hmacfs-id"]) == ("*", "a  b")


def test_a_session_token_goes_with_it(script: Script) -> None:
    with contextlib.closing(client_of(script.endpoint, session_token=Secret("the token"))) as bucket:
        bucket.put("key", b"")
        assert script.received[0].headers["x-amz-security-token"] == "the token"
        signature_of(script.received[0])
        assert "X-Amz-Security-Token=the%20token" in bucket.presigned("key", seconds=9, overrides={})


def test_a_presigned_url(bucket: S3Bucket, script: Script) -> None:
    url = bucket.presigned(ODD_KEY, seconds=90, overrides={"response-content-type": "text/html; charset=utf-8"})
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    assert f"{parts.scheme}://{parts.netloc}" == script.endpoint
    assert unquote(parts.path) == f"/bucket/{ODD_KEY}"
    assert (query["X-Amz-Expires"], query["response-content-type"]) == ("90", "text/html; charset=utf-8")
    assert len(query["X-Amz-Signature"]) == 64
    assert script.received == []


def options(endpoint: str, **changes: object) -> S3Options:
    return S3Options(endpoint, "my-bucket", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        (options("http://s3.example.org"), "http://s3.example.org/my-bucket/a%20b/c~"),
        (options("https://s3.example.org:443/"), "https://s3.example.org/my-bucket/a%20b/c~"),
        (options("https://s3.example.org:9000"), "https://s3.example.org:9000/my-bucket/a%20b/c~"),
        (options("http://[::1]:80"), "http://[::1]/my-bucket/a%20b/c~"),
        (options("http://s3.example.org:9000", path_style=False), "http://my-bucket.s3.example.org:9000/a%20b/c~"),
        (options("", path_style=False), "https://my-bucket.s3.us-east-1.amazonaws.com/a%20b/c~"),
        (options("", region="eu-west-3"), "https://s3.eu-west-3.amazonaws.com/my-bucket/a%20b/c~"),
        (options("", region="cn-north-1"), "https://s3.cn-north-1.amazonaws.com.cn/my-bucket/a%20b/c~"),
    ],
)
def test_where_an_object_is(given: S3Options, url: str) -> None:
    address = address_of(given)
    assert address.url(address.target("a b/c~")) == url
    assert address.port == (urlsplit(url).port or (443 if address.is_encrypted else 80))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (options("s3.example.org"), "http://"),
        (options("ftp://s3.example.org"), "http://"),
        (options("http://"), "http://"),
        (options("http://s3.example.org:port"), "[Pp]ort"),
        (options("http://s3.example.org/store"), "without a path"),
        (options("http://s3.example.org/?a=b"), "without a path"),
        (options("http://me:secret@s3.example.org"), "S3AccessKey"),
        (options("http://127.0.0.1:9000", path_style=False), "S3PathStyle"),
        (options("http://[::1]:9000", path_style=False), "S3PathStyle"),
    ],
)
def test_an_endpoint_that_is_none(given: S3Options, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as raised:
        address_of(given)
    assert "secret" not in str(raised.value)


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing in the environment, an empty file of credentials, no machine to ask."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path / "credentials"


def test_without_keys_they_are_those_of_the_environment(
    script: Script, chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-it")
    with contextlib.closing(client_of(script.endpoint, access_key="", secret_key=None)) as bucket:
        bucket.put("key", b"")
    assert signature_of(script.received[0], "secret-of-it").startswith("from-environment/")


def test_or_of_a_file(script: Script, chain: Path) -> None:
    chain.write_text("[default]\naws_access_key_id = from-file\naws_secret_access_key = secret-of-it\n")
    with contextlib.closing(client_of(script.endpoint, access_key="", secret_key=None)) as bucket:
        bucket.put("key", b"")
    assert signature_of(script.received[0], "secret-of-it").startswith("from-file/")


def test_without_any_keys_the_operator_is_told(script: Script, chain: Path) -> None:
    with (
        contextlib.closing(client_of(script.endpoint, access_key="", secret_key=None)) as bucket,
        pytest.raises(StorageFailed) as raised,
    ):
        bucket.put("key", b"")
    assert "S3AccessKey" in raised.value.for_log()
    assert script.received == []


# -- TLS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key with a certificate for 127.0.0.1, signed by itself."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = [require_binary("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-keyout", str(path), "-out", f"{path}.crt", "-subj", "/CN=engine"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
def encrypted(certificate: Path) -> Iterator[Script]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Script(tls=context) as running:
        yield running


def test_over_tls_it_is_the_same(encrypted: Script, certificate: Path, file: tuple[int, bytes]) -> None:
    with contextlib.closing(client_of(encrypted.endpoint, ca_file=certificate)) as bucket:
        bucket.put("key", FileSection(file[0], 17, 4_900_000))
        bucket.put("key", b"data")
        encrypted.then(answer(200, b"x" * 700_000))
        download = bucket.get("key")
        assert download is not None
        assert b"".join(download.pieces(65_536)) == b"x" * 700_000
        with pytest.raises(StorageFailed, match="could not store"):
            bucket.put("key", FileSection(file[0], 0, 6_000_000))
    assert encrypted.received[0].body == file[1][17:4_900_017]
    assert [request.connection for request in encrypted.received] == [1, 1, 1]


def test_a_certificate_of_nobody_s_is_a_fault_to_mend(encrypted: Script, certificate: Path) -> None:
    with contextlib.closing(client_of(encrypted.endpoint)) as bucket, pytest.raises(StorageFailed) as raised:
        bucket.put("key", b"data")
    assert not isinstance(raised.value, StoreUnavailable)
    assert "certificate verify failed" in raised.value.for_log()
    other = encrypted.endpoint.replace("127.0.0.1", "localhost")
    with contextlib.closing(client_of(other, ca_file=certificate)) as bucket, pytest.raises(StorageFailed) as raised:
        bucket.put("key", b"data")
    assert not isinstance(raised.value, StoreUnavailable)
    assert encrypted.received == []


def test_what_is_no_tls_is_no_engine(script: Script) -> None:
    with (
        contextlib.closing(client_of(script.endpoint.replace("http:", "https:"), timeout=1.0)) as bucket,
        pytest.raises(StoreUnavailable),
    ):
        bucket.put("key", b"data")


# -- what is told ---------------------------------------------------------------------------------


def test_no_secret_is_told(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told = f"<StringToSign>x</StringToSign><AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId>"
    token = Secret("the-token-of-the-session")
    options = S3Options(script.endpoint, "bucket", secret_key=Secret(SECRET_KEY), session_token=token)
    with contextlib.closing(client_of(script.endpoint, session_token=token)) as bucket:
        url = bucket.presigned("key", seconds=9, overrides={})
        script.then(error(403, "SignatureDoesNotMatch", told), *[LOST] * 4)
        texts = [repr(vars(bucket)), repr(options)]
        for _ in range(2):
            with pytest.raises(StorageFailed) as raised:
                bucket.put("key", b"data")
            texts += [str(raised.value), raised.value.for_log(), repr(raised.value.__cause__)]
    signature = dict(parse_qsl(urlsplit(url).query))["X-Amz-Signature"]
    sent = [request.headers["authorization"].rpartition("=")[2] for request in script.received]
    for hidden in (SECRET_KEY, "the-token-of-the-session", signature, *sent):
        assert hidden not in "\n".join([*texts, caplog.text])


def test_an_observer_learns_of_each_request(script: Script, bucket: S3Bucket, notes: Notes) -> None:
    script.then(error(503, "SlowDown"), LOST, answer(ETag='"tag"'), error(403, "AccessDenied"), error(412, ""))
    bucket.put("key", b"12345")
    with pytest.raises(StorageFailed):
        list(bucket.pages("pre"))
    with pytest.raises(ConditionFailed):
        bucket.put("key", b"", is_new=True)
    assert notes.calls == [("put", "failed"), ("put", "lost"), ("put", "ok"), ("list", "refused"), ("put", "ok")]
    assert notes.retries == 2
    assert notes.sent == 10  # of those that were answered
    assert notes.received > 50


@pytest.mark.parametrize("text", ["", "yesterday", "Tue, 99 Dec 2026 00:00:00 GMT"])
def test_a_time_that_is_none(text: str) -> None:
    assert answers.http_time(text) == 0.0


def test_a_listener_that_never_accepts_is_silent() -> None:
    """As a machine that is away does: the connection takes too long."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), contextlib.ExitStack() as others:
            for _ in range(3):  # the queue is full
                other = others.enter_context(socket.socket())
                other.setblocking(False)
                other.connect_ex(("127.0.0.1", port))
            bucket = others.enter_context(contextlib.closing(client_of(f"http://127.0.0.1:{port}", timeout=0.3)))
            with pytest.raises(StoreUnavailable):
                bucket.head("key")
