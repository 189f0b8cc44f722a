"""Caches whose keys come from outside. Pure."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")

#: Longest text that a cache keeps as its key: more than an address, a field's name or most media types have. Without a
#: bound, a stranger could make a thousand keys of 32 KB each.
LONGEST_KEY = 128


def bounded_cache(maxsize: int) -> Callable[[Callable[[str], R]], Callable[[str], R]]:
    """``functools.lru_cache`` for a function of one text, which is called anew for texts over ``LONGEST_KEY``."""

    def decorate(function: Callable[[str], R]) -> Callable[[str], R]:
        cached = functools.lru_cache(maxsize=maxsize)(function)

        @functools.wraps(function)
        def call(text: str) -> R:
            return cached(text) if len(text) <= LONGEST_KEY else function(text)

        return call

    return decorate
