"""What one slot is good for, whatever is tried with it: attacks on upload sessions (PROTOCOL section 6)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from hmacfs.signing import encode_bearer
from tests.live.client import get, request
from tests.live.pieces import numbered, partial_files
from tests.servers.hmacfs import FAR_FUTURE, HmacFileServer

StartServer = Callable[..., HmacFileServer]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HmacFileServer]:
    with HmacFileServer(tmp_path_factory.mktemp("server"), Workers=2, UploadMaxSize="64MB") as running:
        yield running
        running.stop()
        assert running.complaints() == []
        assert running.leftovers() == []


def bearer(server: HmacFileServer, name: str, size: int, filetype: object = "image/png") -> str:
    slot, _, filename = name.partition("/")
    claims = {"slot": slot, "filename": filename, "filesize": size, "filetype": filetype, "exp": FAR_FUTURE}
    return "Bearer " + encode_bearer(server.keyring, claims)


# -- numbered chunks that do not tell the file's size ---------------------------------------------


def test_a_slot_is_not_good_for_fifty_chunks_of_its_size(server: HmacFileServer) -> None:
    name, body = "unsized/a.bin", os.urandom(1000)
    for number in range(1, 51):
        refused = numbered(server, name, body, number, 50)
        assert refused.status == 400
        assert b"X-File-Size" in refused.body
    assert partial_files(server) == []
    assert get(server, name).status == 404


@pytest.mark.parametrize("scheme", ["v2", "v3", "bearer"])
def test_no_scheme_takes_chunks_of_an_unknown_whole(server: HmacFileServer, scheme: str) -> None:
    name, headers = f"unsized-{scheme}/a.bin", {}
    if scheme == "bearer":
        headers["authorization"] = bearer(server, name, 5)
    target = {
        "v2": server.sign_v2(name, 5, "image/png"),
        "v3": server.sign_v3("PUT", name),
        "bearer": server.path(name),
    }[scheme]
    for number in (1, 2):
        refused = request(server, "PUT", target, b"12345", x_chunk_id=number, x_total_chunks=2, **headers)
        assert refused.status == 400
    assert partial_files(server) == []


def test_a_bearer_token_never_takes_chunks_of_an_unknown_whole(start_server: StartServer) -> None:
    """Prosody counts its size as a quota."""
    server = start_server(AcceptUnsizedChunks=True)
    headers = {"authorization": bearer(server, "slot/a.bin", 5), "x_chunk_id": 1, "x_total_chunks": 50}
    refused = request(server, "PUT", server.path("slot/a.bin"), b"12345", **headers)
    assert (refused.status, b"X-File-Size" in refused.body) == (400, True)
    assert partial_files(server) == []
    assert request(server, "PUT", server.path("slot/a.bin"), b"12345", x_file_size=5, **headers).status == 201
    assert numbered(server, "signed/a.bin", b"12345", 1, 2).status == 202


# -- the type that a signature gives the file -----------------------------------------------------


@pytest.mark.parametrize("filetype", ["", " ", None, 7])
def test_a_bearer_token_without_a_type_does_not_leave_it_to_the_put(server: HmacFileServer, filetype: object) -> None:
    name = f"type-{filetype!r}/page.html"
    token = bearer(server, name, 5, filetype)
    stored = request(server, "PUT", server.path(name), b"<b>xy", content_type="image/svg+xml", authorization=token)
    assert stored.status == 201
    assert get(server, name).headers["Content-Type"] == "application/octet-stream"
