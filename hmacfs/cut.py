"""Texts from outside in messages, cut to a length that nobody can exceed. Pure."""

from __future__ import annotations

import re

#: Bytes of one field of a line, such as a path; and of the whole line, without its time.
FIELD_LIMIT, LINE_LIMIT = 768, 1024

#: What may have been cut in two at the end: a percent-escape, or a character of several.
_LAST_ESCAPES = re.compile(r"(?:%[C-Fc-f][0-9A-Fa-f](?:%[89ABab][0-9A-Fa-f])*)?(?:%[0-9A-Fa-f]?)?$")


def cut(text: str, limit: int = FIELD_LIMIT) -> str:
    """``text`` in at most ``limit`` bytes of UTF-8. One that is longer ends in its whole length, as in
    ``abc...(32000 bytes)``; no character is cut in two."""
    if len(text) <= limit and (text.isascii() or len(text.encode("utf-8", "surrogatepass")) <= limit):
        return text
    data = text.encode("utf-8", "surrogatepass")
    note = f"...({len(data)} bytes)"
    return data[: max(0, limit - len(note))].decode("utf-8", "ignore") + note


def cut_escaped(text: str, size: int, limit: int = FIELD_LIMIT) -> str:
    """The same for ASCII text with percent-escapes. ``size`` is how many bytes it came from: if more than ``limit``,
    ``text`` is the beginning."""
    if size <= limit and len(text) <= limit:
        return text
    note = f"...({size} bytes)"
    return _LAST_ESCAPES.sub("", text[: limit - len(note)]) + note
