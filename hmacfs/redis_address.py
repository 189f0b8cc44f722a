"""What ``RedisAddr`` may say. Pure."""

from __future__ import annotations

import dataclasses
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from hmacfs.config import Secret

_ALLOWED = (
    'it is not understood; allowed is "host:port" or a URL: redis://, rediss://, unix:///path or '
    "redis+sentinel://host:port,host:port/service/db"
)
_REDIS_PORT, _SENTINEL_PORT = 6379, 26379
_SENTINEL_SCHEMES = {"redis+sentinel": False, "rediss+sentinel": True}
_SENTINEL_OPTIONS = {"sentinel_username", "sentinel_password"}


class RedisSettings(Protocol):
    """The part of ``hmacfs.config.Settings`` that says how to reach Redis."""

    @property
    def redis_addr(self) -> str: ...
    @property
    def redis_password(self) -> Secret | None: ...
    @property
    def redis_db(self) -> int: ...
    @property
    def redis_timeout(self) -> float: ...


@dataclasses.dataclass(frozen=True, slots=True)
class OneServer:
    """A URL as redis-py reads it."""

    url: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Sentinels:
    """Sentinels, and what they call the server. ``database`` and credentials are the server's unless named otherwise;
    ``None`` where the URL gives none."""

    addresses: tuple[tuple[str, int], ...]
    service: str
    database: int | None
    is_tls: bool
    username: str | None
    password: str | None = dataclasses.field(repr=False)
    sentinel_username: str | None
    sentinel_password: str | None = dataclasses.field(repr=False)


def parse_redis_address(text: str) -> OneServer | Sentinels:
    """Raises ``ValueError``, which says what is allowed and shows nothing of the text: it may carry a password."""
    try:
        if "://" not in text:
            host, port = _host_and_port(text, _REDIS_PORT)
            return OneServer(f"redis://[{host}]:{port}" if ":" in host else f"redis://{host}:{port}")
        parts = urlsplit(text)
        if parts.scheme in _SENTINEL_SCHEMES:
            return _sentinels(text)
        if parts.scheme in ("redis", "rediss"):
            is_complete = bool(parts.hostname) and parts.port != 0
        else:
            is_complete = parts.scheme == "unix" and bool(parts.path)
        if is_complete:
            return OneServer(text)
    except ValueError:
        pass
    raise ValueError(_ALLOWED)


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.netloc != text or "@" in text or parts.port == 0:
        raise ValueError
    return parts.hostname, parts.port or default


def _sentinels(text: str) -> Sentinels:
    parts = urlsplit(text)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, colon, password = credentials.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    options = parse_qs(parts.query, strict_parsing=bool(parts.query))
    if not service or options.keys() - _SENTINEL_OPTIONS or parts.fragment:
        raise ValueError
    return Sentinels(
        addresses=tuple(_host_and_port(host, _SENTINEL_PORT) for host in hosts.split(",")),
        service=unquote(service),
        database=int(database) if database else None,
        is_tls=_SENTINEL_SCHEMES[parts.scheme],
        username=unquote(username) or None,
        password=unquote(password) if colon else None,
        sentinel_username=options.get("sentinel_username", [None])[0],
        sentinel_password=options.get("sentinel_password", [None])[0],
    )
