"""A circuit breaker: a server that cannot be reached costs its callers no time, and is used again once it answers.

*Closed*: calls go to the server. *Open*: it could not be reached; calls fail at once, without waiting. *Half-open*: the
back-off is over and a probe in the background is trying the server; calls still fail at once.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from hmacfs.semaphore import FairSemaphore

log = logging.getLogger(__name__)

#: Seconds of back-off after a failure; each further failure doubles it.
FIRST_PAUSE = 0.1


class Server(Protocol):
    """What a breaker has to know of what it guards."""

    @property
    def timeout(self) -> float:
        """Seconds after which a call of an unreachable server gives up."""

    @property
    def concurrency(self) -> int:
        """How many calls at once the server takes."""

    def ping(self) -> None:
        """The probe. Raises the breaker's ``failure`` if calls would."""


R = TypeVar("R")
ServerT = TypeVar("ServerT", bound=Server)


class State(enum.Enum):
    """Of a circuit; see the module."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Event(enum.Enum):
    """What changes a circuit. FAILED: a call, or the probe, did not reach the server. BACK_OFF_OVER: the probe begins.
    ANSWERED: the probe reached it."""

    FAILED = "failed"
    BACK_OFF_OVER = "back-off over"
    ANSWERED = "answered"


#: The legal transitions. An event that has none here comes too late and changes nothing.
TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.CLOSED, Event.FAILED): State.OPEN,
    (State.OPEN, Event.BACK_OFF_OVER): State.HALF_OPEN,
    (State.HALF_OPEN, Event.FAILED): State.OPEN,
    (State.HALF_OPEN, Event.ANSWERED): State.CLOSED,
}


class Circuit:
    """State and back-off, without input or output. It begins half-open: whether the server can be reached is being
    found out.

    longest_pause: seconds of back-off at most.

    pause: seconds of back-off while it is open. generation: raised whenever it is closed or ceases to be; what a call
    finds out concerns only the generation in which it began.
    """

    def __init__(self, *, longest_pause: float) -> None:
        self.state = State.HALF_OPEN
        self.generation = 0
        self.pause = 0.0
        self._longest_pause = max(longest_pause, FIRST_PAUSE)

    def advance(self, event: Event) -> bool:
        """Make the event's transition; false if it has none in this state."""
        before, after = self.state, TRANSITIONS.get((self.state, event))
        if after is None:
            return False
        if after is State.OPEN:
            self.pause = FIRST_PAUSE if before is State.CLOSED else self._next_pause()
        if State.CLOSED in (before, after):
            self.generation += 1
        self.state = after
        return True

    def _next_pause(self) -> float:
        return min(max(2 * self.pause, FIRST_PAUSE), self._longest_pause)


class CircuitBreaker(Generic[ServerT]):
    """Calls a server while its circuit is closed.

    failure: what an operation raises if it did not reach the server. overload: what ``call`` raises besides.
    longest_pause: see ``Circuit``. on_transition: called with the cause when the circuit opens and with ``None`` when
    it is closed again, then from the probe's thread; an end is always told before the beginning that follows it.

    Threads here are greenlets in a gevent worker and real ones elsewhere; in neither does a call hold a lock while it
    waits for the server.
    """

    def __init__(
        self,
        server: ServerT,
        *,
        failure: type[Exception],
        overload: type[Exception],
        longest_pause: float,
        on_transition: Callable[[BaseException | None], None],
    ) -> None:
        self.server = server
        self._failure = failure
        self._overload = overload
        self._on_transition = on_transition
        self._circuit = Circuit(longest_pause=longest_pause)
        self._semaphore = FairSemaphore(server.concurrency)
        #: How many calls have come back with an answer.
        self._answered = 0
        self._transitions = threading.Lock()
        self._ended = threading.Event()

    @property
    def is_closed(self) -> bool:
        return self._circuit.state is State.CLOSED

    @property
    def generation(self) -> int:
        """See ``Circuit``."""
        return self._circuit.generation

    def start(self) -> Exception | None:
        """Try the server for the first time; why it cannot be reached. ``on_transition`` is not called."""
        try:
            self.server.ping()
        except self._failure as error:
            self._advance(Event.FAILED, 0)
            self._begin_probe()
            return error
        self._advance(Event.ANSWERED, 0)
        return None

    def call(self, operation: Callable[[ServerT], R], *, insist: bool = False) -> R:
        """The operation's result. It costs the time of one unanswered call at most: a call that waited for its turn
        while others found the server unreachable does not try it as well. Raises ``failure``.

        Raises ``overload`` if no turn came in that time because of this process' other calls: their number says
        nothing about the server, whose circuit stays closed. ``insist``: instead, wait for as long as the server
        answers others, and before all of them.
        """
        circuit = self._circuit
        generation = circuit.generation
        if circuit.state is not State.CLOSED:
            raise self._failure
        answered = self._answered
        while not self._semaphore.acquire(self.server.timeout, first=insist):
            self._check_overload(generation, answered, insist=insist)
            answered = self._answered
        try:
            if generation != circuit.generation:
                raise self._failure
            result = operation(self.server)
            self._answered += 1
            return result
        except self._failure as error:
            self._open(generation, error)
            raise
        finally:
            self._semaphore.release()

    def _check_overload(self, generation: int, answered: int, *, insist: bool) -> None:
        """After a wait in vain, at whose beginning so many calls had been ``answered``. A server that answered nobody
        for as long as its timeout cannot be reached, however many wait for it."""
        if generation != self.generation:
            raise self._failure
        if answered == self._answered:
            server = self.server
            stuck = TimeoutError(f"all its {server.concurrency} connections were busy for {server.timeout:g} s")
            self._open(generation, stuck)
            raise self._failure from stuck
        if not insist:
            raise self._overload

    def close(self) -> None:
        """End the probe."""
        self._ended.set()

    def _open(self, generation: int, cause: BaseException) -> None:
        if self._advance(Event.FAILED, generation):
            try:
                self._on_transition(cause)
            finally:
                self._begin_probe()

    def _advance(self, event: Event, generation: int) -> bool:
        with self._transitions:
            return generation == self.generation and self._circuit.advance(event)

    def _begin_probe(self) -> None:
        threading.Thread(target=self._probe, args=(self.generation,), daemon=True).start()

    def _probe(self, generation: int) -> None:
        while not self._ended.wait(self._circuit.pause):
            self._advance(Event.BACK_OFF_OVER, generation)
            try:
                self.server.ping()
            except self._failure:
                self._advance(Event.FAILED, generation)
            except Exception:
                if not self._ended.is_set():  # else its connection was closed during the call
                    log.exception("the probe of an unreachable server failed")
                self._advance(Event.FAILED, generation)
            else:
                self._advance(Event.ANSWERED, generation)
                self._on_transition(None)
                return
