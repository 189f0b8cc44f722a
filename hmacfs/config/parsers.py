"""How settings are read from what TOML gives, or from a text of the environment. Pure.

Every parser returns the value, or raises ``ValueError`` with what is allowed.
"""

from __future__ import annotations

import enum
import ipaddress
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard, TypeVar
from urllib.parse import SplitResult, urlsplit

from hmacfs.addresses import Network
from hmacfs.config.values import DatabaseHost, FreeSpace, RequestRate, Secret, TcpAddress
from hmacfs.protocol.names import is_reserved

T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)

Parser = Callable[[Any], T]

#: Units as the original counts them: KB is 1,024 bytes, like KiB.
_SIZE_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _SIZE_UNITS.update(dict.fromkeys((_letter, f"{_letter}b", f"{_letter}ib"), 1024**_power))
#: Those of Go and longer ones; "" for seconds. There are two characters for micro.
_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 0.001, "s": 1.0, "": 1.0}
_DURATION_UNITS |= {"m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0}
_DURATION_PART = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})\s*([a-z\u00b5\u03bc]+)\s*")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)")
_LARGEST = 2**62
#: In bytes; a key has 1,024 with the name.
_LONGEST_PREFIX = 256
#: The periods of request rates, a month and a year as ``limits`` counts them.
_RATE_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "month": 2_592_000, "year": 31_104_000}
_RATE = re.compile(
    r"\s*(?P<amount>[0-9]{1,18})\s*(?:/|per)\s*(?P<periods>[0-9]{1,9})?\s*"
    rf"(?P<unit>{'|'.join(_RATE_SECONDS)})s?\s*",
    re.IGNORECASE,
)
_DATABASE_HOST = re.compile(
    r"(?P<path>/.*)|(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]@/?#=%\s\"']+))(?::(?P<port>[0-9]{1,5}))?"
)


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
    """A text from the environment, where numbers and truth values are texts too."""

    __slots__ = ()


def integer(least: int, most: int = _LARGEST) -> Parser[int]:
    """A whole number, with bounds that are allowed themselves."""
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


def size(least: int = 0, most: int = _LARGEST) -> Parser[int]:
    """Bytes, with bounds that are allowed themselves."""
    bounds = f"from {least} to {most}" if most < _LARGEST else f"of at least {least}"
    allowed = f'a size {bounds}, as a number of bytes or as text such as "64KB" or "1GB"'

    def parse(value: Any) -> int:
        number = value if type(value) is int and 0 <= value <= _LARGEST else int(_quantity(value, _SIZE_UNITS, allowed))
        if not least <= number <= most:
            raise ValueError(allowed)
        return number

    return parse


def byte_rate(value: Any) -> int:
    """Bytes per second; 0 for no limit."""
    allowed = 'a rate, as a number of bytes per second or as text such as "1MB/s"; 0 for no limit'
    if isinstance(value, str):
        value = re.sub(r"\s*/\s*s(ec)?$|ps$", "", value.strip(), flags=re.IGNORECASE)
    return int(_quantity(value, _SIZE_UNITS, allowed))


def duration(*, zero: bool = False) -> Parser[float]:
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


def optional(parser: Parser[T]) -> Parser[T | None]:
    """``None`` for an empty text."""
    return lambda value: None if isinstance(value, str) and not value.strip() else parser(value)


def choice(words: type[E], **synonyms: E) -> Parser[E]:
    """One of an enumeration's texts, or of its names in small letters where its values are numbers."""
    members = {member.value if isinstance(member, str) else member.name.lower(): member for member in words}
    allowed = " or ".join(f'"{word}"' for word in members)
    members |= synonyms

    def parse(value: Any) -> E:
        # Only text can be the empty one: `FallbackDBTLS = true` does not mean the driver's default.
        member = members.get(value.strip().lower()) if isinstance(value, str) else None
        if member is None:
            raise ValueError(allowed)
        return member

    return parse


