"""Leases over entries in memory, by clocks that the test sets."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from hmacfs.errors import SessionStoreUnavailable, SessionStoreUnreachable, Superseded, WriterBusy
from hmacfs.sessions.leases import LEASE_SECONDS, TAKEOVER_SECONDS, EntryLease, LeaseLocker, LeaseTimes
from hmacfs.uploads.contracts.entries import Entries, Entry
from tests.contracts.session_stores import together
from tests.fakes import MemoryEntries
from tests.servers import wait_until

KEY = "k" * 32
#: How often a receiver asks.
WATCH_SECONDS = 0.2


class Table(MemoryEntries):
    """after_change: called when an operation that may change something is done, and before it is answered."""

    after_change: Callable[[], object] = staticmethod(lambda: None)

    def replace(self, key: str, version: int | None, value: str, seconds: float | None) -> int | None:
        made = super().replace(key, version, value, seconds)
        self.after_change()
        return made

    def remove(self, key: str, version: int) -> bool:
        is_gone = super().remove(key, version)
        self.after_change()
        return is_gone


class Routed:
    """Entries of the table that is in use."""

    def __init__(self, table: Entries) -> None:
        self.table = table

    def read(self, key: str) -> Entry | None:
        return self.table.read(key)

    def replace(self, key: str, version: int | None, value: str, seconds: float | None) -> int | None:
        return self.table.replace(key, version, value, seconds)

    def remove(self, key: str, version: int) -> bool:
        return self.table.remove(key, version)


class World:
    """Machines that share a table. on_wait: called in each pause of one that waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.table = Table(lambda: self.now)
        self.entries = Routed(self.table)
        self.on_wait: Callable[[], object] = lambda: None
        self.locker = self.machine()

    def machine(self) -> LeaseLocker:
        return LeaseLocker(self.entries, LeaseTimes(clock=lambda: self.now, sleep=self._sleep))

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_wait()

    def hold(self) -> EntryLease:
        lease = self.locker.acquire(KEY)
        assert lease is not None
        return lease

    def is_free(self) -> bool:
        lease = self.machine().acquire(KEY)
        if lease is not None:
            lease.release()
        return lease is not None

    def write_for(self, lease: EntryLease, seconds: float) -> None:
        """As a receiver does."""
        ends = self.now + seconds
        while self.now < ends:
            assert not lease.is_wanted()
            self.now += WATCH_SECONDS


@pytest.fixture
def world() -> World:
    return World()


def fail() -> None:
    raise SessionStoreUnreachable


def test_one_at_a_time_has_it(world: World) -> None:
    lease = world.hold()
    assert not world.is_free()
    lease.release()
    assert world.is_free()


def test_two_calls_are_all_that_a_short_piece_costs(world: World) -> None:
    lease = world.hold()
    lease.check()
    assert not lease.is_wanted()
    lease.release()
    assert world.table.asked == 2


def test_of_rivals_one_gets_it(world: World) -> None:
    for _ in range(20):
        lockers = [world.machine() for _ in range(20)]
        leases = together(20, lambda number, lockers=lockers: lockers[number].acquire(KEY))  # type: ignore[misc]
        (lease,) = [one for one in leases if isinstance(one, EntryLease)]
        lease.release()


def test_a_transfer_of_hours_keeps_its_lease_at_a_call_a_second(world: World) -> None:
    lease = world.hold()
    asked = world.table.asked
    world.write_for(lease, 7200)
    lease.check()
    assert world.table.asked - asked <= 7201
    assert not world.is_free()


def test_work_that_nobody_watches_keeps_it_by_its_checks(world: World) -> None:
    lease = world.hold()
    for _ in range(100):
        world.now += LEASE_SECONDS / 2 - 1
        lease.check()
        assert not world.is_free()


def test_a_check_asks_nobody_while_the_lease_surely_lives(world: World) -> None:
    lease = world.hold()
    asked = world.table.asked
    world.now += LEASE_SECONDS / 2 - 2
    lease.check()
    assert world.table.asked == asked


