"""Judging a request by its signature (docs/protocol.md, section 2). Pure: secrets and the time are arguments."""

from __future__ import annotations

import enum
import re
from typing import Any, NamedTuple, TypeGuard
from urllib.parse import unquote

import jwt

from hmacfs.errors import BadRequest, BadSignature, BadToken, LengthRequired, SizeMismatch, SlotMismatch, TokenExpired
from hmacfs.protocol.keyring import Keyring, message_v, message_v2, message_v3
from hmacfs.protocol.media_types import DEFAULT, guess

_HEX_MAC = re.compile(r"[0-9a-fA-F]{64}")
_EXPIRES = re.compile(r"[0-9]{1,12}")


class Scheme(enum.StrEnum):
    """The ways to sign a request, the highest first: a request is judged by the highest that it carries."""

    V3 = "v3"
    V2 = "v2"
    TOKEN = "token"  # noqa: S105 - the parameter's name
    V = "v"
    BEARER = "bearer"


_QUERY_SCHEMES = (Scheme.V3, Scheme.V2, Scheme.TOKEN, Scheme.V)
# On Python 3.11 each look-up of an enum's member is a call in Python.
_V3, _V = Scheme.V3, Scheme.V
_PARAMETERS = frozenset({*_QUERY_SCHEMES, "expires"})
PARAMETERS_LIMIT = 100
#: Of the name of a parameter that matters, and of its value, each character of them escaped.
_NAME_LIMIT, _VALUE_LIMIT = 3 * max(map(len, _PARAMETERS)), 3 * 255
#: A slot's token has some hundred bytes: its longest claims are a name of 255 characters and an address of 3,071 bytes.
_BEARER_LIMIT = 8192
_NO_SCHEMES: frozenset[Scheme] = frozenset()
#: The length of a query that is ``v=`` and a MAC.
_V_ALONE = len("v=") + 64


def _jwt_key(secret: bytes) -> bytes:
    """The same key to HMAC, which pads with zeros itself (RFC 2104), in the 32 bytes below which PyJWT warns at each
    use. XMPP servers are configured with shorter ones; the configuration demands at least 16."""
    return secret.ljust(32, b"\0")


#: Times are checked here and not by PyJWT, which would read the clock.
_JWT = jwt.PyJWT(
    options={
        "verify_exp": False,
        "verify_iat": False,
        "verify_nbf": False,
        "verify_aud": False,
        "verify_iss": False,
        "verify_sub": False,
        "verify_jti": False,
    }
)


def encode_bearer(keyring: Keyring, claims: dict[str, Any]) -> str:
    """A bearer token over ``claims``."""
    return _JWT.encode(claims, _jwt_key(keyring.secrets[0]), algorithm="HS256")


def _decode_bearer(keyring: Keyring, token: str) -> dict[str, Any]:
    """The claims of a token that one of the secrets signed. Raises ``BadToken``."""
    if len(token) > _BEARER_LIMIT:
        raise BadToken
    for secret in keyring.secrets:
        try:
            return _JWT.decode(token, _jwt_key(secret), algorithms=["HS256"])
        except jwt.InvalidTokenError:
            continue
        except Exception as error:  # PyJWT lets a few others through for odd input
            raise BadToken from error
    raise BadToken


class SignedRequest(NamedTuple):
    """What a signature may cover.

    url_path: decoded, with the prefix; path: below the prefix. length: bytes of the whole file, ``None`` if the request
    does not say. content_type: the header as sent. query: the raw query string. authorization: the header.
    other_types: types that a signature over the type may be over as well. Where they are given, even if there are none,
    the answer tells which type it is over.
    """

    method: str
    url_path: str
    path: str
    length: int | None
    content_type: str | None
    query: str
    authorization: str | None
    other_types: tuple[str, ...] | None = None


class Verified(NamedTuple):
    """A signature that holds.

    binds_length: whether it covers the file's size. binds_type: whether it covers the Content-Type header as sent.
    content_type: the type it prescribes instead, ``None`` if it does not.
    expires: Unix seconds from when on the file may be deleted; sub: the uploader (bearer only).
    """

    scheme: Scheme
    binds_length: bool
    content_type: str | None = None
    expires: int | None = None
    sub: str | None = None
    binds_type: bool = False


_VERIFIED_V = Verified(_V, binds_length=True)
_VERIFIED_V3 = Verified(_V3, binds_length=False)


def schemes_in(query: str) -> frozenset[Scheme]:
    """The schemes that a query has parameters of, be they good, malformed or repeated: nothing is verified here. Raises
    ``BadRequest``."""
    if not query:
        return _NO_SCHEMES
    return frozenset(filter(_parameters(query).__contains__, _QUERY_SCHEMES))


def v_alone(query: str) -> bytes | None:
    """The MAC of a query that is a ``v`` and nothing else, ``None`` for any other. The slots of most XMPP servers have
    such a one, and nothing else of a request matters then than its path and length: see ``verify_v``."""
    if len(query) != _V_ALONE or not query.startswith("v="):
        return None
    try:
        return bytes.fromhex(query[2:])
    except ValueError:
        return None


