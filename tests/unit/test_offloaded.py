"""Downloads that nginx or the object store sends: what they are told, and what is still answered here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from hmacfs.config import DownloadOffload
from hmacfs.errors import NotFound, PreconditionFailed, RangeNotSatisfiable, StoreUnavailable
from hmacfs.protocol.http1.responses import pairs_of
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.files import FileMetadata
from hmacfs.web.file_view import FileView
from hmacfs.web.messages import Request, Response
from tests.stores.backends import FolderBackend, ObjectBackend
from tests.unit.requests import EMPTY

BODY = os.urandom(1000)
PICTURE, PAGE, NONE = StoredName("a/100% \u2603.jpg"), StoredName("a/page.html"), StoredName("a/none")
SHOWN = "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'"
SAVED = "default-src 'none'; frame-ancestors 'none'; sandbox"

Ask = Callable[..., Response]


@pytest.fixture
def objects() -> ObjectBackend:
    backend = ObjectBackend(time.time)
    fill(backend)
    return backend


def fill(backend: ObjectBackend | FolderBackend) -> None:
    for name, content_type in ((PICTURE, "image/jpeg"), (PAGE, "text/html")):
        with backend.store.stage(name, len(BODY), FileMetadata(content_type), is_here=True) as file:
            file.write(memoryview(BODY))
            file.publish()


def asking(backend: ObjectBackend | FolderBackend, offload: DownloadOffload) -> Ask:
    view = FileView(backend.store, offload=offload)

    def ask(name: StoredName, method: str = "GET", *, verified: Any = None, **headers: str) -> Response:
        environ = {"REQUEST_METHOD": method} | {f"HTTP_{key.upper()}": value for key, value in headers.items()}
        request = Request(environ, "192.0.2.1", EMPTY)
        request.name, request.verified = name, verified
        return view.serve(request)

    return ask


@pytest.fixture
def by_nginx(objects: ObjectBackend) -> Ask:
    return asking(objects, DownloadOffload.X_ACCEL)


@pytest.fixture
def redirecting(objects: ObjectBackend) -> Ask:
    return asking(objects, DownloadOffload.REDIRECT)


def fields(response: Response) -> dict[str, str]:
    pairs = pairs_of(response.headers)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_nginx_is_told_where_the_object_is_and_what_to_add(objects: ObjectBackend, by_nginx: Ask) -> None:
    answer = by_nginx(PICTURE)
    assert (answer.status, answer.body) == (200, b"")
    told = fields(answer)
    assert told["X-Accel-Redirect"] == "/hmacfs-object"
    source = urlsplit(told["X-Hmacfs-Source"])
    assert (source.scheme, source.netloc) == ("", "")
    assert source.path == "/bucket/files/a/100%25%20%E2%98%83.jpg"
    asked = parse_qs(source.query)
    assert asked["response-content-type"] == ["image/jpeg"]
    assert asked["X-Amz-Expires"] == ["3600"]
    info = objects.store.stat(PICTURE)
    assert info is not None
    assert told["ETag"] == info.etag
    assert told["Last-Modified"]
    assert told["X-Hmacfs-Cache-Control"] == "public, max-age=31536000, immutable"
    assert (told["Content-Security-Policy"], told["X-Content-Type-Options"]) == (SHOWN, "nosniff")
    assert not {"X-Hmacfs-Range", "X-Hmacfs-Content-Disposition"} & set(told)


def test_what_nginx_would_keep_of_the_first_answer_has_another_name(by_nginx: Ask) -> None:
    """Where a refusal takes the place of the file, it must not be cached for a year."""
    for name in (PICTURE, PAGE):
        assert not {"Cache-Control", "Content-Disposition", "Expires"} & set(fields(by_nginx(name)))


def test_what_a_browser_would_run_is_saved(by_nginx: Ask, redirecting: Ask) -> None:
    told = fields(by_nginx(PAGE))
    assert (told["X-Hmacfs-Content-Disposition"], told["Content-Security-Policy"]) == ("attachment", SAVED)
    assert "Sec-Fetch-Dest" in told["Vary"]
    sent = fields(redirecting(PAGE))
    assert parse_qs(urlsplit(sent["Location"]).query)["response-content-disposition"] == ["attachment"]
    assert "Sec-Fetch-Dest" in sent["Vary"]


def test_what_took_a_signature_is_private(by_nginx: Ask, redirecting: Ask) -> None:
    assert fields(by_nginx(PICTURE, verified=True))["X-Hmacfs-Cache-Control"].startswith("private, ")
    location = fields(redirecting(PICTURE, verified=True))["Location"]
    assert parse_qs(urlsplit(location).query)["response-cache-control"][0].startswith("private, ")


def test_a_client_is_sent_to_the_store_and_may_come_back_for_a_while(redirecting: Ask) -> None:
    answer = redirecting(PICTURE, range="bytes=10-19")
    assert (answer.status, answer.body) == (307, b"")
    sent = fields(answer)
    url = urlsplit(sent["Location"])
    assert (url.scheme, url.netloc, url.path) == (
        *("https", "engine.example:9000", "/bucket/files/a/100%25%20%E2%98%83.jpg"),
    )
    assert set(parse_qs(url.query)) == {
        *("response-content-type", "response-cache-control", "X-Amz-Expires", "X-Amz-Signature"),
    }
    assert sent["Cache-Control"] == "private, max-age=1800"
    assert sent["Content-Length"] == "0"


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("bytes=10-19", "bytes=10-19"), ("bytes=-10", "bytes=990-999"), ("bytes=990-", "bytes=990-999"), ("bytes=5-2000", "bytes=5-999"),
        ("bytes=0-1,5-6", ""), ("bytes=9-1", ""), ("lines=1-2", ""),
    ],
)  # fmt: skip
def test_the_range_is_ours_to_judge(by_nginx: Ask, wanted: str, told: str) -> None:
    assert fields(by_nginx(PICTURE, range=wanted)).get("X-Hmacfs-Range", "") == told
    old = {"range": wanted, "if_range": '"another"'}
    assert "X-Hmacfs-Range" not in fields(by_nginx(PICTURE, **old))


@pytest.mark.parametrize("offload", [DownloadOffload.X_ACCEL, DownloadOffload.REDIRECT])
def test_conditions_head_and_refusals_are_answered_here(objects: ObjectBackend, offload: DownloadOffload) -> None:
    ask = asking(objects, offload)
    info = objects.store.stat(PICTURE)
    assert info is not None
    assert ask(PICTURE, if_none_match=info.etag).status == 304
    head = ask(PICTURE, "HEAD")
    assert (head.status, fields(head)["Content-Length"]) == (200, str(len(BODY)))
    assert fields(head)["Cache-Control"] == "public, max-age=31536000, immutable"
    assert not {"X-Hmacfs-Source", "Location", "X-Accel-Redirect"} & set(fields(head))
    for headers, error in (
        ({"if_match": '"another"'}, PreconditionFailed),
        ({"range": "bytes=1000-"}, RangeNotSatisfiable),
    ):
        with pytest.raises(error):
            ask(PICTURE, **headers)
    for missing in (NONE, StoredName("a")):
        with pytest.raises(NotFound):
            ask(missing)


def test_of_what_somebody_else_sends_nothing_is_fetched(objects: ObjectBackend) -> None:
    calls: list[str] = []

    def note(call: str, when: str) -> bool:
        if when == "before":
            calls.append(call)
        return False

    view = FileView(objects.process(note), offload=DownloadOffload.X_ACCEL)
    request = Request({"REQUEST_METHOD": "GET"}, "192.0.2.1", EMPTY)
    request.name, request.verified = PICTURE, None
    view.serve(request)
    assert calls == ["head"]


def test_nginx_that_cannot_send_it_is_given_the_bytes(by_nginx: Ask) -> None:
    answer = by_nginx(PICTURE, x_accel_offload="off")
    assert fields(answer)["Cache-Control"] == "public, max-age=31536000, immutable"
    assert not isinstance(answer.body, bytes)
    answer.body.close()


def test_a_client_cannot_turn_a_redirect_off(redirecting: Ask) -> None:
    assert redirecting(PICTURE, x_accel_offload="off").status == 307


def test_from_a_folder_nginx_sends_all_that_there_is() -> None:
    """It judges conditions and ranges itself, and answers HEAD."""
    backend = FolderBackend(time.time)
    fill(backend)
    ask = asking(backend, DownloadOffload.X_ACCEL)
    for method in ("GET", "HEAD"):
        told = fields(ask(PAGE, method, range="bytes=0-1", if_none_match="*"))
        assert told["X-Accel-Redirect"] == "/hmacfs-internal/a/page.html"
        assert told["Content-Disposition"] == "attachment"
        assert not [name for name in told if name.startswith("X-Hmacfs-")]


def test_an_object_store_that_is_away_is_told_of(objects: ObjectBackend) -> None:
    def fail(_call: str, _when: str) -> bool:
        raise StoreUnavailable

    view = FileView(objects.process(fail), offload=DownloadOffload.REDIRECT)
    request = Request({"REQUEST_METHOD": "GET"}, "192.0.2.1", EMPTY)
    request.name, request.verified = PICTURE, None
    with pytest.raises(StoreUnavailable):
        view.serve(request)
