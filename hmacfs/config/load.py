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
from hmacfs.config.values import DatabaseTls, TcpAddress
from hmacfs.errors import ConfigError


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
    parsed = {setting.field: _parse(setting, given.get(setting.key), source) for setting in SETTINGS}
    settings = Settings(origins=MappingProxyType(origins), remarks=tuple(remarks), **_resolved(parsed, origins))
    for key, sentence in _contradictions(settings):
        raise ConfigError(f"{origins[key]}: {sentence}")
    return settings


def _parse(setting: Setting, given: Given | None, source: str) -> Any:
    if given is None:
        if setting.default is REQUIRED:
            raise ConfigError(f"{source}: {setting.key} is missing (or {setting.variable})")
        return setting.parse(setting.default)
    try:
        return setting.parse(given.value)
    except ValueError as error:
        value = shown(given.value, is_secret=setting.is_secret or setting.may_hold_password)
        raise ConfigError(f"{given.where}: {one_line(value)} is not allowed; allowed is {one_line(error)}") from None


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
