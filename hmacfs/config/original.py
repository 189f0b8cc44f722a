"""The original's other configuration files: what their keys are called here. Pure.

Its first version, whose keys this server has taken over, has them all at the top level. Versions 2.4 and later put them
into tables (``[server]``, ``[security]``, …), and what came in between has other names for some.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

#: By table and key in small letters, without underscores, which came and went: the setting here, with how values look.
#: Keys of these tables that do not stand here have no counterpart.
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

#: Of its files without tables.
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
    """What a document has of those files, in its order; nothing if it is none of them."""
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
