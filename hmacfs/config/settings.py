"""The settings: one table, from which the frozen object, the messages and the README's table are made."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import hmacfs.config.values as values
from hmacfs.addresses import Network
from hmacfs.config.values import FreeSpace, Secret, TcpAddress, UnixAddress
from hmacfs.masking import passwords_in

REQUIRED = object()


class Setting(NamedTuple):
    """key: in the TOML file. parse: from what TOML gives. default: as it would be written there. text: the meaning."""

    key: str
    parse: values.Parser
    default: Any
    text: str
    is_secret: bool = False

    @property
    def field(self) -> str:
        """The attribute of ``Settings``; the environment variable is ``HMACFS_`` and this in capitals."""
        return snake_case(self.key)


def snake_case(key: str) -> str:
    """``StoreDir`` as ``store_dir``, ``FallbackDBType`` as ``fallback_db_type``, ``PublicURL`` as ``public_url``."""
    key = key.replace("DBTLS", "DbTls")  # two of them in a row
    words: list[str] = []
    for index, letter in enumerate(key):
        follows_small = index > 0 and key[index - 1].islower()
        begins_word = index > 0 and key[index - 1].isupper() and key[index + 1 : index + 2].islower()
        if letter.isupper() and (follows_small or begins_word):
            words.append("_")
        words.append(letter.lower())
    return "".join(words)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "ListenPort", values.listen, ":8080", "address and port to listen at, or the socket's path with `UnixSocket`"
    ),
    Setting("UnixSocket", values.boolean, False, "listen at a Unix socket (mode 0660)"),
    Setting("Secret", values.secret, REQUIRED, "the HMAC secret, at least 16 bytes", is_secret=True),
    Setting(
        "PreviousSecrets",
        values.many(values.secret),
        [],
        "secrets that still verify but no longer sign",
        is_secret=True,
    ),
    Setting("StoreDir", values.path, REQUIRED, "folder of the stored files; made if it is missing"),
    Setting("UploadSubDir", values.sub_folder, "upload", "first part of the URLs: `/upload/`"),
    Setting(
        "PublicURL",
        values.base_url,
        "",
        "what stands before the path for clients; a path in it also in `Location`; default: the listen address",
    ),
    Setting(
        "LogLevel",
        values.choice("debug", "info", "warn", "error", warning="warn"),
        "info",
        "debug, info, warn or error",
    ),
    Setting("LogFile", values.optional(values.path), "", "log file, reopened on SIGUSR1; empty for the console"),
    Setting("LogFormat", values.choice("text", "json"), "text", "text or json"),
    Setting(
        "MaxRetries",
        values.integer(0, 100),
        5,
        "how often a storage operation that failed for a passing reason is repeated",
    ),
    Setting("RetryDelay", values.duration(zero=True), 2, "pause before each repetition"),
    Setting("MetricsEnabled", values.boolean, True, "Prometheus metrics"),
    Setting(
        "MetricsPort",
        values.tcp_address,
        "127.0.0.1:9090",
        "address and port of the metrics; `:9090` for all addresses of the machine",
    ),
    Setting("ChunkSize", values.size(512), "64KB", "bytes read at once where the body comes as a plain stream"),
    Setting("UploadMaxSize", values.size(1), "1GB", "largest file"),
    Setting("MaxBytesPerSecond", values.rate, 0, "rate of each upload; 0 for no limit"),
    Setting(
        "MinBytesPerSecond",
        values.rate,
        1024,
        "an upload that stays below this rate, averaged over `ReadTimeout`, is dropped; 0 for none",
    ),
    Setting("DownloadMaxBytesPerSecond", values.rate, 0, "rate of each download; 0 for no limit"),
    Setting("RedisAddr", values.text, "", "Redis for upload sessions and rate limits: host:port or a URL"),
    Setting("RedisPassword", values.password, "", "its password", is_secret=True),
    Setting("RedisDB", values.integer(0, 1_000_000), 0, "its database number"),
    Setting("RedisTimeout", values.duration(), "1s", "what an unreachable Redis may cost a request, once"),
    Setting("FallbackEnabled", values.boolean, False, "use a database when Redis is away"),
    Setting(
        "FallbackDBType",
        values.choice("postgres", "mysql", postgresql="postgres", mariadb="mysql"),
        "postgres",
        "postgres or mysql",
    ),
    Setting("FallbackDBHost", values.text, "localhost", "its host, with an optional port"),
    Setting("FallbackDBUser", values.text, "", "its user"),
    Setting("FallbackDBPassword", values.password, "", "its password", is_secret=True),
    Setting("FallbackDBName", values.text, "", "its database"),
    Setting(
        "FallbackDBTLS",
        values.choice("", "disable", "require", "verify-full"),
        "",
        "TLS to it: disable, require (whoever answers) or verify-full (its certificate too); empty: the driver's way",
    ),
    Setting(
        "FallbackDBTLSCA",
        values.optional(values.path),
        "",
        "file of the certificates to trust with `verify-full`; empty: the system's",
    ),
    Setting(
        "GracefulShutdownTimeout", values.duration(zero=True), 30, "how long running transfers may finish after a stop"
    ),
    Setting("AllowedOrigins", values.many(values.origin), ["*"], "web origins whose scripts may use the server"),
    Setting("RequireSignedDownloads", values.boolean, False, "downloads need a `v3` signature"),
    Setting(
        "AcceptGuessedContentType", values.boolean, False, "accept v2 and token MACs over the type of the extension"
    ),
    Setting(
        "AcceptUnsizedChunks",
        values.boolean,
        False,
        "numbered chunks without `X-File-Size`: one signature is good for any number of chunks, up to `UploadMaxSize`",
    ),
    Setting("ReadTimeout", values.duration(), "60s", "an upload that sends nothing for so long is dropped"),
    Setting("WriteTimeout", values.duration(), "60s", "a download that takes nothing for so long is dropped"),
    Setting(
        "IdleTimeout",
        values.optional(values.duration()),
        "",
        "wait for a request and its head; default 15s, 75s on a Unix socket",
    ),
    Setting(
        "Durability",
        values.choice("fsync", "none"),
        "fsync",
        "fsync: a 201 survives a power cut; none: left to the kernel",
    ),
    Setting(
        "DownloadOffload",
        values.choice("none", "x-accel"),
        "none",
        "x-accel: nginx sends the files that the server names (see deploy/nginx.conf)",
    ),
    Setting("Workers", values.integer(0, 1024), 0, "worker processes; 0 for one per core"),
    Setting("MaxConnections", values.integer(1, 1_000_000), 8192, "connections of each worker"),
    Setting(
        "MaxConnectionsPerClient",
        values.integer(0, 1_000_000),
        256,
        "connections of one peer address over all workers (IPv6: of a /64, and four times as many of a /48); 0 for no "
        "bound; none for `TrustedProxies` and on a Unix socket",
    ),
    Setting(
        "SessionTTL",
        values.duration(),
        "24h",
        "an unfinished upload is kept for so long after its last byte; 7 times that in all",
    ),
    Setting(
        "MaxSessionsPerPath", values.integer(1), 3, "unfinished uploads of one path; a new one ends the most silent"
    ),
    Setting(
        "MaxSessionsPerClient",
        values.integer(1),
        100,
        "unfinished uploads of one user, where the signature names one, else of one client address",
    ),
    Setting("SweepInterval", values.duration(), "10m", "how often expired uploads are looked for"),
    Setting("UploadRateLimit", values.request_rate, "", 'uploads of one client address, such as `"60/minute"`'),
    Setting("DownloadRateLimit", values.request_rate, "", "downloads of one client address"),
    Setting("AuthFailureRateLimit", values.request_rate, "30/minute", "wrong signatures of one client address"),
    Setting(
        "RateLimitExempt",
        values.many(values.network),
        [],
        "networks that no rate limit and no `MaxReservedPerClient` applies to",
    ),
    Setting(
        "TrustedProxies",
        values.many(values.network),
        [],
        "proxies whose `X-Forwarded-For` or else `Forwarded` is believed; on a Unix socket every peer is",
    ),
    Setting("MinFreeSpace", values.free_space, "100MB", "space that uploads leave free; also a percentage"),
    Setting(
        "MaxReservedPerClient",
        values.share_of_free_space,
        "50%",
        "what the running uploads of one client address may reserve of what `MinFreeSpace` leaves; 0 for no limit",
    ),
    Setting(
        "RuntimeDir",
        values.optional(values.path),
        "",
        "folder of what the workers share while they run, best on a tmpfs; default: inside `StoreDir`",
    ),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sizes in bytes, durations in seconds, rates in bytes per second (0: no limit)."""

    #: Where each setting comes from, by its key: "config.toml: StoreDir" or "HMACFS_STORE_DIR".
    origins: Mapping[str, str] = dataclasses.field(repr=False, compare=False)
    #: What was found in their sources that is no setting, a sentence each.
    remarks: tuple[str, ...] = dataclasses.field(repr=False, compare=False)
    listen: TcpAddress | UnixAddress
    secret: Secret
    previous_secrets: tuple[Secret, ...]
    store_dir: Path
    upload_sub_dir: str
    public_url: str
    log_level: str
    log_file: Path | None
    log_format: str
    max_retries: int
    retry_delay: float
    metrics_enabled: bool
    metrics_port: TcpAddress
    chunk_size: int
    upload_max_size: int
    max_bytes_per_second: int
    min_bytes_per_second: int
    download_max_bytes_per_second: int
    redis_addr: str = dataclasses.field(repr=False)  # a URL may carry a password
    redis_password: Secret | None
    redis_db: int
    redis_timeout: float
    fallback_enabled: bool
    fallback_db_type: str
    fallback_db_host: str
    fallback_db_user: str
    fallback_db_password: Secret | None
    fallback_db_name: str
    fallback_db_tls: str
    fallback_db_tls_ca: Path | None
    graceful_shutdown_timeout: float
    allowed_origins: tuple[str, ...]
    require_signed_downloads: bool
    accept_guessed_content_type: bool
    accept_unsized_chunks: bool
    read_timeout: float
    write_timeout: float
    idle_timeout: float
    durability: str
    download_offload: str
    workers: int
    max_connections: int
    max_connections_per_client: int
    session_ttl: float
    max_sessions_per_path: int
    max_sessions_per_client: int
    sweep_interval: float
    upload_rate_limit: str
    download_rate_limit: str
    auth_failure_rate_limit: str
    rate_limit_exempt: tuple[Network, ...]
    trusted_proxies: tuple[Network, ...]
    min_free_space: FreeSpace
    max_reserved_per_client: FreeSpace
    runtime_dir: Path

    @property
    def hidden(self) -> tuple[str, ...]:
        """The texts that no log line and no message may show."""
        found = (getattr(self, setting.field) for setting in SETTINGS if setting.is_secret)
        secrets = (secret for value in found if value for secret in (value if isinstance(value, tuple) else (value,)))
        return (*(secret.reveal().decode() for secret in secrets), *passwords_in(self.redis_addr))

    @property
    def url_prefix(self) -> str:
        """Where the service is mounted, with both slashes."""
        return f"/{self.upload_sub_dir}/"


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def markdown_table() -> str:
    """The configuration table of README.md."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for setting in SETTINGS:
        default = "(required)" if setting.default is REQUIRED else f"`{_toml(setting.default)}`"
        lines.append(f"| `{setting.key}` | {default} | {setting.text} |")
    return "\n".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
