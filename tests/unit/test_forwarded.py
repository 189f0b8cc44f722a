"""Whom proxies name, and whom a client can make them name."""

from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmacfs.protocol.forwarded import node, nodes_of_forwarded, nodes_of_x_forwarded_for
from hmacfs.web.client_address import ClientAddress

PROXY, CLIENT = "198.51.100.1", "203.0.113.7"
#: What a header's value can hold in WSGI: bytes as latin-1 text.
VALUES = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=80)
#: What stands before the proxy's own entry in a list if the client sent the header too.
MADE_UP = [
    "", ",", "1.2.3.4", '"', 'for="', "for=1.2.3.4", 'for=9.9.9.9;by="', "for=unknown", "for=\\", ";;;", "=", 'a="b', '"' * 3,
    'host="x, for=5.6.7.8"', "unknown", "x" * 2000, ", " * 900, 'a="\\', "for=1.1.1.1;for=2.2.2.2",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CLIENT, CLIENT), (f"{CLIENT}:4711", CLIENT), (f" {CLIENT} ", CLIENT), (f'"{CLIENT}:4711"', CLIENT),
        ("2001:db8::1", "2001:db8::1"), ("[2001:db8::1]", "2001:db8::1"), ("[2001:db8::1]:443", "2001:db8::1"),
        ('"[2001:db8::1]:443"', "2001:db8::1"), ("[fe80::1%eth0]:1", "fe80::1%eth0"), (f"{CLIENT}:_hidden", CLIENT),
        ("::ffff:203.0.113.7", "::ffff:203.0.113.7"), ("", ""), ("  ", ""), ('""', ""), ("unknown", "unknown"),
        ("Unknown", "unknown"), ("unix:", "unix:"), ("_hidden", "_hidden"), ("_SEVKISEK", "_SEVKISEK"),
        ("1.2.3", "1.2.3"), ("1.2.3.4:", "1.2.3.4:"), ("[1.2.3.4", "[1.2.3.4"), ("a b\u00e9\n", "a?b??"), ("x" * 99, "x" * 64),
    ],
)  # fmt: skip
def test_an_entry_is_an_address_or_a_harmless_name(text: str, expected: str) -> None:
    assert node(text) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []), (",", []), (" , ,", []), ("1.2.3.4", ["1.2.3.4"]), ("1.2.3.4, 5.6.7.8:99", ["5.6.7.8", "1.2.3.4"]),
        ("1.2.3.4,", ["1.2.3.4"]), ("1.2.3.4, , [::1]:5 ,", ["::1", "1.2.3.4"]),
    ],
)  # fmt: skip
def test_x_forwarded_for_is_read_from_its_end(header: str, expected: list[str]) -> None:
    assert list(nodes_of_x_forwarded_for(header)) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        ("for=192.0.2.60;proto=http;by=203.0.113.43", ["192.0.2.60"]),
        ('For="[2001:db8:cafe::17]:4711"', ["2001:db8:cafe::17"]),
        ("for=192.0.2.43, for=198.51.100.17", ["198.51.100.17", "192.0.2.43"]),
        ('for=192.0.2.43,for="[2001:db8::1]",for=unknown', ["unknown", "2001:db8::1", "192.0.2.43"]),
        ("for=_hidden, for=_SEVKISEK", ["_SEVKISEK", "_hidden"]),
        ('host="a, for=9.9.9.9;b=";for=1.2.3.4', ["1.2.3.4"]),
        ('for=1.2.3.4;host="a, for=9.9.9.9"', ["1.2.3.4"]),
        (r'for=1.2.3.4;host="a\", for=9.9.9.9;b=\""', ["1.2.3.4"]),
        (r'for="1\.2.3.4"', ["1.2.3.4"]),
        ("for=1.2.3.4:567", ["1.2.3.4"]),
        ("for=2001:db8::1", ["2001:db8::1"]),
        ("for=[2001:db8::1]:5", ["2001:db8::1"]),
        ("proto=https", ["unknown"]),
        ("for=1.2.3.4;", ["1.2.3.4"]),
        ("for=1.2.3.4, ", ["1.2.3.4"]),
        (" for=1.2.3.4 ; proto=http ", ["1.2.3.4"]),
        ("for=1.2.3.4;for=5.6.7.8", ["for?1.2.3.4?for?5.6.7.8"]),
        ("for 1.2.3.4", ["for?1.2.3.4"]),
    ],
)
def test_forwarded_is_read_from_its_end(header: str, expected: list[str]) -> None:
    assert list(nodes_of_forwarded(header)) == expected


def client(peer: str = PROXY, **headers: str) -> str:
    """Whom a request comes from whose headers are given by their names in the environ."""
    networks = [ipaddress.ip_network(text) for text in ("198.51.100.0/24", "2001:db8:1::/48")]
    return ClientAddress(networks)({"REMOTE_ADDR": peer, **{f"HTTP_{name}": value for name, value in headers.items()}})


