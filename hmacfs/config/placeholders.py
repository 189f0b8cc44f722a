"""Secrets that are none: everybody knows them, or can guess them. Pure."""

from __future__ import annotations

import math
import re

#: In small letters, without anything between them and without digits around them: of examples, this project's and
#: others', and what people write until they have something better.
_KNOWN = frozenset(
    """
    ahorseisahorseevenisajet secret mysecret thesecret hmac hmacsecret mysecretkey secretkey supersecret
    supersecretkey topsecret verysecret verysecretkey verysecrethmackey hmackey sharedsecret stronghmacsecret
    strongsecret sekrit geheim password mypassword passwort pass passwd dbpassword postgres mysql mariadb
    redis root admin test testtest testsecret default example examplesecret todo xxx foobar qwerty qwertyuiop
    letmein abcdefghijklmnopqrstuvwxyz theoldone
    """.split()  # noqa: SIM905
)
#: Whatever stands around these.
_TELLING = re.compile(
    r"change_?me|replace_?me|place_?holder|your_(?:[a-z]+_){0,4}(?:secret|password|key)|your(?:secret|password|key)|"
    r"put_?(?:the|your|a)_?secret|secret_?(?:goes_?)?here|insert_?(?:the|your|a)?_?secret|strong_?hmac_?secret"
)
#: By the measure below, of the beginning of a text. Hardly any 16 random hex digits come to so little.
_LEAST_BITS, _LOOKED_AT = 32.0, 64


def is_placeholder(text: str) -> bool:
    """Whether everybody knows it."""
    words = re.sub(r"[^a-z0-9]+", "_", text.lower())
    return _TELLING.search(words) is not None or re.sub(r"[^a-z]", "", words) in _KNOWN


def can_be_guessed(text: str) -> bool:
    """Whether it repeats itself, runs along the alphabet, or has few different characters: measured by those that the
    one before, or the one a period earlier, does not foretell."""
    text = text[:_LOOKED_AT]
    surprises = len(text)
    for period in range(1, len(text) // 2 + 1):
        steps = (abs(ord(one) - ord(other)) for one, other in zip(text[period:], text, strict=False))
        foretold = sum(step <= (1 if period == 1 else 0) for step in steps)
        surprises = min(surprises, len(text) - foretold)
    return surprises * math.log2(max(2, len(set(text)))) < _LEAST_BITS
