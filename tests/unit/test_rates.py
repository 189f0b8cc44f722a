"""Rate limits: the machine's table, the failover to a shared counter, and what requests are told."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

import flask
import pytest
from flask_limiter import Limiter

from hmacfs.config.parsers import request_rates
from hmacfs.dialects.pieces import piece_of
from hmacfs.errors import BadSignature, RateLimited
from hmacfs.protocol.http1.responses import pairs_of
from hmacfs.protocol.keyring import Keyring
from hmacfs.rates.failover import FailoverCounter
from hmacfs.rates.limiting import STORAGE_URI, STRATEGY
from hmacfs.rates.table import PROBES, WindowTable
from hmacfs.rates.window import Unreachable, Window
from hmacfs.web.client_address import ClientAddress
from hmacfs.web.flask_app import new_application, rate_limiter
from hmacfs.web.guards import Guards
from hmacfs.web.messages import Check, Request, Response
from hmacfs.web.rate_limits import DOWNLOAD, SIGNATURE, UPLOAD, RateLimitKey, RateLimits
from tests.fakes import MemoryRateCounter
from tests.programs import program
from tests.servers import wait_until
from tests.unit.requests import EMPTY

PERIOD = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(tmp_path: Path, clock: Clock) -> Iterator[WindowTable]:
    opened = WindowTable(tmp_path / "rates", clock=clock)
    yield opened
    opened.close()


# -- the table ------------------------------------------------------------------------------------


def test_a_window_is_opened_by_its_first_request_and_ends(table: WindowTable, clock: Clock) -> None:
    assert table.hit("a", PERIOD) == Window(1, clock.now + PERIOD)
    ends = clock.now + PERIOD
    clock.now += PERIOD - 1
    assert table.hit("a", PERIOD, 3) == Window(4, ends)
    assert table.get("a") == Window(4, ends)
    assert table.get("b") == Window(0, clock.now)
    clock.now += 1
    assert table.get("a") == Window(0, clock.now)
    assert table.hit("a", PERIOD) == Window(1, clock.now + PERIOD)


def test_a_clock_that_was_set_back_opens_a_new_window(table: WindowTable, clock: Clock) -> None:
    table.hit("a", PERIOD, 10)
    clock.now -= 3600
    assert table.hit("a", PERIOD) == Window(1, clock.now + PERIOD)


def test_a_cleared_key_begins_at_zero(table: WindowTable) -> None:
    table.hit("a", PERIOD, 5)
    table.hit("b", PERIOD, 5)
    table.clear("a")
    assert table.hit("a", PERIOD).hits == 1
    assert table.reset() == 2
    assert table.hit("b", PERIOD).hits == 1


def test_all_who_open_it_share_its_counts(table: WindowTable, tmp_path: Path, clock: Clock) -> None:
    other = WindowTable(tmp_path / "rates", clock=clock)
    table.hit("a", PERIOD, 2)
    assert other.hit("a", PERIOD).hits == 3
    assert other.exchange_flag(7) == 0
    assert table.exchange_flag(0) == 7
    other.close()


COUNT = program("count_hits.py")


def test_processes_and_threads_count_exactly(tmp_path: Path) -> None:
    path = tmp_path / "rates"
    crowd = [subprocess.Popen([sys.executable, COUNT, str(path)]) for _ in range(3)]
    assert [process.wait() for process in crowd] == [0, 0, 0]
    table = WindowTable(path)
    assert table.get("a").hits == 3 * 2 * 200
    table.close()


def test_where_there_is_no_room_the_least_counted_has_to_go(tmp_path: Path, clock: Clock) -> None:
    """Nobody who is held back frees himself by a flood of other keys."""
    table = WindowTable(tmp_path / "small", places=1, clock=clock)
    table.hit("held back", PERIOD, 100)
    for number in range(4 * PROBES):
        table.hit(f"flood {number}", PERIOD)
    assert table.get("held back").hits == 100
    assert table.get(f"flood {4 * PROBES - 1}").hits == 1
    assert table.get("flood 0").hits == 0
    table.close()


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"something else", None])
def test_a_file_that_is_no_table_is_replaced(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "rates"
    WindowTable(path).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\0\0" if content is None else content)
    table = WindowTable(path)
    assert table.hit("a", PERIOD).hits == 1
    assert path.stat().st_size == len(whole)
    assert [entry.name for entry in tmp_path.iterdir()] == ["rates"]
    table.close()


def test_a_process_that_has_mapped_a_table_keeps_it_when_it_is_replaced(table: WindowTable, tmp_path: Path) -> None:
    path = tmp_path / "rates"
    path.unlink()
    path.write_bytes(b"cut")
    fresh = WindowTable(path)
    assert table.hit("a", PERIOD).hits == 1
    assert fresh.hit("a", PERIOD).hits == 1
    fresh.close()


# -- the failover -----------------------------------------------------------------------------------


@pytest.fixture
def remote(clock: Clock) -> MemoryRateCounter:
    return MemoryRateCounter(clock)


@pytest.fixture
def counter(
    tmp_path: Path, clock: Clock, remote: MemoryRateCounter, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FailoverCounter]:
    monkeypatch.setattr("hmacfs.rates.failover.time.time", clock)
    opened = FailoverCounter(WindowTable(tmp_path / "rates", clock=clock), remote, longest_pause=0.1)
    yield opened
    opened.close()


def test_machines_count_together(counter: FailoverCounter, remote: MemoryRateCounter, clock: Clock) -> None:
    remote.windows["a"] = Window(5, clock.now + 30)
    assert counter.take("a", 10, PERIOD) == Window(6, clock.now + 30)
    assert counter.get("a") == Window(6, clock.now + 30)
    assert counter.is_shared


def test_who_is_beyond_the_limit_here_costs_the_others_no_question(
    counter: FailoverCounter, remote: MemoryRateCounter
) -> None:
    results = [counter.take("a", 3, PERIOD).hits for _ in range(10)]
    assert results == list(range(1, 11))
    assert remote.asked == 3


def test_a_loss_changes_nothing_for_the_clients_of_one_machine(
    counter: FailoverCounter, remote: MemoryRateCounter, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does a shared place that comes back and has forgotten all."""
    hits = [counter.take("a", 100, PERIOD).hits for _ in range(5)]
    remote.is_reachable = False
    hits += [counter.take("a", 100, PERIOD).hits for _ in range(5)]
    assert not counter.is_shared
    remote.windows.clear()
    remote.is_reachable = True
    wait_until(lambda: counter.is_shared)
    hits += [counter.take("a", 100, PERIOD).hits for _ in range(5)]
    assert hits == list(range(1, 16))
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(",")[0] for line in lines] == [
        "rate limits are counted on this machine alone",
        "rate limits are counted in Redis again",
    ]


