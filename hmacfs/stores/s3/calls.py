"""Requests to the engine: signed, sent, repeated where that is safe, and what their answers mean to the caller."""

from __future__ import annotations

import enum
import random
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn, TypeVar

from hmacfs.errors import BadName, HmacfsError, NameTaken, NoSpace, StorageFailed, StoreUnavailable
from hmacfs.stores.s3 import answers
from hmacfs.stores.s3.answers import ErrorAnswer, Unreadable
from hmacfs.stores.s3.bucket import Doubt, FileSection, Payload
from hmacfs.stores.s3.connection import Lost, PayloadFailed, Silent, Unreached
from hmacfs.stores.s3.connections import Connections
from hmacfs.stores.s3.failures import EngineError, Kind, kind_of
from hmacfs.stores.s3.observer import CallObserver
from hmacfs.stores.s3.response import Response
from hmacfs.stores.s3.signing import Signer

R = TypeVar("R")

_AGENT = {"User-Agent": "hmac-file-server", "Accept-Encoding": "identity"}
#: The pause before the first repetition; each further one is twice as long, up to ``retry_delay``.
_FIRST_PAUSE = 0.05
_BAD_NAME = "The name is not one that this server's store can take."


class Repeat(enum.Enum):
    """When a request is made again after a transient failure. UNDONE: unless it is known to have been carried out."""

    ALWAYS = enum.auto()
    UNDONE = enum.auto()
    NEVER = enum.auto()


class Call(NamedTuple):
    """A request before it is signed. expected: what its caller is told by an exception of its own; any other error is
    nothing that should happen. timeout: if it is to be shorter than ``S3Timeout``."""

    operation: str
    method: str
    target: str
    headers: Mapping[str, str] = {}
    payload: Payload = b""
    expected: Mapping[Kind, type[Exception]] = {}
    timeout: float = 0.0


class _Failed(Exception):
    """A failure after which the same request may succeed: the operation, and what happened. is_stale: for want of a
    connection that was still open. is_done: the request was carried out, and only its answer cannot be read."""

    def __init__(self, message: str, *, is_stale: bool = False, is_done: bool = False) -> None:
        super().__init__(message)
        self.is_stale = is_stale
        self.is_done = is_done


class Caller:
    """Makes requests. max_retries, retry_delay: see ``S3Options``."""

    def __init__(
        self,
        signer: Signer,
        connections: Connections,
        observer: CallObserver,
        *,
        max_retries: int,
        retry_delay: float,
    ) -> None:
        self._signer = signer
        self._connections = connections
        self._observer = observer
        self._max_retries = max_retries
        self._retry_delay = retry_delay
        self._last_date = ("", 0.0)

    @property
    def clock_offset(self) -> float | None:
        """By how many seconds the engine's clock is ahead of this machine's, as its last answer said; in whole seconds,
        and ``None`` if it said nothing."""
        text, received = self._last_date
        said = answers.http_time(text)
        return said - received if said else None

    def perform(
        self,
        call: Call,
        read: Callable[[Response], R],
        repeat: Repeat = Repeat.ALWAYS,
        *,
        before_repeat: Callable[[], object] = lambda: None,
    ) -> R:
        """What ``read`` makes of the answer; after transient failures a request that may be repeated is, unless
        ``before_repeat`` raises. Raises ``Doubt`` only for one that never is."""
        attempts, needs_new = 0, False
        while True:
            try:
                return self._attempt(call, read, is_new=needs_new)
            except _Failed as error:
                if repeat is Repeat.NEVER:
                    raise Doubt(str(error), may_repeat=True) from error
                if repeat is Repeat.UNDONE and error.is_done:
                    raise StoreUnavailable from error
                if error.is_stale and not needs_new:
                    needs_new = True
                elif attempts < self._max_retries:
                    time.sleep(self._pause(attempts))  # cooperative in a gevent worker
                    attempts += 1
                else:
                    raise StoreUnavailable from error
                before_repeat()
                self._observer.note_retry()
            except Silent as error:
                if repeat is Repeat.NEVER:
                    raise Doubt(f"{call.operation}: {error}", may_repeat=False) from error
                raise StoreUnavailable(where=call.operation) from error

    def try_once(self, call: Call, read: Callable[[Response], object]) -> None:
        """Return if it succeeds over a new connection; a transient failure is ``StoreUnavailable``."""
        try:
            self._attempt(call, read, is_new=True)
        except _Failed as error:
            raise StoreUnavailable from error
        except Silent as error:
            raise StoreUnavailable(where=call.operation) from error

    def _pause(self, attempts: int) -> float:
        """Exponential back-off with jitter, so that what failed together does not come again together."""
        longest: float = min(_FIRST_PAUSE * 2**attempts, self._retry_delay)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    def _attempt(self, call: Call, read: Callable[[Response], R], *, is_new: bool = False) -> R:
        """One request. Raises ``_Failed`` if the same may be tried again, ``Silent``, and what the answer says."""
        before, outcome, is_done = time.monotonic(), "lost", False
        try:
            response = self._send(call, is_new=is_new)
            is_done = response.status < 300
            try:
                result = read(response) if is_done else _refuse(call, response)
            except BaseException:
                response.close()
                raise
            finally:
                self._observer.note_bytes(_length(call.payload), response.received)
            outcome = "ok"
            return result
        except Unreached as error:
            outcome = "unreachable"
            if error.is_untrusted:
                raise StorageFailed from error
            raise StoreUnavailable(where=call.operation) from error
        except Silent:
            outcome = "timeout"
            raise
        except (Lost, Unreadable) as error:
            is_stale = isinstance(error, Lost) and error.was_kept
            raise _Failed(f"{call.operation}: {error}", is_stale=is_stale, is_done=is_done) from error
        except PayloadFailed as error:
            raise StorageFailed(where=call.operation) from error
        except _Failed:
            outcome = "failed"
            raise
        except tuple(call.expected.values()):
            outcome = "ok"
            raise
        except HmacfsError:
            outcome = "refused"
            raise
        finally:
            self._observer.note_call(call.operation, time.monotonic() - before, outcome)

    def _send(self, call: Call, *, is_new: bool) -> Response:
        headers = self._signer.sign(call.method, call.target, call.headers) | _AGENT
        if call.method in ("PUT", "POST"):
            headers["Content-Length"] = str(_length(call.payload))
        response = self._connections.request(
            call.method, call.target, headers, call.payload, is_new=is_new, timeout=call.timeout
        )
        self._last_date = (response.headers.get("date") or "", time.time())
        return response


def _refuse(call: Call, response: Response) -> NoReturn:
    raise error_for(call, answers.error_of(response.status, response.headers, response.text()))


def error_for(call: Call, answer: ErrorAnswer) -> Exception:
    """What to raise for an answer that is an error."""
    kind, cause = kind_of(answer), EngineError(call.operation, answer)
    error: Exception
    if kind is Kind.FAILED:
        error = _Failed(str(cause))
    elif kind is Kind.FULL:
        error = NoSpace()
    elif kind is Kind.FOLDER and call.method in ("PUT", "POST"):
        error = NameTaken()
    elif kind in (Kind.NAME, Kind.FOLDER):
        error = BadName(_BAD_NAME)
    elif kind in call.expected:
        error = call.expected[kind](str(cause))
    else:
        error = StorageFailed()
    error.__cause__ = cause
    return error


def _length(payload: Payload) -> int:
    return payload.length if isinstance(payload, FileSection) else len(payload)
