"""The values that settings have once they are parsed. Pure."""

from __future__ import annotations

import dataclasses
import enum
import hmac
import logging
from pathlib import Path
from typing import NamedTuple


class Secret:
    """A text that never shows: not in a repr, a log line or an error. ``reveal`` gives its bytes."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> bytes:
        return self._value.encode()

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self.reveal(), other.reveal())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not to be stored")


@dataclasses.dataclass(frozen=True, slots=True)
class TcpAddress:
    """``host`` is empty for all addresses of the machine."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def overlaps(self, other: TcpAddress) -> bool:
        """Whether only one of the two can be listened at."""
        return self.port == other.port and (self.host == other.host or not self.host or not other.host)


@dataclasses.dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket to listen at."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


class DatabaseHost(NamedTuple):
    """``host`` is a name, an IP address without brackets or the path of a Unix socket; ``port`` is ``None`` for the
    database's usual one."""

    host: str
    port: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class FreeSpace:
    """An amount of bytes, or a percentage: of the file system's size, or of what is free."""

    bytes: int = 0
    percent: float = 0.0

    def of(self, total: int) -> int:
        """In bytes, of ``total``."""
        return self.bytes + int(total * self.percent / 100)


class RequestRate(NamedTuple):
    """At most ``amount`` requests within ``periods`` times a ``unit`` ("minute"), which are ``seconds`` long."""

    amount: int
    periods: int
    unit: str
    seconds: int

    def __str__(self) -> str:
        return f"{self.amount}/{self.unit}" if self.periods == 1 else f"{self.amount}/{self.periods} {self.unit}s"

    def key(self, kind: str, client: str) -> str:
        """Where the requests of that kind and client are counted; of the form that the package ``limits`` gives keys,
        which counters on a disk and in Redis have had from the beginning."""
        return f"LIMITER/{kind}/{client}/{self.amount}/{self.periods}/{self.unit}"


class LogLevel(enum.IntEnum):
    """The level's number in ``logging``."""

    DEBUG = logging.DEBUG
    INFO = logging.INFO
    WARN = logging.WARNING
    ERROR = logging.ERROR


class LogFormat(enum.StrEnum):
    """The form of a log line."""

    TEXT = "text"
    JSON = "json"


class Durability(enum.StrEnum):
    """What a 201 promises: that the file survives a power cut, or nothing of that kind."""

    FSYNC = "fsync"
    NONE = "none"


class Storage(enum.StrEnum):
    """Where the files are: in a folder, or in a bucket of an object store."""

    LOCAL = "local"
    S3 = "s3"


class ConditionalWrites(enum.StrEnum):
    """Whether the object store's engine keeps to ``If-None-Match: *`` atomically. ``AUTO``: tried when it is
    first needed."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class DownloadOffload(enum.StrEnum):
    """Who sends a file: this server, nginx at its word, or the object store's engine to whom the client is sent."""

    NONE = "none"
    X_ACCEL = "x-accel"
    REDIRECT = "redirect"


class DatabaseType(enum.StrEnum):
    """The fallback database."""

    POSTGRES = "postgres"
    MYSQL = "mysql"


class DatabaseTls(enum.StrEnum):
    """TLS to the fallback database. ``DRIVER``: as its driver does it by default."""

    DRIVER = ""
    DISABLE = "disable"
    REQUIRE = "require"
    VERIFY_FULL = "verify-full"
