"""The connection loop, on a pair of sockets."""

from __future__ import annotations

import http.client
import itertools
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import gevent.socket
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmacfs.errors import PeerTimeout
from hmacfs.net.body import Body
from hmacfs.net.send import FileSlice
from hmacfs.net.transport import UNSENT_LOW_WATERMARK_BYTES, Transport
from hmacfs.server.connection import (
    LINGER_SECONDS,
    SMALL_BODY_BYTES,
    UNCORKED_FILE_BYTES,
    Connection,
    Respond,
    ServerContext,
)
from hmacfs.server.lifecycle import Lifecycle, MasterIntent, State
from hmacfs.telemetry.logs import request_id
from hmacfs.web.messages import Response, Status
from tests.stores.local import opened


def context(
    application: Callable[..., Iterable[bytes]],
    *,
    idle_timeout: float = 30,
    read_timeout: float = 30,
    is_crowded: bool = False,
) -> ServerContext:
    return ServerContext(
        application, Lifecycle(MasterIntent(), 1), idle_timeout, read_timeout, 30, environ={}, is_crowded=is_crowded
    )


def answer_to(request: bytes, application: Callable[..., Iterable[bytes]], respond: Respond | None = None) -> bytes:
    """All that a connection with this application answers to ``request``."""
    shared = context(application, idle_timeout=5, read_timeout=5)
    if respond is not None:
        shared.respond = respond
    client, served = socket.socketpair()
    client.sendall(request)
    client.shutdown(socket.SHUT_WR)
    with client, gevent.socket.socket(fileno=served.detach()) as theirs:
        Connection(shared, Transport(theirs), None).serve()
        theirs.shutdown(socket.SHUT_RDWR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_a_file_that_cannot_be_read_is_500(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def application(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        return FileSlice(opened(tmp_path), 0, 5)  # a folder: reading it fails as a broken disk's file does

    answer = answer_to(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2, application)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert "Is a directory" in caplog.text


def test_what_is_not_http_is_logged_under_the_id_that_the_client_sees(caplog: pytest.LogCaptureFixture) -> None:
    def application(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"fine"]

    ids: list[str] = []
    caplog.set_level("INFO")

    def note(_: logging.LogRecord) -> bool:
        ids.append(request_id.get())
        return True

    caplog.handler.addFilter(note)
    answer = answer_to(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n", application)
    assert f"X-Request-ID: {ids[-1]}\r\n".encode() in answer
    assert ids[-1]


def test_a_response_that_needs_no_wsgi_is_sent_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"stored")

    def respond(environ: dict[str, Any], body: Body) -> Response | None:
        assert environ["wsgi.input"] is body
        answers = {
            "/text": Response(HTTPStatus.OK, ["X-A: b\r\nX-C: d\r\n", ("X-E", "f")], b"hello"),
            "/file": Response(HTTPStatus.OK, [], FileSlice(opened(tmp_path / "file"), 1, 4)),
            "/status": Response(Status(460, "Checksum Mismatch"), [], b"no"),
        }
        return answers.get(environ["PATH_INFO"])

    def application(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("content-length", "3")])
        return [b"a", b"sk"]

    requests = [("GET", "/text"), ("HEAD", "/text"), ("GET", "/file"), ("GET", "/status"), ("GET", "/other")]
    sent = "".join(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n" for method, path in requests).encode()
    answer = re.sub(rb"\r\nServer: hmacfs\r\nDate: [^\r]*", b"", answer_to(sent, application, respond))
    text = b"HTTP/1.1 200 OK\r\nX-A: b\r\nX-C: d\r\nX-E: f\r\nContent-Length: 5\r\n\r\n"
    assert answer == b"".join(
        [
            *(text, b"hello", text),
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntore",
            b"HTTP/1.1 460 Checksum Mismatch\r\nContent-Length: 2\r\n\r\nno",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nask",
        ]
    )


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="Linux has it")
@pytest.mark.parametrize(
    ("peer", "size", "expected"),
    [
        ("127.0.0.1", 2 * UNCORKED_FILE_BYTES, UNSENT_LOW_WATERMARK_BYTES),
        ("127.0.0.1", UNCORKED_FILE_BYTES, 0),
        ("192.0.2.1", 2 * UNCORKED_FILE_BYTES, 0),
    ],
)
def test_only_of_a_large_file_to_a_local_peer_the_kernel_holds_little_unsent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: str, size: int, expected: int
) -> None:
    """And of nothing that follows it on the connection."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    during: list[int] = []
    send_over = FileSlice.send_over

    def observed(self: FileSlice, transport: Transport, timeout: float) -> None:
        during.append(unsent_bound(transport.sock))
        send_over(self, transport, timeout)

    def respond(_environ: dict[str, Any], _body: Body) -> Response:
        return Response(HTTPStatus.OK, [("Content-Length", str(size))], FileSlice(opened(path), 0, size))

    monkeypatch.setattr(FileSlice, "send_over", observed)
    shared = context(lambda _environ, _start: [])
    shared.respond = respond
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = gevent.socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        with client, gevent.socket.socket(fileno=accepted.detach()) as served:
            serving = gevent.spawn(Connection(shared, Transport(served), (peer, 1)).serve)
            for _ in range(2):
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                with http.client.HTTPResponse(client) as answer:
                    answer.begin()
                    assert answer.read() == path.read_bytes()
            client.close()
            serving.get(timeout=10)
            assert unsent_bound(served) == 0
    assert during == [expected] * 2


def unsent_bound(sock: Any) -> int:
    """Of the bytes that the kernel holds beyond the peer's window; 0 for none of this socket's own."""
    return int(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT))


def test_an_application_that_fails_is_500() -> None:
    def application(_: dict[str, Any], __: Callable[..., Any]) -> Iterable[bytes]:
        raise ZeroDivisionError

    assert answer_to(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", application).startswith(b"HTTP/1.1 500 ")


# -- bodies that nobody reads ---------------------------------------------------------------------


class Refuser:
    """An application that reads no body. ``asked``: the paths of the requests that it saw."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.asked.append(environ["PATH_INFO"])
        start_response("403 Forbidden", [])
        return [b"no"]


def converse(pieces: Iterable[bytes], application: Callable[..., Iterable[bytes]], idle_timeout: float = 5) -> bytes:
    """All that a connection answers to a client that sends these pieces, one after the other."""
    near, far = gevent.socket.socketpair()
    connection = Connection(context(application, idle_timeout=idle_timeout, read_timeout=5), Transport(near), None)

    def serve() -> None:
        connection.serve()
        near.close()

    serving = gevent.spawn(serve)
    try:
        for piece in pieces:
            far.sendall(piece)
            gevent.sleep(0)
            gevent.sleep(1e-6)  # the poller looks at the sockets
        far.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: far.recv(65536), b""))
    finally:
        serving.join(10)
        far.close()


