"""The server's secrets, and the MACs of docs/protocol.md, section 2 made with them. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence

#: SHA-256's.
_BLOCK_BYTES = 64


class Keyring:
    """The secrets of a server. The first one signs; all of them verify, so that a secret can be changed without
    breaking the slots that were handed out with the old one."""

    __slots__ = ("_keys", "secrets")

    def __init__(self, secrets: Sequence[bytes]) -> None:
        if not secrets:
            raise ValueError("a keyring needs a secret")
        self.secrets = tuple(secrets)
        self._keys = tuple(map(_Key, self.secrets))

    def __repr__(self) -> str:
        return f"<Keyring of {len(self.secrets)}>"

    def sign(self, message: bytes) -> str:
        """The HMAC-SHA256 in lower-case hex."""
        return self._keys[0].digest(message).hex()

    def macs(self, message: bytes) -> Iterator[str]:
        """The HMAC-SHA256 under each of the secrets, as ``sign`` gives it."""
        return (key.digest(message).hex() for key in self._keys)

    def is_signed(self, message: bytes, mac: bytes) -> bool:
        """Whether ``mac`` is a signature of ``message`` under any of the secrets."""
        for key in self._keys:  # noqa: SIM110 - a generator would cost each upload two more calls
            if hmac.compare_digest(key.digest(message), mac):
                return True
        return False


class _Key:
    """HMAC-SHA256 under one secret (RFC 2104): the states of both hashes after the padded key are kept and copied. That
    takes a third of the time of a copied ``hmac.HMAC``, a fifth of ``hmac.digest``'s."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: bytes) -> None:
        block = hashlib.sha256(secret).digest() if len(secret) > _BLOCK_BYTES else secret
        block = block.ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def digest(self, message: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


def message_v(path: str, length: int) -> bytes:
    return f"{path} {length}".encode()


def message_v2(path: str, length: int, content_type: str) -> bytes:
    # A header value is bytes as latin-1 text in WSGI; the signer saw those bytes.
    return f"{path}\0{length}\0".encode() + content_type.encode("latin-1", "replace")


def message_v3(method: str, expires: int | str, url_path: str) -> bytes:
    return f"{method}\n{expires}\n{url_path}".encode()


def sign_v(keyring: Keyring, path: str, length: int) -> str:
    """``v=`` for an upload of ``length`` bytes."""
    return keyring.sign(message_v(path, length))


def sign_v2(keyring: Keyring, path: str, length: int, content_type: str) -> str:
    """``v2=`` (and ``token=``) for an upload of ``length`` bytes sent as ``content_type``."""
    return keyring.sign(message_v2(path, length, content_type))


def sign_v3(keyring: Keyring, method: str, expires: int, url_path: str) -> str:
    """``v3=`` for ``method`` on ``url_path`` (decoded, prefix included) until ``expires`` (Unix seconds)."""
    return keyring.sign(message_v3(method, expires, url_path))
