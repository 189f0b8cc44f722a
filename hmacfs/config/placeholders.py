"""Weak secrets: placeholders of examples, and texts with little entropy. Pure."""

from __future__ import annotations

import math
import re

#: Texts of examples, of this project and of others, and what people write until they have a secret; compared in small
#: letters, without digits and punctuation.
_KNOWN = frozenset(
    """
    ahorseisahorseevenisajet secret mysecret thesecret hmac hmacsecret mysecretkey secretkey supersecret
    supersecretkey topsecret verysecret verysecretkey verysecrethmackey hmackey sharedsecret stronghmacsecret
    strongsecret sekrit geheim password mypassword passwort pass passwd dbpassword postgres mysql mariadb
    redis root admin test testtest testsecret default example examplesecret todo xxx foobar qwerty qwertyuiop
    letmein abcdefghijklmnopqrstuvwxyz theoldone
    """.split()  # noqa: SIM905
)
#: Words that mark a placeholder, with any text around them.
_MARKS = re.compile(
    r"change_?me|replace_?me|place_?holder|your_(?:[a-z]+_){0,4}(?:secret|password|key)|your(?:secret|password|key)|"
    r"put_?(?:the|your|a)_?secret|secret_?(?:goes_?)?here|insert_?(?:the|your|a)?_?secret|strong_?hmac_?secret"
)
#: By the estimate below, for the beginning of a text. Hardly any 16 random hex digits have so little entropy.
_LEAST_BITS, _LOOKED_AT = 32.0, 64


def is_placeholder(text: str) -> bool:
    """Whether it is a text of examples that everybody knows."""
    words = re.sub(r"[^a-z0-9]+", "_", text.lower())
    return _MARKS.search(words) is not None or re.sub(r"[^a-z]", "", words) in _KNOWN


def can_be_guessed(text: str) -> bool:
    """Whether its entropy is low, since it repeats itself ("abcabcabc"), runs along the alphabet ("12345678") or has
    few different characters. The estimate: characters that are not predicted by the one before or by the one a period
    earlier, times the bits of the alphabet that occurs."""
    text = text[:_LOOKED_AT]
    unpredicted = len(text)
    for period in range(1, len(text) // 2 + 1):
        steps = (abs(ord(one) - ord(other)) for one, other in zip(text[period:], text, strict=False))
        predicted = sum(step <= (1 if period == 1 else 0) for step in steps)
        unpredicted = min(unpredicted, len(text) - predicted)
    return unpredicted * math.log2(max(2, len(set(text)))) < _LEAST_BITS
