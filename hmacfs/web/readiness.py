"""Whether the process is up, and whether it can serve (docs/protocol.md, section 7)."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus

from hmacfs.errors import HmacfsError, StorageFailed, StoreStarting
from hmacfs.web.messages import Request, Response
from hmacfs.web.routes import Covers, Route

log = logging.getLogger("hmacfs.web")

_HEADERS = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]

#: The routes of monitors.
PROBES = ("/healthz", "/readyz")
WELCOME = "/"
#: A reason why the server cannot serve is logged when it changes, and again after so long.
REMINDER_SECONDS = 60.0
#: How long a result counts: a flood of requests costs the disk and the session store one look in that time.
LOOK_SECONDS = 1.0


class Readiness:
    """Judges whether this process can serve. checks: by name, each raises ``HmacfsError`` if its part cannot serve;
    clock: ``time.monotonic`` or its like."""

    def __init__(
        self, checks: Sequence[tuple[str, Callable[[], None]]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._checks = checks
        self._clock = clock
        self._logged: dict[str, tuple[str, float]] = {}
        self._found: list[str] = []
        #: When the last look began, and how many there have been.
        self._looked, self._looks = -math.inf, 0
        self._looking = threading.Lock()
        #: Whether the server is stopping; the worker says so once it serves.
        self.is_stopping: Callable[[], bool] = lambda: False

    def reasons(self) -> list[str]:
        """Why this process should get no requests now; empty if it can serve. The state of less than ``LOOK_SECONDS``
        ago; a call while another one looks waits for that one's result, however long it takes."""
        looks = self._looks
        if not self._is_recent():
            with self._looking:
                if looks == self._looks:
                    began = self._clock()
                    self._found = self._look()
                    self._looked = began
                    self._looks += 1
        return [*(["draining: the server is stopping"] if self.is_stopping() else []), *self._found]

    def _is_recent(self) -> bool:
        return self._clock() - self._looked < LOOK_SECONDS

    def _look(self) -> list[str]:
        reasons: list[str] = []
        for name, check in self._checks:
            try:
                check()
            except HmacfsError as error:
                self._log(name, error)
                reasons.append(f"{name}: {error}")
            else:
                if self._logged.pop(name, None):
                    log.info("ready again: %s", name)
        return reasons

    def _log(self, name: str, error: HmacfsError) -> None:
        before, since = self._logged.get(name, ("", 0.0))
        problem = f"{error.reason} {error.__cause__}"  # without the sentence, which may hold numbers
        if problem != before or self._clock() - since >= REMINDER_SECONDS:
            self._logged[name] = problem, self._clock()
            text = error.for_log() if isinstance(error, StorageFailed) else _with_cause(error)
            log.log(
                logging.INFO if isinstance(error, StoreStarting) else logging.WARNING, "not ready: %s: %s", name, text
            )


def _with_cause(error: HmacfsError) -> str:
    sentence = str(error).rstrip(".")
    return f"{sentence}: {error.__cause__}" if error.__cause__ is not None else sentence


def probe_routes(readiness: Readiness) -> list[Route]:
    """``/healthz`` and ``/readyz`` for monitors, and ``/`` for people who look at it in a browser."""

    def readyz(_: Request) -> Response:
        reasons = readiness.reasons()
        if not reasons:
            return Response(HTTPStatus.OK, [*_HEADERS], b"ready\n")
        text = "".join(f"{reason}\n" for reason in reasons)
        return Response(HTTPStatus.SERVICE_UNAVAILABLE, [*_HEADERS], text.encode(), reason="not-ready")

    return [
        Route(path, Covers.ITSELF, ("GET", "HEAD"), view, path)
        for path, view in zip((WELCOME, *PROBES), (welcome, healthz, readyz), strict=True)
    ]


def welcome(_: Request) -> Response:
    text = "This is an HMAC file server: it takes files at signed URLs and gives them out again.\n"
    return Response(HTTPStatus.OK, [*_HEADERS], text.encode())


def healthz(_: Request) -> Response:
    return Response(HTTPStatus.OK, [*_HEADERS], b"ok\n")
