"""The connection loop, on a pair of sockets."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gevent.socket
import pytest

from hmacfs.server.connection import Connection, Site
from hmacfs.telemetry.logs import request_id
from hmacfs.transfer.send import FileSlice
from hmacfs.transfer.wire import Wire


def answer_to(request: bytes, application: Callable[..., Iterable[bytes]]) -> bytes:
    """All that a connection with this application answers to ``request``."""
    client, served = socket.socketpair()
    client.sendall(request)
    client.shutdown(socket.SHUT_WR)
    site = Site(application, idle_timeout=5, read_timeout=5, write_timeout=5, environ={})
    with client, gevent.socket.socket(fileno=served.detach()) as theirs:
        Connection(site, Wire(theirs), None).serve()
        theirs.shutdown(socket.SHUT_RDWR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def test_a_file_that_cannot_be_read_is_500(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def application(_: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        return FileSlice(
            os.open(tmp_path, os.O_RDONLY), 0, 5
        )  # a folder: reading it fails as a broken disk's file does

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


def test_an_application_that_fails_is_500() -> None:
    def application(_: dict[str, Any], __: Callable[..., Any]) -> Iterable[bytes]:
        raise ZeroDivisionError

    assert answer_to(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", application).startswith(b"HTTP/1.1 500 ")
