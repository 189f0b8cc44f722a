"""Numbers of bytes as header fields give them. Pure."""

from __future__ import annotations

from hmacfs.errors import TooLarge

#: More significant digits than the size of any file has (2**60 has 19). Not every parser on the way reads longer ones
#: alike, and Python's own refuses some thousand digits.
DIGITS_LIMIT = 18
#: One more than the largest number that is taken.
BEYOND_ALL = 1_000_000_000_000_000_000


def byte_count(text: str) -> int | None:
    """The number that ``text`` is, ``None`` if it is none.

    It is digits and nothing else; leading zeros change nothing. Raises ``TooLarge`` for a number of more than
    ``DIGITS_LIMIT`` digits: its sender must be told that it is too large, not that it is none (RFC 9110 section 8.6).

    Example: ``"007"`` is 7; ``"-1"``, ``"1_0"`` and ``""`` are ``None``.
    """
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0") or "0"
    if len(digits) > DIGITS_LIMIT:
        raise TooLarge
    return int(digits)