def test_a_dead_holder_s_lease_is_taken_once_it_is_over(world: World) -> None:
    world.hold()
    world.now += LEASE_SECONDS - 0.1
    assert not world.is_free()
    world.now += 0.2
    assert world.is_free()


def test_a_holder_that_was_frozen_notices_that_another_one_has_it(world: World) -> None:
    lease = world.hold()
    world.now += LEASE_SECONDS + 1
    other = world.machine().acquire(KEY)
    assert other is not None
    assert lease.is_wanted()
    with pytest.raises(Superseded):
        lease.check()
    lease.release()
    other.check()
    assert not world.is_free()


def test_and_that_another_one_had_it(world: World) -> None:
    lease = world.hold()
    world.now += LEASE_SECONDS + 1
    assert world.is_free(), "and given back"
    with pytest.raises(Superseded):
        lease.check()
    assert lease.is_wanted()
    assert world.is_free()


def test_a_holder_that_was_frozen_goes_on_if_nobody_came(world: World) -> None:
    lease = world.hold()
    world.now += 10 * LEASE_SECONDS
    lease.check()
    assert not lease.is_wanted()
    assert not world.is_free()


def test_a_lease_that_was_given_back_is_good_for_nothing(world: World) -> None:
    lease = world.hold()
    lease.release()
    with pytest.raises(Superseded):
        lease.check()
    other = world.hold()
    lease.release()
    other.check()
    assert not world.is_free()


# -- requests -------------------------------------------------------------------------------------


def test_a_holder_hears_within_a_second_that_it_is_asked(world: World) -> None:
    lease = world.hold()
    began = world.now

    def watch() -> None:
        if lease.is_wanted():
            lease.release()

    world.on_wait = watch
    newcomer = world.machine().wait(KEY, lambda: True)
    assert world.now - began < 1.5
    world.now += 2
    assert not newcomer.is_wanted()
    newcomer.check()


def test_a_request_outlives_the_renewal_that_it_meets(world: World) -> None:
    lease = world.hold()
    world.write_for(lease, LEASE_SECONDS / 2 - 2)

    def renew() -> None:
        world.now += 3  # it is due in the pause after the request, which changed the entry
        lease.check()

    world.on_wait = renew
    with pytest.raises(WriterBusy):
        world.machine().wait(KEY, lambda: lease.is_wanted() is not True)
    assert lease.is_wanted()
    world.now += 2
    assert not lease.is_wanted(), "it was withdrawn"
    lease.check()


def test_a_request_lengthens_no_lease(world: World) -> None:
    world.hold()
    began = world.now
    world.now += LEASE_SECONDS - TAKEOVER_SECONDS + 2
    newcomer = world.machine().wait(KEY, lambda: True)
    assert world.now - began == pytest.approx(LEASE_SECONDS, abs=0.2)
    newcomer.check()


def test_a_newcomer_gives_up_when_its_patience_ends(world: World) -> None:
    lease = world.hold()
    began = world.now
    with pytest.raises(WriterBusy):
        world.machine().wait(KEY, lambda: True)
    assert world.now - began == pytest.approx(TAKEOVER_SECONDS, abs=0.3)
    assert not lease.is_wanted()


def test_a_newcomer_that_may_not_ask_disturbs_nobody(world: World) -> None:
    lease = world.hold()
    with pytest.raises(WriterBusy):
        world.machine().wait(KEY, lambda: False)
    world.now += 2
    assert not lease.is_wanted()


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_a_newcomer_that_is_ended_withdraws_its_request(world: World, end: type[BaseException]) -> None:
    lease = world.hold()

    def stop() -> None:
        raise end

    world.on_wait = stop
    with pytest.raises(end):
        world.machine().wait(KEY, lambda: True)
    world.now += 2
    assert not lease.is_wanted()


