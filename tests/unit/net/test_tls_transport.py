"""Records over TLS: as many at once as have arrived, and the end after them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket, ssl

from hmacfs.errors import PeerTimeout
from hmacfs.net.body import SocketBody
from hmacfs.net.send import FileSlice, FileTruncated
from hmacfs.net.tls import TlsTransport
from hmacfs.net.transport import ReceiveBuffer, TransportTimeout
from tests.servers import require_binary
from tests.stores.local import opened

RECORD = 16 * 1024


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file with the key."""
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    command = [require_binary("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-keyout", str(path), "-out", str(path.with_suffix(".one")), "-subj", "/CN=localhost"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + path.with_suffix(".one").read_bytes())
    return path


class TlsPair:
    """Two connected sockets after their handshake."""

    def __init__(self, certificate: Path, near: Any, far: Any) -> None:
        ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ours.load_cert_chain(certificate)
        theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        theirs.check_hostname, theirs.verify_mode = False, ssl.CERT_NONE
        self.transport = TlsTransport(ours.wrap_socket(near, server_side=True, do_handshake_on_connect=False))
        greeting = gevent.spawn(self.transport.handshake, 5)
        self.far: Any = theirs.wrap_socket(far)
        greeting.get()

    def close(self) -> None:
        self.transport.close()
        self.transport.sock.close()
        self.far.close()


@pytest.fixture
def pair(certificate: Path) -> Iterator[TlsPair]:
    made = TlsPair(certificate, *socket.socketpair())
    yield made
    made.close()


def test_records_that_have_arrived_are_read_at_once(pair: TlsPair) -> None:
    data = os.urandom(5 * RECORD + 100)
    pair.far.sendall(data)
    buffer = memoryview(bytearray(10 * RECORD))
    assert pair.transport.read_into(buffer, 5) == len(data)
    assert buffer[: len(data)] == data
    with pytest.raises(TransportTimeout):
        pair.transport.read_into(buffer, 0.05)


def test_no_more_than_asked_for_is_read(pair: TlsPair) -> None:
    data = os.urandom(3 * RECORD)
    pair.far.sendall(data)
    first, second = bytearray(RECORD + 7), bytearray(2 * RECORD)
    assert pair.transport.read_into(memoryview(first), 5) == len(first)
    assert pair.transport.read_into(memoryview(second), 5) == len(data) - len(first)
    assert first + second[: len(data) - len(first)] == data


@pytest.mark.parametrize("says_goodbye", [True, False])
def test_the_end_comes_after_what_was_sent(pair: TlsPair, *, says_goodbye: bool) -> None:
    pair.far.sendall(bytes(2 * RECORD))
    if says_goodbye:
        with pytest.raises(ssl.SSLError):  # "the peer's close notify is not there yet"
            pair.far._sslobj.shutdown()
    else:
        pair.far._sock.shutdown(socket.SHUT_WR)
    buffer = memoryview(bytearray(4 * RECORD))
    assert pair.transport.read_into(buffer, 5) == 2 * RECORD
    assert pair.transport.read_into(buffer, 5) == 0
    assert pair.transport.read_into(buffer, 5) == 0
    assert pair.transport.read(10, 5) == b""


def test_what_is_no_record_ends_the_stream_after_what_was_sent(pair: TlsPair) -> None:
    pair.far.sendall(b"hello")
    pair.far._sock.sendall(b"no record of TLS" * 10)
    buffer = memoryview(bytearray(4 * RECORD))
    assert pair.transport.read_into(buffer, 5) == 5
    assert pair.transport.read_into(buffer, 5) == 0
    assert pair.transport.read(10, 5) == b""


def test_a_peer_that_takes_nothing_is_given_up(pair: TlsPair) -> None:
    with pytest.raises(TransportTimeout):
        pair.transport.send(bytes(50_000_000), 0.1)


@pytest.mark.parametrize("rate", [0, 2_000_000])
def test_a_file_is_sent_whole_and_in_part(pair: TlsPair, tmp_path: Path, rate: int) -> None:
    data = os.urandom(1_000_000)
    (tmp_path / "file").write_bytes(data)
    part = FileSlice(opened(tmp_path / "file"), 10, 900_000, rate=rate)
    sending = gevent.spawn(part.send_over, pair.transport, 5)
    received = b""
    while len(received) < 900_000:
        received += pair.far.recv(1 << 20)
    sending.get()
    assert received == data[10:900_010]
    assert part.sent == 900_000
    part.close()


def test_a_file_that_ends_too_early_is_noticed(pair: TlsPair, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    part = FileSlice(opened(tmp_path / "file"), 0, 50)
    with pytest.raises(FileTruncated):
        part.send_over(pair.transport, 5)
    part.close()


class Narrow:
    """Carries the bytes of one socket to another, one by one once ``is_narrow``."""

    def __init__(self, source: Any, target: Any) -> None:
        self.is_narrow = False
        self._greenlet = gevent.spawn(self._carry, source, target)

    def _carry(self, source: Any, target: Any) -> None:
        while data := source.recv(65536):
            step = 1 if self.is_narrow else len(data)
            for begin in range(0, len(data), step):
                target.sendall(data[begin : begin + step])
                gevent.sleep(0.002 if self.is_narrow else 0)

    def close(self) -> None:
        self._greenlet.kill()


@pytest.mark.parametrize(("least_rate", "arrives"), [(0, True), (100_000, False)])
def test_a_record_that_trickles_in_is_judged_by_its_rate(certificate: Path, least_rate: int, *, arrives: bool) -> None:
    near, behind = socket.socketpair()
    before, far = socket.socketpair()
    ways = [Narrow(before, behind), Narrow(behind, before)]
    pair = TlsPair(certificate, near, far)
    try:
        ways[0].is_narrow = True
        data = b"x" * 500  # takes twice the time limit, which is long enough for a busy machine's pauses
        pair.far.sendall(data)
        body = SocketBody(ReceiveBuffer(pair.transport), len(data), 0.5)
        body.least_rate = least_rate
        buffer = memoryview(bytearray(len(data)))
        if arrives:
            assert body.readinto(buffer) == len(data)
        else:
            with pytest.raises(PeerTimeout, match="too slowly"):
                body.readinto(buffer)
    finally:
        for way in ways:
            way.close()
        pair.close()
        before.close()
        behind.close()


PRINT_OPTIONS = """
import ssl
from gunicorn.config import Config
from hmacfs.server.worker import tls_context
config = Config()
config.set("certfile", "{certificate}")
print(int(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).options), int(tls_context(config).options))
"""


def test_kernel_tls_is_not_used_where_openssl_is_configured_to(certificate: Path, tmp_path: Path) -> None:
    (tmp_path / "openssl.cnf").write_text(
        "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = tls\n[tls]\nOptions = KTLS\n"
    )
    command = [sys.executable, "-c", PRINT_OPTIONS.format(certificate=certificate)]
    environ = {**os.environ, "OPENSSL_CONF": str(tmp_path / "openssl.cnf")}
    run = subprocess.run(command, check=True, capture_output=True, env=environ)
    usual, of_worker = map(int, run.stdout.split())
    assert usual & 1 << 3, "the configuration asks for it"
    assert not of_worker & 1 << 3
