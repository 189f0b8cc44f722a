"""Configuration files of other versions of the original: the settings here that correspond to their keys. Pure.

This server has taken over the keys of the first version, which stand at the top level. Versions 2.4 and later have them
in tables (``[server]``, ``[security]``, …); versions between have other names for some.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

#: By table and key, in small letters and without underscores, which vary between versions: the setting here, and how
#: its value looks. Other keys of these tables have no counterpart.
TABLES: Mapping[str, Mapping[str, str]] = {
    "server": {
        "listenaddress": 'ListenPort ("address:port")',
        "listenport": 'ListenPort ("address:port")',
        "bindip": 'ListenPort ("address:port")',
        "unixsocket": "UnixSocket",
        "storagepath": "StoreDir",
        "maxuploadsize": "UploadMaxSize",
        "minfreebytes": "MinFreeSpace",
        "metricsenabled": "MetricsEnabled",
        "metricsport": "MetricsPort",
        "loglevel": "LogLevel",
        "logfile": "LogFile",
        "loggingjson": 'LogFormat ("text" or "json")',
    },
    "security": {"secret": "Secret"},
    "logging": {"level": "LogLevel", "file": "LogFile"},
    "timeouts": {
        "readtimeout": "ReadTimeout",
        "writetimeout": "WriteTimeout",
        "idletimeout": "IdleTimeout",
        "shutdown": "GracefulShutdownTimeout",
    },
    "uploads": {
        "chunksize": "ChunkSize",
        "maxretries": "MaxRetries",
        "sessiontimeout": "SessionTTL",
        "maxresumableage": "SessionTTL",
    },
    "downloads": {},
    "redis": {
        "redisenabled": 'RedisAddr ("" for no Redis)',
        "redisaddr": 'RedisAddr ("" for no Redis)',
        "redispassword": "RedisPassword",
        "redisdbindex": "RedisDB",
    },
    "workers": {"numworkers": "Workers"},
    "rate_limit": {"requestsperminute": 'UploadRateLimit ("60/minute")', "whitelistedips": "RateLimitExempt"},
    "admin": {},
    "audit": {},
    "build": {},
    "clamav": {},
    "client_network_support": {},
    "deduplication": {},
    "file": {},
    "iso": {},
    "key_rotation": {},
    "metadata": {},
    "network_resilience": {},
    "quotas": {},
    "validation": {},
    "versioning": {},
}

#: Keys of files without tables; empty for no counterpart.
TOP_LEVEL: Mapping[str, str] = {
    "maxuploadsize": "UploadMaxSize",
    "buffersize": "ChunkSize",
    "minfreespacethreshold": "MinFreeSpace",
    "unixsocketpath": "ListenPort (with UnixSocket = true)",
    "numcores": "Workers",
    "blockafterfails": 'AuthFailureRateLimit ("30/minute")',
    **dict.fromkeys(
        ["autobantime", "autounban", "blockduration", "deletefiles", "deletefilesafterperiod", "deletefilesreport"], ""
    ),
    **dict.fromkeys(
        ["deletefilesreportpath", "enablegetretries", "enableversioning", "loggingenabled", "maxversions"], ""
    ),
    **dict.fromkeys(["reasksecretenabled", "reasksecretinterval", "versioningdirectory", "versioningstrategy"], ""),
}


class Translation(NamedTuple):
    """A key as it stands in such a file, and the setting here; empty where there is none."""

    key: str
    setting: str

    def __str__(self) -> str:
        return f"{self.key} -> {self.setting or 'has no counterpart here'}"


def translations(document: Mapping[str, Any]) -> list[Translation]:
    """The keys of such a file, in its order; empty if the document is none."""
    found = []
    for key, value in document.items():
        table = TABLES.get(key.lower())
        if table is not None and isinstance(value, dict):
            found += [Translation(f"[{key}] {name}", table.get(_plain(name), "")) for name in value]
        elif _plain(key) in TOP_LEVEL:
            found.append(Translation(key, TOP_LEVEL[_plain(key)]))
    return found


def _plain(key: str) -> str:
    return key.replace("_", "").lower()
