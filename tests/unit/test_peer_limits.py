"""The bound on the connections of one peer, over workers that come and go."""

from __future__ import annotations

import ipaddress
import random
from collections import Counter

import pytest

from hmacfs.addresses import WIDE_SHARES
from hmacfs.server.peer_limits import TELL_SECONDS, PeerBound, PeerCounts
from hmacfs.server.worker_slots import WorkerSlots


class Workers:
    """Workers with one bound, in one process. ``held`` are the connections that each has."""

    def __init__(self, bound: int, trusted: str = "192.0.2.0/24") -> None:
        self.slots = WorkerSlots()
        self.counts = PeerCounts(self.slots)
        self._bound = bound
        self._trusted = [ipaddress.ip_network(trusted)]
        self.now = 1000.0
        self.workers: dict[int, PeerBound] = {}
        self.held: dict[int, Counter[str]] = {}

    def start(self, age: int) -> PeerBound:
        self.slots.claim(age)
        worker = PeerBound(self.counts, age, self._bound, self._trusted, clock=lambda: self.now)
        self.workers[age], self.held[age] = worker, Counter()
        return worker

    def end(self, age: int) -> None:
        """Without a word, as in a crash."""
        del self.workers[age], self.held[age]
        slot = self.slots.of(age)
        if slot is not None:
            self.counts.clear(slot)
        self.slots.release(age)

    def open(self, age: int, host: str) -> bool:
        is_admitted = self.workers[age].admit((host, 50000))
        self.held[age][host] += is_admitted
        return is_admitted

    def close(self, age: int, host: str) -> None:
        self.workers[age].leave((host, 50000))
        self.held[age][host] -= 1


def test_connections_count_over_all_workers_and_those_of_a_dead_one_do_not() -> None:
    workers = Workers(3)
    for age in (1, 2):
        workers.start(age)
    assert [workers.open(age, "127.0.0.2") for age in (1, 2, 1, 2, 1)] == [True, True, True, False, False]
    assert workers.open(2, "127.0.0.3")
    workers.close(1, "127.0.0.2")
    assert workers.open(2, "127.0.0.2")
    assert not workers.open(1, "127.0.0.2")
    workers.end(2)
    workers.start(3)
    assert [workers.open(3, "127.0.0.2") for _ in range(3)] == [True, True, False]


def test_counts_are_exact_whatever_happens() -> None:
    """Hosts that share places of the table, workers that end, and connections that come and go."""
    chance = random.Random(7)
    workers = Workers(5)
    hosts = [f"10.0.{number // 250}.{number % 250}" for number in range(400)]
    ages = iter(range(1, 1000))
    for _ in range(3):
        workers.start(next(ages))
    for _ in range(20_000):
        age, host = chance.choice(list(workers.workers)), chance.choice(hosts[:40] if chance.random() < 0.7 else hosts)
        if chance.random() < 0.0005:
            workers.end(age)
            workers.start(next(ages))
        elif chance.random() < 0.45 and workers.held[age][host]:
            workers.close(age, host)
        else:
            open_before = sum(held[host] for held in workers.held.values())
            assert workers.open(age, host) == (open_before < 5)


def test_an_ipv6_subscriber_counts_as_one_and_a_site_as_four() -> None:
    workers = Workers(2)
    workers.start(1)
    assert [workers.open(1, f"2001:db8:0:1::{number}") for number in range(1, 4)] == [True, True, False]
    admitted = sum(workers.open(1, f"2001:db8:0:{number:x}::1") for number in range(2, 100))
    assert admitted == 2 * WIDE_SHARES - 2
    assert workers.open(1, "2001:db8:1::1")
    assert [workers.open(1, host) for host in ("::ffff:127.0.0.2", "127.0.0.2", "::ffff:127.0.0.2")] == [1, 1, 0]


def test_proxies_and_unix_sockets_have_no_bound() -> None:
    workers = Workers(1)
    worker = workers.start(1)
    assert all(workers.open(1, "192.0.2.7") for _ in range(50))
    assert worker.is_trusted("::ffff:192.0.2.7")
    for peer in ("", b"", "@x", None):
        assert worker.admit(peer)
        worker.leave(peer)
    without = Workers(0)
    without.start(1)
    assert all(without.open(1, "127.0.0.2") for _ in range(50))


def test_more_workers_than_rows_only_count_less() -> None:
    workers = Workers(1)
    for age in range(WorkerSlots.COUNT + 1):
        workers.start(age)
    assert workers.open(0, "127.0.0.2")
    assert not workers.open(WorkerSlots.COUNT - 1, "127.0.0.2")
    assert workers.open(WorkerSlots.COUNT, "127.0.0.2")
    workers.end(0)
    workers.start(1000)
    assert workers.open(1000, "127.0.0.2")
    assert not workers.open(5, "127.0.0.2")


def test_it_is_logged_once_and_again_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    workers = Workers(1)
    workers.start(1)
    for passed in (0.0, 1.0, TELL_SECONDS):
        workers.now += passed
        for _ in range(10):
            workers.open(1, "127.0.0.2")
    assert [record.message.startswith("127.0.0.2 has 1 connections open") for record in caplog.records] == [True, True]
