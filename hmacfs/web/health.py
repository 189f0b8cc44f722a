"""Whether the process is up, and whether it can serve (PROTOCOL section 7)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus

from hmacfs.errors import HmacfsError
from hmacfs.web.exchange import Exchange, Reply
from hmacfs.web.routing import Desk, TransferBlueprint

log = logging.getLogger("hmacfs.web")

_HEADERS = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]


class Health:
    """What ``readyz`` looks at: named checks, each of which raises ``HmacfsError`` if its part cannot serve."""

    def __init__(self, checks: Sequence[tuple[str, Callable[[], None]]]) -> None:
        self._checks = checks
        self.is_draining = False

    def reasons(self) -> list[str]:
        """Why this process should get no requests now; empty if it can serve."""
        reasons = ["draining: the server is stopping"] if self.is_draining else []
        for name, check in self._checks:
            try:
                check()
            except HmacfsError as error:
                log.warning("not ready: %s: %s (%s)", name, error, error.__cause__)
                reasons.append(f"{name}: {error}")
        return reasons


def health(desk: Desk, state: Health) -> TransferBlueprint:
    """The blueprint of ``/healthz`` and ``/readyz``."""
    blueprint = TransferBlueprint("health", __name__, desk)

    @blueprint.transfer("/healthz", "GET", "HEAD")
    def healthz(_: Exchange) -> Reply:
        return Reply(HTTPStatus.OK, [*_HEADERS], b"ok\n")

    @blueprint.transfer("/readyz", "GET", "HEAD")
    def readyz(_: Exchange) -> Reply:
        reasons = state.reasons()
        if not reasons:
            return Reply(HTTPStatus.OK, [*_HEADERS], b"ready\n")
        text = "".join(f"{reason}\n" for reason in reasons)
        return Reply(HTTPStatus.SERVICE_UNAVAILABLE, [*_HEADERS], text.encode(), reason="not-ready")

    return blueprint
