"""Repeating an operation that failed for a passing reason (``MaxRetries``, ``RetryDelay``)."""

from __future__ import annotations

import dataclasses
import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")

log = logging.getLogger(__name__)

#: What may be gone a moment later: a table or memory that is full for now, a network file system that fails over.
PASSING_ERRNOS = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOLCK,
        errno.ENOMEM,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class Retry:
    """attempts: how often to try again after the first failure; delay: seconds of pause before each."""

    attempts: int
    delay: float

    def __call__(self, operation: Callable[[], R]) -> R:
        """The result of ``operation``, which must be safe to repeat. An ``OSError`` that will not pass by itself, or
        the last one, passes through."""
        for attempt in range(self.attempts):
            try:
                return operation()
            except OSError as error:
                if error.errno not in PASSING_ERRNOS:
                    raise
                log.warning(
                    "a storage operation failed (%s): trying again in %g s (%d of %d)",
                    error.strerror,
                    self.delay,
                    attempt + 1,
                    self.attempts,
                )
                time.sleep(self.delay)  # cooperative in a gevent worker
        return operation()
