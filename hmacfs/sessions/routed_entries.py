"""The entries of a replicated session store: each call goes to one of its stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from hmacfs.sessions.replica import Replica
from hmacfs.uploads.contracts.entries import Entry

R = TypeVar("R")


class Ask(Protocol):
    """Asks one store, which it chooses. insist: see ``CircuitBreaker.call``. Raises ``SessionStoreUnavailable``."""

    def __call__(self, operation: Callable[[Replica], R], /, *, insist: bool = False) -> R: ...


class RoutedEntries:
    """``Entries`` of the stores that ``ask`` chooses. A call that goes on with what has begun, or ends it, goes before
    all others of this process: refused, it would keep others out until the entry is over."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def read(self, key: str) -> Entry | None:
        return self._ask(lambda store: store.entries.read(key))

    def replace(self, key: str, version: int | None, value: str, seconds: float | None) -> int | None:
        return self._ask(lambda store: store.entries.replace(key, version, value, seconds), insist=version is not None)

    def remove(self, key: str, version: int) -> bool:
        return self._ask(lambda store: store.entries.remove(key, version), insist=True)
