"""Caches whose keys come from outside. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")

#: The longest key, in characters: more than an address, a field's name or most media types have. Without a bound, a
#: client could make a thousand keys of 32 KB each.
LONGEST_KEY = 128


def bounded_cache(maxsize: int, *, longest: int = LONGEST_KEY) -> Callable[[Callable[[str], R]], Callable[[str], R]]:
    """Like ``functools.lru_cache`` for a function of one text, with two differences: results for texts longer than
    ``longest`` are not kept, and the eviction is first in, first out, so that a hit is one look-up in a dictionary
    and no call in Python."""

    def decorate(function: Callable[[str], R]) -> Callable[[str], R]:
        return _Results(function, maxsize, longest).__getitem__

    return decorate


class _Results(OrderedDict[str, R]):
    """The results by their texts, in the order of their coming. A plain dictionary finds its oldest key only after
    passing by all that were deleted (docs/facts.md, section 12)."""

    def __init__(self, function: Callable[[str], R], maxsize: int, longest: int) -> None:
        super().__init__()
        self._function = function
        self._maxsize = maxsize
        self._longest = longest

    def __missing__(self, text: str) -> R:
        result = self._function(text)
        if len(text) <= self._longest:
            if len(self) >= self._maxsize:
                self.popitem(last=False)
            self[text] = result
        return result
