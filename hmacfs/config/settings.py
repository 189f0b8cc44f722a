"""The settings, each declared once: type, names, parser with its bounds, default and meaning.

From these declarations come the frozen object, the messages and README's table.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import hmacfs.config.parsers as parsers
import hmacfs.config.resolve as resolve
from hmacfs.addresses import Network
from hmacfs.config.declare import REQUIRED, Setting, declared_settings, setting
from hmacfs.config.redis_address import RedisAddress, parse_redis_address
from hmacfs.config.values import (
    ConditionalWrites,
    DatabaseHost,
    DatabaseTls,
    DatabaseType,
    DownloadOffload,
    Durability,
    FreeSpace,
    LogFormat,
    LogLevel,
    RequestRate,
    Secret,
    Storage,
    TcpAddress,
    UnixAddress,
)
from hmacfs.protocol.names import RESERVED_FOLDER


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sizes in bytes, durations in seconds, byte rates in bytes per second (0: no limit), request rates empty for no
    limit."""

    #: Where each setting comes from, by its key: "config.toml: StoreDir" or "HMACFS_STORE_DIR".
    origins: Mapping[str, str] = dataclasses.field(repr=False, compare=False)
    #: What was found in their sources that is no setting, a sentence each.
    remarks: tuple[str, ...] = dataclasses.field(repr=False, compare=False)
    listen: TcpAddress | UnixAddress = setting(
        "ListenPort",
        parsers.listen_address,
        ":8080",
        "address and port to listen at, or the socket's path with `UnixSocket`",
        resolve=resolve.listen,
        variable_name="LISTEN_PORT",
    )
    unix_socket: bool = setting("UnixSocket", parsers.boolean, False, "listen at a Unix socket (mode 0660)")
    secret: Secret = setting("Secret", parsers.secret, REQUIRED, "the HMAC secret, at least 16 bytes", is_secret=True)
    previous_secrets: tuple[Secret, ...] = setting(
        "PreviousSecrets",
        parsers.many(parsers.secret),
        [],
        "secrets that still verify but no longer sign",
        is_secret=True,
    )
    storage: Storage = setting(
        "Storage",
        parsers.choice(Storage),
        "local",
        "where the files are: local, in `StoreDir`; s3, in a bucket of an object store",
    )
    store_dir: Path | None = setting(
        "StoreDir",
        parsers.path,
        REQUIRED,
        "folder of the stored files; made if it is missing",
        resolve=resolve.store_dir,
        storage=Storage.LOCAL,
    )
    upload_sub_dir: str = setting("UploadSubDir", parsers.sub_folder, "upload", "first part of the URLs: `/upload/`")
    public_url: str = setting(
        "PublicURL",
        parsers.base_url,
        "",
        "what clients have before the path; a path in it is in `Location` too; default: the listen address",
    )
    log_level: LogLevel = setting(
        "LogLevel", parsers.choice(LogLevel, warning=LogLevel.WARN), "info", "debug, info, warn or error"
    )
    log_file: Path | None = setting(
        "LogFile", parsers.optional(parsers.path), "", "log file, reopened on SIGUSR1; empty for the console"
    )
    log_format: LogFormat = setting("LogFormat", parsers.choice(LogFormat), "text", "text or json")
    max_retries: int = setting(
        "MaxRetries",
        parsers.integer(0, 100),
        5,
        "how often a storage operation is repeated after a transient error; an object store that cannot be reached is "
        "not waited for",
    )
    retry_delay: float = setting(
        "RetryDelay",
        parsers.duration(zero=True),
        2,
        "pause before each of these repetitions; with an object store the longest one",
    )
    metrics_enabled: bool = setting("MetricsEnabled", parsers.boolean, True, "Prometheus metrics")
    metrics_port: TcpAddress = setting(
        "MetricsPort",
        parsers.tcp_address,
        "127.0.0.1:9090",
        "address and port of the metrics; `:9090` for all addresses of the machine",
    )
    chunk_size: int = setting(
        "ChunkSize", parsers.size(512), "64KB", "bytes read at once where the body is a plain stream"
    )
    upload_max_size: int = setting("UploadMaxSize", parsers.size(1), "1GB", "largest file")
    max_bytes_per_second: int = setting(
        "MaxBytesPerSecond", parsers.byte_rate, 0, "rate of each upload; 0 for no limit"
    )
    min_bytes_per_second: int = setting(
        "MinBytesPerSecond",
        parsers.byte_rate,
        1024,
        "an upload that stays below this rate, averaged over `ReadTimeout`, is dropped; 0 for none",
    )
    download_max_bytes_per_second: int = setting(
        "DownloadMaxBytesPerSecond", parsers.byte_rate, 0, "rate of each download; 0 for no limit"
    )
    redis_addr: RedisAddress | None = setting(
        "RedisAddr",
        parsers.optional(parse_redis_address),
        "",
        "Redis for upload sessions and rate limits: host:port or a URL",
        may_hold_password=True,
    )
    redis_password: Secret | None = setting("RedisPassword", parsers.password, "", "its password", is_secret=True)
    redis_db: int = setting("RedisDB", parsers.integer(0, 1_000_000), 0, "its database number")
    redis_timeout: float = setting(
        "RedisTimeout", parsers.duration(), "1s", "how long a request waits for an unreachable Redis, once"
    )
    fallback_enabled: bool = setting(
        "FallbackEnabled", parsers.boolean, False, "sessions in a database too; without `RedisAddr` in it alone"
    )
    fallback_db_type: DatabaseType = setting(
        "FallbackDBType",
        parsers.choice(DatabaseType, postgresql=DatabaseType.POSTGRES, mariadb=DatabaseType.MYSQL),
        "postgres",
        "postgres or mysql",
    )
    fallback_db_host: DatabaseHost = setting(
        "FallbackDBHost", parsers.database_host, "localhost", "its host, with an optional port"
    )
    fallback_db_user: str = setting("FallbackDBUser", parsers.text, "", "its user")
    fallback_db_password: Secret | None = setting(
        "FallbackDBPassword", parsers.password, "", "its password", is_secret=True
    )
    fallback_db_name: str = setting("FallbackDBName", parsers.text, "", "its database")
    fallback_db_tls: DatabaseTls = setting(
        "FallbackDBTLS",
        parsers.choice(DatabaseTls),
        "",
        "TLS to it: disable, require (encrypted only) or verify-full (certificate checked); empty: the driver's "
        "default",
    )
    fallback_db_tls_ca: Path | None = setting(
        "FallbackDBTLSCA",
        parsers.optional(parsers.path),
        "",
        "file of the certificates to trust with `verify-full`; empty: the system's",
    )
    graceful_shutdown_timeout: float = setting(
        "GracefulShutdownTimeout", parsers.duration(zero=True), 30, "how long running transfers may finish after a stop"
    )
    allowed_origins: tuple[str, ...] = setting(
        "AllowedOrigins", parsers.many(parsers.origin), ["*"], "web origins whose scripts may use the server"
    )
    require_signed_downloads: bool = setting(
        "RequireSignedDownloads", parsers.boolean, False, "downloads need a `v3` signature"
    )
    accept_guessed_content_type: bool = setting(
        "AcceptGuessedContentType", parsers.boolean, False, "accept v2 and token MACs over the type of the extension"
    )
    accept_unsized_chunks: bool = setting(
        "AcceptUnsizedChunks",
        parsers.boolean,
        False,
        "numbered chunks without `X-File-Size`: one signature is good for any number of chunks, up to `UploadMaxSize`",
    )
    read_timeout: float = setting(
        "ReadTimeout", parsers.duration(), "60s", "how long an upload may send nothing before it is dropped"
    )
    write_timeout: float = setting(
        "WriteTimeout", parsers.duration(), "60s", "how long a download may take nothing before it is dropped"
    )
    idle_timeout: float = setting(
        "IdleTimeout",
        parsers.optional(parsers.duration()),
        "",
        "how long to wait for a request and its head; default 15s, 75s on a Unix socket",
        resolve=resolve.idle_timeout,
    )
    durability: Durability = setting(
        "Durability", parsers.choice(Durability), "fsync", "fsync: a 201 survives a power cut; none: left to the kernel"
    )
    download_offload: DownloadOffload = setting(
        "DownloadOffload",
        parsers.choice(DownloadOffload),
        "none",
        "x-accel: nginx sends the files that the server names (see deploy/nginx.conf); redirect: clients are sent to "
        "the object store",
    )
    workers: int = setting(
        "Workers", parsers.integer(0, 1024), 0, "worker processes; 0 for one per core", resolve=resolve.workers
    )
    max_connections: int = setting("MaxConnections", parsers.integer(1, 1_000_000), 8192, "connections of each worker")
    max_connections_per_client: int = setting(
        "MaxConnectionsPerClient",
        parsers.integer(0, 1_000_000),
        256,
        "connections of one peer address over all workers (IPv6: of a /64, and four times as many of a /48); 0 for no "
        "bound; none for `TrustedProxies` and on a Unix socket",
    )
    session_ttl: float = setting(
        "SessionTTL",
        parsers.duration(),
        "24h",
        "how long an unfinished upload is kept after its last byte; 7 times that in all",
    )
    max_sessions_per_path: int = setting(
        "MaxSessionsPerPath",
        parsers.integer(1),
        3,
        "unfinished uploads of one path; one more ends the longest silent",
    )
    max_sessions_per_client: int = setting(
        "MaxSessionsPerClient",
        parsers.integer(1),
        100,
        "unfinished uploads of one user, where the signature names one, else of one client address",
    )
    sweep_interval: float = setting("SweepInterval", parsers.duration(), "10m", "how often expired uploads are removed")
    upload_rate_limit: tuple[RequestRate, ...] = setting(
        "UploadRateLimit", parsers.request_rates, "", 'uploads of one client address, such as `"60/minute"`'
    )
    download_rate_limit: tuple[RequestRate, ...] = setting(
        "DownloadRateLimit", parsers.request_rates, "", "downloads of one client address"
    )
    auth_failure_rate_limit: tuple[RequestRate, ...] = setting(
        "AuthFailureRateLimit", parsers.request_rates, "30/minute", "wrong signatures of one client address"
    )
    rate_limit_exempt: tuple[Network, ...] = setting(
        "RateLimitExempt",
        parsers.many(parsers.network),
        [],
        "networks that no rate limit and no `MaxReservedPerClient` applies to",
    )
    trusted_proxies: tuple[Network, ...] = setting(
        "TrustedProxies",
        parsers.many(parsers.network),
        [],
        "proxies whose `X-Forwarded-For` or else `Forwarded` is believed; on a Unix socket every peer is",
    )
    min_free_space: FreeSpace = setting(
        "MinFreeSpace", parsers.free_space, "100MB", "space that uploads leave free; also a percentage"
    )
    max_reserved_per_client: FreeSpace = setting(
        "MaxReservedPerClient",
        parsers.share_of_free_space,
        "50%",
        "what the running uploads of one client address may reserve of what `MinFreeSpace` leaves; 0 for no limit",
    )
    state_dir: Path = setting(
        "StateDir",
        parsers.optional(parsers.path),
        "",
        "folder of what has to survive a restart besides the files, on a local disk: sessions in SQLite, the sweep's "
        "lock; default: `.hmacfs` in `StoreDir`",
        resolve=resolve.state_dir,
    )
    runtime_dir: Path = setting(
        "RuntimeDir",
        parsers.optional(parsers.path),
        "",
        "folder of what the workers share while they run, best on a tmpfs: a reboot may empty it; default: inside"
        " `StoreDir`",
        resolve=resolve.runtime_dir,
    )
    s3_endpoint: str = setting(
        "S3Endpoint",
        parsers.endpoint,
        "",
        "the object store's URL, such as `https://s3.example.org`; empty: Amazon's",
        storage=Storage.S3,
    )
    s3_bucket: str = setting("S3Bucket", parsers.bucket, "", "its bucket, which is there already", storage=Storage.S3)
    s3_prefix: str = setting(
        "S3Prefix",
        parsers.key_prefix,
        "",
        "folder in the bucket that all keys are in; a file's key is this and its name",
        storage=Storage.S3,
    )
    s3_region: str = setting(
        "S3Region", parsers.word, "us-east-1", "its region, which signatures name", storage=Storage.S3
    )
    s3_access_key: str = setting(
        "S3AccessKey",
        parsers.word,
        "",
        "the key's id; empty: from `AWS_ACCESS_KEY_ID` and where else AWS's own programs look",
        storage=Storage.S3,
    )
    s3_secret_key: Secret | None = setting(
        "S3SecretKey", parsers.password, "", "the secret part of it", is_secret=True, storage=Storage.S3
    )
    s3_session_token: Secret | None = setting(
        "S3SessionToken",
        parsers.password,
        "",
        "what belongs to a key that is good for a while only",
        is_secret=True,
        storage=Storage.S3,
    )
    s3_path_style: bool = setting(
        "S3PathStyle",
        parsers.optional(parsers.boolean),
        "",
        "the bucket in the path and not in the host's name; default: true with `S3Endpoint`",
        resolve=resolve.path_style,
        storage=Storage.S3,
    )
    s3_ca_file: Path | None = setting(
        "S3CAFile",
        parsers.optional(parsers.path),
        "",
        "file of the certificates to trust; empty: the system's",
        storage=Storage.S3,
    )
    s3_part_size: int = setting(
        "S3PartSize",
        parsers.size(5 * 1024**2, 5 * 1024**3),
        "8MB",
        "least size of the parts that large files are sent in; a running upload has up to two of them in `S3SpoolDir`",
        storage=Storage.S3,
    )
    s3_spool_dir: Path = setting(
        "S3SpoolDir",
        parsers.optional(parsers.path),
        "",
        "folder of the bytes that are on their way to the object store; default: `spool` in `StateDir`",
        resolve=resolve.spool_dir,
        storage=Storage.S3,
    )
    s3_timeout: float = setting(
        "S3Timeout",
        parsers.duration(),
        "30s",
        "how long the object store may send or take nothing before a request counts as failed; for five minutes longer "
        "it may dribble",
        storage=Storage.S3,
    )
    s3_conditional_writes: ConditionalWrites = setting(
        "S3ConditionalWrites",
        parsers.choice(ConditionalWrites),
        "auto",
        "whether it keeps to `If-None-Match` atomically: on; off: claims in the session store do that; auto: tried "
        "when it is first needed",
        storage=Storage.S3,
    )

    @property
    def hidden(self) -> tuple[str, ...]:
        """The texts that no log line and no message may show."""
        found = (secret.reveal().decode() for _, secret in self.secrets())
        return (*found, *(self.redis_addr.passwords if self.redis_addr else ()))

    def secrets(self) -> Iterator[tuple[Setting, Secret]]:
        """The secrets that are given, each with the setting that gives it."""
        for declared in SETTINGS:
            if declared.is_secret and (value := getattr(self, declared.field)):
                for secret in value if isinstance(value, tuple) else (value,):
                    yield declared, secret

    @property
    def store_address(self) -> str:
        """Where the files are, for the log, and to tell one store from another."""
        if self.store_dir is not None:
            return str(self.store_dir)
        return f"s3://{self.s3_bucket}/{self.s3_prefix} at {self.s3_endpoint or f'Amazon, {self.s3_region}'}"

    @property
    def reserved_folder(self) -> Path | None:
        """The part of ``StoreDir`` that no URL leads to; ``None`` without one."""
        return None if self.store_dir is None else self.store_dir / RESERVED_FOLDER

    @property
    def runtime_folders(self) -> Path | None:
        """Where each machine that shares ``StoreDir`` has its ``RuntimeDir`` by default."""
        return None if self.reserved_folder is None else self.reserved_folder / resolve.RUNTIME_FOLDERS

    @property
    def has_own_state_dir(self) -> bool:
        """Whether ``StateDir`` is another folder than the store's reserved one, by whatever links."""
        reserved = self.reserved_folder
        return reserved is None or os.path.realpath(self.state_dir) != os.path.realpath(reserved)

    @property
    def url_prefix(self) -> str:
        """Where the service is mounted, with both slashes."""
        return f"/{self.upload_sub_dir}/"


SETTINGS = declared_settings(Settings)
