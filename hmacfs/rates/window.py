"""What is counted: the requests of one key in a window that its first request opens."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Window(NamedTuple):
    """hits: requests in the window so far. ends: Unix time in seconds; the next request after it opens a new one."""

    hits: int
    ends: float


class Unreachable(Exception):
    """The counter on another machine gives no answer that could be used."""


class RemoteCounter(Protocol):
    """Windows that several machines count in."""

    @property
    def timeout(self) -> float:
        """Seconds that an operation may take."""

    @property
    def concurrency(self) -> int:
        """How many operations it takes at once."""

    def hit(self, key: str, left: float, amount: int) -> Window:
        """Count ``amount`` requests. left: seconds until the window ends if this opens it. Raises ``Unreachable``."""

    def forget(self, key: str) -> None:
        """Raises ``Unreachable``."""

    def ping(self) -> None:
        """Raises ``Unreachable`` if ``hit`` would."""
