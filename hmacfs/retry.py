"""Repeating an operation after a transient failure (``MaxRetries``, ``RetryDelay``)."""

from __future__ import annotations

import dataclasses
import errno
import logging
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

#: Failures that may be gone a moment later: a table or memory that is full, a network file system that fails over.
TRANSIENT_ERRNOS = frozenset(
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

    def __call__(self, operation: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of ``operation``, which must be safe to repeat. An ``OSError`` that is not transient, or the last
        one, is raised."""
        for attempt in range(self.attempts):
            try:
                return operation(*args, **kwargs)
            except OSError as error:
                if error.errno not in TRANSIENT_ERRNOS:
                    raise
                log.warning(
                    "a storage operation failed (%s): trying again in %g s (%d of %d)",
                    error.strerror,
                    self.delay,
                    attempt + 1,
                    self.attempts,
                )
                time.sleep(self.delay)  # cooperative in a gevent worker
        return operation(*args, **kwargs)
