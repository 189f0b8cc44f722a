"""Flask's dispatch and the fast path give the same answer to the same request."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from hmacfs.app import create_app
from hmacfs.config import load
from hmacfs.protocol.keyring import Keyring, sign_v, sign_v3
from hmacfs.protocol.methods import METHODS
from hmacfs.web.dispatch import FastPath

SECRET = "0123456789abcdef"
KEYRING = Keyring([SECRET.encode()])
TUS: dict[str, Any] = {"HTTP_TUS_RESUMABLE": "1.0.0"}

#: What differs between two answers to the same request, or to the same upload of two files.
_CHANGING = {"X-Request-ID", "ETag", "Last-Modified", "Upload-Expires", "X-Session-Token"}


class Answer(NamedTuple):
    status: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return dict(self.headers)[name]


Entry = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def open_fast_path(folder: Path, failures: str = "") -> FastPath:
    """failures: ``AuthFailureRateLimit``."""
    (folder / "store").mkdir()
    config = folder / "config.toml"
    config.write_text(
        f'Secret = "{SECRET}"\nStoreDir = "{folder}/store"\nRuntimeDir = "{folder}/run"\nMinFreeSpace = 0\n'
        'MetricsEnabled = false\nUploadRateLimit = ""\nDownloadRateLimit = ""\n'
        f'AuthFailureRateLimit = "{failures}"\n'
    )
    return cast("FastPath", create_app(load(config, {})).wsgi_app)


@pytest.fixture(scope="module")
def fast_path(tmp_path_factory: pytest.TempPathFactory) -> FastPath:
    return open_fast_path(tmp_path_factory.mktemp("entries"))


@pytest.fixture(scope="module")
def entries(fast_path: FastPath) -> tuple[Entry, Entry]:
    return fast_path, fast_path._flask_dispatch


def ask(entry: Entry, method: str, path: str, query: str = "", body: bytes = b"", **headers: Any) -> Answer:
    """headers: strings, as keys of a WSGI environ."""
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "x",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        **({"CONTENT_LENGTH": str(len(body))} if body else {}),
        **headers,
    }
    told: list[Any] = []
    content = entry(environ, lambda status, headers, _=None: told.extend((status, headers)))
    received = b"".join(content)
    answer = Answer(told[0], told[1], received)  # for HEAD too: the server counts its bytes, and sends none
    close = getattr(content, "close", None)
    if close is not None:
        close()
    return answer


def comparable(answer: Answer) -> tuple[str, list[tuple[str, str]], bytes]:
    """Names of headers that change from answer to answer stay, their values go."""
    headers = [(name, "" if name in _CHANGING else value) for name, value in answer.headers]
    return answer.status, sorted(headers), answer.body


@pytest.fixture(scope="module")
def upload(fast_path: FastPath) -> str:
    """The path of an unfinished tus upload."""
    query = f"v={sign_v(KEYRING, 'unfinished', 5)}"
    return ask(fast_path, "POST", "/upload/unfinished", query, HTTP_UPLOAD_LENGTH="5", **TUS).header("Location")


@pytest.fixture(scope="module")
def stored(fast_path: FastPath) -> str:
    """The path of a stored file."""
    assert (
        ask(fast_path, "PUT", "/upload/stored.txt", f"v={sign_v(KEYRING, 'stored.txt', 5)}", b"hello").status[:3]
        == "201"
    )
    return "/upload/stored.txt"


PATHS = (
    *("/upload/missing", "/upload/", "/upload", "/upload/folder/", "/upload/a//b", "/upload/../x", "/upload/a\nb"),
    *(
        "/upload/\xff",
        "/upload/.hmacfs/x",
        "/upload/.hmacfs/tus/",
        "/upload/.hmacfs/tus/guess",
        "/upload/.HMACFS/tus/x",
    ),
    *("//upload/missing", "//", "/", "/healthz", "/readyz", "/healthz/", "/nothing", "/uploads", "/" + "x" * 200, "*"),
)
HEADERS: tuple[dict[str, Any], ...] = (
    {},
    {"HTTP_ACCEPT": "application/json", "HTTP_ORIGIN": "https://chat.example"},
    TUS,
    {"HTTP_X_HTTP_METHOD_OVERRIDE": "PATCH", **TUS},
    {"HTTP_IF_MATCH": '"x"', "HTTP_RANGE": "bytes=1-2"},
    {"HTTP_SEC_FETCH_DEST": "script"},
)


@pytest.mark.parametrize("method", [*METHODS, "PROPFIND", "TRACE", "BREW", "put", "Get"])
def test_any_method_on_any_path(entries: tuple[Entry, Entry], stored: str, upload: str, method: str) -> None:
    queries = ("", "v=" + "0" * 64, "v3=1", f"v3={sign_v3(KEYRING, 'PUT', 4000000000, stored)}&expires=4000000000")
    for path in (*PATHS, stored, upload):
        for headers in HEADERS:
            if method == "DELETE" and path == upload and "HTTP_IF_MATCH" not in headers:
                continue  # which ends the upload
            for query in queries:
                by_fast_path, by_flask = (comparable(ask(entry, method, path, query, **headers)) for entry in entries)
                assert by_fast_path == by_flask, (path, query, headers)
                assert by_flask[0][:3] != "500", (path, query, headers)


def test_uploads_whole_and_in_pieces(entries: tuple[Entry, Entry]) -> None:
    steps: list[tuple[str, bytes, dict[str, Any], str]] = [
        ("whole", b"hello", {}, "201"),
        ("whole", b"hello", {}, "409"),
        ("range", b"hel", {"HTTP_CONTENT_RANGE": "bytes 0-2/5"}, "202"),
        ("range", b"el", {"HTTP_CONTENT_RANGE": "bytes 1-2/5"}, "409"),
        ("range", b"lo", {"HTTP_CONTENT_RANGE": "bytes 3-4/5"}, "201"),
        ("form", b"hello", {"CONTENT_TYPE": "multipart/form-data"}, "415"),
        ("coded", b"hello", {"HTTP_CONTENT_ENCODING": "gzip"}, "415"),
        ("changed", b"hello", {"HTTP_IF_MATCH": '"x"'}, "412"),
    ]
    for name, body, headers, status in steps:
        answers = []
        for number, entry in enumerate(entries):
            path = f"entry{number}/{name}"
            answer = ask(entry, "PUT", f"/upload/{path}", f"v={sign_v(KEYRING, path, 5)}", body, **headers)
            answers.append(comparable(answer._replace(headers=[(k, v.replace(path, name)) for k, v in answer.headers])))
        assert answers[0] == answers[1], name
        assert answers[0][0][:3] == status, name


def test_a_tus_upload_from_its_creation_to_its_file(entries: tuple[Entry, Entry]) -> None:
    answers: list[list[tuple[str, list[tuple[str, str]], bytes]]] = []
    for number, entry in enumerate(entries):
        name = f"tus{number}"
        query = f"v={sign_v(KEYRING, name, 5)}"
        created = ask(entry, "POST", f"/upload/{name}", query, HTTP_UPLOAD_LENGTH="5", **TUS)
        url = created.header("Location")
        piece: dict[str, Any] = {"CONTENT_TYPE": "application/offset+octet-stream", **TUS}
        found = [
            created,
            ask(entry, "PATCH", url, "", b"hel", HTTP_UPLOAD_OFFSET="0", **piece),
            ask(entry, "HEAD", url, **TUS),
            ask(entry, "GET", url),
            ask(entry, "POST", url, "", b"lo", HTTP_UPLOAD_OFFSET="3", HTTP_X_HTTP_METHOD_OVERRIDE="PATCH", **piece),
            ask(entry, "GET", url),
            ask(entry, "HEAD", url),
            ask(entry, "DELETE", url, **TUS),
        ]
        answers.append([comparable(without_token(one)) for one in found])
    assert answers[0] == answers[1]
    assert [answer[0][:3] for answer in answers[0]] == ["201", "204", "200", "404", "204", "200", "200", "403"]
    assert answers[0][5][2] == b"hello"


def without_token(answer: Answer) -> Answer:
    return answer._replace(headers=[(name, re.sub("tus/.+", "tus/", value)) for name, value in answer.headers])


def test_on_every_route_a_wrong_signature_is_counted_once(tmp_path: Path) -> None:
    entry = open_fast_path(tmp_path, failures="100/hour")
    created = ask(entry, "POST", "/upload/a", f"v={sign_v(KEYRING, 'a', 0)}", HTTP_UPLOAD_LENGTH="0", **TUS)
    upload, wrong = created.header("Location"), f"v3={'0' * 64}&expires=4000000000"
    for number, (method, path, headers) in enumerate(
        [
            ("PUT", "/upload/a", {}),
            ("POST", "/upload/a", {"HTTP_UPLOAD_LENGTH": "1", **TUS}),
            ("GET", "/upload/a", {}),
            ("HEAD", "/upload/a", {}),
            ("GET", upload, {}),
            ("HEAD", upload, {}),
        ],
        start=1,
    ):
        answer = ask(entry, method, path, wrong, **headers)
        assert answer.status[:3] == "403", (method, path)
        assert answer.header("X-RateLimit-Remaining") == str(100 - number), (method, path)
