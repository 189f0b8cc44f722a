"""What metrics learn of the calls of the engine."""

from __future__ import annotations

from typing import Protocol

#: The operations of ``Bucket`` that make requests.
OPERATIONS = (
    *("put", "head", "get", "delete", "list"),
    *("begin_multipart", "put_part", "parts", "complete", "abort", "uploads", "check"),
)

#: How a request ended. ok: with an answer that its caller can use, such as that there is no object or that a condition
#: does not hold. refused: with one that somebody has to mend (403, no such bucket, a quota). failed: the engine cannot
#: serve now (5xx, SlowDown). lost: the connection broke. timeout: no byte came. unreachable: there was no connection.
OUTCOMES = ("ok", "refused", "failed", "lost", "timeout", "unreachable")


class CallObserver(Protocol):
    """Is told in the greenlet that makes the call, so that it must not wait."""

    def note_call(self, operation: str, seconds: float, outcome: str) -> None:
        """A request has ended, or the head of the answer to a ``get`` is there; one of several if it was repeated."""

    def note_retry(self) -> None:
        """A request is made again."""

    def note_bytes(self, sent: int, received: int) -> None:
        """Bytes of bodies, of objects and of XML."""


class NoObserver:
    """Ignores everything."""

    def note_call(self, operation: str, seconds: float, outcome: str) -> None:
        pass

    def note_retry(self) -> None:
        pass

    def note_bytes(self, sent: int, received: int) -> None:
        pass