def test_nobody_asks_a_lost_place(counter: FailoverCounter, remote: MemoryRateCounter) -> None:
    remote.is_reachable = False
    counter.take("a", 100, PERIOD)
    remote.ping = lambda: (_ for _ in ()).throw(Unreachable("gone"))  # type: ignore[method-assign]
    remote.is_reachable = True
    before = remote.asked
    counter.take("a", 100, PERIOD)
    assert remote.asked == before


def test_a_crowd_is_no_loss_of_a_place_that_answers(counter: FailoverCounter, remote: MemoryRateCounter) -> None:
    """Who finds no turn is counted here."""
    remote.timeout = 0.5
    hit, may_answer, stop = remote.hit, threading.Semaphore(0), threading.Event()

    def late(key: str, left: float, amount: int) -> Window:
        assert may_answer.acquire(timeout=10)
        return hit(key, left, amount)

    def keep_answering() -> None:
        while not stop.wait(0.05):
            may_answer.release()

    remote.hit = late  # type: ignore[method-assign]
    with ThreadPoolExecutor(41) as pool:
        pool.submit(keep_answering)
        hits = list(pool.map(lambda number: counter.take(f"{number}", 10, PERIOD).hits, range(40)))
        assert counter.is_shared
        assert 0 < remote.asked < 40
        stop.set()
        assert hits == [1] * 40
        stuck = [pool.submit(counter.take, f"{number}", 10, PERIOD) for number in range(40, 60)]
        wait_until(lambda: not counter.is_shared, what="the loss of a place that answers nobody")
        may_answer.release(20)
        assert [one.result().hits for one in stuck] == [1] * 20


