"""The replicated store over stores in memory, for what cannot be timed with real ones."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from hmacfs.errors import SessionStoreBusy, SessionStoreUnreachable
from hmacfs.sessions.leases import LeaseLocker, LeaseTimes
from hmacfs.sessions.replicated import ReplicatedSessionStore
from hmacfs.uploads.contracts.entries import KEPT_SECONDS
from hmacfs.uploads.session import Session, State
from tests.fakes import MemorySessionStore
from tests.servers import wait_until


class Store(MemorySessionStore):
    """A write waits for ``may_write`` before it is there to be read."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.writing = 0
        self.may_write = threading.Event()
        self.may_write.set()

    def begin(self, *, is_write: bool = False) -> None:
        super().begin()
        if is_write:
            self.writing += 1
            self.may_write.wait(10)


class Pair:
    def __init__(self) -> None:
        self.first, self.second = Store("redis"), Store("postgres")
        self.replicated = ReplicatedSessionStore((self.first, self.second), ttl=3600, retry_delay=0.01)

    def lose_first(self) -> None:
        self.first.is_away = True
        self.replicated.ping()
        assert self.replicated.status().active == "postgres"

    def first_comes_back(self) -> None:
        """And is resynchronised."""
        self.first.is_away = False
        first = self.replicated._connections[0]
        wait_until(lambda: first.is_closed and first.stale_since is None, what="the first store's return")


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.replicated.close()


def session() -> Session:
    now = time.time()
    return Session("key", "a", "a", 10, None, "192.0.2.1", now, now)


@pytest.mark.parametrize("operation", ["create", "save"])
def test_what_was_written_while_a_store_came_back_is_in_it(pair: Pair, operation: str) -> None:
    """It came back too late to be written to, and was resynchronised too early to be given it."""
    written = session()
    if operation == "save":
        assert pair.replicated.create(written)
        written = dataclasses.replace(written, chunks=1)
    pair.lose_first()
    pair.second.may_write.clear()
    already = pair.second.writing
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(getattr(pair.replicated, operation), written)
        wait_until(lambda: pair.second.writing > already, what="the write to the second store")
        pair.first_comes_back()
        pair.second.may_write.set()
        result = writing.result(10)
    stored = pair.second.records["key"]
    assert result is True if operation == "create" else result == stored
    assert pair.first.records["key"] == stored
    assert pair.replicated.get("key") == stored


def test_a_newer_copy_is_not_given_up_for_an_older_one_because_its_store_was_lost(pair: Pair) -> None:
    """Between the reading of the copy and the comparison with the other store's."""
    older = session()
    assert pair.replicated.create(older)
    newer = pair.first.put(dataclasses.replace(older, chunks=1, revision=5))
    pair.lose_first()
    assert pair.replicated._newest(newer) == newer


def test_a_finished_session_that_one_store_has_forgotten_is_found_in_the_other(pair: Pair) -> None:
    ended = dataclasses.replace(session(), state=State.FINISHED, revision=1)
    pair.second.records["key"] = ended
    assert pair.replicated.find_finished("a") == ended
    assert pair.first.records["key"] == ended, "and put back"
    assert pair.replicated.find_finished("b") is None
    pair.lose_first()
    assert pair.replicated.find_finished("a") == ended
    pair.second.is_away = True
    with pytest.raises(SessionStoreUnreachable):
        pair.replicated.find_finished("a")


def test_a_finished_session_that_went_on_in_the_other_store_is_none(pair: Pair) -> None:
    """The slot's index of a store that was away is stale."""
    assert pair.replicated.create(session())
    pair.lose_first()
    gone = pair.replicated.save(dataclasses.replace(session(), state=State.ABORTED))
    pair.first.records["key"] = dataclasses.replace(session(), state=State.FINISHED)
    pair.first.is_away = False
    first = pair.replicated._connections[0]
    wait_until(lambda: first.is_closed, what="the first store's return")
    assert pair.replicated.find_finished("a") is None
    assert pair.first.records["key"].revision <= gone.revision


class Slow(Store):
    """One operation at a time, each of which waits for ``may_answer``."""

    timeout, concurrency = 0.5, 1

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.may_answer = threading.Semaphore(0)
        self.asked = 0

    def get(self, key: str) -> Session | None:
        self.asked += 1
        assert self.may_answer.acquire(timeout=10)
        return super().get(key)


def ask(replicated: ReplicatedSessionStore, key: str = "any") -> str:
    try:
        replicated.get(key)
    except SessionStoreBusy:
        return "busy"
    except SessionStoreUnreachable:
        return "lost"
    return "answered"


