"""The server's secrets, and the MACs of docs/protocol.md, section 2 made with them. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence


class Keyring:
    """The secrets of a server. The first one signs; all of them verify, so that a secret can be changed without
    breaking the slots that were handed out with the old one."""

    __slots__ = ("_keyed", "secrets")

    def __init__(self, secrets: Sequence[bytes]) -> None:
        if not secrets:
            raise ValueError("a keyring needs a secret")
        self.secrets = tuple(secrets)
        # To be copied: a new one for each message takes OpenSSL three times as long.
        self._keyed = tuple(hmac.new(secret, digestmod="sha256") for secret in self.secrets)

    def __repr__(self) -> str:
        return f"<Keyring of {len(self.secrets)}>"

    def sign(self, message: bytes) -> str:
        """The HMAC-SHA256 in lower-case hex."""
        return _digest(self._keyed[0], message).hex()

    def macs(self, message: bytes) -> Iterator[str]:
        """The HMAC-SHA256 under each of the secrets, as ``sign`` gives it."""
        return (_digest(keyed, message).hex() for keyed in self._keyed)

    def is_signed(self, message: bytes, mac: str) -> bool:
        """Whether ``mac`` (64 hex digits) is a signature of ``message`` under any of the secrets."""
        given = bytes.fromhex(mac)
        for keyed in self._keyed:  # noqa: SIM110 - a generator would cost each upload two more calls
            if hmac.compare_digest(_digest(keyed, message), given):
                return True
        return False


def _digest(keyed: hmac.HMAC, message: bytes) -> bytes:
    mac = keyed.copy()
    mac.update(message)
    return mac.digest()


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
