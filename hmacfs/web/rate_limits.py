"""How often a client may ask: limits per address, which refuse before a byte of the body is read.

A client is an IPv4 address or an IPv6 /64. Three things are counted: uploads that begin (a whole file, or the first
piece of one; the others belong to an upload that was counted), downloads (GET), and requests whose signature fails. The
first two are counted after the signature was checked: unsigned requests must not use up the share of other clients at
the same address.

The last limit changes only the answer to a failing request. A valid signature passes however many wrong ones came from
the same address: nobody can lock out the others who share it through a NAT. Refusing earlier would gain nothing, since
a check costs less than a refusal and no number of tries finds a MAC of 256 bits.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence

from hmacfs.addresses import Network, is_in, network_of
from hmacfs.caching import bounded_cache
from hmacfs.config import RequestRate
from hmacfs.errors import RateLimited
from hmacfs.once import Once
from hmacfs.rates.limiting import WindowRateLimiter
from hmacfs.rates.window import Window
from hmacfs.web.messages import Check, Headers, Request

log = logging.getLogger("hmacfs.web")

UPLOAD, DOWNLOAD, SIGNATURE = "upload", "download", "signature"

_SENTENCES = {
    UPLOAD: "Too many uploads.",
    DOWNLOAD: "Too many downloads.",
    SIGNATURE: "Too many wrong signatures.",
}

#: Clients whose keys are remembered in each process.
_CLIENTS = 4096


class RateLimits:
    """The limits as checks that come before a view; ``None`` for one that is not set.

    rates: those of each kind, the shortest first; none for no limit. exempt: networks without limits.
    downloads, signatures: count a request and have its answer tell how many are left; they raise ``RateLimited``.
    """

    def __init__(
        self, limiter: WindowRateLimiter, rates: Mapping[str, Sequence[RequestRate]], exempt: Sequence[Network]
    ) -> None:
        key = RateLimitKey(exempt)
        counts = {kind: RateLimit(kind, several, limiter, key).count for kind, several in rates.items() if several}
        self.downloads: Check | None = counts.get(DOWNLOAD)
        self.signatures: Check | None = counts.get(SIGNATURE)
        self._count_upload: Check | None = counts.get(UPLOAD)

    @property
    def uploads(self) -> Check | None:
        """Counts the requests that begin an upload: whole files, first pieces and creations. Raises ``RateLimited``."""
        count = self._count_upload
        if count is None:
            return None

        def check(request: Request) -> None:
            if request.piece is None or request.piece.begins_file:
                count(request)

        return check


class RateLimitKey:
    """Says under which key a client's requests are counted. limit: its name in a warning."""

    def __init__(self, exempt: Sequence[Network], limit: str = "rate limit") -> None:
        self._limit = limit
        self._exempt = tuple(exempt)
        self._warn_once = Once()

    def __call__(self, client: str) -> str | None:
        """The network that is counted; ``None`` if no limit applies. None does, either, where a proxy (or a peer on a
        Unix socket, which counts as one) names no client: one count for all its clients would lock them out together.
        """
        if not client:
            if self._warn_once():
                log.warning(
                    "no %s applies to clients that the proxy does not name in X-Forwarded-For or Forwarded", self._limit
                )
            return None
        return None if is_in(client, self._exempt) else network_of(client)


class RateLimit:
    """The rates of one kind of request, the shortest first: a request that it refuses should not use up the others."""

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