# -- what requests are told -----------------------------------------------------------------------


def request(client: str, method: str = "PUT", **environ: str) -> Request:
    asked = Request({"REQUEST_METHOD": method, **environ}, client, EMPTY)
    asked.piece = piece_of(environ)
    return asked


@pytest.fixture
def make_rates(tmp_path: Path) -> Iterator[Callable[..., RateLimits]]:
    counters: list[FailoverCounter] = []

    def make(exempt: tuple[str, ...] = (), **texts: str) -> RateLimits:
        counter = FailoverCounter(WindowTable(tmp_path / f"rates-{len(counters)}"), None, longest_pause=1.0)
        counters.append(counter)
        limiter = rate_limiter(new_application(), counter, ClientAddress(()))
        rates = {kind: request_rates(text) for kind, text in texts.items()}
        return RateLimits(limiter, rates, [ipaddress.ip_network(text) for text in exempt])

    yield make
    for counter in counters:
        counter.close()


def view(_: Request) -> Response:
    return Response(HTTPStatus.OK, [])


def refuse(_: Request) -> Response:
    raise BadSignature


def checks(rates: RateLimits) -> tuple[Check, Check]:
    """Of uploads and downloads, both of which are limited unless only the first is looked at."""
    assert rates.uploads is not None
    return rates.uploads, rates.downloads or rates.uploads


def test_a_limit_that_is_not_set_is_no_check(make_rates: Callable[..., RateLimits]) -> None:
    rates = make_rates(**{UPLOAD: "", DOWNLOAD: "", SIGNATURE: ""})
    assert rates.uploads is rates.downloads is rates.signatures is None


def test_the_answer_tells_how_many_are_left(make_rates: Callable[..., RateLimits]) -> None:
    count = checks(make_rates(**{UPLOAD: "3/minute"}))[0]
    left = []
    for _ in range(3):
        asked = request("192.0.2.1")
        count(asked)
        headers = dict(pairs_of(asked.rate_headers or []))
        left.append(headers["X-RateLimit-Remaining"])
        assert headers["RateLimit-Policy"] == '"upload";q=3;w=60'
    assert left == ["2", "1", "0"]
    asked = request("192.0.2.1")
    with pytest.raises(RateLimited) as refusal:
        count(asked)
    assert 1 <= refusal.value.retry_after <= 60
    assert dict(pairs_of(asked.rate_headers or []))["RateLimit"].startswith('"upload";r=0;t=')
    count(request("192.0.2.2"))


def test_of_several_rates_the_tightest_counts(make_rates: Callable[..., RateLimits]) -> None:
    count = checks(make_rates(**{UPLOAD: "100/hour; 2/minute"}))[0]
    asked = request("192.0.2.1")
    count(asked)
    assert dict(pairs_of(asked.rate_headers or []))["RateLimit"].startswith('"upload-60";r=1')
    assert (
        dict(pairs_of(asked.rate_headers or []))["RateLimit-Policy"]
        == '"upload-60";q=2;w=60, "upload-3600";q=100;w=3600'
    )
    count(request("192.0.2.1"))
    with pytest.raises(RateLimited):
        count(request("192.0.2.1"))


def test_an_ipv6_client_is_its_64(make_rates: Callable[..., RateLimits]) -> None:
    count = checks(make_rates(**{UPLOAD: "2/minute"}))[0]
    count(request("2001:db8::1"))
    count(request("2001:db8::ffff:1"))
    with pytest.raises(RateLimited):
        count(request("2001:db8::2"))
    count(request("2001:db8:0:1::2"))


def test_exempt_networks_and_nameless_clients_have_no_limit(
    make_rates: Callable[..., RateLimits], caplog: pytest.LogCaptureFixture
) -> None:
    rates = make_rates(("192.0.2.0/24", "2001:db8::/32"), **{UPLOAD: "1/minute", DOWNLOAD: "1/minute"})
    count, _ = checks(rates)
    for _ in range(3):
        for client in ("192.0.2.7", "2001:db8::1", ""):
            asked = request(client)
            count(asked)
            assert asked.rate_headers is None
    assert [record.getMessage() for record in caplog.records] == [
        "no rate limit applies to clients that the proxy does not name in X-Forwarded-For or Forwarded"
    ]