def verify_v(path: str, length: int, mac: bytes, keyring: Keyring) -> Verified:
    """Judge a request by the MAC of its ``v``. Raises ``BadSignature``."""
    if keyring.is_signed(message_v(path, length), mac):
        return _VERIFIED_V
    raise BadSignature


def verify(request: SignedRequest, keyring: Keyring, now: float, *, accept_guessed_type: bool = False) -> Verified:
    """Judge a request by the highest scheme it carries: v3, v2, token, v, and a bearer token only without those.

    now: Unix seconds. accept_guessed_type: let a v2 or token MAC be made over the type of the path's extension.
    Raises ``BadRequest``, ``BadSignature`` (also for a request without any), ``BadToken``, ``TokenExpired``,
    ``SlotMismatch``, ``SizeMismatch``, and ``LengthRequired`` for a scheme that covers a length when the request gives
    none.
    """
    parameters = _parameters(request.query) if request.query else {}
    if None in parameters.values():
        raise BadSignature
    for scheme in _QUERY_SCHEMES:
        if scheme in parameters:
            mac = parameters[scheme] or ""
            if not _HEX_MAC.fullmatch(mac):
                raise BadSignature
            if scheme is _V3:
                return _verify_v3(request, keyring, now, mac, parameters.get("expires") or "")
            return _verify_sized(request, keyring, scheme, mac, accept_guessed_type=accept_guessed_type)
    kind, _, token = (request.authorization or "").partition(" ")
    if kind.lower() == "bearer":
        return _verify_bearer(request, keyring, now, token.strip())
    raise BadSignature


def _parameters(query: str) -> dict[str, str | None]:
    """The parameters of signatures, decoded; ``None`` for one that is repeated: a proxy, a log and another server may
    each look at another of its values.

    Example: ``"v=ab&x=1"`` gives ``{"v": "ab"}``, ``"v=ab&v=cd"`` gives ``{"v": None}``. Raises ``BadRequest`` for more
    parameters than any client sends: looking through thousands would cost as much as 40 requests.
    """
    if query.count("&") >= PARAMETERS_LIMIT:
        raise BadRequest(f"The query has more than {PARAMETERS_LIMIT} parameters.")
    found: dict[str, str | None] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if "%" in part:
            if len(name) <= _NAME_LIMIT:
                name = unquote(name)
            if len(value) <= _VALUE_LIMIT:  # else it is malformed either way
                value = unquote(value)
        if name in _PARAMETERS:
            found[name] = None if name in found else value
    return found


def _verify_v3(request: SignedRequest, keyring: Keyring, now: float, mac: str, expires: str) -> Verified:
    if not _EXPIRES.fullmatch(expires) or now >= int(expires):
        raise BadSignature
    methods = ("GET", "HEAD") if request.method == "HEAD" else (request.method,)
    # The digits as sent are what was signed: "01800000000" and "1800000000" are different messages.
    given = bytes.fromhex(mac)
    if any(keyring.is_signed(message_v3(method, expires, request.url_path), given) for method in methods):
        return _VERIFIED_V3
    raise BadSignature


def _verify_sized(
    request: SignedRequest, keyring: Keyring, scheme: Scheme, mac: str, *, accept_guessed_type: bool
) -> Verified:
    if request.length is None:
        raise LengthRequired
    given = bytes.fromhex(mac)
    if scheme is _V:
        return verify_v(request.path, request.length, given, keyring)
    types = [request.content_type or DEFAULT, *(request.other_types or ())]
    if accept_guessed_type:
        types.append(guess(request.path))
    for content_type in types:
        if keyring.is_signed(message_v2(request.path, request.length, content_type), given):
            prescribed = content_type if request.other_types is not None else None
            is_sent = content_type == request.content_type
            return Verified(scheme, binds_length=True, content_type=prescribed, binds_type=is_sent)
    raise BadSignature


def _verify_bearer(request: SignedRequest, keyring: Keyring, now: float, token: str) -> Verified:
    claims = _decode_bearer(keyring, token)
    expires, slot, filename, size = (claims.get(name) for name in ("exp", "slot", "filename", "filesize"))
    if not (_is_number(expires) and isinstance(slot, str) and isinstance(filename, str) and _is_number(size)):
        raise BadToken
    if now >= expires:
        raise TokenExpired
    if request.path != f"{slot}/{filename}":
        raise SlotMismatch
    if request.length is None:
        raise LengthRequired
    if request.length != size:
        raise SizeMismatch
    content_type, deletable, sub = claims.get("filetype"), claims.get("expires"), claims.get("sub")
    return Verified(
        Scheme.BEARER,
        binds_length=True,
        # No type, or an empty one, is still the signer's word: the uploader's header does not replace it.
        content_type=content_type if isinstance(content_type, str) and content_type.strip() else DEFAULT,
        expires=int(deletable) if _is_number(deletable) else None,
        sub=sub if isinstance(sub, str) else None,
    )


def _is_number(value: object) -> TypeGuard[float]:
    """A number in the sense of JSON; Python's booleans are ints too, and NaN is never in the future."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e15 < value < 1e15
