"""Connections over the loopback are not paced; those of others are left alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from hmacfs.addresses import is_loopback
from hmacfs.net import congestion
from hmacfs.net.congestion import LocalCongestion
from tests.servers import require


def algorithm(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, socket.socket, tuple[str, int]]]:
    """A listener whose connections are paced, or count as if, and an accepted connection with its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        try:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
        except OSError:
            require(algorithm(listener) != b"reno", "a congestion control other than reno is needed")
            monkeypatch.setattr(congestion, "_PACING", algorithm(listener))
        with socket.create_connection(listener.getsockname()):
            sock, address = listener.accept()
            with sock:
                yield listener, sock, address


Accepted = tuple[socket.socket, socket.socket, tuple[str, int]]


def test_a_connection_over_the_loopback_is_not_paced(accepted: Accepted) -> None:
    listener, sock, address = accepted
    LocalCongestion(listener).set_up(sock, address)
    assert algorithm(sock) == b"reno"


def test_a_far_peer_keeps_the_choice_of_the_administrator(accepted: Accepted) -> None:
    listener, sock, _ = accepted
    LocalCongestion(listener).set_up(sock, ("192.0.2.7", 4711))
    assert algorithm(sock) == algorithm(listener)


def test_nothing_is_changed_where_nothing_is_paced(accepted: Accepted, monkeypatch: pytest.MonkeyPatch) -> None:
    listener, sock, address = accepted
    monkeypatch.setattr(congestion, "_PACING", b"another")
    LocalCongestion(listener).set_up(sock, address)
    assert algorithm(sock) == algorithm(listener)


def test_nothing_is_changed_where_the_kernel_forbids_it(accepted: Accepted, monkeypatch: pytest.MonkeyPatch) -> None:
    listener, sock, address = accepted
    monkeypatch.setattr(congestion, "_UNPACED", b"no such")
    LocalCongestion(listener).set_up(sock, address)
    assert algorithm(sock) == algorithm(listener)


def test_a_unix_socket_has_no_congestion_control() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        LocalCongestion(listener).set_up(listener, "")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.255.0.3", True), ("::1", True), ("::ffff:127.0.0.1", True),
        ("12.7.0.1", False), ("192.0.2.127", False), ("::", False), ("::127.0.0.1", False), ("fe80::1", False), ("::11", False),
    ],
)  # fmt: skip
def test_addresses_of_the_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
