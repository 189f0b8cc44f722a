"""Session tokens: the holder of one may write that upload. Pure but for the random numbers.

A token is kept nowhere. Session stores and file names have its *key*, a digest of it, which opens nothing: a reader
of a database, a backup or the reserved folder learns of the upload and cannot take it over. Since a token must be
given again to the holder of the slot's signature, it is a MAC, under the server's secret, of a *nonce* that is in the
record.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

from hmacfs.protocol.keyring import Keyring
from hmacfs.uploads.session import Session

#: No signed path or method begins with NUL, so no signature of docs/protocol.md, section 2 is ever a token.
_PURPOSE = b"\0hmacfs session token\0"
_TOKEN = re.compile(r"s[A-Za-z0-9_-]{43}")
#: Those of 1.0.0, whose records and files have the token itself for a key. Today's keys have another length, so none of
#: them passes for such a token.
_FORMER_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


class Identity(NamedTuple):
    """key: names the session's record and its unfinished file. nonce: what its token is derived from."""

    key: str
    nonce: str


class SessionTokens:
    """Makes tokens with the first of the server's secrets, and finds them again with all of them."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def new(self) -> Identity:
        """For a new session."""
        nonce = secrets.token_hex(16)
        key = key_of(_token(self._keyring.sign(_message(nonce))))
        assert key is not None
        return Identity(key, nonce)

    def of(self, session: Session) -> str | None:
        """The session's token; ``None`` if the secret that it was made with is none of this server's any more."""
        if _FORMER_TOKEN.fullmatch(session.key):
            return session.key
        tokens = (_token(mac) for mac in self._keyring.macs(_message(session.nonce)))
        return next((token for token in tokens if is_of(session, token)), None)


def key_of(token: str) -> str | None:
    """The key of the session that has this token, if any has; ``None`` for what cannot be a token."""
    if _TOKEN.fullmatch(token):
        return hashlib.sha256(token.encode()).hexdigest()
    return token if _FORMER_TOKEN.fullmatch(token) else None


def is_of(session: Session, token: str) -> bool:
    """Whether this is the session's token. Takes the same time wherever they differ."""
    key = key_of(token)
    return key is not None and hmac.compare_digest(key, session.key)


def _message(nonce: str) -> bytes:
    return _PURPOSE + nonce.encode()


def _token(mac: str) -> str:
    """256 bits, safe as a URL's segment."""
    return "s" + base64.urlsafe_b64encode(bytes.fromhex(mac)).decode().rstrip("=")
