"""TLS by gunicorn itself, without a proxy: slower, and the same in everything else."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hmacfs.server.connection import LINGER_SILENCE_SECONDS
from tests.live.client import Client
from tests.servers import require_binary, wait_until
from tests.servers.hmacfs import HmacFileServer
from tests.servers.machine import Duration

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HmacFileServer]:
    with serving(tmp_path_factory.mktemp("tls"), IdleTimeout="1s") as running:
        yield running
        assert running.stop() == 0
        assert running.complaints() == []
        assert running.leftovers() == []


@contextlib.contextmanager
def serving(folder: Path, **settings: object) -> Iterator[HmacFileServer]:
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = [require_binary("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(command, check=True, capture_output=True)
    running = HmacFileServer(folder, ReadTimeout="1s", UploadMaxSize=5_000_000, **settings)
    running.command = [str(Path(sys.executable).with_name("gunicorn")), "-c", str(ROOT / "gunicorn.conf.py")]
    running.command += ["--certfile", str(certificate), "--keyfile", str(key), "--chdir", str(ROOT), "wsgi:app"]
    running.is_ready = lambda: answers(running)  # type: ignore[method-assign]
    running.start(HMACFS_CONFIG=str(running.config))
    try:
        yield running
    finally:
        running.daemon.kill()


def connect(server: HmacFileServer, source: str = "127.0.0.1") -> Client:
    client = Client(server, source=source)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client.secure(context)
    return client


def answers(server: HmacFileServer) -> bool:
    try:
        with connect(server) as client:
            client.head("GET", "/readyz")
            return client.answer().status == 200
    except OSError:
        return False


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 65536, 131072, 262145, 5_000_000])
def test_files_come_back_and_the_connection_stays(server: HmacFileServer, size: int) -> None:
    body = os.urandom(size)
    with connect(server) as client:
        client.head("PUT", server.sign_v(f"size/{size}", size), content_length=size)
        client.send(body)
        assert client.answer().status == 201
        client.head("PUT", server.sign_v3("PUT", f"chunked/{size}"), transfer_encoding="chunked")
        client.send((b"%x\r\n%b\r\n" % (size, body) if size else b"") + b"0\r\n\r\n")
        assert client.answer().status == 201
        for name in (f"size/{size}", f"chunked/{size}"):
            client.head("GET", server.path(name))
            assert client.answer().body == body
        client.head("GET", server.path(f"size/{size}"), range="bytes=-100")
        assert client.answer().body == body[-100:] or size == 0


def test_a_refusal_comes_before_the_body(server: HmacFileServer) -> None:
    with connect(server) as client:
        client.head("PUT", "/upload/x?v=bad", content_length=1 << 30, expect="100-continue")
        answer = client.answer()
        assert (answer.status, answer.headers["Connection"]) == (403, "close")
        assert client.is_closed()


def test_what_a_refused_client_still_sends_is_bounded(server: HmacFileServer) -> None:
    sent, piece = 0, bytes(1 << 20)
    with connect(server) as client:
        client.head("PUT", "/upload/x?v=bad", content_length=1 << 30)
        with contextlib.suppress(OSError):  # a reset, a broken pipe, an end in the middle of a record
            while sent < 1 << 30:
                client.send(piece)
                sent += len(piece)
    assert sent < 256 << 20


def test_lingering_after_a_refusal_in_the_middle_of_a_record_stalls_nobody(server: HmacFileServer) -> None:
    with connect(server) as client:
        client.head("PUT", server.sign_v3("PUT", "large"), transfer_encoding="chunked")
        client.send(b"%x\r\n" % 5_000_000)
        client.send(bytes(5_000_000))
        client.send(b"\r\n64\r\n")
        client.send(bytes(16_000))  # the server needs 100 bytes of this record to know enough
        assert client.answer().status == 413
        with Duration() as own, connect(server) as other:
            other.head("GET", "/healthz")
            assert other.answer().status == 200
        assert own.seconds < LINGER_SILENCE_SECONDS


def test_100_continue_comes_after_the_checks(server: HmacFileServer) -> None:
    with connect(server) as client:
        client.head("PUT", server.sign_v("expected", 5), content_length=5, expect="100-continue")
        assert client.informational().startswith(b"HTTP/1.1 100 ")
        client.send(b"hello")
        assert client.answer().status == 201


def test_silent_clients_are_dropped(server: HmacFileServer) -> None:
    with connect(server) as client:
        client.head("PUT", server.sign_v("stalled", 5), content_length=5)
        client.send(b"he")
        assert client.answer().status == 408
    with Client(server) as client:  # not even a handshake
        assert client.is_closed()
    with connect(server) as client:  # no request
        assert client.is_closed()


def test_what_is_no_tls_is_dropped(server: HmacFileServer) -> None:
    with Client(server) as client:
        client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            while chunk := client.sock.recv(65536):
                assert b"HTTP/1.1" not in chunk
    with connect(server) as client:
        with socket.socket(fileno=os.dup(client.sock.fileno())) as plain:
            plain.send(b"no record of TLS" * 100)
        assert client.is_closed()


def test_handshakes_that_go_nowhere_make_room_and_one_address_has_its_share(tmp_path: Path) -> None:
    limits: dict[str, object] = {"IdleTimeout": "30s", "MaxConnections": 16, "MaxConnectionsPerClient": 12}
    with serving(tmp_path, **limits) as server, contextlib.ExitStack() as stack:
        for number in range(60):
            stack.enter_context(Client(server, source=f"127.0.1.{number + 1}"))
        for number in range(10):
            with connect(server, source="127.0.0.3") as client:
                client.head("PUT", server.sign_v(f"beside/{number}", 1), content_length=1)
                client.send(b"x")
                assert client.answer().status == 201
        for _ in range(12):
            stack.enter_context(Client(server, source="127.0.0.2"))
        with Client(server, source="127.0.0.2") as client:
            assert client.is_closed()


def test_a_second_signal_ends_handshakes(tmp_path: Path) -> None:
    with serving(tmp_path, Workers=1, IdleTimeout="60s", GracefulShutdownTimeout="60s") as running:
        with Client(running) as waiting, connect(running) as served:
            served.head("GET", "/healthz")  # the handshake of the one that connected before has begun
            assert served.answer().status == 200
            for line in ("stopping: ", "stopping at once"):
                running.daemon.process.send_signal(signal.SIGTERM)
                wait_until(lambda line=line: line in running.log(), what=line)  # type: ignore[misc]
            assert waiting.is_closed()
            assert running.daemon.process.wait(10) == 0
        assert [line for line in running.complaints() if "breaking off" not in line] == []
