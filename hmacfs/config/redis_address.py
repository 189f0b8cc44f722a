"""What ``RedisAddr`` may say. Pure."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from hmacfs.config.values import Secret
from hmacfs.masking import passwords_in

_ALLOWED = '"host:port" or a URL: redis://, rediss://, unix:///path or redis+sentinel://host:port,host:port/service/db'
_REDIS_PORT, _SENTINEL_PORT = 6379, 26379
_SENTINEL_SCHEMES = {"redis+sentinel": False, "rediss+sentinel": True}
_SENTINEL_OPTIONS = {"sentinel_username", "sentinel_password"}


@dataclasses.dataclass(frozen=True, slots=True)
class RedisServer:
    """One server, by a URL as redis-py reads it. passwords: those in it, as they stand there and decoded."""

    url: str = dataclasses.field(repr=False)
    passwords: tuple[str, ...] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class RedisSentinels:
    """Sentinels, and what they call the server. ``database`` and credentials are the server's unless named otherwise;
    ``None`` where the URL gives none. passwords: as for ``RedisServer``."""

    addresses: tuple[tuple[str, int], ...]
    service: str
    database: int | None
    is_tls: bool
    username: str | None
    password: str | None = dataclasses.field(repr=False)
    sentinel_username: str | None
    sentinel_password: str | None = dataclasses.field(repr=False)
    passwords: tuple[str, ...] = dataclasses.field(repr=False)


RedisAddress = RedisServer | RedisSentinels


class RedisSettings(Protocol):
    """The part of ``hmacfs.config.Settings`` that says how to reach Redis."""

    @property
    def redis_addr(self) -> RedisAddress | None: ...
    @property
    def redis_password(self) -> Secret | None: ...
    @property
    def redis_db(self) -> int: ...
    @property
    def redis_timeout(self) -> float: ...


def parse_redis_address(text: Any) -> RedisAddress:
    """Raises ``ValueError``, which says what is allowed and shows nothing of the text: it may carry a password."""
    try:
        return _parse(text.strip())
    except (AttributeError, ValueError):
        raise ValueError(_ALLOWED) from None


def _parse(text: str) -> RedisAddress:
    if "://" not in text:
        host, port = _host_and_port(text, _REDIS_PORT)
        return RedisServer(f"redis://[{host}]:{port}" if ":" in host else f"redis://{host}:{port}", ())
    parts = urlsplit(text)
    if parts.scheme in _SENTINEL_SCHEMES:
        return _sentinels(text)
    if parts.scheme in ("redis", "rediss"):
        is_complete = bool(parts.hostname) and parts.port != 0
    else:
        is_complete = parts.scheme == "unix" and bool(parts.path)
    if not is_complete:
        raise ValueError
    return RedisServer(text, tuple(passwords_in(text)))


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.netloc != text or "@" in text or parts.port == 0:
        raise ValueError
    return parts.hostname, parts.port or default


def _sentinels(text: str) -> RedisSentinels:
    parts = urlsplit(text)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, colon, password = credentials.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    options = parse_qs(parts.query, strict_parsing=bool(parts.query))
    if not service or options.keys() - _SENTINEL_OPTIONS or parts.fragment:
        raise ValueError
    return RedisSentinels(
        addresses=tuple(_host_and_port(host, _SENTINEL_PORT) for host in hosts.split(",")),
        service=unquote(service),
        database=int(database) if database else None,
        is_tls=_SENTINEL_SCHEMES[parts.scheme],
        username=unquote(username) or None,
        password=unquote(password) if colon else None,
        sentinel_username=options.get("sentinel_username", [None])[0],
        sentinel_password=options.get("sentinel_password", [None])[0],
        passwords=tuple(passwords_in(text)),
    )
