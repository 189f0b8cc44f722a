"""Reading the configuration: parsing what is given, and what must hold between settings.

Every mistake becomes one line that names where it is, the key, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hmacfs.config.declare import REQUIRED, Setting
from hmacfs.config.messages import one_line, shown
from hmacfs.config.settings import SETTINGS, Settings
from hmacfs.config.sources import Given, from_environment, from_file
from hmacfs.config.values import DatabaseTls, DownloadOffload, Storage, TcpAddress
from hmacfs.errors import ConfigError

#: What S3 takes.
LARGEST_OBJECT = 5 * 1024**4


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of the file at ``path`` (``None``: no file), overridden by ``HMACFS_*`` variables.

    Reads that file and the files that ``HMACFS_..._FILE`` variables name, and nothing else. Raises ``ConfigError``.
    """
    given = from_file(path) if path is not None else {}
    from_variables, remarks = from_environment(environ)
    given |= from_variables
    source = one_line(path or "the environment")
    origins = {
        setting.key: given[setting.key].where if setting.key in given else f"{source}: {setting.key}"
        for setting in SETTINGS
    }
    parsed = {setting.field: _parse(setting, given.get(setting.key)) for setting in SETTINGS}
    _check_required(parsed, source)
    remarks += _without_effect(given, parsed["storage"])
    settings = Settings(origins=MappingProxyType(origins), remarks=tuple(remarks), **_resolved(parsed, origins))
    for key, sentence in _contradictions(settings):
        raise ConfigError(f"{origins[key]}: {sentence}")
    return settings


def _parse(setting: Setting, given: Given | None) -> Any:
    """``None`` for a required one that is missing."""
    if given is None:
        return None if setting.default is REQUIRED else setting.parse(setting.default)
    try:
        return setting.parse(given.value)
    except ValueError as error:
        value = shown(given.value, is_secret=setting.is_secret or setting.may_hold_password)
        raise ConfigError(f"{given.where}: {one_line(value)} is not allowed; allowed is {one_line(error)}") from None


def _check_required(parsed: Mapping[str, Any], source: str) -> None:
    for setting in SETTINGS:
        is_required = setting.default is REQUIRED and setting.storage in (None, parsed["storage"])
        if is_required and parsed[setting.field] is None:
            raise ConfigError(f"{source}: {setting.key} is missing (or {setting.variable})")


def _without_effect(given: Mapping[str, Given], storage: Storage) -> Iterator[str]:
    """A sentence about each setting of an object store that is given without one. The opposite is usual: the image for
    containers gives a ``StoreDir`` to all."""
    for setting in SETTINGS:
        if setting.storage is Storage.S3 and storage is not Storage.S3 and setting.key in given:
            yield f'{given[setting.key].where}: has no effect without Storage = "s3"'


def _resolved(parsed: Mapping[str, Any], origins: Mapping[str, str]) -> dict[str, Any]:
    final = dict(parsed)
    for setting in SETTINGS:
        if setting.resolve is not None:
            try:
                final[setting.field] = setting.resolve(parsed[setting.field], parsed)
            except ValueError as error:
                raise ConfigError(f"{origins[setting.key]}: {error}") from None
    return final


def _contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    """What cannot hold together: the key of the setting to change, and a sentence."""
    listen, metrics = settings.listen, settings.metrics_port
    if settings.metrics_enabled and isinstance(listen, TcpAddress) and listen.overlaps(metrics):
        yield "MetricsPort", f"{metrics} is the address of ListenPort; give another port"
    if settings.fallback_enabled:
        for key, value in (
            ("FallbackDBUser", settings.fallback_db_user),
            ("FallbackDBName", settings.fallback_db_name),
        ):
            if not value:
                yield key, "is needed with FallbackEnabled = true"
    if settings.fallback_db_tls_ca is not None and settings.fallback_db_tls is not DatabaseTls.VERIFY_FULL:
        yield "FallbackDBTLSCA", 'is of use only with FallbackDBTLS = "verify-full"'
    if settings.storage is Storage.S3:
        yield from _contradictions_of_s3(settings)
    elif settings.download_offload is DownloadOffload.REDIRECT:
        yield "DownloadOffload", '"redirect" leads to an object store: it needs Storage = "s3"'


def _contradictions_of_s3(settings: Settings) -> Iterator[tuple[str, str]]:
    if not settings.s3_bucket:
        yield "S3Bucket", 'is needed with Storage = "s3"'
    if settings.s3_access_key and settings.s3_secret_key is None:
        yield "S3SecretKey", "is needed with S3AccessKey"
    for key, secret in (("S3SecretKey", settings.s3_secret_key), ("S3SessionToken", settings.s3_session_token)):
        if secret is not None and not settings.s3_access_key:
            yield "S3AccessKey", f"is needed with {key}"
    if settings.s3_ca_file is not None and settings.s3_endpoint.startswith("http:"):
        yield "S3CAFile", "is of use only with an S3Endpoint of https"
    if settings.upload_max_size > LARGEST_OBJECT:
        yield "UploadMaxSize", "an object store's files have at most 5 TB"
