"""Redacting passwords in texts that are shown: a setting's value, or a message that repeats one. Pure.

In doubt more is redacted than is secret: the operator, who reads it, wrote the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

HIDDEN = "***"
#: Shorter passwords are parts of too many words to be redacted wherever they occur.
_SHORTEST = 8
_ENCODED_TWICE = 3

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
#: Names of secret values: "password=", "sentinel_password=", "sslpassword:", "PGPASSWORD ="
_NAME = r"[\w-]*(?:pass(?:word|wd|phrase)?|pwd|secret|token|credential|api[_-]?key)[\w-]*"
_CREDENTIALS_IN_VALUE = re.compile(rf"^(\s*(?:{_SCHEME})?).*@", re.DOTALL | re.IGNORECASE)
_PARAMETER_IN_VALUE = re.compile(rf"({_NAME}\s*[=:]\s*)[^&]+", re.DOTALL | re.IGNORECASE)
# In a message a text ends at a blank or a quote; a colon may be punctuation there.
_CREDENTIALS_IN_MESSAGE = re.compile(
    rf"({_SCHEME})[^\s\"'<>]*@|(?<![^\s\"'=(,<\[])[^\s\"'=(,<\[/]*:[^\s\"']*@(?=[\w\[])", re.IGNORECASE
)
_PARAMETER_IN_MESSAGE = re.compile(rf"({_NAME}=)(?:'[^']*'|\"[^\"]*\"|[^\s&\"']+)", re.IGNORECASE)


def mask_value(text: str) -> str:
    """A setting's text: nothing of what stands before the last ``@`` but a URL's scheme, nor of parameters that name a
    password, be any of it percent-encoded. What was encoded is shown decoded then."""
    decoded = text
    for _ in range(_ENCODED_TWICE):
        decoded = unquote(decoded)
    masked = _PARAMETER_IN_VALUE.sub(rf"\1{HIDDEN}", _CREDENTIALS_IN_VALUE.sub(rf"\1{HIDDEN}@", decoded))
    return text if masked == decoded else masked


def mask(message: str, secrets: Iterable[str] = ()) -> str:
    """A message: nothing of ``secrets``, nor of credentials in a URL or before an address, nor of parameters that name
    a password."""
    for secret in secrets:
        if len(secret) >= _SHORTEST:
            message = message.replace(secret, HIDDEN)
    if "@" in message:
        message = _CREDENTIALS_IN_MESSAGE.sub(rf"\g<1>{HIDDEN}@", message)
    return _PARAMETER_IN_MESSAGE.sub(rf"\1{HIDDEN}", message) if "=" in message else message


def passwords_in(address: str) -> list[str]:
    """The passwords in a URL, as they stand there and decoded, the longest first."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return []
    found = [parts.netloc.rpartition("@")[0].partition(":")[2]]
    found += [value for _, _, value in (pair.partition("=") for pair in parts.query.split("&"))]
    return sorted({*found, *map(unquote, found)} - {""}, key=len, reverse=True)
