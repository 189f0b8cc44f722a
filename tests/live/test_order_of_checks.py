"""In which order a request that has several faults hears of them (docs/protocol.md, section 3), in every dialect."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.live.client import Answer, Client, request
from tests.servers.hmacfs import HmacFileServer

StartServer = Callable[..., HmacFileServer]

MAX_SIZE, SIZE = 1000, 100
#: The faults in the order of the checks, and what each is answered with.
FAULTS = {"name": 400, "signature": 403, "rate": 429, "length": 411, "size": 413, "taken": 409, "space": 507}
TUS: dict[str, Any] = {"tus_resumable": "1.0.0"}


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How a request begins an upload. headers: for a file of that size. lacks: the faults that it cannot have."""

    method: str
    headers: Callable[[int], dict[str, object]]
    lacks: frozenset[str] = frozenset()


DIALECTS = {
    "whole": Dialect("PUT", lambda size: {"content_length": size}),
    "range": Dialect("PUT", lambda size: {"content_length": size, "content_range": f"bytes 0-{size - 1}/{size}"}),
    "numbered": Dialect(
        "PUT", lambda size: {"content_length": 1, "x_chunk_id": 1, "x_total_chunks": 2, "x_file_size": size}
    ),
    "tus": Dialect("POST", lambda size: {"content_length": 0, "upload_length": size, **TUS}, frozenset({"length"})),
}


@pytest.fixture(scope="module")
def full_server(tmp_path_factory: pytest.TempPathFactory) -> HmacFileServer:
    """Whatever passes all other checks finds no space, and was the only upload of its address."""
    folder = tmp_path_factory.mktemp("full")
    settings: dict[str, Any] = {"UploadRateLimit": "1/hour", "TrustedProxies": ["127.0.0.1"], "ReadyPath": "/healthz"}
    return HmacFileServer(folder, UploadMaxSize=MAX_SIZE, MinFreeSpace=2**60, **settings)


def target_of(server: HmacFileServer, faults: set[str], size: int) -> str:
    path = "taken/file" if "taken" in faults else "new/file"
    # A MAC over a length cannot be judged without one.
    target = server.sign_v3("PUT", path) if "length" in faults else server.sign_v(path, size)
    if "signature" in faults:
        target = target.replace("?v=", "?v=" + "0" * 64 + "&x=").replace("?v3=", "?v3=" + "0" * 64 + "&x=")
    return target.replace("/file", "//file") if "name" in faults else target


def ask(server: HmacFileServer, dialect: Dialect, faults: set[str], address: str) -> Answer:
    """No byte of a body is sent: whatever is refused is refused before."""
    size = MAX_SIZE + 1 if "size" in faults else SIZE
    headers = dialect.headers(size)
    if "length" in faults:
        headers.pop("content_length")
    with Client(server) as client:
        client.head(dialect.method, target_of(server, faults, size), x_forwarded_for=address, **headers)
        return client.answer(dialect.method)


def test_the_first_fault_is_answered_whatever_comes_after_it(full_server: HmacFileServer) -> None:
    addresses = iter(f"192.0.2.{number}" for number in range(1, 255))
    with full_server as server:
        (server.store / "taken").mkdir()
        (server.store / "taken/file").write_bytes(b"x" * SIZE)
        found, expected = {}, {}
        for name, dialect in DIALECTS.items():
            possible = [fault for fault in FAULTS if fault not in dialect.lacks]
            for place, first in enumerate(possible):
                for last in range(place, len(possible)):
                    faults = {"space", *possible[place : last + 1]}
                    address = next(addresses)
                    if "rate" in faults:
                        assert ask(server, dialect, {"space"}, address).status == 507
                    case = f"{name}: {', '.join(sorted(faults, key=list(FAULTS).index))}"
                    answer = ask(server, dialect, faults, address)
                    found[case], expected[case] = answer.status, FAULTS[first]
                    if first not in ("name", "signature"):
                        assert "X-RateLimit-Remaining" in answer.headers, case
        assert found == expected
        assert server.stop() == 0
        assert server.stored() == ["taken/file"]


@pytest.mark.parametrize("durability", ["fsync", "none"])
def test_a_body_that_is_here_already_is_judged_in_the_same_order(tmp_path: Path, durability: str) -> None:
    with HmacFileServer(tmp_path, MinFreeSpace=2**60, Durability=durability, ReadyPath="/healthz") as server:
        (server.store / "folder").mkdir()
        (server.store / "folder/taken").write_bytes(b"first")
        for name, status in {"folder/taken": 409, "folder": 409, "folder/taken/below": 409, "folder/new": 507}.items():
            with Client(server) as client:
                head = f"PUT {server.sign_v(name, 5)} HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n"
                client.send(head.encode() + b"later")  # at once
                assert client.answer("PUT").status == status, name
        assert server.stored() == ["folder/taken"]
        assert (server.store / "folder/taken").read_bytes() == b"first"


@pytest.mark.parametrize("headers", [{"content_range": "bytes 9-1/x"}, {"x_chunk_id": "0"}, {"x_chunk_id": "9" * 30}])
def test_a_malformed_piece_without_a_signature_hears_of_the_signature(
    server: HmacFileServer, headers: dict[str, Any]
) -> None:
    for query in ("", "?v=00", "?v3=" + "0" * 64 + "&expires=4000000000"):
        assert request(server, "PUT", server.path("malformed") + query, b"x", **headers).status == 403
    signed = request(server, "PUT", server.sign_v3("PUT", "malformed"), b"x", **headers)
    assert signed.status in (400, 413)


@pytest.mark.parametrize(
    "headers", [{"upload_length": "x"}, {"upload_length": "9" * 30}, {"upload_length": 1, "upload_metadata": ",,"}]
)
def test_a_malformed_creation_without_a_signature_hears_of_the_signature(
    server: HmacFileServer, headers: dict[str, Any]
) -> None:
    for query in ("", "?v=00", "?v3=" + "0" * 64 + "&expires=4000000000"):
        assert request(server, "POST", server.path("malformed") + query, **TUS, **headers).status == 403
    signed = request(server, "POST", server.sign_v3("PUT", "malformed"), **TUS, **headers)
    assert signed.status in (400, 413)


def test_a_piece_of_a_tus_upload_is_refused_in_order(server: HmacFileServer) -> None:
    """Its URL stands for the signature; then come the length, the offset, and the size."""
    created = request(server, "POST", server.sign_v("tus/file", SIZE), upload_length=SIZE, **TUS)
    assert created.status == 201
    url = created.headers["Location"]

    def patch(url: str, **headers: Any) -> int:
        return request(server, "PATCH", url, **TUS, content_type="application/offset+octet-stream", **headers).status

    assert patch(url[:-1] + ("A" if url[-1] != "A" else "E"), upload_offset="x") == 404
    assert patch(url, upload_offset=7) == 411
    assert patch(url, upload_offset=7, content_length=SIZE * 2) == 409
    assert patch(url, upload_offset=0, content_length=SIZE * 2) == 413
    assert request(server, "DELETE", url, **TUS).status == 204
