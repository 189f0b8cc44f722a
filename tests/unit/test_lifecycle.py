"""A worker's states, and what the master intends."""

from __future__ import annotations

import os

import pytest

from hmacfs.server.lifecycle import TRANSITIONS, IllegalTransition, Lifecycle, MasterIntent, State

#: The states on the way to each.
WAYS = {
    State.RUNNING: [],
    State.DRAINING: [State.DRAINING],
    State.BREAKING_OFF: [State.DRAINING, State.BREAKING_OFF],
    State.GONE: [State.DRAINING, State.GONE],
}


def lifecycle_in(state: State) -> Lifecycle:
    lifecycle = Lifecycle(MasterIntent(), 1)
    for step in WAYS[state]:
        lifecycle.enter(step)
    return lifecycle


@pytest.mark.parametrize("after", State)
@pytest.mark.parametrize("before", State)
def test_only_the_transitions_of_the_table_are_made(before: State, after: State) -> None:
    lifecycle = lifecycle_in(before)
    assert lifecycle.is_running == (before is State.RUNNING)
    if after in TRANSITIONS[before]:
        lifecycle.enter(after)
        assert (lifecycle.state, lifecycle.is_running) == (after, False)
    else:
        with pytest.raises(IllegalTransition):
            lifecycle.enter(after)
        assert lifecycle.state is before


@pytest.mark.parametrize(
    ("signals", "must_drain", "must_break_off"),
    [
        ([], False, False),
        ([False], True, False),
        ([True], True, True),
        ([False, True], True, True),
        ([True, False], True, True),
    ],
)
def test_signals_to_the_worker_say_what_must_be_done(
    signals: list[bool], must_drain: bool, must_break_off: bool
) -> None:
    lifecycle = Lifecycle(MasterIntent(), 1)
    for at_once in signals:
        lifecycle.note_signal(at_once=at_once)
    assert (lifecycle.must_drain, lifecycle.must_break_off) == (must_drain, must_break_off)
    assert lifecycle.state is State.RUNNING


def test_the_masters_signals_say_the_same_to_all_workers() -> None:
    intent = MasterIntent()
    lifecycle = Lifecycle(intent, 1)
    for must_drain, must_break_off in ((False, False), (True, False), (True, True)):
        assert (lifecycle.must_drain, lifecycle.must_break_off) == (must_drain, must_break_off)
        intent.stop()


def test_a_replaced_worker_has_no_deadline_until_the_server_stops() -> None:
    intent = MasterIntent()
    old, young = Lifecycle(intent, 3), Lifecycle(intent, 4)
    intent.supersede(3)
    assert (old.is_replaced, young.is_replaced) == (True, False)
    assert (old.is_stopping, young.is_stopping) == (False, False)
    for lifecycle in (old, young):
        lifecycle.enter(State.DRAINING, 100.0)
    assert (old.is_stopping, young.is_stopping) == (False, True)
    assert not old.is_overdue(200.0, 10.0)
    assert young.is_overdue(110.0, 10.0)
    intent.stop()
    assert not old.is_replaced
    assert old.is_stopping
    assert not old.is_overdue(209.0, 10.0)
    assert old.is_overdue(210.0, 10.0)


def test_processes_share_the_intent() -> None:
    intent = MasterIntent()
    child = os.fork()
    if child == 0:
        intent.note_serving(7)
        os._exit(0)
    os.waitpid(child, 0)
    intent.note_serving(5)
    assert intent.serving == 7
