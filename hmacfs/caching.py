"""Caches whose keys come from outside. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
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


class RecentKeys(Generic[K]):
    """The ``maxsize`` keys that were added or found last."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._keys: OrderedDict[K, None] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        if key not in self._keys:
            return False
        self._keys.move_to_end(key)
        return True

    def add(self, key: K) -> None:
        self._keys[key] = None
        self._keys.move_to_end(key)
        if len(self._keys) > self._maxsize:
            self._keys.popitem(last=False)
