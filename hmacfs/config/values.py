"""The values that settings have, and how they are read from TOML or from text. Pure.

Every parser takes what TOML gives (or text, from the environment) and returns the value, or raises ``ValueError`` with
what is allowed.
"""

from __future__ import annotations

import dataclasses
import hmac
import ipaddress
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard
from urllib.parse import SplitResult, urlsplit

import limits

from hmacfs.addresses import Network
from hmacfs.masking import mask_value

Parser = Callable[[Any], Any]

#: Units as the original counts them: KB is 1,024 bytes, like KiB.
_SIZE_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _SIZE_UNITS.update(dict.fromkeys((_letter, f"{_letter}b", f"{_letter}ib"), 1024**_power))
#: Go's and longer ones; "" for seconds. The two signs for micro look alike.
_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 0.001, "s": 1.0, "": 1.0}
_DURATION_UNITS |= {"m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}
_DURATION_PART = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})\s*([a-z\u00b5\u03bc]+)\s*")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)")
_LARGEST = 2**62


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


@dataclasses.dataclass(frozen=True, slots=True)
class UnixAddress:
    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclasses.dataclass(frozen=True, slots=True)
class FreeSpace:
    """An amount of bytes, or a percentage: of the file system's size, or of what is free."""

    bytes: int = 0
    percent: float = 0.0

    def of(self, total: int) -> int:
        """In bytes, of ``total``."""
        return self.bytes + int(total * self.percent / 100)


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text in quotes")
    return value.strip()


def boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, FromEnvironment) and value.lower() in ("true", "1", "yes", "on"):
        return True
    if isinstance(value, FromEnvironment) and value.lower() in ("false", "0", "no", "off"):
        return False
    raise ValueError("true or false")


class FromEnvironment(str):
    """A text that came from the environment, where there are no other types."""

    __slots__ = ()


