"""The guard over free space: an upload that cannot fit is refused before its body is sent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from hmacfs.errors import NoSpace


class SpaceGuard:
    """Counts the announced sizes of running uploads as used.

    free_bytes: what the store may still take. least_free: what must stay free, as a function, since it may be a share
    of the file system's size.
    """

    def __init__(self, free_bytes: Callable[[], int], least_free: Callable[[], int]) -> None:
        self._free_bytes = free_bytes
        self._least_free = least_free
        self.reserved = 0

    @contextlib.contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Raises ``NoSpace`` if ``count`` more bytes would leave less than the minimum free."""
        if self._free_bytes() - self.reserved - count < self._least_free():
            raise NoSpace
        self.reserved += count
        try:
            yield
        finally:
            self.reserved -= count
