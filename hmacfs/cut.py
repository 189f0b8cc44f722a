"""Truncating texts from outside for log lines and messages. Pure."""

from __future__ import annotations

import re

#: Most bytes of one field of a line, such as a path, and of a whole line without its time.
FIELD_LIMIT, LINE_LIMIT = 768, 1024

#: At the end of a truncated text, what may be incomplete: a percent-escape, or a character that takes several.
_LAST_ESCAPES = re.compile(r"(?:%[C-Fc-f][0-9A-Fa-f](?:%[89ABab][0-9A-Fa-f])*)?(?:%[0-9A-Fa-f]?)?$")


def cut(text: str, limit: int = FIELD_LIMIT) -> str:
    """``text`` in at most ``limit`` bytes of UTF-8, without parts of characters. A truncated text says how long it was:
    ``abc...(32000 bytes)``."""
    if len(text) <= limit and (text.isascii() or len(text.encode("utf-8", "surrogatepass")) <= limit):
        return text
    data = text.encode("utf-8", "surrogatepass")
    note = f"...({len(data)} bytes)"
    return data[: max(0, limit - len(note))].decode("utf-8", "ignore") + note


def cut_escaped(text: str, size: int, limit: int = FIELD_LIMIT) -> str:
    """The same for ASCII text with percent-escapes, no part of which is left either. size: the bytes that it was made
    from; if that is more than ``limit``, ``text`` need only be the beginning."""
    if size <= limit and len(text) <= limit:
        return text
    note = f"...({size} bytes)"
    return _LAST_ESCAPES.sub("", text[: limit - len(note)]) + note
