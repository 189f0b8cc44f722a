"""How often a client may ask: limits per address, which refuse before a byte of the body is read.

A client is an IPv4 address or an IPv6 /64. Three things are counted: uploads that begin (a whole file, or the first
piece of one; the others belong to an upload that was counted), downloads (GET), and requests whose signature fails. The
first two come after the signature: what is not signed must not use up what others at the same address have a right to.

The last limit changes only what a failing request is told. A valid signature passes however many wrong ones come from
the same address: whoever shares it, behind a NAT, can be kept out by nobody. There is nothing to gain by refusing
earlier, since a check costs less than a refusal and no number of tries finds a MAC of 256 bits.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import cast

import flask
from flask_limiter import Limiter

from hmacfs.addresses import Network, is_in, network_of
from hmacfs.caching import bounded_cache
from hmacfs.config import RequestRate
from hmacfs.dialects.content_range import RangePiece
from hmacfs.errors import BadSignature, BadToken, RateLimited, SlotMismatch, TokenExpired
from hmacfs.rates.failover import FailoverCounter
from hmacfs.rates.limiting import STORAGE_URI, STRATEGY, WindowRateLimiter
from hmacfs.rates.window import Window
from hmacfs.web.client_address import ClientAddress
from hmacfs.web.messages import Headers, Request, Response, View
from hmacfs.web.slot_views import piece_of

log = logging.getLogger("hmacfs.web")

UPLOAD, DOWNLOAD, SIGNATURE = "upload", "download", "signature"

_SENTENCES = {
    UPLOAD: "Too many uploads.",
    DOWNLOAD: "Too many downloads.",
    SIGNATURE: "Too many wrong signatures.",
}
_SIGNATURE_FAILURES = (BadSignature, BadToken, TokenExpired, SlotMismatch)

#: Clients whose keys are remembered in each process.
_CLIENTS = 4096


def rate_limiter(app: flask.Flask, counter: FailoverCounter, clients: ClientAddress) -> WindowRateLimiter:
    """The strategy of flask-limiter, which counts in ``counter``.

    The decorators below ask it themselves: flask-limiter's own check of each request would be the dearest part of a
    small one (a third of the requests per second), and runs for those only that Flask dispatches.
    """
    limiter = Limiter(
        lambda: network_of(clients(flask.request.environ)),
        app=app,
        storage_uri=STORAGE_URI,
        storage_options={"counter": counter},  # type: ignore[dict-item]  # passed on to SwitchStorage
        strategy=STRATEGY,
    )
    return cast("WindowRateLimiter", limiter.limiter)


class RateLimits:
    """Decorators for views. A limit that is not set costs nothing: its decorator returns the view itself.

    rates: those of each kind, the shortest first; none for no limit. exempt: networks without limits.
    """

    def __init__(
        self, limiter: WindowRateLimiter, rates: Mapping[str, Sequence[RequestRate]], exempt: Sequence[Network]
    ) -> None:
        who = RateLimitKey(exempt)
        self._limits = {kind: RateLimit(kind, several, limiter, who) for kind, several in rates.items() if several}

    def uploads(self, view: View) -> View:
        """Counts the requests that begin an upload. Raises ``RateLimited``."""
        limit = self._limits.get(UPLOAD)
        if limit is None:
            return view

        @functools.wraps(view)
        def guarded(request: Request) -> Response:
            if begins_upload(request):
                limit.count(request)
            return view(request)

        return guarded

    def downloads(self, view: View) -> View:
        """Counts GET. Raises ``RateLimited``."""
        limit = self._limits.get(DOWNLOAD)
        if limit is None:
            return view

        @functools.wraps(view)
        def guarded(request: Request) -> Response:
            if request.method == "GET":
                limit.count(request)
            return view(request)

        return guarded

    def signatures(self, view: View) -> View:
        """Counts the requests that end in a failed signature; beyond the limit that becomes ``RateLimited``."""
        limit = self._limits.get(SIGNATURE)
        if limit is None:
            return view

        @functools.wraps(view)
        def guarded(request: Request) -> Response:
            try:
                return view(request)
            except _SIGNATURE_FAILURES:
                limit.count(request)
                raise

        return guarded


def begins_upload(request: Request) -> bool:
    """Whether an upload starts with this PUT or POST. Raises ``BadRequest``."""
    if request.method != "PUT":
        return True
    piece = piece_of(request.environ)
    if piece is None:
        return True
    return piece.first == 0 if isinstance(piece, RangePiece) else piece.number == 1


class RateLimitKey:
    """Says whose requests are counted together. limit: what for, in the words of a warning."""

    def __init__(self, exempt: Sequence[Network], limit: str = "rate limit") -> None:
        self._limit = limit
        self._exempt = tuple(exempt)
        self._has_warned = False

    def __call__(self, client: str) -> str | None:
        """``None``: no limit applies. That is so, too, where a proxy (or a peer on a Unix socket: it is one) names no
        client: one count for all that it speaks for would lock them all out together."""
        if not client:
            if not self._has_warned:
                self._has_warned = True
                log.warning(
                    "no %s applies to clients that the proxy does not name in X-Forwarded-For or Forwarded", self._limit
                )
            return None
        return None if is_in(client, self._exempt) else network_of(client)


class RateLimit:
    """The rates of one kind of request, the shortest first: what that refuses should not use up the others."""

    def __init__(
        self, kind: str, rates: Sequence[RequestRate], limiter: WindowRateLimiter, clients: RateLimitKey
    ) -> None:
        self._kind = kind
        self._limiter = limiter
        self._clients = clients
        self._rates = tuple(rates)
        names = [kind] if len(rates) == 1 else [f"{kind}-{rate.seconds}" for rate in rates]
        self._names = dict(zip(rates, names, strict=True))
        policies = (f'"{name}";q={rate.amount};w={rate.seconds}' for rate, name in self._names.items())
        self._policy = ("RateLimit-Policy", ", ".join(policies))
        self._keys = bounded_cache(_CLIENTS)(self._make_keys)

    def count(self, request: Request) -> None:
        """Count a request and have its answer tell how many are left. Raises ``RateLimited``."""
        tightest: tuple[int, RequestRate, Window] | None = None
        for rate, key in self._keys(request.client):
            window = self._limiter.take(rate, key)
            left = rate.amount - window.hits
            if left < 0:
                request.rate_headers = self._headers(rate, window)
                wait = math.ceil(window.ends - time.time())
                raise RateLimited(max(1, wait), _SENTENCES[self._kind])
            if tightest is None or left < tightest[0]:
                tightest = left, rate, window
        if tightest is not None:
            request.rate_headers = self._headers(*tightest[1:])

    def _make_keys(self, client: str) -> tuple[tuple[RequestRate, str], ...]:
        who = self._clients(client)
        if who is None:
            return ()
        return tuple((rate, rate.key(self._kind, who)) for rate in self._rates)

    def _headers(self, rate: RequestRate, window: Window) -> Headers:
        """draft-ietf-httpapi-ratelimit-headers, and the older names that flask-limiter and many clients use."""
        left = str(max(0, rate.amount - window.hits))
        seconds = max(0, math.ceil(window.ends - time.time()))
        return [
            self._policy,
            ("RateLimit", f'"{self._names[rate]}";r={left};t={seconds}'),
            ("X-RateLimit-Limit", str(rate.amount)),
            ("X-RateLimit-Remaining", left),
            ("X-RateLimit-Reset", str(math.ceil(window.ends))),
        ]
