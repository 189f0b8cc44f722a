"""The circuit breaker: its table of transitions, its back-off, and calls of a server that fails in every way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hmacfs.circuit_breaker import FIRST_PAUSE, TRANSITIONS, Circuit, CircuitBreaker, Event, State
from hmacfs.semaphore import FairSemaphore
from tests.servers import wait_until

LONGEST = 1.0
#: Events that bring a new circuit to each state.
WAYS = {
    State.HALF_OPEN: (),
    State.CLOSED: (Event.ANSWERED,),
    State.OPEN: (Event.FAILED,),
}


def circuit_in(state: State) -> Circuit:
    circuit = Circuit(longest_pause=LONGEST)
    for event in WAYS[state]:
        assert circuit.advance(event)
    assert circuit.state is state
    return circuit


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_an_event_makes_the_transition_of_the_table_or_changes_nothing(state: State, event: Event) -> None:
    circuit = circuit_in(state)
    generation, pause = circuit.generation, circuit.pause
    after = TRANSITIONS.get((state, event))
    assert circuit.advance(event) == (after is not None)
    assert circuit.state is (after or state)
    is_passage = after is not None and State.CLOSED in (state, after)
    assert circuit.generation - generation == is_passage
    if after is None:
        assert circuit.pause == pause


def test_each_state_is_reached_in_one_way() -> None:
    assert TRANSITIONS == {
        (State.CLOSED, Event.FAILED): State.OPEN,
        (State.OPEN, Event.BACK_OFF_OVER): State.HALF_OPEN,
        (State.HALF_OPEN, Event.FAILED): State.OPEN,
        (State.HALF_OPEN, Event.ANSWERED): State.CLOSED,
    }


def test_the_back_off_doubles_and_begins_again_after_an_answer() -> None:
    circuit = circuit_in(State.CLOSED)

    def pauses(count: int) -> Iterator[float]:
        for _ in range(count):
            circuit.advance(Event.FAILED)
            yield circuit.pause
            circuit.advance(Event.BACK_OFF_OVER)

    assert list(pauses(6)) == [FIRST_PAUSE, 0.2, 0.4, 0.8, LONGEST, LONGEST]
    assert circuit.advance(Event.ANSWERED)
    assert list(pauses(2)) == [FIRST_PAUSE, 0.2]


def test_no_back_off_is_shorter_than_the_first() -> None:
    circuit = Circuit(longest_pause=0.0)
    for _ in range(3):
        circuit.advance(Event.FAILED)
        assert circuit.pause == FIRST_PAUSE
        circuit.advance(Event.BACK_OFF_OVER)


class Lost(Exception):
    pass


class Busy(Exception):
    pass


class Server:
    """Answers while ``is_reachable``; its calls wait for ``may_answer``. A ``defect`` is what its probe raises else."""

    timeout, concurrency = 0.3, 2

    def __init__(self) -> None:
        self.is_reachable = True
        self.defect: Exception | None = None
        self.pinged = self.asked = 0
        self.may_answer = threading.Semaphore(1000)

    def ping(self) -> None:
        self.pinged += 1
        if self.defect is not None:
            raise self.defect
        if not self.is_reachable:
            raise Lost("no answer to the probe")

    def ask(self) -> str:
        self.asked += 1
        assert self.may_answer.acquire(timeout=10)
        if not self.is_reachable:
            raise Lost("no answer")
        return "answer"

    def hang(self) -> None:
        while self.may_answer.acquire(blocking=False):
            pass


class World:
    def __init__(self) -> None:
        self.server = Server()
        self.told: list[BaseException | None] = []
        self.breaker = CircuitBreaker(
            self.server,
            failure=Lost,
            overload=Busy,
            longest_pause=0.1,
            on_transition=self.told.append,
        )

    def ask(self) -> str:
        try:
            return self.breaker.call(lambda server: server.ask())
        except (Lost, Busy) as error:
            return type(error).__name__


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    assert made.breaker.start() is None
    yield made
    made.server.may_answer.release(1000)
    made.breaker.close()


def test_a_closed_circuit_passes_answers_and_other_errors_on(world: World) -> None:
    assert world.ask() == "answer"
    with pytest.raises(ZeroDivisionError):
        world.breaker.call(lambda _: 1 // 0)
    assert world.breaker.is_closed
    assert world.told == []


def test_an_open_circuit_asks_nobody_until_the_probe_has_an_answer(world: World) -> None:
    world.server.is_reachable = False
    assert world.ask() == "Lost"
    assert not world.breaker.is_closed
    asked, pinged = world.server.asked, world.server.pinged
    assert [world.ask() for _ in range(5)] == ["Lost"] * 5
    wait_until(lambda: world.server.pinged > pinged + 1, what="the probe")
    assert world.server.asked == asked
    world.server.is_reachable = True
    wait_until(lambda: world.told[-1] is None, what="the server's return")
    assert world.ask() == "answer"
    assert [type(cause) for cause in world.told] == [Lost, type(None)]


def test_a_loss_is_told_once_however_many_find_it(world: World) -> None:
    world.server.is_reachable = False
    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(lambda _: world.ask(), range(20))) == {"Lost"}
    assert len(world.told) == 1
    assert world.server.asked <= world.server.concurrency


def test_a_failure_of_a_call_from_before_does_not_open_the_circuit_again(world: World) -> None:
    world.server.hang()
    with ThreadPoolExecutor(2) as pool:
        late = [pool.submit(world.ask) for _ in range(2)]
        wait_until(lambda: world.server.asked == 2, what="the calls")
        world.server.is_reachable = False
        world.server.may_answer.release()
        wait_until(lambda: bool(world.told), what="the loss")
        world.server.is_reachable = True
        wait_until(lambda: world.breaker.is_closed, what="the return")
        world.server.is_reachable = False
        world.server.may_answer.release()
        assert [one.result() for one in late] == ["Lost", "Lost"]
    assert world.breaker.is_closed
    assert [cause is None for cause in world.told] == [False, True]


def test_a_server_that_answers_nobody_is_lost_however_many_wait(world: World) -> None:
    world.server.hang()
    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(world.ask) for _ in range(6)]
        wait_until(lambda: bool(world.told), what="the loss")
        assert world.server.asked == world.server.concurrency
        world.server.may_answer.release(6)
        assert "Busy" not in {one.result() for one in waiting}
    assert isinstance(world.told[0], TimeoutError)


def test_a_crowd_is_no_loss_of_a_server_that_answers_and_a_call_that_insists_goes_first(world: World) -> None:
    server, stop = world.server, threading.Event()
    server.hang()

    def keep_answering() -> None:
        while not stop.wait(0.05):
            server.may_answer.release()

    with ThreadPoolExecutor(42) as pool:
        crowd = [pool.submit(world.ask) for _ in range(40)]
        wait_until(lambda: server.asked == server.concurrency, what="the crowd")
        insisting = pool.submit(lambda: world.breaker.call(lambda one: one.ask(), insist=True))
        wait_until(lambda: bool(world.breaker._semaphore._waiting), what="a queue")
        pool.submit(keep_answering)
        assert insisting.result() == "answer"
        outcomes = [one.result() for one in crowd]
        stop.set()
    assert set(outcomes) == {"Busy", "answer"}
    assert world.breaker.is_closed
    assert world.told == []


def test_a_server_that_is_away_at_the_start_is_looked_for(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.server.is_reachable = False
    assert isinstance(world.breaker.start(), Lost)
    assert world.ask() == "Lost"
    assert world.told == []
    world.server.defect = ValueError("a defect of the probe")
    wait_until(lambda: "the probe of an unreachable server failed" in caplog.text, what="the log line")
    world.server.is_reachable, world.server.defect = True, None
    wait_until(lambda: world.told == [None], what="the return")
    assert world.ask() == "answer"
    world.breaker.close()


# -- turns ----------------------------------------------------------------------------------------


def test_turns_come_in_the_order_of_asking_but_for_who_is_first() -> None:
    semaphore, order = FairSemaphore(1), []
    assert semaphore.acquire(1.0)

    def wait(name: str, *, first: bool = False) -> None:
        assert semaphore.acquire(10.0, first=first)
        order.append(name)
        semaphore.release()

    with ThreadPoolExecutor(3) as pool:
        for count, (name, first) in enumerate([("one", False), ("two", False), ("first", True)], start=1):
            pool.submit(wait, name, first=first)
            wait_until(lambda count=count: len(semaphore._waiting) == count, what=name)  # type: ignore[misc]
        semaphore.release()
    assert order == ["first", "one", "two"]


def test_a_wait_in_vain_leaves_the_turn_to_others() -> None:
    semaphore = FairSemaphore(1)
    assert semaphore.acquire(0.0)
    assert not semaphore.acquire(0.01)
    semaphore.release()
    assert semaphore.acquire(0.0)
