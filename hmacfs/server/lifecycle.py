"""The states of a worker from its start to its end, and what the master intends, which decides about the transitions.

    running ----> draining ----> breaking off ----> gone
                      |                               ^
                      +-------------------------------+

running
    accepts connections, serves requests.
draining
    has closed its listeners. Running requests may finish; each answer ends its connection, and idle ones end after a
    moment. Readiness is 503, unless a reload has replaced this worker.
breaking off
    the deadline has passed or a second signal came: running transfers are interrupted and clean up.
gone
    no connection is left; the process ends.
"""

from __future__ import annotations

import enum
import mmap


class State(enum.Enum):
    RUNNING = "running"
    DRAINING = "draining"
    BREAKING_OFF = "breaking off"
    GONE = "gone"


TRANSITIONS = {
    State.RUNNING: frozenset({State.DRAINING}),
    State.DRAINING: frozenset({State.BREAKING_OFF, State.GONE}),
    State.BREAKING_OFF: frozenset({State.GONE}),
    State.GONE: frozenset[State](),
}


class IllegalTransition(AssertionError):
    """A defect of this program: the table has no such step."""


class MasterIntent:
    """What the master intends, in memory that its workers share: only it writes, but for ``note_serving``. SIGTERM does
    not tell a worker whether the server is to stop or only this worker, which a reload has replaced.

    Workers are known by their age, a number that grows with each worker that gunicorn starts.
    """

    _SIGNALS, _SUPERSEDED, _SERVING = range(3)

    def __init__(self) -> None:
        self._numbers = memoryview(mmap.mmap(-1, 24)).cast("q")

    def stop(self) -> None:
        """To be called at each signal to stop: the first is a graceful stop, any further one an immediate one."""
        self._numbers[self._SIGNALS] += 1

    @property
    def is_stop(self) -> bool:
        """Whether the whole server is to stop."""
        return self._numbers[self._SIGNALS] > 0

    @property
    def is_immediate_stop(self) -> bool:
        return self._numbers[self._SIGNALS] > 1

    def supersede(self, age: int) -> None:
        """A reload replaces all workers up to this age."""
        self._numbers[self._SUPERSEDED] = age

    def is_superseded(self, age: int) -> bool:
        """Whether a reload has replaced the worker of this age."""
        return age <= self._numbers[self._SUPERSEDED]

    def note_serving(self, age: int) -> None:
        """The worker of this age has begun to serve."""
        self._numbers[self._SERVING] = max(self._numbers[self._SERVING], age)

    @property
    def serving(self) -> int:
        """The age of the youngest worker that has begun to serve; 0 if none has."""
        return self._numbers[self._SERVING]


class Lifecycle:
    """One worker's state, which the worker alone changes, and the reasons to change it: its own signals and what the
    master intends. ``is_running``: whether the state is ``RUNNING``, so that new work is welcome."""

    def __init__(self, intent: MasterIntent, age: int) -> None:
        self.state = State.RUNNING
        self.is_running = True
        self._intent = intent
        self._age = age
        self._signalled = State.RUNNING
        self._deadline_from = 0.0

    def enter(self, state: State, now: float = 0.0) -> None:
        """Make a transition. now: when, for one to ``DRAINING``. Raises ``IllegalTransition``."""
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition(f"a worker that is {self.state.value} cannot be {state.value}")
        self.state, self.is_running = state, False
        self._deadline_from = now

    def note_signal(self, *, at_once: bool) -> None:
        """This worker was told to stop. Safe in a signal handler: the transitions are made elsewhere."""
        if at_once or self._signalled is State.RUNNING:
            self._signalled = State.BREAKING_OFF if at_once else State.DRAINING

    @property
    def must_drain(self) -> bool:
        return self._signalled is not State.RUNNING or self._intent.is_stop

    @property
    def ends_connections(self) -> bool:
        """Whether each answer ends its connection. Also before this worker drains: the master refuses new connections
        from the beginning of a stop, and a client must not be told then that its own may go on."""
        return not self.is_running or self.must_drain

    @property
    def must_break_off(self) -> bool:
        """Whether nothing may take any longer."""
        return self._signalled is State.BREAKING_OFF or self._intent.is_immediate_stop

    @property
    def is_replaced(self) -> bool:
        """Whether a reload alone is why this worker drains. It may then take all the time that its transfers need."""
        return self._intent.is_superseded(self._age) and not self._intent.is_stop

    @property
    def is_stopping(self) -> bool:
        """Whether this worker takes no new work and none has replaced it."""
        return not self.is_running and not self.is_replaced

    def is_overdue(self, now: float, seconds: float) -> bool:
        """Whether draining has taken so long. To be asked again and again: the time for which the worker was only
        replaced does not count."""
        if self.is_replaced:
            self._deadline_from = now
        return now - self._deadline_from >= seconds
