"""Files without a byte."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.live.client import get, request
from tests.servers.hmacfs import HmacFileServer

StartServer = Callable[..., HmacFileServer]


@pytest.mark.parametrize("content_length", [None, 0])
def test_a_tus_upload_of_nothing_is_complete_at_once(start_server: StartServer, content_length: int | None) -> None:
    """Without Content-Length a POST has no body (RFC 9112 section 6.3), which is all that an empty file needs."""
    server = start_server()
    answer = request(
        server,
        "POST",
        server.sign_v("empty", 0),
        content_length=content_length,
        upload_length=0,
        tus_resumable="1.0.0",
    )
    assert (answer.status, answer.headers["Upload-Offset"]) == (201, "0")
    assert (get(server, "empty").status, get(server, "empty").body) == (200, b"")
    head = request(server, "HEAD", answer.headers["Location"], tus_resumable="1.0.0")
    assert (head.status, head.headers["Upload-Length"]) == (200, "0")
