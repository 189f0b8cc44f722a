"""What a stranger's texts may keep in memory, and how much of them is looked at."""

from __future__ import annotations

import ast
import gc
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import hmacfs
from hmacfs.addresses import canonical, network_of, parse_address
from hmacfs.caching import LONGEST_KEY, RecentKeys, bounded_cache
from hmacfs.errors import BadName, BadRequest, BadSignature, BadToken
from hmacfs.protocol.conditions import evaluate_conditions
from hmacfs.protocol.forwarded import nodes_of_forwarded, nodes_of_x_forwarded_for
from hmacfs.protocol.http1.heads import parse_head
from hmacfs.protocol.keyring import Keyring, sign_v
from hmacfs.protocol.signing import PARAMETERS_LIMIT, Scheme, SignedRequest, schemes_in, verify
from hmacfs.web.client_address import ClientAddress
from hmacfs.web.file_view import private_headers, public_headers
from hmacfs.web.guards import Guards
from hmacfs.web.messages import Request

#: Caches that need no bound, since no text from outside is their key, or the caller looks at its length.
UNBOUNDED = {
    "config.sources": {"variables"}, "stores.local.beneath": {"_how"},
    "sessions.engine": {"_for_driver"}, "telemetry.logs": {"_date"}, "web.file_view": {"http_date"},
}  # fmt: skip
ROOT = Path(hmacfs.__file__).parent
KEYRING = Keyring([b"a secret of a test.."])
GUARDS = Guards(KEYRING, prefix="/upload/")
CACHED = 1200


def test_every_cache_of_texts_has_bounded_keys() -> None:
    found: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                names = {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
                if names & {"lru_cache", "cache"}:
                    found.setdefault(module, set()).add(function.name)
    assert found == UNBOUNDED, "use hmacfs.caching.bounded_cache"


def fill(number: int) -> None:
    """Ask everything that remembers for a new text of 30 KB."""
    text = f"{number:05}" + "x" * 30_000
    for function in (parse_address, canonical, network_of, public_headers, private_headers):
        function(text)
    clients = ClientAddress([*map(_network, ("127.0.0.1", "10.0.0.0/8"))])
    GUARDS.name_or_folder(cast("Request", SimpleNamespace(environ={"PATH_INFO": f"/upload/{text[:250]}"})))
    for header in (f"10.0.0.1%{text}", text, f"{text},10.0.0.1", f"[fe80::1%{text}]:1"):
        clients({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": header})
        clients({"REMOTE_ADDR": "127.0.0.1", "HTTP_FORWARDED": f'for="{header}"'})
    parse_head(f"GET /{text[:500]} HTTP/1.1\r\nHost: x\r\n{text}: 1\r\n\r\n".encode())


def _network(text: str) -> Any:
    import ipaddress

    return ipaddress.ip_network(text)


def test_long_texts_stay_in_no_cache() -> None:
    fill(0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(CACHED):
            fill(number)
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert kept < 2_000_000, "36 MB were sent to each"


def test_a_short_text_is_computed_once_and_a_long_one_each_time() -> None:
    asked: list[str] = []

    @bounded_cache(2)
    def size(text: str) -> int:
        asked.append(text)
        return len(text)

    short, long = "x" * LONGEST_KEY, "x" * (LONGEST_KEY + 1)
    assert [size(text) for text in (short, short, long, long)] == [len(short)] * 2 + [len(long)] * 2
    assert asked == [short, long, long]
    asked.clear()
    assert [size(text) for text in ("a", "b", "b", short)] == [1, 1, 1, len(short)]
    assert asked == ["a", "b", short], "what was kept longest has gone"


@pytest.mark.parametrize("header", ["[fe80::1%" + "z" * 9_000 + "]:1", "fe80::1%" + "z" * 9_000, "n" * 9_000])
def test_the_name_of_a_client_is_short(header: str) -> None:
    for found in (nodes_of_x_forwarded_for(header), nodes_of_forwarded(f'for="{header}"')):
        assert all(len(name) <= LONGEST_KEY for name in found)


def asked(query: str, authorization: str | None = None) -> SignedRequest:
    return SignedRequest("PUT", "/upload/a", "a", 5, None, query, authorization)


def test_a_query_has_so_many_parameters() -> None:
    signed = f"v={sign_v(KEYRING, 'a', 5)}"
    assert verify(asked(signed + "&a=1" * (PARAMETERS_LIMIT - 1)), KEYRING, 0).scheme is Scheme.V
    for query in ("&" * 5000, signed + "&a=1" * PARAMETERS_LIMIT, "%61=%31&" * 3900):
        with pytest.raises(BadRequest):
            verify(asked(query), KEYRING, 0)
        with pytest.raises(BadRequest):
            schemes_in(query)


@pytest.mark.parametrize("twice", ["v={0}&v={0}", "v={0}&%76={0}", "%76={0}&a=1&v="])
def test_a_repeated_parameter_is_refused_however_it_is_written(twice: str) -> None:
    with pytest.raises(BadSignature):
        verify(asked(twice.format(sign_v(KEYRING, "a", 5))), KEYRING, 0)


def test_escaped_parameters_are_read() -> None:
    escaped = "".join(f"%{ord(character):02x}" for character in sign_v(KEYRING, "a", 5))
    assert verify(asked(f"%76={escaped}"), KEYRING, 0).scheme is Scheme.V
    assert schemes_in("%76%33=1") == {Scheme.V3}
    assert schemes_in("%61" * 9000 + "=1") == frozenset()


def test_a_bearer_token_has_a_length() -> None:
    with pytest.raises(BadToken):
        verify(asked("", "Bearer eyJhbGciOiJIUzI1NiJ9." + "W1tb" * 5000 + ".aaaa"), KEYRING, 0)


def test_of_a_list_of_entity_tags_the_first_hundred_count() -> None:
    def status(tags: str) -> int:
        return evaluate_conditions({"REQUEST_METHOD": "GET", "HTTP_IF_NONE_MATCH": tags}, '"mine"', 0, 5).status

    assert status('"x", ' * 100 + '"mine"') == 304
    assert status('"x", ' * 6000) == 200


def test_an_overlong_connection_field_closes_and_an_overlong_path_is_no_name() -> None:
    head = parse_head(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: " + b"a," * 9000 + b"\r\n\r\n")
    assert head is not None
    assert not head.keep_alive
    path = b"/upload/" + b"%61" * 10_000
    head = parse_head(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head is not None
    assert len(head.environ["PATH_INFO"]) > 4096 + 100


def test_a_name_that_is_remembered_is_the_same_and_a_bad_one_is_refused_each_time() -> None:
    def judged(path_info: str) -> Any:
        request = cast("Request", SimpleNamespace(environ={"PATH_INFO": path_info}, is_folder=False))
        GUARDS.name_or_folder(request)
        return request.name.path, request.is_folder

    for _ in range(2):
        assert judged("/upload/a/b") == ("a/b", False)
        assert judged("/upload/a/b/") == ("a/b", True)
        assert judged("/upload/") == judged("/upload") == ("", True)
        for bad in ("/upload/a//b", "/upload/.hmacfs/x", "/upload//", "/uploads/a"):
            with pytest.raises(BadName):
                judged(bad)


def test_recent_keys_are_those_that_were_added_or_found_last() -> None:
    keys = RecentKeys[str](2)
    for key in "abac":
        keys.add(key)
    assert [key in keys for key in "abc"] == [True, False, True]
    assert "a" in keys
    keys.add("d")
    assert [key in keys for key in "acd"] == [True, False, True]