def integer(least: int, most: int = _LARGEST) -> Parser:
    allowed = f"a whole number from {least}" + (f" to {most}" if most < _LARGEST else " up")

    def parse(value: Any) -> int:
        if isinstance(value, FromEnvironment) and re.fullmatch(r"-?[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(allowed)
        return value

    return parse


def _quantity(value: Any, units: dict[str, Any], allowed: str) -> float:
    """A number, or a text of number and unit."""
    if isinstance(value, bool):
        raise ValueError(allowed)
    if isinstance(value, (int, float)):
        number = float(value)
    else:
        match = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None or match[2].lower() not in units:
            raise ValueError(allowed)
        number = float(match[1]) * units[match[2].lower()]
    if not math.isfinite(number) or not 0 <= number <= _LARGEST:
        raise ValueError(allowed)
    return number


def size(least: int = 0) -> Parser:
    """Bytes, at least ``least``."""
    allowed = f'a size of at least {least}, as a number of bytes or as text such as "64KB" or "1GB"'

    def parse(value: Any) -> int:
        number = value if type(value) is int and 0 <= value <= _LARGEST else int(_quantity(value, _SIZE_UNITS, allowed))
        if number < least:
            raise ValueError(allowed)
        return number

    return parse


def rate(value: Any) -> int:
    """Bytes per second; 0 for no limit."""
    allowed = 'a rate, as a number of bytes per second or as text such as "1MB/s"; 0 for no limit'
    if isinstance(value, str):
        value = re.sub(r"\s*/\s*s(ec)?$|ps$", "", value.strip(), flags=re.IGNORECASE)
    return int(_quantity(value, _SIZE_UNITS, allowed))


def duration(*, zero: bool = False) -> Parser:
    """Seconds."""
    above = "" if zero else " above 0"
    allowed = f'a duration{above}, as a number of seconds or as text such as "30s", "24h" or "1h15m"'

    def parse(value: Any) -> float:
        if isinstance(value, str) and _DURATION.fullmatch(value.strip().lower()):
            parts = _DURATION_PART.findall(value.lower())
            value = sum(float(number) * _DURATION_UNITS.get(unit, math.nan) for number, unit in parts)
        seconds = _quantity(value, {"": 1.0}, allowed)
        if seconds == 0 and not zero:
            raise ValueError(allowed)
        return seconds

    return parse


parse_duration = duration()


def optional(parser: Parser) -> Parser:
    """``None`` for an empty text."""
    return lambda value: None if isinstance(value, str) and not value.strip() else parser(value)


def choice(*words: str, **synonyms: str) -> Parser:
    def parse(value: Any) -> str:
        # Not as an empty text, where one is allowed: `FallbackDBTLS = true` is no wish for the driver's way.
        word = value.strip().lower() if isinstance(value, str) else None
        word = synonyms.get(word, word) if word is not None else None
        if word not in words:
            raise ValueError(" or ".join(f'"{allowed}"' for allowed in words))
        return word

    return parse


def path(value: Any) -> Path:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("a path")
    try:
        return Path(_by_bytes(value)).expanduser()
    except RuntimeError:
        raise ValueError("a path; there is no user of this name") from None


def _by_bytes(value: str) -> str:
    """A path whose bytes are UTF-8, whatever the locale says. Python has decoded the environment's by the locale, and
    turns them into the same bytes again."""
    return value.strip() if isinstance(value, FromEnvironment) else os.fsdecode(value.strip().encode())


def secret(value: Any) -> Secret:
    if not _is_unicode(value) or len(value.encode()) < 16:
        raise ValueError("a text of at least 16 bytes in UTF-8")
    return Secret(value)


def password(value: Any) -> Secret | None:
    if not _is_unicode(value):
        raise ValueError("a text in quotes, in UTF-8")
    return Secret(value) if value else None


def _is_unicode(value: Any) -> TypeGuard[str]:
    """Whether it is text without the surrogates that stand for bytes of the environment that are no UTF-8."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def many(parser: Parser) -> Parser:
    """A list; from the environment, a text separated by commas."""

    def parse(value: Any) -> tuple[Any, ...]:
        if isinstance(value, FromEnvironment):
            value = [FromEnvironment(item.strip()) for item in value.split(",") if item.strip()]
        if not isinstance(value, list):
            raise ValueError("a list")
        try:
            return tuple(parser(item) for item in value)
        except ValueError as error:
            raise ValueError(f"a list, each item {error}") from None

    return parse


def listen(value: Any) -> str:
    """The text of an address or path, which of the two is decided elsewhere; a number is a port."""
    return f":{value}" if type(value) is int else text(value)


def tcp_address(value: Any) -> TcpAddress:
    allowed = 'a port or an address with a port, such as ":8080", "127.0.0.1:8080" or "[::1]:8080"'
    if isinstance(value, int) and not isinstance(value, bool):
        value = f":{value}"
    if not isinstance(value, str):
        raise ValueError(allowed)
    host, colon, port = value.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(allowed)
    is_port = re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= 65535
    if not is_port or not re.fullmatch(r"[A-Za-z0-9_.:%-]*", host):
        raise ValueError(allowed)
    return TcpAddress("" if host in ("0.0.0.0", "::", "*") and not colon else host, int(port))  # noqa: S104


def network(value: Any) -> Network:
    try:
        return ipaddress.ip_network(text(value), strict=False)
    except ValueError:
        raise ValueError('an IP address or network, such as "192.0.2.1" or "2001:db8::/32"') from None


def origin(value: Any) -> str:
    allowed = '"*" or an origin such as "https://chat.example.org"'
    word = text(value).rstrip("/")
    if word == "*":
        return word
    parts = _url(word, allowed)
    if parts.scheme not in ("http", "https") or not parts.hostname or f"{parts.scheme}://{parts.netloc}" != word:
        raise ValueError(allowed)
    if not word.isascii() or not word.isprintable() or " " in word or "@" in parts.netloc:
        raise ValueError(allowed)
    return word


def base_url(value: Any) -> str:
    allowed = 'a URL such as "https://upload.example.org"'
    word = text(value).rstrip("/")
    parts = _url(word, allowed)
    if word and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment):
        raise ValueError(allowed)
    return word


def _url(word: str, allowed: str) -> SplitResult:
    try:
        parts = urlsplit(word)
        _ = parts.port  # looked at only when it is asked for
    except ValueError:
        raise ValueError(allowed) from None
    return parts


def sub_folder(value: Any) -> str:
    word = text(value).strip("/")
    if not word or not all(re.fullmatch(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*", part) for part in word.split("/")):
        raise ValueError('the URL\'s first part, such as "upload": letters, digits and - . _ ~')
    return word


def request_rate(value: Any) -> str:
    word = text(value)
    if word:
        try:
            limits.parse_many(word)
        except ValueError:
            raise ValueError('a rate such as "60/minute", several separated by ";", or "" for no limit') from None
    return word


def free_space(value: Any) -> FreeSpace:
    if isinstance(value, str) and (match := re.fullmatch(r"\s*([0-9]{1,2}(?:\.[0-9]{1,3})?)\s*%\s*", value)):
        return FreeSpace(percent=float(match[1]))
    try:
        return FreeSpace(bytes=size()(value))
    except ValueError as error:
        raise ValueError(f'{error}, or a percentage below 100, such as "5%"') from None


def share_of_free_space(value: Any) -> FreeSpace:
    """As ``free_space``, but all of it is allowed."""
    if isinstance(value, str) and re.fullmatch(r"\s*100(?:\.0{1,3})?\s*%\s*", value):
        return FreeSpace(percent=100.0)
    try:
        return free_space(value)
    except ValueError:
        raise ValueError('a size such as "1GB", or a percentage up to "100%"; 0 for no limit') from None


def shown(value: object, *, is_secret: bool = False) -> str:
    """A value for a message: short, on one line, and nothing of a secret or of what may be a password."""
    if is_secret:
        return "(not shown)"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        printed = f"[{', '.join(shown(item) for item in value)}]"
    else:
        printed = repr(mask_value(str(value)) if isinstance(value, str) else value)
    return printed if len(printed) <= 60 else printed[:57] + "..."


def one_line(value: object) -> str:
    """For a message: control characters and line ends replaced, so that it stays one line."""
    return "".join(c if c.isprintable() else "?" for c in str(value))
