"""The labels that a server's counters have from its start on, at 0: a series that appears with its first 1 hides that
from ``rate()`` and ``increase()``.

Others may be added later (a rare status), but those that alerts and dashboards ask for are here. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hmacfs.errors import ConfigError, HmacfsError, NotAllowed

METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"})
UPLOAD_METHODS = frozenset({"PUT", "POST", "PATCH"})

#: The refusals that operators ask about, by the words of ``errors``.
REFUSALS: Mapping[str, str] = {
    "bad-signature": "signature",
    "bad-token": "signature",
    "token-expired": "signature",
    "slot-mismatch": "signature",
    "rate-limited": "rate",
    "too-many-sessions": "rate",
    "too-much-reserved": "rate",
    "too-large": "size",
    "size-mismatch": "size",
    "no-space": "space",
}

#: A connection that was closed at once, since its peer had too many: without a request, there is no word of ``errors``.
TURNED_AWAY = "connections"

#: The application's own mistake.
_INTERNAL = "internal-error"
#: What a download can fail at. Any other reason is one that only uploads have.
DOWNLOAD_REASONS = frozenset(
    {"answer-cut-short", "bad-name", "bad-request", "bad-signature", "for-pages", _INTERNAL, "not-found"}
    | {"precondition-failed", "range-not-satisfiable", "rate-limited", "session-expired", "session-store-unavailable"}
    | {"session-unknown", "stalled", "stopping", "storage-failed", "store-missing", "store-unavailable"}
)
_DOWNLOADS_ONLY = frozenset({"answer-cut-short", "for-pages", "not-found", "range-not-satisfiable"})

_ANY = "400 403 404 405 409 413 429 500 503"
_STATUSES: Mapping[str, str] = {
    "GET": "200 206 304 410 412 416 " + _ANY,
    "HEAD": "200 304 410 412 " + _ANY,
    "PUT": "200 201 202 401 408 410 411 412 415 507 " + _ANY,
    "POST": "201 401 408 410 411 412 415 460 507 " + _ANY,
    "PATCH": "204 408 410 412 415 460 507 " + _ANY,
    "DELETE": "204 410 412 " + _ANY,
    "OPTIONS": "204 405",
    "other": "405 501",
}


def upload_reasons() -> frozenset[str]:
    """What an upload can fail at: all that ``errors`` and the dialects know, but for what has to do with reading."""
    known = {_INTERNAL} | {
        kind.reason for kind in _kinds(HmacfsError) if not issubclass(kind, (ConfigError, NotAllowed))
    }
    return frozenset(known - _DOWNLOADS_ONLY)


def _kinds(base: type[HmacfsError]) -> Iterator[type[HmacfsError]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


def requests(transfers: str, probes: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Methods and routes. transfers: the route of all files; probes: those that are only read."""
    yield from ((method, transfers) for method in sorted(METHODS))
    yield from ((method, probe) for probe in sorted(probes) for method in ("GET", "HEAD"))
    yield from ((method, "other") for method in sorted({*METHODS, "other"}))


def responses() -> Iterator[tuple[str, str]]:
    """Methods and statuses."""
    yield from ((method, status) for method, statuses in _STATUSES.items() for status in statuses.split())
