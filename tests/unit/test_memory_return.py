"""When a worker gives memory back."""

from __future__ import annotations

import pytest

from hmacfs.server.memory_return import WORTH_CONNECTIONS, MemoryReturn, give_back

MANY = WORTH_CONNECTIONS * 4


@pytest.mark.parametrize(
    ("open_connections", "times"),
    [
        ([0, 10, 0, 500, 0], 0),
        ([MANY, MANY, MANY // 2 + 1], 0),
        ([MANY, MANY // 2], 1),
        ([MANY, MANY // 2, MANY // 4, MANY // 8, 0], 3),
        ([MANY, 0, 0, 0], 1),
        ([MANY, 0, 5, 0, MANY, 0], 2),
        ([WORTH_CONNECTIONS - 1, 0], 0),
        ([WORTH_CONNECTIONS, 0], 1),
    ],
)
def test_memory_is_given_back_once_half_of_many_connections_are_gone(open_connections: list[int], times: int) -> None:
    calls: list[None] = []
    memory = MemoryReturn(lambda: calls.append(None))
    for connections in open_connections:
        memory.note(connections)
    assert len(calls) == times


def test_giving_back_needs_nothing() -> None:
    give_back()
