"""The client that a proxy names in ``X-Forwarded-For`` or ``Forwarded`` (RFC 7239). Pure.

Both lists grow at their end: what a trusted proxy wrote is there, what the client made up stands before it. So they are
read from the end, and what is malformed before an entry changes nothing about it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

#: What a proxy writes for a client whose address it does not know or does not tell.
UNKNOWN = "unknown"
#: What nginx writes about a peer on a Unix socket.
UNIX_SOCKET = "unix:"

#: Of an address: digits, or an obfuscated one.
_PORT = r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
_BRACKETED = re.compile(rf"\[([0-9A-Fa-f:.]+(?:%[^\]]*)?)\]{_PORT}")
_WITH_PORT = re.compile(rf"([0-9.]+){_PORT}")

#: An element's length, and how many are looked at: a client may have put any number of them before the proxy's own.
_ELEMENT_LIMIT = 512
_ENTRIES_LIMIT = 32

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - RFC 9110's word for it
_QUOTED = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
#: Unquoted addresses with colons and brackets are no tokens, and some proxies write them.
_PAIR = re.compile(rf"[ \t]*({_TOKEN})=({_QUOTED}|[!#$%&'*+\-.^_`|~0-9A-Za-z:\[\]]+)[ \t]*")

_HARMLESS = re.compile(r"[^A-Za-z0-9._:\[\]-]")
_NAME_LIMIT = 64
#: No address is longer, with its zone and port.
_ENTRY_LIMIT = 128


def node(text: str) -> str:
    """An entry as the name of a client: its address without port and brackets, ``unknown``, or ``unix:``.

    Any other text (an obfuscated identifier, or garbage) was written about one client too: it is that client's name, in
    harmless characters. Empty for an empty entry.

    Examples: ``[2001:db8::1]:443`` is ``2001:db8::1``; ``_hidden`` stays ``_hidden``.
    """
    text = text.strip(" \t")
    if len(text) > _ENTRY_LIMIT:
        text = text[:_NAME_LIMIT]
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].strip(" \t")
    if text.lower() in ("", UNKNOWN, UNIX_SOCKET):
        return text.lower()
    match = _BRACKETED.fullmatch(text) or _WITH_PORT.fullmatch(text)
    address = match[1] if match is not None else text
    if _is_address(address):
        return address
    return _HARMLESS.sub("?", text[:_NAME_LIMIT])


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def nodes_of_x_forwarded_for(header: str) -> Iterator[str]:
    """The clients that ``X-Forwarded-For`` names, the last first; empty entries are left out."""
    for entry in reversed(header.rsplit(",", _ENTRIES_LIMIT)[-_ENTRIES_LIMIT:]):
        if name := node(entry):
            yield name


def nodes_of_forwarded(header: str) -> Iterator[str]:
    """The clients that ``Forwarded`` names, the last first. An element without ``for`` is ``unknown``; a malformed one
    gives a name that no proxy has, and ends the list.

    Example: ``for=192.0.2.60;proto=http, for="[2001:db8::17]:4711"`` gives ``2001:db8::17``, then ``192.0.2.60``.
    """
    end = len(header.rstrip(" \t"))
    for _ in range(_ENTRIES_LIMIT if end else 0):
        found = _last_element(header[max(0, end - _ELEMENT_LIMIT) : end])
        if found is None:
            yield node(header[max(0, end - _NAME_LIMIT) : end].rpartition(",")[2]) or UNKNOWN
            return
        name, size = found
        if name:
            yield name
        end -= size
        if end <= 0:
            return
        end -= 1  # the comma


def _last_element(text: str) -> tuple[str, int] | None:
    """The client of the last element in a list, and the element's length; an empty name for an empty element. ``None``
    if the list does not end in an element.

    Searches commas from the end. One within a quoted string does not separate elements: the quotes after it do not
    pair, so the comma before it is tried.
    """
    start = len(text)
    while start >= 0:
        start = text.rfind(",", 0, start)
        element = text[start + 1 :]
        if element.count('"') % 2 == 0 or "\\" in element:
            name = _client_of(element)
            if name is not None:
                return name, len(element)
    return None


def _client_of(element: str) -> str | None:
    """The client of one element; ``None`` if that is malformed, empty if it is empty."""
    if not element.strip(" \t"):
        return ""
    name = UNKNOWN
    seen: set[str] = set()
    position = 0
    while True:
        if match := _PAIR.match(element, position):
            key, value = match[1].lower(), match[2]
            if key in seen:  # RFC 7239 section 4
                return None
            seen.add(key)
            if key == "for":
                name = node(re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value) or UNKNOWN
            position = match.end()
        if position == len(element):
            return name
        if element[position] != ";":
            return None
        position += 1
