"""What an operator should know of a configuration though the server starts with it."""

from __future__ import annotations

from collections.abc import Iterator

from hmacfs.config.parsers import password
from hmacfs.config.placeholders import can_be_guessed, is_placeholder
from hmacfs.config.settings import Settings
from hmacfs.config.values import Storage

_NEW_SECRET = "make a new one, such as by: openssl rand -hex 32"  # noqa: S105
_NO_SECRET_ANY_MORE = "take it out as soon as the slots made with it are used up"  # noqa: S105

_ALONE = (
    "unfinished uploads, their locks and claims of names are known on this machine alone, in SQLite: where several"
    " servers use one bucket and S3Prefix, set RedisAddr or FallbackEnabled for all of them"
)


def warnings(settings: Settings) -> list[str]:
    """One sentence each, with the setting's origin before it."""
    remarks = [*settings.remarks, *_weak_secrets(settings)]
    remarks += [f"{settings.origins[key]}: {sentence}" for key, sentence in _risks(settings)]
    return remarks


def notes(settings: Settings) -> list[str]:
    """As ``warnings``, of what may well be meant."""
    if settings.storage is Storage.S3 and not (settings.redis_addr or settings.fallback_enabled):
        return [f"{settings.origins['S3Bucket']}: {_ALONE}"]
    return []


def _weak_secrets(settings: Settings) -> Iterator[str]:
    """A sentence about each. The password of another server may be short: nobody can try many of them there."""
    for setting, secret in settings.secrets():
        text, origin = secret.reveal().decode(), settings.origins[setting.key]
        remedy = _NO_SECRET_ANY_MORE if setting.key == "PreviousSecrets" else _NEW_SECRET
        if is_placeholder(text):
            yield f"{origin}: is a placeholder, which everybody knows: {remedy}"
        elif setting.parse is not password and can_be_guessed(text):
            yield f"{origin}: can be guessed: {remedy}"


def _risks(settings: Settings) -> Iterator[tuple[str, str]]:
    if any(network.prefixlen == 0 for network in settings.trusted_proxies):
        yield "TrustedProxies", "every address is a trusted proxy: anybody may claim to be anybody; name your proxies"
    if any(network.prefixlen == 0 for network in settings.rate_limit_exempt):
        yield "RateLimitExempt", "every address is exempt: there are no rate limits"
    if settings.accept_unsized_chunks:
        yield "AcceptUnsizedChunks", "a signature over one chunk is good for files of UploadMaxSize"