def path(value: Any) -> Path:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError("a path")
    try:
        return Path(_by_bytes(value)).expanduser()
    except RuntimeError:
        raise ValueError("a path; there is no user of this name") from None


def _by_bytes(value: str) -> str:
    """The path for text in UTF-8, independent of the locale. Text of the environment was decoded by the locale, which
    Python reverses when it opens the file."""
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
    """Whether it is text without surrogates, by which Python represents bytes of the environment that are not UTF-8."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def many(parser: Parser[T]) -> Parser[tuple[T, ...]]:
    """A list; from the environment, a text whose items are separated by commas."""

    def parse(value: Any) -> tuple[T, ...]:
        if isinstance(value, FromEnvironment):
            value = [FromEnvironment(item.strip()) for item in value.split(",") if item.strip()]
        if not isinstance(value, list):
            raise ValueError("a list")
        try:
            return tuple(parser(item) for item in value)
        except ValueError as error:
            raise ValueError(f"a list, each item {error}") from None

    return parse


def listen_address(value: Any) -> str:
    """The text of an address or path: ``resolve.listen`` knows which. A number is a port."""
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


def database_host(value: Any) -> DatabaseHost:
    """This machine for an empty text."""
    match = _DATABASE_HOST.fullmatch(text(value) or "localhost")
    port = int(match["port"]) if match and match["port"] else None
    if match is None or (port is not None and not 1 <= port <= 65535):
        raise ValueError(
            'a host with an optional port, such as "localhost:5432" or "[::1]:3306", or the path of a Unix socket'
        )
    return DatabaseHost(match["path"] or match["v6"] or match["host"], port)


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


def endpoint(value: Any) -> str:
    """Scheme, host and port; empty for Amazon's."""
    allowed = 'a URL without a path, such as "https://s3.example.org" or "http://127.0.0.1:9000"'
    word = text(value).rstrip("/")
    parts = _url(word, allowed)
    is_origin = parts.hostname and f"{parts.scheme}://{parts.netloc}" == word and "@" not in parts.netloc
    if word and not (parts.scheme in ("http", "https") and is_origin and word.isascii() and word.isprintable()):
        raise ValueError(allowed)
    return word


def bucket(value: Any) -> str:
    word = text(value)
    if word and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]", word):
        raise ValueError("a bucket's name: 3 to 63 letters, digits, dots and hyphens")
    return word


def key_prefix(value: Any) -> str:
    """What keys begin with: empty, or a path with a slash at its end."""
    word = text(value).strip("/")
    parts = word.split("/") if word else []
    is_path = all(part not in ("", ".", "..") and part.isprintable() and not is_reserved(part) for part in parts)
    if not is_path or not _is_unicode(word) or len(word.encode()) > _LONGEST_PREFIX:
        raise ValueError(f'a path of at most {_LONGEST_PREFIX} bytes, such as "uploads"; empty for none')
    return f"{word}/" if word else ""


def word(value: Any) -> str:
    """A text of printable ASCII without spaces, or an empty one."""
    found = text(value)
    if not re.fullmatch("[!-~]*", found):
        raise ValueError("a word of ASCII characters without spaces")
    return found


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


def request_rates(value: Any) -> tuple[RequestRate, ...]:
    """Several at once, the shortest first; in the words of the package ``limits``: "60/minute", "10 per 5 seconds"."""
    parts = re.split("[,;|]", text(value)) if text(value) else []
    matches = [_RATE.fullmatch(part) for part in parts]
    rates = [_request_rate(match) for match in matches if match]
    if len(rates) < len(parts):
        raise ValueError('a rate such as "60/minute", several separated by ";", or "" for no limit')
    return tuple(sorted(rates, key=lambda rate: rate.seconds))


def _request_rate(match: re.Match[str]) -> RequestRate:
    amount, periods, unit = int(match["amount"]), int(match["periods"] or 1) or 1, match["unit"].lower()
    return RequestRate(amount, periods, unit, periods * _RATE_SECONDS[unit])


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