def keep_answering(store: Slow, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        store.may_answer.release()


@pytest.fixture
def slow() -> Iterator[tuple[Slow, ReplicatedSessionStore]]:
    store = Slow("postgres")
    replicated = ReplicatedSessionStore([store], ttl=3600, retry_delay=60)
    yield store, replicated
    store.may_answer.release(1000)
    replicated.close()


def test_a_crowd_is_no_failure_of_a_store_that_answers(slow: tuple[Slow, ReplicatedSessionStore]) -> None:
    store, replicated = slow
    stop = threading.Event()
    with ThreadPoolExecutor(41) as pool:
        pool.submit(keep_answering, store, stop)
        outcomes = list(pool.map(lambda _: ask(replicated), range(40)))
        stop.set()
    assert {"busy", "answered"} == set(outcomes)
    assert replicated.status().active == "postgres"


def test_a_store_that_answers_nobody_is_lost_however_many_wait(slow: tuple[Slow, ReplicatedSessionStore]) -> None:
    store, replicated = slow
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, replicated) for _ in range(8)]
        wait_until(lambda: replicated.status().active == "", what="the loss")
        store.may_answer.release(8)
        outcomes = [one.result() for one in asked]
    assert "busy" not in outcomes
    assert "lost" in outcomes


def test_what_one_store_was_told_waits_for_the_other_and_leaves_it_healthy() -> None:
    first, second = Store("redis"), Slow("postgres")
    replicated = ReplicatedSessionStore([first, second], ttl=3600, retry_delay=60)
    connection, stop = replicated._connections[1], threading.Event()
    written = Session("t" * 43, "path", "path", 5, None, "", 0.0, 0.0)
    with ThreadPoolExecutor(50) as pool:
        crowd = [pool.submit(connection.call, lambda store: store.get("any")) for _ in range(40)]
        wait_until(lambda: second.asked == 1, what="the crowd")
        writing = pool.submit(replicated.save, written)
        wait_until(lambda: bool(first.records), what="the first write")
        pool.submit(keep_answering, second, stop)
        writing.result()
        stop.set()
        second.may_answer.release(100)
        for one in crowd:
            one.exception()
    assert second.records.keys() == first.records.keys()
    assert connection.is_closed
    assert connection.stale_since is None
    replicated.close()


# -- entries --------------------------------------------------------------------------------------


def test_leases_go_on_in_the_other_store(pair: Pair) -> None:
    leases = pair.replicated.leases
    version = leases.replace("lease a", None, "mine", 30.0)
    assert version is not None
    assert pair.first.entries.read("lease a") is not None
    pair.lose_first()
    assert leases.read("lease a") is None
    assert leases.replace("lease a", version, "mine", 30.0) is None
    assert leases.replace("lease a", None, "mine", 30.0) is not None
    assert pair.second.entries.read("lease a") is not None
    pair.first_comes_back()
    found = leases.read("lease a")
    assert found is not None
    assert found.version == version


def test_a_lease_s_holder_keeps_it_over_the_failover_and_back(pair: Pair) -> None:
    times = LeaseTimes(look=0.0)
    lease = LeaseLocker(pair.replicated.leases, times).acquire("key")
    assert lease is not None
    for lose in (pair.lose_first, pair.first_comes_back):
        lose()
        assert not lease.is_wanted()
        lease.check()
        assert LeaseLocker(pair.replicated.leases, times).acquire("key") is None
    lease.release()
    assert LeaseLocker(pair.replicated.leases, times).acquire("key") is not None


@pytest.mark.parametrize("durable", ["first", "second"])
def test_claims_are_in_the_durable_store_alone(pair: Pair, durable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"first": pair.first, "second": pair.second}
    lasting = named.pop(durable)
    (other,) = named.values()
    monkeypatch.setattr(other, "is_durable", False)
    with closing(ReplicatedSessionStore((pair.first, pair.second), ttl=3600, retry_delay=0.01)) as replicated:
        claims = replicated.claims
        version = claims.replace("name a", None, "mine", 30.0)
        assert version is not None
        assert (lasting.entries.read("name a") is None, other.entries.read("name a")) == (False, None)
        other.is_away = True
        assert claims.read("name a") is not None
        lasting.is_away, other.is_away = True, False
        for call in (
            lambda: claims.read("name a"),
            lambda: claims.replace("name a", version, "mine", 30.0),
            lambda: claims.replace("name a", None, "mine", 30.0),
            lambda: claims.remove("name a", version),
        ):
            with pytest.raises(SessionStoreUnreachable):
                call()
        assert other.entries.read("name a") is None


def test_claims_are_in_the_only_store_whatever_that_is() -> None:
    store = Store("redis")
    store.is_durable = False
    with closing(ReplicatedSessionStore((store,), ttl=3600, retry_delay=0.01)) as replicated:
        assert replicated.claims.replace("name a", None, "mine", 30.0) is not None
        assert store.entries.read("name a") is not None


def test_old_entries_are_forgotten_in_each_store_that_can_be_reached(pair: Pair) -> None:
    for store in (pair.first, pair.second):
        assert store.entries.replace("name a", None, "mine", -KEPT_SECONDS - 1) is not None
    pair.lose_first()
    pair.replicated.forget_entries()
    assert pair.second.entries.read("name a") is None
    pair.first_comes_back()
    assert pair.first.entries.read("name a") is not None
    pair.replicated.forget_entries()
    assert pair.first.entries.read("name a") is None
