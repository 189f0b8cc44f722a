"""The settings of an object store, for its client. No driver is imported: a process that has yet to fork may ask."""

from __future__ import annotations

from importlib.util import find_spec

from hmacfs.config import Settings, Storage
from hmacfs.errors import ConfigError
from hmacfs.stores.s3.options import S3Options, address_of

#: An extra of this package.
_DRIVERS = ("botocore", "urllib3")


def check_settings(settings: Settings) -> None:
    """Raises ``ConfigError`` if an object store's client is not installed, or cannot be told where the bucket is.
    Connects to nothing."""
    if settings.storage is not Storage.S3:
        return
    if any(find_spec(name) is None for name in _DRIVERS):
        package = "pip install 'hmac-file-server[s3]'"
        raise ConfigError(f"{settings.origins['Storage']}: its driver is not installed: {package}")
    try:
        address_of(options_of(settings))
    except ValueError as error:
        raise ConfigError(f"{settings.origins['S3Endpoint']}: {error}") from None


def options_of(settings: Settings) -> S3Options:
    """For the client of an object store."""
    return S3Options(
        settings.s3_endpoint,
        settings.s3_bucket,
        settings.s3_region,
        settings.s3_access_key,
        settings.s3_secret_key,
        settings.s3_session_token,
        settings.s3_path_style,
        settings.s3_ca_file,
        settings.s3_timeout,
        settings.max_retries,
        settings.retry_delay,
    )
