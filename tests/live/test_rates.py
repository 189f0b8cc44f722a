"""Rate limits over all workers of a real server: alone, with Redis, and with a Redis that goes and comes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live.client import Answer, Client, get, put, request
from tests.servers import wait_until
from tests.servers.hmacfs import HmacFileServer
from tests.servers.machine import Duration
from tests.servers.redis import RedisServer

StartServer = Callable[..., HmacFileServer]

ADDRESSES = ("192.0.2.1", "192.0.2.2", "198.51.100.3", "2001:db8::4", "2001:db8:0:5::5")
#: So long that no window ends while a test runs.
LIMIT, RATE = 60, "60/hour"


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


def upload(server: HmacFileServer, client: str, name: str) -> int:
    return request(server, "PUT", server.sign_v(name, 1), b"x", x_forwarded_for=client).status


def crowd(server: HmacFileServer, count: int, run: str) -> dict[str, Counter[int]]:
    """The statuses of so many uploads at once, from all addresses in turn."""

    def one(number: int) -> tuple[str, int]:
        client = ADDRESSES[number % len(ADDRESSES)]
        return client, upload(server, client, f"{run}/{number}")

    statuses: dict[str, Counter[int]] = {client: Counter() for client in ADDRESSES}
    with ThreadPoolExecutor(32) as pool:
        for client, status in pool.map(one, range(count)):
            statuses[client][status] += 1
    return statuses


def limited(start_server: StartServer, **settings: object) -> HmacFileServer:
    return start_server(
        **{"Workers": 4, "UploadRateLimit": RATE, "TrustedProxies": ["127.0.0.1"], "Durability": "none", **settings}
    )


def test_exactly_the_allowed_number_passes_over_all_workers(start_server: StartServer) -> None:
    server = limited(start_server)
    statuses = crowd(server, 1000, "crowd")
    assert statuses == {client: Counter({201: LIMIT, 429: 200 - LIMIT}) for client in ADDRESSES}
    assert len(server.stored()) == LIMIT * len(ADDRESSES)
    assert server.complaints() == []


def test_exactly_the_allowed_number_passes_with_redis(start_server: StartServer, redis_server: RedisServer) -> None:
    """Two servers, which are as good as two machines: only Redis joins their counts. Where everybody waits for a
    processor, an answer may take longer than the second after which each would count for itself."""
    servers = [limited(start_server, Workers=2, RedisAddr=redis_server.address, RedisTimeout="20s") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda server: crowd(server, 500, "crowd"), servers))
    for client in ADDRESSES:
        assert sum((statuses[client] for statuses in both), Counter()) == Counter({201: LIMIT, 429: 200 - LIMIT})
    assert [server.complaints() for server in servers] == [[], []]


@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_exactly_the_allowed_number_passes_while_redis_goes_and_returns(
    start_server: StartServer, redis_server: RedisServer, how: str
) -> None:
    server = limited(start_server, RedisAddr=redis_server.address, RetryDelay="200ms", RedisTimeout="300ms")
    passed = Counter[str]()
    longest = 0.0

    def go_on(run: str) -> None:
        nonlocal longest
        with Duration() as own:
            outcome = crowd(server, 50, run)
        for client, statuses in outcome.items():
            passed[client] += statuses[201]
            assert set(statuses) <= {201, 429}
        longest = max(longest, own.seconds)

    go_on("with")
    if how == "killed":
        redis_server.kill()
    else:
        redis_server.pause()
    go_on("without")
    go_on("still without")
    if how == "killed":
        redis_server.start()
    else:
        redis_server.resume()
    wait_until(lambda: server.log().count("rate limits are counted in Redis again") == 1, what="Redis's return")
    for number in range(7):
        go_on(f"with again {number}")
    assert passed == Counter(dict.fromkeys(ADDRESSES, LIMIT))
    # One line at each transition, however many workers there are, and the same for the sessions of each worker.
    assert server.log().count("rate limits are counted on this machine alone") == 1
    # 50 requests that each waited for Redis would take seconds; one wait of its timeout in each worker is allowed.
    assert longest < 5


def test_a_refusal_comes_before_the_body_and_says_when_to_come_again(start_server: StartServer) -> None:
    server = limited(start_server, Workers=1, UploadRateLimit="1/hour")
    assert upload(server, ADDRESSES[0], "first") == 201
    with Client(server) as client:
        target, who = server.sign_v("second", 10**6), ADDRESSES[0]
        client.head("PUT", target, content_length=10**6, expect="100-continue", x_forwarded_for=who)
        answer = client.answer("PUT")
    assert answer.status == 429
    assert 3500 < int(answer.headers["Retry-After"]) <= 3600
    assert answer.headers["X-RateLimit-Limit"] == "1"
    assert answer.headers["X-RateLimit-Remaining"] == "0"
    assert answer.headers["RateLimit-Policy"] == '"upload";q=1;w=3600'
    assert answer.headers["Connection"] == "close"
    assert answer.body == b"Too many uploads.\n"


def test_the_order_of_the_checks(start_server: StartServer) -> None:
    """Neither a bad name nor a wrong signature uses up the uploads of who else comes from that address."""
    server = limited(start_server, Workers=1, UploadRateLimit="2/hour", AuthFailureRateLimit="1/hour")

    def ask(method: str, target: str) -> Answer:
        return request(server, method, target, b"x" if method == "PUT" else b"", x_forwarded_for=ADDRESSES[0])

    assert [ask("PUT", "/upload/a//b?v=00").status for _ in range(3)] == [400, 400, 400]
    assert [ask("PUT", "/upload/a?v=00").status for _ in range(4)] == [403, 429, 429, 429]
    assert [ask("PUT", server.sign_v(name, 1)).status for name in "aabc"] == [201, 409, 429, 429]
    assert ask("GET", "/upload/a?v3=00").body == b"Too many wrong signatures.\n"
    assert ask("GET", "/upload/c").status == 404


def test_unsigned_downloads_use_up_nothing(start_server: StartServer) -> None:
    server = limited(
        start_server, Workers=1, UploadRateLimit="", DownloadRateLimit="2/hour", RequireSignedDownloads=True
    )
    assert put(server, "a", b"x").status == 201
    assert [request(server, "GET", server.path("a") + query).status for query in ("", "?v3=00", "?v=00")] == [403] * 3
    signed = server.sign_v3("GET", "a")
    assert [request(server, "GET", signed).status for _ in range(3)] == [200, 200, 429]


def test_downloads_have_a_limit_of_their_own(start_server: StartServer) -> None:
    server = limited(start_server, Workers=1, UploadRateLimit="", DownloadRateLimit="3/hour")
    assert put(server, "a.txt", b"x").status == 201
    assert [get(server, "a.txt").status for _ in range(5)] == [200, 200, 200, 429, 429]
    assert request(server, "HEAD", server.path("a.txt")).status == 200


def test_pieces_of_one_upload_count_as_one(start_server: StartServer) -> None:
    server = limited(start_server, Workers=1, UploadRateLimit="1/hour")
    target = server.sign_v("pieces", 30)
    statuses = [
        request(server, "PUT", target, b"0123456789", content_range=f"bytes {first}-{first + 9}/30").status
        for first in (0, 10, 20)
    ]
    assert statuses == [202, 202, 201]


def test_only_named_proxies_are_believed(start_server: StartServer) -> None:
    server = limited(start_server, Workers=1, UploadRateLimit="2/hour", TrustedProxies=["198.51.100.0/24"])
    assert [upload(server, f"192.0.2.{number}", f"{number}") for number in range(4)] == [201, 201, 429, 429]


@pytest.mark.parametrize(
    "header",
    [
        lambda number: {"x_forwarded_for": f"198.51.100.{number}:4711"},
        lambda number: {"x_forwarded_for": f"10.9.8.7, [2001:db8:{number}::1]:443, "},
        lambda number: {"x_forwarded_for": f"_client-{number}"},
        lambda number: {"forwarded": f'for=10.9.8.7, for="[2001:db8:{number}::1]:443";proto=https'},
        lambda number: {"forwarded": f"for=10.9.8.7,for=198.51.100.{number};by=_x"},
    ],
    ids=["port", "brackets and an empty entry", "hidden", "Forwarded for IPv6", "Forwarded"],
)
def test_clients_whom_the_proxy_names_in_any_way_have_a_limit_each(
    start_server: StartServer, header: Callable[[int], dict[str, str]]
) -> None:
    server = limited(start_server, Workers=1, UploadRateLimit="1/hour")
    statuses = [
        request(server, "PUT", server.sign_v(f"{client}-{again}", 1), b"x", **header(client)).status
        for client in (1, 2, 3)
        for again in (1, 2)
    ]
    assert statuses == [201, 429] * 3


def test_exempt_networks_have_no_limit(start_server: StartServer) -> None:
    server = limited(start_server, Workers=1, UploadRateLimit="1/hour", RateLimitExempt=["192.0.2.0/30"])
    assert [upload(server, "192.0.2.1", f"a{number}") for number in range(3)] == [201, 201, 201]
    assert [upload(server, "192.0.2.9", f"b{number}") for number in range(3)] == [201, 429, 429]


def test_counts_outlive_a_reload_and_a_restart(start_server: StartServer) -> None:
    server = limited(start_server, Workers=2, UploadRateLimit="3/hour")
    assert [upload(server, ADDRESSES[0], f"a{number}") for number in range(2)] == [201, 201]
    assert server.stop() == 0
    server.start()
    assert [upload(server, ADDRESSES[0], f"b{number}") for number in range(3)] == [201, 429, 429]


def test_a_table_that_was_damaged_is_made_again(start_server: StartServer) -> None:
    server = limited(start_server, Workers=1, UploadRateLimit="2/hour")
    assert upload(server, ADDRESSES[0], "a") == 201
    assert server.stop() == 0
    (table,) = server.store.glob(".hmacfs/run/*/rates")
    table.write_bytes(b"not a table")
    server.start()
    assert [upload(server, ADDRESSES[0], f"b{number}") for number in range(3)] == [201, 201, 429]
    assert any("is replaced: its counts begin at zero" in line for line in server.complaints())