def head(target: str, *fields: str, protocol: str = "HTTP/1.1") -> bytes:
    return "\r\n".join([f"PUT {target} {protocol}", "Host: x", *fields, "", ""]).encode()


NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"5;a=b\r\nhello\r\n%x\r\n%s\r\n0\r\nTrailer: x\r\n\r\n" % (len(SMUGGLED), SMUGGLED)

SMALL = {
    "nothing": (head("/refused", "Content-Length: 0"), b""),
    "a byte": (head("/refused", "Content-Length: 1"), b"x"),
    "a request": (head("/refused", f"Content-Length: {len(SMUGGLED)}"), SMUGGLED),
    "as much as is small": (head("/refused", f"Content-Length: {SMALL_BODY_BYTES}"), SMUGGLED.ljust(SMALL_BODY_BYTES)),
}
WAYS: dict[str, Callable[[bytes, bytes], Iterable[bytes]]] = {
    "at once": lambda head, body: [head + body + NEXT],
    "head first": lambda head, body: [head, body + NEXT],
    "one after the other": lambda head, body: [head, body, NEXT],
    "body with head": lambda head, body: [head + body, NEXT],
    "half of the body": lambda head, body: [head + body[: len(body) // 2], body[len(body) // 2 :] + NEXT[:9], NEXT[9:]],
    "byte by byte": lambda head, body: (
        [bytes([byte]) for byte in head + body[:200]] + [body[200:]] + [bytes([byte]) for byte in NEXT]
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", SMALL)
def test_after_a_small_body_that_nobody_read_the_connection_goes_on(kind: str, way: str) -> None:
    application = Refuser()
    answers = converse(WAYS[way](*SMALL[kind]), application)
    assert application.asked == ["/refused", "/next"]
    assert answers.count(b"HTTP/1.1 403 ") == 2
    assert b"Connection: close" not in answers


@pytest.mark.parametrize("size", [SMALL_BODY_BYTES + 1, 70_000])
def test_a_larger_body_that_is_here_already_is_discarded_too(size: int) -> None:
    application = Refuser()
    request = head("/refused", f"Content-Length: {size}") + SMUGGLED.ljust(size)
    assert answer_to(request + NEXT, application).count(b"HTTP/1.1 403 ") == 2
    assert application.asked == ["/refused", "/next"]


@pytest.mark.parametrize(
    "fields", [("Transfer-Encoding: chunked",), ("Transfer-Encoding: chunked", "Expect: 100-continue")]
)
def test_a_chunked_body_is_discarded_if_it_is_here(fields: tuple[str, ...]) -> None:
    application = Refuser()
    assert answer_to(head("/refused", *fields) + CHUNKED + NEXT, application).count(b"HTTP/1.1 403 ") == 2
    assert application.asked == ["/refused", "/next"]


def test_a_body_that_the_client_waits_to_send_is_discarded_if_it_is_here() -> None:
    application = Refuser()
    request = head("/refused", "Content-Length: 5", "Expect: 100-continue") + b"hello" + NEXT
    assert answer_to(request, application).count(b"HTTP/1.1 403 ") == 2
    assert application.asked == ["/refused", "/next"]


@pytest.mark.parametrize(
    "pieces",
    [
        [head("/refused", f"Content-Length: {SMALL_BODY_BYTES + 1}"), SMUGGLED, NEXT],
        [head("/refused", "Content-Length: 40", "Expect: 100-continue"), SMUGGLED, NEXT],
        [head("/refused", "Transfer-Encoding: chunked") + CHUNKED[:-2], b"\r\n" + NEXT],
        [head("/refused", "Transfer-Encoding: chunked"), CHUNKED + NEXT],
        [head("/refused", "Transfer-Encoding: chunked") + b"5\r\nhelloX" + NEXT],
        [head("/refused", "Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 100 + b"0\r\n\r\n" + NEXT],
        [head("/refused", "Content-Length: 5", "Connection: close") + b"hello" + NEXT],
        [head("/refused", "Content-Length: 5", protocol="HTTP/1.0") + b"hello" + NEXT],
    ],
)
def test_where_the_next_request_cannot_be_found_the_connection_ends(pieces: list[bytes]) -> None:
    application = Refuser()
    answers = converse(pieces, application)
    assert application.asked == ["/refused"]
    assert answers.count(b"HTTP/1.1") == 1
    assert b"\r\nConnection: close\r\n" in answers


def test_what_follows_the_last_request_does_not_cut_its_response() -> None:
    def application(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [bytes(1 << 20)]

    with gevent.socket.socket() as listener, gevent.socket.socket() as far:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # most of the response waits at the server's end
        far.connect(listener.getsockname())
        near, _ = listener.accept()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 << 20)
        far.sendall(head("/last", "Content-Length: 0", "Connection: close"))
        far.sendall(bytes(100_000))  # more than is read with the head; a close with unread bytes is a reset
        far.shutdown(socket.SHUT_WR)
        connection = Connection(context(application), Transport(near), None)

        def serve() -> None:
            connection.serve()
            near.close()

        serving = gevent.spawn(serve)
        serving.join(LINGER_SECONDS)  # before the client reads on
        received = b"".join(iter(lambda: far.recv(65536), b""))
        assert len(received.partition(b"\r\n\r\n")[2]) == 1 << 20
        serving.join(10)


@given(st.lists(st.binary(max_size=300), max_size=5), st.lists(st.integers(0, 2000), max_size=12))
def test_however_requests_are_cut_each_is_answered_once(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(head(f"/{number}", f"Content-Length: {len(body)}") + body for number, body in enumerate(bodies))
    stream += NEXT
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    application = Refuser()
    converse([stream[begin:end] for begin, end in itertools.pairwise(places)], application)
    assert application.asked == [*(f"/{number}" for number in range(len(bodies))), "/next"]


@pytest.mark.parametrize("sent", [b"", b"part", b"x" * 50 + b"GET / HT"])
def test_a_body_that_never_comes_holds_no_longer_than_an_idle_connection(sent: bytes) -> None:
    near, far = gevent.socket.socketpair()
    connection = Connection(context(Refuser(), idle_timeout=0.3), Transport(near), None)
    serving = gevent.spawn(connection.serve)
    with near, far:
        far.sendall(head("/refused", "Content-Length: 50") + sent)
        began = time.monotonic()
        serving.join(10)
        assert serving.ready()
        assert 0.2 < time.monotonic() - began < 5


def test_a_body_that_never_comes_does_not_hold_up_a_stop() -> None:
    near, far = gevent.socket.socketpair()
    connection = Connection(context(Refuser()), Transport(near), None)
    serving = gevent.spawn(connection.serve)
    with near, far:
        far.sendall(head("/refused", "Content-Length: 50"))
        assert far.recv(1000).startswith(b"HTTP/1.1 403 ")
        far.sendall(b"part")
        gevent.sleep(0.01)
        assert connection.is_idle
        connection.end_if_idle()
        serving.join(10)
        assert serving.ready()


def test_after_a_read_that_failed_the_connection_ends() -> None:
    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with pytest.raises(PeerTimeout):
            environ["wsgi.input"].wait_for_data()
        start_response("408 Request Timeout", [])
        return [b"slow"]

    near, far = gevent.socket.socketpair()
    connection = Connection(context(application, read_timeout=0.1), Transport(near), None)
    with near, far:
        serving = gevent.spawn(connection.serve)
        far.sendall(head("/stalled", "Content-Length: 5"))
        assert b"\r\nConnection: close\r\n" in far.recv(1000)
        far.shutdown(socket.SHUT_WR)
        serving.join(10)
        assert serving.ready()


@pytest.mark.parametrize("hears_of_it", [True, False])
def test_from_the_beginning_of_a_stop_each_answer_ends_its_connection(*, hears_of_it: bool) -> None:
    """The master's, which the worker hears of a moment later."""

    def application(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if hears_of_it:
            shared.lifecycle.enter(State.DRAINING)
        else:
            intent.stop()
        start_response("200 OK", [])
        return [b"served"]

    shared, intent = context(application), MasterIntent()
    shared.lifecycle = Lifecycle(intent, 1)
    near, far = gevent.socket.socketpair()
    with near, far:
        far.sendall(NEXT)
        Connection(shared, Transport(near), None).serve()
        assert b"\r\nConnection: close\r\n" in far.recv(1000)


# -- who may keep a connection --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "idle_timeout", "is_crowded", "of_proxy", "answers"),
    [
        ("200 OK", 30, False, False, 3),
        ("200 OK", 0.001, False, False, 3),
        ("404 Not Found", 30, False, False, 3),
        ("404 Not Found", 0.001, False, False, 1),
        ("404 Not Found", 0.001, False, True, 3),
        ("200 OK", 30, True, False, 1),
        ("404 Not Found", 30, True, False, 1),
        ("200 OK", 30, True, True, 3),
        ("404 Not Found", 0.001, True, True, 3),
    ],
)
def test_a_connection_goes_on_after_a_success_or_while_others_do_not_want_it(
    status: str, idle_timeout: float, is_crowded: bool, of_proxy: bool, answers: int
) -> None:
    def application(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        time.sleep(0.002)
        start_response(status, [])
        return [b"said"]

    near, far = gevent.socket.socketpair()
    shared = context(application, idle_timeout=idle_timeout, is_crowded=is_crowded)
    connection = Connection(shared, Transport(near), None, of_proxy=of_proxy)
    with far:
        far.sendall(head("/", protocol="HTTP/1.1") * 3)
        far.shutdown(socket.SHUT_WR)
        with near:
            connection.serve()
        received = b"".join(iter(lambda: far.recv(65536), b""))
    assert received.count(b"HTTP/1.1 ") == answers
    assert received.count(b"Connection: close") == (answers == 1)


def test_what_waits_can_be_ended_and_what_is_served_cannot() -> None:
    entered, leave = gevent.event.Event(), gevent.event.Event()

    def application(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        entered.set()
        leave.wait(10)
        start_response("200 OK", [])
        return [b"served"]

    near, far = gevent.socket.socketpair()
    connection = Connection(context(application), Transport(near), None)
    serving = gevent.spawn(connection.serve)
    with near, far:
        far.sendall(head("/"))
        assert entered.wait(10)
        assert not connection.end_if_waiting()
        leave.set()
        assert b"served" in far.recv(1000)
        far.sendall(b"GET / HT")
        gevent.sleep(0.01)
        assert connection.end_if_waiting()
        assert not connection.end_if_waiting()
        serving.join(10)
        assert serving.ready()