@pytest.mark.parametrize(
    ("x_forwarded_for", "expected"),
    [
        (CLIENT, CLIENT), (f"{CLIENT}:4711", CLIENT), (f"{CLIENT},", CLIENT), (f"{CLIENT}, ,", CLIENT), (f"{CLIENT}, {PROXY}:80", CLIENT),
        ("[2001:db8::1]:443", "2001:db8::1"), ("[2001:DB8:0::1]", "2001:db8::1"), (f"{CLIENT}, unix:", CLIENT),
        (f"1.2.3.4, {CLIENT}, [2001:db8:1::9]:80", CLIENT), ("::ffff:203.0.113.7", CLIENT), (f"{CLIENT}, _x1", "_x1"),
        (f"{CLIENT}, garbage!", "garbage?"), (f"{CLIENT}, unknown", ""), ("unix:", ""), (PROXY, PROXY), ("", PROXY),
        (" , ", PROXY),
    ],
)  # fmt: skip
def test_behind_a_trusted_proxy_the_client_is_whom_it_names(x_forwarded_for: str, expected: str) -> None:
    assert client(X_FORWARDED_FOR=x_forwarded_for) == expected


def test_forwarded_counts_only_without_x_forwarded_for() -> None:
    assert client(FORWARDED=f'for="{CLIENT}:4711";proto=https') == CLIENT
    assert client(FORWARDED='for="[2001:db8::1]:443"') == "2001:db8::1"
    assert client(FORWARDED="for=1.2.3.4", X_FORWARDED_FOR=CLIENT) == CLIENT
    assert client(FORWARDED="for=1.2.3.4", X_FORWARDED_FOR="garbage") == "garbage"
    assert client(FORWARDED=f"for={CLIENT}", X_FORWARDED_FOR=", ") == CLIENT
    assert client(FORWARDED="for=unknown") == ""
    assert client(peer="", FORWARDED=f"for={CLIENT}") == CLIENT


def test_nobody_else_is_believed() -> None:
    assert client("192.0.2.9", X_FORWARDED_FOR=CLIENT, FORWARDED=f"for={CLIENT}") == "192.0.2.9"


@pytest.mark.parametrize("made_up", MADE_UP)
def test_what_a_client_makes_up_changes_nothing(made_up: str) -> None:
    assert client(X_FORWARDED_FOR=f"{made_up}, {CLIENT}:99") == CLIENT
    for own in (f"for={CLIENT}", f'for="{CLIENT}:99";host="a, \\"b"', f'proto=http;host="for=1.1.1.1";for={CLIENT}'):
        assert client(FORWARDED=f"{made_up}, {own}") == CLIENT
        assert client(FORWARDED=f"{made_up},{own}, for={PROXY}") == CLIENT


@given(VALUES)
def test_whatever_a_client_makes_up_changes_nothing(made_up: str) -> None:
    assert client(X_FORWARDED_FOR=f"{made_up},{CLIENT}") == CLIENT
    assert client(FORWARDED=f'{made_up},for="{CLIENT}";by=x') == CLIENT


@given(VALUES)
def test_garbage_is_never_the_proxy_and_harmless_in_a_log(header: str) -> None:
    for name in (client(X_FORWARDED_FOR=f"x{header}y"), client(FORWARDED=f"x{header}y")):
        assert name != PROXY
        assert name.isascii()
        assert not set(name) & set(' "\\\t\x7f,=')


def test_hostile_headers_are_read_quickly() -> None:
    began = time.perf_counter()
    for header in ('a="b",' * 5000 + '"x', "," * 32000, '"' * 32000, "for=1;" * 5000 + '"', "a=b," * 8000 + 'c="d"e'):
        list(nodes_of_forwarded(header))
        list(nodes_of_x_forwarded_for(header))
    assert time.perf_counter() - began < 2


def test_a_proxy_that_is_not_trusted_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """All its clients would share one client's connections, space and unfinished uploads."""
    clients = ClientAddress([])
    for peer in ("127.0.0.1", "::ffff:10.0.0.7", "127.0.0.1", "8.8.8.8"):
        assert clients({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": CLIENT}) == peer.removeprefix("::ffff:")
        assert clients({"REMOTE_ADDR": "10.1.1.1"}) == "10.1.1.1"
    for number in range(100):
        clients({"REMOTE_ADDR": f"10.9.0.{number}", "HTTP_X_FORWARDED_FOR": CLIENT})
    assert [message.split()[0] for message in caplog.messages][:2] == ["127.0.0.1", "10.0.0.7"]
    assert len(caplog.messages) == 16
    assert all("TrustedProxies" in message for message in caplog.messages)
