"""What one slot and one client can take by running uploads (docs/protocol.md, section 3, "One right, one share")."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hmacfs.system.shared_rows import SharedRows
from tests.live.client import Client, request
from tests.live.pieces import PIECE_TYPE, TUS
from tests.servers import wait_until
from tests.servers.hmacfs import HmacFileServer

StartServer = Callable[..., HmacFileServer]
MIB = 2**20


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HmacFileServer]:
    with HmacFileServer(tmp_path_factory.mktemp("server"), ReadTimeout="1s") as running:
        yield running
        running.stop()
        assert running.leftovers() == []


def begin_plain(server: HmacFileServer, client: Client) -> bytes:
    client.head("PUT", server.sign_v("slow", MIB), content_length=MIB)
    return b"x"


def begin_chunked(server: HmacFileServer, client: Client) -> bytes:
    client.head("PUT", server.sign_v3("PUT", "slow"), transfer_encoding="chunked")
    return b"1\r\nx\r\n"


def begin_chunk_extension(server: HmacFileServer, client: Client) -> bytes:
    client.head("PUT", server.sign_v3("PUT", "slow"), transfer_encoding="chunked")
    client.send(b"5;")
    return b"x"


def begin_tus_piece(server: HmacFileServer, client: Client) -> bytes:
    made = request(server, "POST", server.sign_v("slow", MIB), content_length=0, upload_length=MIB, **TUS)
    headers = {"upload_offset": 0, "content_type": PIECE_TYPE, **TUS}
    client.head("PATCH", made.headers["Location"], content_length=MIB, **headers)
    return b"x"


def begin_range(server: HmacFileServer, client: Client) -> bytes:
    content_range = f"bytes 0-{MIB - 1}/{2 * MIB}"
    client.head("PUT", server.sign_v("slow-range", 2 * MIB), content_length=MIB, content_range=content_range)
    return b"x"


@pytest.mark.parametrize("begin", [begin_plain, begin_chunked, begin_chunk_extension, begin_tus_piece, begin_range])
def test_a_byte_now_and_then_does_not_outlive_the_read_timeout(
    impatient: HmacFileServer, begin: Callable[[HmacFileServer, Client], bytes]
) -> None:
    with Client(impatient) as client:
        piece = begin(impatient, client)
        ends = time.monotonic() + 20
        while not select.select([client.sock], [], [], 0.2)[0]:
            assert time.monotonic() < ends, "it goes on"
            client.send(piece)
        answer = client.answer()
    assert answer.status == 408
    assert b"too slowly" in answer.body
    assert impatient.stored() == []


# -- one running upload for a name ----------------------------------------------------------------


def test_a_second_upload_of_a_name_that_is_running_is_refused_in_all_workers(start_server: StartServer) -> None:
    server = start_server(Workers=3)
    body = bytes(MIB)
    url = server.sign_v("file", MIB)
    with Client(server) as first:
        first.head("PUT", url, content_length=MIB, expect="100-continue")
        assert first.informational().startswith(b"HTTP/1.1 100")
        for _ in range(12):
            with Client(server) as second:
                second.head("PUT", url, content_length=MIB, expect="100-continue", accept="application/problem+json")
                refused = second.answer()
            assert (refused.status, refused.headers["Retry-After"]) == (409, "5")
            assert b"upload-running" in refused.body
            small = request(server, "PUT", server.sign_v("file", 3), b"abc")
            assert (small.status, small.headers["Retry-After"]) == (409, "5")
        assert request(server, "PUT", server.sign_v("other", 3), b"abc").status == 201
        first.send(body)
        assert first.answer().status == 201
    taken = request(server, "PUT", url, body)
    assert (taken.status, taken.headers["Retry-After"]) == (409, None)
    assert server.complaints() == []


def test_uploads_that_are_silent_give_way_to_others_of_their_names(start_server: StartServer) -> None:
    """As a phone that has lost its network comes again."""
    server = start_server(Workers=3)
    lengths = {"large": MIB, "small": 3}
    with contextlib.ExitStack() as stack:

        def begun(name: str) -> Client:
            client = stack.enter_context(Client(server))
            client.head("PUT", server.sign_v(name, 2 * MIB), content_length=2 * MIB, expect="100-continue")
            client.informational()
            return client

        sending, *silent = map(begun, ("sent", *lengths))
        for client in silent:
            client.send(b"lost")
        stored: set[str] = set()

        def are_stored() -> bool:
            sending.send(b"x")  # what sends now and then is not silent
            assert request(server, "PUT", server.sign_v("sent", 1), b"n").status == 409
            for name in lengths.keys() - stored:
                body = b"n" * lengths[name]
                if request(server, "PUT", server.sign_v(name, len(body)), body).status == 201:
                    stored.add(name)
            return stored == lengths.keys()

        before = time.monotonic()
        wait_until(are_stored, timeout=25, what="the end of the silent ones")
        assert time.monotonic() - before > 4
        for name, length in lengths.items():
            assert (server.store / name).read_bytes() == b"n" * length
        for client in silent:
            assert client.answer().status == 409
            assert client.is_closed()
        assert sending.stays_silent(0.01)
    wait_until(lambda: server.leftovers() == [], what="the end of the other")
    assert set(server.stored()) == lengths.keys()
    assert server.complaints() == []


def test_the_name_of_a_killed_worker_is_free(start_server: StartServer) -> None:
    server = start_server(Workers=2)
    with Client(server) as client:
        client.head("PUT", server.sign_v("file", MIB), content_length=MIB, expect="100-continue")
        client.informational()
        assert request(server, "PUT", server.sign_v("file", 3), b"abc").status == 409
        for worker in server.workers():
            worker.kill()
        server.wait_until_ready()
        assert request(server, "PUT", server.sign_v("file", 3), b"abc").status == 201


def test_uploads_are_told_apart_after_a_purge_of_what_the_workers_share(start_server: StartServer) -> None:
    server = start_server(Workers=2, RuntimeDir="run")
    with Client(server) as client:
        client.head("PUT", server.sign_v("file", MIB), content_length=MIB, expect="100-continue")
        client.informational()
        shared = SharedRows.file_of(server.folder / "run" / "running")
        shared.unlink()

        def is_refused() -> bool:
            with Client(server) as other:
                other.head("PUT", server.sign_v("file", MIB), content_length=MIB, expect="100-continue")
                return other.informational().startswith(b"HTTP/1.1 409")

        wait_until(lambda: shared.exists() and all(is_refused() for _ in range(8)), what="a look of both workers")
        client.send(bytes(MIB))
        assert client.answer().status == 201


def test_a_slot_reserves_its_size_once(start_server: StartServer, small_disk: Path, tmp_path: Path) -> None:
    """However many connections have one slot, and no body: each would reserve its size."""
    server = start_server(StoreDir=str(small_disk), RuntimeDir=str(tmp_path / "run"), Workers=2, UploadMaxSize="1GB")
    server.store = small_disk
    url = server.sign_v("held", 8 * MIB)
    with contextlib.ExitStack() as stack:
        attackers = [stack.enter_context(Client(server)) for _ in range(72)]
        for client in attackers:
            client.head("PUT", url, content_length=8 * MIB)
        refused: set[Client] = set()

        def are_refused() -> bool:
            refused.update(client for client in attackers if not client.stays_silent(0.001))
            return len(refused) >= 71

        wait_until(are_refused, what="71 answers")
        assert Counter(client.answer().status for client in refused) == {409: 71}
        for number in range(10):
            assert request(server, "PUT", server.sign_v(f"file{number}", MIB), bytes(MIB)).status == 201
    wait_until(lambda: server.leftovers() == [], what="the end of what was held")


# -- one share of the free space for a client -----------------------------------------------------


def shared_disk(start_server: StartServer, disk: Path, runtime: Path, **settings: object) -> HmacFileServer:
    """A server behind a proxy that it trusts: the tests name any client they like."""
    shared = {"StoreDir": str(disk), "RuntimeDir": str(runtime), "Workers": 2, "UploadMaxSize": "1GB"}
    server = start_server(TrustedProxies=["127.0.0.1"], **shared, **settings)
    server.store = disk
    return server


def try_to_hold(server: HmacFileServer, client: Client, name: str, size: int, address: str) -> int:
    """The answer to an upload whose body does not come: 100 if that is wanted."""
    url = server.sign_v(name, size)
    client.head("PUT", url, content_length=size, expect="100-continue", x_forwarded_for=address)
    return int(client.informational().split()[1])


def held(server: HmacFileServer, stack: contextlib.ExitStack, name: str, size: int, address: str) -> int:
    return try_to_hold(server, stack.enter_context(Client(server)), name, size, address)


def test_one_client_leaves_the_others_their_share(start_server: StartServer, small_disk: Path, tmp_path: Path) -> None:
    """With a slot for each connection, and no body."""
    server = shared_disk(start_server, small_disk, tmp_path / "run")
    with contextlib.ExitStack() as stack:
        answers = Counter(held(server, stack, f"held{number}", 2 * MIB, "192.0.2.1") for number in range(72))
        assert set(answers) == {100, 429}
        assert 6 <= answers[100] <= 8  # half of what is free
        for number in range(8):
            body = bytes(MIB)
            stored = request(server, "PUT", server.sign_v(f"file{number}", MIB), body, x_forwarded_for="192.0.2.2")
            assert stored.status == 201
        with Client(server) as client:
            client.head("PUT", server.sign_v("more", 2 * MIB), content_length=2 * MIB, x_forwarded_for="192.0.2.1")
            refused = client.answer()
        assert (refused.status, refused.headers["Retry-After"]) == (429, "10")
        assert "MaxReservedPerClient" in server.log()

    def is_free() -> bool:
        with Client(server) as client:
            return try_to_hold(server, client, "later", 2 * MIB, "192.0.2.1") == 100

    wait_until(is_free, what="the share of those who left")


def test_networks_of_an_ipv6_client_have_four_shares(
    start_server: StartServer, small_disk: Path, tmp_path: Path
) -> None:
    settings = {"MaxReservedPerClient": "1MB", "RateLimitExempt": ["203.0.113.0/24"]}
    server = shared_disk(start_server, small_disk, tmp_path / "run", **settings)
    with contextlib.ExitStack() as stack:

        def takes(address: str) -> int:
            return held(server, stack, f"held by {address}", MIB, address)

        assert [takes(f"2001:db8:0:{network}::1") for network in range(6)] == [100] * 4 + [429] * 2
        assert takes("2001:db8:0:0::2") == 429
        assert [takes("2001:db8:1::1"), takes("192.0.2.1"), takes("192.0.2.2")] == [100] * 3
        assert [held(server, stack, f"exempt{number}", MIB, "203.0.113.1") for number in range(3)] == [100] * 3
        assert [held(server, stack, f"unnamed{number}", MIB, "unknown") for number in range(3)] == [100] * 3
    warned = [line for line in server.complaints() if "no MaxReservedPerClient applies" in line]
    assert 1 <= len(warned) <= 2


@pytest.mark.parametrize("dialect", ["put", "tus"])
def test_floods_of_unknown_length_leave_free_what_must_stay_so(
    start_server: StartServer, small_disk: Path, tmp_path: Path, dialect: str
) -> None:
    server = shared_disk(start_server, small_disk, tmp_path / "run", MinFreeSpace="16MB", MaxReservedPerClient=0)
    piece = b"%x\r\n" % (MIB // 2) + bytes(MIB // 2) + b"\r\n"
    free = 32 * MIB

    def begin(client: Client, number: int) -> None:
        if dialect == "put":
            client.head("PUT", server.sign_v3("PUT", f"file{number}"), transfer_encoding="chunked")
            return
        url = server.sign_v3("PUT", f"file{number}")
        made = request(server, "POST", url, content_length=0, upload_defer_length=1, **TUS)
        headers = {"upload_offset": 0, "content_type": PIECE_TYPE, **TUS}
        client.head("PATCH", made.headers["Location"], transfer_encoding="chunked", **headers)

    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(8)]
        for number, client in enumerate(clients):
            begin(client, number)
        for _ in range(8):
            for client in clients:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    client.send(piece)
            space = os.statvfs(small_disk)
            free = min(free, space.f_bavail * space.f_frsize)
        assert any(not client.stays_silent(0.5) for client in clients)
        space = os.statvfs(small_disk)
        assert min(free, space.f_bavail * space.f_frsize) >= 16 * MIB