def test_of_two_that_wait_one_may_give_up(world: World) -> None:
    lease = world.hold()

    def other_gives_up() -> None:
        world.on_wait = lambda: None
        with pytest.raises(WriterBusy):
            world.machine().wait(KEY, lambda: False)
        world.machine()._withdraw(f"lease {KEY}")
        world.on_wait = lambda: lease.release() if lease.is_wanted() else None

    world.on_wait = other_gives_up
    world.machine().wait(KEY, lambda: True).check()


def test_a_holder_that_is_asked_gives_its_lease_back_all_the_same(world: World) -> None:
    lease = world.hold()
    world.on_wait = lease.release
    world.machine().wait(KEY, lambda: True).check()


# -- the store is away ----------------------------------------------------------------------------


def test_without_its_store_nobody_begins(world: World) -> None:
    world.table.is_away = True
    with pytest.raises(SessionStoreUnavailable):
        world.locker.acquire(KEY)
    with pytest.raises(SessionStoreUnavailable):
        world.locker.wait(KEY, lambda: True)


def test_a_holder_goes_on_until_its_lease_is_over(world: World) -> None:
    lease = world.hold()
    world.table.is_away = True
    world.write_for(lease, LEASE_SECONDS - 2)
    lease.check()
    world.now += 2
    assert not lease.is_wanted()
    with pytest.raises(SessionStoreUnavailable):
        lease.check()
    world.table.is_away = False
    lease.check()
    assert not world.is_free()


def test_while_a_store_is_away_it_is_asked_once_a_second(world: World) -> None:
    lease = world.hold()
    world.table.is_away = True
    asked = world.table.asked
    world.write_for(lease, 20)
    assert world.table.asked - asked <= 21


def test_a_lease_that_could_not_be_given_back_runs_out(world: World) -> None:
    lease = world.hold()
    world.table.is_away = True
    lease.release()
    world.table.is_away = False
    lease.release()
    assert not world.is_free()
    world.now += LEASE_SECONDS
    assert world.is_free()


def test_a_renewal_whose_answer_is_lost_loses_no_lease(world: World) -> None:
    lease = world.hold()
    world.now += LEASE_SECONDS / 2
    world.table.after_change = fail
    lease.check()
    del world.table.after_change
    world.now += LEASE_SECONDS / 2
    lease.check()
    assert not world.is_free()
    lease.release()
    assert world.is_free()


def test_a_store_that_forgets_it_is_told_again(world: World) -> None:
    lease = world.hold()
    world.entries.table = Table(lambda: world.now)
    world.write_for(lease, 2)
    assert not world.is_free()
    lease.check()
    lease.release()
    assert world.is_free()


def test_a_store_that_remembers_an_older_one_is_told_again(world: World) -> None:
    """It was used before, and is again: what it has of that time is over."""
    first = world.table
    assert world.machine().acquire(KEY) is not None
    world.entries.table = Table(lambda: world.now)
    world.now += LEASE_SECONDS
    lease = world.hold()
    world.entries.table = first
    world.write_for(lease, 2)
    lease.check()
    assert not world.is_free()


def test_of_two_holders_that_saw_different_stores_one_goes_on(world: World) -> None:
    first = world.hold()
    world.entries.table = Table(lambda: world.now)
    second = world.hold()
    world.now += 2
    assert first.is_wanted()
    with pytest.raises(Superseded):
        first.check()
    world.write_for(second, 60)
    second.check()


# -- greenlets ------------------------------------------------------------------------------------


def test_a_renewal_under_way_does_not_undo_a_release(world: World) -> None:
    lease = world.hold()
    world.now += LEASE_SECONDS / 2
    is_renewed, may_answer = threading.Event(), threading.Event()

    def answer_late() -> None:
        is_renewed.set()
        assert may_answer.wait(10)

    world.table.after_change = answer_late
    watching = threading.Thread(target=lease.is_wanted)
    watching.start()
    assert is_renewed.wait(10)
    del world.table.after_change
    assert not lease.is_wanted(), "which does not wait for the other call"
    releasing = threading.Thread(target=lease.release)
    releasing.start()
    may_answer.set()
    watching.join(10)
    releasing.join(10)
    wait_until(world.is_free, what="the release")