def test_later_pieces_are_not_counted(make_rates: Callable[..., RateLimits]) -> None:
    count, _ = checks(make_rates(**{UPLOAD: "1/minute"}))
    for _ in range(3):
        count(request("192.0.2.1", HTTP_CONTENT_RANGE="bytes 5-9/20", CONTENT_LENGTH="5"))
    count(request("192.0.2.1"))
    with pytest.raises(RateLimited):
        count(request("192.0.2.1"))


def test_each_kind_has_a_count_of_its_own(make_rates: Callable[..., RateLimits]) -> None:
    for count in checks(make_rates(**{UPLOAD: "1/minute", DOWNLOAD: "1/minute"})):
        count(request("192.0.2.1", "GET"))
        with pytest.raises(RateLimited):
            count(request("192.0.2.1", "GET"))


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("PUT", {}, True),
        ("POST", {}, True),
        ("PUT", {"HTTP_CONTENT_RANGE": "bytes 0-4/20", "CONTENT_LENGTH": "5"}, True),
        ("PUT", {"HTTP_CONTENT_RANGE": "bytes 5-9/20", "CONTENT_LENGTH": "5"}, False),
        ("PUT", {"HTTP_X_CHUNK_ID": "1", "HTTP_X_TOTAL_CHUNKS": "3"}, True),
        ("PUT", {"HTTP_X_CHUNK_ID": "2", "HTTP_X_TOTAL_CHUNKS": "3"}, False),
    ],
)
def test_an_upload_is_counted_once(
    make_rates: Callable[..., RateLimits], method: str, headers: dict[str, str], *, expected: bool
) -> None:
    count, _ = checks(make_rates(**{UPLOAD: "1/minute"}))
    asked = request("192.0.2.1", method, **headers)
    count(asked)
    assert (asked.rate_headers is not None) is expected


def test_wrong_signatures_are_counted_and_right_ones_always_pass(make_rates: Callable[..., RateLimits]) -> None:
    rates = make_rates(**{SIGNATURE: "2/minute"})
    guards = Guards(Keyring([b"secret"]), prefix="/upload/", count_failure=rates.signatures)
    for _ in range(2):
        with pytest.raises(BadSignature):
            guards.checked()(refuse)(request("192.0.2.1"))
    with pytest.raises(RateLimited):
        guards.checked()(refuse)(request("192.0.2.1"))
    assert guards.checked()(view)(request("192.0.2.1")).status.value == 200


def test_a_view_is_reached_by_the_checks_that_are_set_in_their_order() -> None:
    passed: list[int] = []
    checks = [lambda _, number=number: passed.append(number) for number in range(3)]

    @Guards(Keyring([b"secret"]), prefix="/upload/").checked(checks[1], None, checks[0], checks[2])
    def last(request: Request) -> Response:
        passed.append(9)
        return view(request)

    assert last(request("192.0.2.1")).status.value == 200
    assert passed == [1, 0, 2, 9]


def test_clients_are_told_apart_by_their_network() -> None:
    clients = RateLimitKey([])
    assert clients("192.0.2.1") == "192.0.2.1"
    assert clients("2001:db8::1") == clients("2001:db8::2") == "2001:db8::/64"


def test_flask_limiter_can_use_it_for_routes_of_its_own(tmp_path: Path) -> None:
    app = flask.Flask("limited")
    counter = FailoverCounter(WindowTable(tmp_path / "rates"), None, longest_pause=1.0)
    options: dict[str, Any] = {"counter": counter}
    limiter = Limiter(lambda: "me", app=app, storage_uri=STORAGE_URI, storage_options=options, strategy=STRATEGY)

    @app.route("/")
    @limiter.limit("2/minute")
    def index() -> str:
        return "ok"

    client = app.test_client()
    assert [client.get("/").status_code for _ in range(3)] == [200, 200, 429]
    assert counter.reset() == 1
    assert client.get("/").status_code == 200
    counter.close()
