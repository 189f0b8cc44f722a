"""Events, and those who listen to them: logs and metrics. Nothing else counts requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

log = logging.getLogger(__name__)


class RequestFinished(NamedTuple):
    """An answered request.

    path: its ``str`` is the path as sent, percent-encoded, without the query (which holds signatures); only a log line
    is worth making that. route: the rule that the path matched,
    one of a fixed few. reason: of a refusal or failure, a word from ``errors``; else empty. received, sent: bytes of
    the bodies. seconds: from the head's arrival to the end of the answer. stored: whether a file became visible.
    """

    request_id: str
    client: str
    method: str
    path: object
    route: str
    status: int
    reason: str
    received: int
    sent: int
    seconds: float
    stored: bool


Listener = Callable[[RequestFinished], None]


class Events:
    """Passes each event to all ``listeners``, and one with a reason to ``failure_listeners`` too. A listener's error is
    logged and does no harm to the request."""

    def __init__(self, listeners: Sequence[Listener], failure_listeners: Sequence[Listener] = ()) -> None:
        self._listeners = tuple(listeners)
        self._of_failures = (*listeners, *failure_listeners)

    def publish(self, event: RequestFinished) -> None:
        for listener in self._of_failures if event.reason else self._listeners:
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed")
