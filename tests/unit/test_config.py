"""The configuration: what it accepts, and how it refuses."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import limits
import pytest
import toml
from hypothesis import given
from hypothesis import strategies as st

from hmacfs.config import (
    SETTINGS,
    DatabaseHost,
    DatabaseTls,
    DatabaseType,
    DownloadOffload,
    Durability,
    FreeSpace,
    LogFormat,
    RequestRate,
    Secret,
    Settings,
    TcpAddress,
    UnixAddress,
    check_paths,
    check_private_paths,
    find_config,
    inaccessible_files,
    load,
    make_folders,
    original,
    warnings,
)
from hmacfs.config.parsers import byte_rate, duration, request_rates, size
from hmacfs.config.redis_address import RedisServer
from hmacfs.errors import ConfigError, ForeignConfig
from tests.readme_tables import table_of_original_keys, table_of_settings

SECRET = "0123456789abcdef-secret"

ORIGINAL = """
# Server settings
ListenPort = ":8080"                   # Port for the file server to listen on
UnixSocket = false                     # Use Unix sockets if true, otherwise TCP
Secret = "a-horse-is-a-horse-even-is-a-jet"    # HMAC secret for securing uploads
StoreDir = "/mnt/storage/hmac-file-server/"  # Directory for storing uploaded files
UploadSubDir = "upload"                # Subdirectory for uploads
LogLevel = "info"                      # Logging level: "debug", "info", "warn", "error"
LogFile = "/var/log/hmac-file-server.log"  # Log file path
MaxRetries = 5                         # Maximum number of retries for failed uploads
RetryDelay = 2                         # Delay in seconds between retries

# Metrics configuration
MetricsEnabled = true                  # Enable Prometheus metrics
MetricsPort = ":9090"                  # Port for Prometheus metrics server

# Upload settings
ChunkSize = 65536                      # Size of each chunk for chunked uploads (in bytes)
UploadMaxSize = 1073741824             # Maximum upload size (1 GB in bytes)
MaxBytesPerSecond = 1048576            # Throttle upload speed to 1 MB/s

# Redis configuration (optional)
RedisAddr = "localhost:6379"           # Redis server address (leave blank if not using Redis)
RedisPassword = ""                     # Redis password (leave blank if no password is required)
RedisDB = 0                            # Redis database number

# Fallback database configuration (optional)
FallbackEnabled = false                # Enable fallback to a database if Redis is unavailable
FallbackDBType = "postgres"            # Fallback database type ("postgres" or "mysql")
FallbackDBHost = "localhost"           # Fallback database host
FallbackDBUser = "your_db_user"        # Fallback database username
FallbackDBPassword = "your_db_password" # Fallback database password
FallbackDBName = "your_db_name"        # Fallback database name

# Graceful shutdown settings
GracefulShutdownTimeout = 30           # Timeout for graceful shutdowns (in seconds)
"""


def settings(tmp_path: Path, environ: dict[str, str] | None = None, /, **values: Any) -> Settings:
    document = {"Secret": SECRET, "StoreDir": str(tmp_path / "store"), **values}
    path = tmp_path / "config.toml"
    path.write_text(toml.dumps({key: value for key, value in document.items() if value is not None}))
    return load(path, environ or {})


def test_the_originals_example_loads(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(ORIGINAL)
    loaded = load(path, {})
    assert loaded.listen == TcpAddress("", 8080)
    assert loaded.secret.reveal() == b"a-horse-is-a-horse-even-is-a-jet"
    assert loaded.store_dir == Path("/mnt/storage/hmac-file-server")
    assert (loaded.chunk_size, loaded.upload_max_size, loaded.max_bytes_per_second) == (65536, 1 << 30, 1 << 20)
    assert (loaded.redis_addr, loaded.redis_password, loaded.fallback_db_name) == (
        RedisServer("redis://localhost:6379", ()),
        None,
        "your_db_name",
    )
    assert loaded.fallback_db_password == Secret("your_db_password")
    assert loaded.graceful_shutdown_timeout == 30.0
    assert all("everybody knows" in remark for remark in warnings(loaded)[:2])


def test_keys_in_any_letter_case(tmp_path: Path) -> None:
    assert settings(tmp_path, LISTENPORT=":1", uploadmaxsize="1kb").upload_max_size == 1024
    with pytest.raises(ConfigError, match="given twice"):
        settings(tmp_path, UploadMaxSize=1, uploadmaxsize=2)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("ListenPort", "127.0.0.1:8080", TcpAddress("127.0.0.1", 8080)), ("ListenPort", "[::1]:8080", TcpAddress("::1", 8080)),
        ("ListenPort", "upload.example:80", TcpAddress("upload.example", 80)), ("UploadMaxSize", "1.5 GB", 3 << 29),
        ("UploadMaxSize", "64KiB", 65536), ("ChunkSize", "64kb", 65536), ("MaxBytesPerSecond", "1MB/s", 1 << 20),
        ("MaxBytesPerSecond", "500 kB / s", 512000), ("ReadTimeout", "30s", 30.0), ("ReadTimeout", 0.5, 0.5), ("ReadTimeout", "500ms", 0.5),
        ("GracefulShutdownTimeout", "2m", 120.0), ("LogLevel", "WARNING", logging.WARNING), ("LogLevel", "debug", logging.DEBUG), ("MinFreeSpace", "5%", FreeSpace(percent=5.0)),
        ("MinFreeSpace", "1MB", FreeSpace(bytes=1 << 20)), ("MaxReservedPerClient", "100%", FreeSpace(percent=100.0)),
        ("MaxReservedPerClient", "2GB", FreeSpace(bytes=2 << 30)), ("MaxReservedPerClient", 0, FreeSpace()), ("AllowedOrigins", ["https://a.b"], ("https://a.b",)),
        ("UploadSubDir", "/a/b/", "a/b"), ("Durability", "None", Durability.NONE), ("FallbackDBType", "MariaDB", DatabaseType.MYSQL),
        ("ListenPort", 8081, TcpAddress("", 8081)), ("MetricsPort", 9100, TcpAddress("", 9100)), ("ReadTimeout", "2m30s", 150.0),
        ("ReadTimeout", "1h15m30.5s", 4530.5), ("ReadTimeout", "1500ms", 1.5), ("ReadTimeout", "1.5h", 5400.0), ("ReadTimeout", ".5s", 0.5),
        ("ReadTimeout", "1m 30s", 90.0), ("SweepInterval", "1h0m0s", 3600.0), ("RetryDelay", "0s", 0.0), ("ReadTimeout", "250000\u00b5s", 0.25),
        ("SessionTTL", "1y", 31536000.0), ("MetricsPort", "127.0.0.1:9100", TcpAddress("127.0.0.1", 9100)), ("LogFile", "", None), ("IdleTimeout", "5s", 5.0),
        ("FallbackDBHost", "", DatabaseHost("localhost", None)), ("FallbackDBHost", "[::1]:3306", DatabaseHost("::1", 3306)),
        ("FallbackDBHost", "/run/postgresql", DatabaseHost("/run/postgresql", None)), ("FallbackDBTLS", "", DatabaseTls.DRIVER), ("FallbackDBTLS", "Verify-Full", DatabaseTls.VERIFY_FULL),
        ("DownloadOffload", "X-Accel", DownloadOffload.X_ACCEL), ("LogFormat", "json", LogFormat.JSON), ("UploadRateLimit", "", ()),
        ("UploadRateLimit", "100/hour; 2 per 5 minutes", (RequestRate(2, 5, "minute", 300), RequestRate(100, 1, "hour", 3600))),
        ("RedisAddr", "", None), ("RedisAddr", "[::1]", RedisServer("redis://[::1]:6379", ())), ("RedisAddr", "unix:///run/redis.sock", RedisServer("unix:///run/redis.sock", ())),
    ],
)  # fmt: skip
def test_values(tmp_path: Path, key: str, value: object, expected: object) -> None:
    (field,) = (setting.field for setting in SETTINGS if setting.key == key)
    assert getattr(settings(tmp_path, None, **{key: value}), field) == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"StoreDirr": "/x"}, ["StoreDirr", "did you mean StoreDir?"]), ({"store_dir": "/x"}, ["store_dir", "StoreDir"]),
        ({"ListenPort": "x"}, ["ListenPort", "'x'", "127.0.0.1:8080"]), ({"ListenPort": ":99999"}, ["99999"]),
        ({"ListenPort": "/run/a.sock"}, ["UnixSocket = true"]), ({"UnixSocket": True}, ["ListenPort", "path"]),
        ({"UnixSocket": True, "ListenPort": "/" + "x" * 120}, ["107 bytes"]), ({"UnixSocket": "yes"}, ["true or false"]),
        ({"UploadMaxSize": "1 parsec"}, ["UploadMaxSize", "1 parsec", "64KB"]), ({"UploadMaxSize": 0}, ["at least 1"]),
        ({"UploadMaxSize": True}, ["a size"]), ({"ChunkSize": -1}, ["-1", "a size"]), ({"MaxBytesPerSecond": "fast"}, ["1MB/s"]),
        ({"ListenPort": 99999}, ["':99999'", "127.0.0.1:8080"]), ({"ListenPort": True}, ["a text"]), ({"ListenPort": 8080, "UnixSocket": True}, ["no path"]),
        ({"ReadTimeout": "2m30"}, ["1h15m"]), ({"ReadTimeout": "1h-5m"}, ["1h15m"]), ({"ReadTimeout": "1x30s"}, ["1h15m"]), ({"ReadTimeout": "m"}, ["1h15m"]),
        ({"ReadTimeout": 0}, ["above 0"]), ({"ReadTimeout": "-1s"}, ["duration"]), ({"ReadTimeout": float("nan")}, ["duration"]),
        ({"ReadTimeout": float("inf")}, ["duration"]), ({"LogLevel": "loud"}, ['"debug" or "info"']), ({"LogFormat": 1}, ["json"]),
        ({"MaxRetries": "5"}, ["whole number"]), ({"MaxRetries": -1}, ["from 0 to 100"]), ({"RedisDB": 1.5}, ["whole number"]),
        ({"FallbackEnabled": True}, ["FallbackDBUser", "is needed"]), ({"FallbackDBType": "oracle"}, ["postgres", "mysql"]),
        *(({"FallbackDBTLS": value}, ["FallbackDBTLS", '"verify-full"']) for value in (True, 1, ["require"], "yes", "prefer")),
        ({"MetricsPort": ":8080"}, ["MetricsPort", "ListenPort", "another port"]), ({"UploadSubDir": "../x"}, ["UploadSubDir"]),
        ({"UploadSubDir": ""}, ["UploadSubDir"]), ({"AllowedOrigins": ["chat.example"]}, ["https://chat.example.org"]),
        ({"AllowedOrigins": "x"}, ["a list"]), ({"TrustedProxies": ["proxy"]}, ["192.0.2.1"]), ({"MinFreeSpace": "200%"}, ["5%"]), ({"MaxReservedPerClient": "101%"}, ['up to "100%"']),
        ({"RedisAddr": "http://x"}, ["RedisAddr", "(not shown)", "redis+sentinel://"]), ({"RedisAddr": 6379}, ["RedisAddr", "host:port"]),
        ({"FallbackDBHost": "a:b:c"}, ["'a:b:c'", "localhost:5432"]), ({"FallbackDBHost": "db:0"}, ["localhost:5432"]),
        ({"UploadRateLimit": "60 a minute"}, ["60/minute"]), ({"UploadRateLimit": "1/minute;"}, ["60/minute"]),
        ({"PublicURL": "ftp://x"}, ["https://upload.example.org"]), ({"PublicURL": "http://[::1"}, ["https://upload.example.org"]),
        ({"PublicURL": "http://x:99999"}, ["https://upload.example.org"]), ({"AllowedOrigins": ["http://[::1"]}, ["https://chat.example.org"]),
        ({"StoreDir": "~no-such-user/x"}, ["StoreDir", "~no-such-user", "no user"]), ({"ListenPort": "\u00fc:80"}, ["127.0.0.1:8080"]),
        ({"UnixSocket": True, "ListenPort": "~no-such-user/x"}, ["ListenPort", "no user"]), ({"StoreDir": ""}, ["a path"]), ({"StoreDir": None}, ["StoreDir is missing", "HMACFS_STORE_DIR"]),
        ({"Secret": None}, ["Secret is missing"]), ({"Secret": "short"}, ["Secret", "(not shown)", "16 bytes"]),
        ({"PreviousSecrets": ["hidden-short"]}, ["PreviousSecrets", "16 bytes"]), ({"a\nb": 1}, ["a?b"]),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_that_says_what_to_do(tmp_path: Path, values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, **values)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(tmp_path / "config.toml"))
    for word in words:
        assert word in message
    assert "short" not in message.replace("shorter", "") or "Secret" not in str(values)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"ListenPort = ", ["not TOML", "line 1"]), (b"a = 1\nb = = 2", ["line 2"]), (b"\xff\xfe", ["not UTF-8"]),
        (b"a = 1\na = 2", ["not TOML"]), (b"x = " + b"[" * 5000, ["not TOML"]),
    ],
)  # fmt: skip
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match=f"{path}: cannot be read"):
            load(path, {})


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret from a file\n")
    loaded = settings(
        tmp_path,
        {
            "HMACFS_SECRET_FILE": str(tmp_path / "secret"),
            "HMACFS_STORE_DIR": "/elsewhere",
            "HMACFS_REDIS_DB": "3",
            "HMACFS_FALLBACK_DB_TYPE": "mysql",
            "HMACFS_METRICS_ENABLED": "off",
            "HMACFS_ALLOWED_ORIGINS": "https://a.b, https://c.d",
            "HMACFS_UPLOAD_MAX_SIZE": "2GB",
            "HMACFS_CONFIG": "ignored",
            "OTHER": "x",
        },
    )
    assert loaded.secret.reveal() == b"a secret from a file"
    assert (loaded.store_dir, loaded.redis_db, loaded.fallback_db_type) == (Path("/elsewhere"), 3, DatabaseType.MYSQL)
    assert (loaded.metrics_enabled, loaded.upload_max_size) == (False, 2 << 30)
    assert loaded.allowed_origins == ("https://a.b", "https://c.d")


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"HMACFS_WORKERS": "many"}, ["HMACFS_WORKERS", "many"]),
        ({"HMACFS_SECRET": "tiny"}, ["HMACFS_SECRET", "(not shown)"]), ({"HMACFS_SECRET_FILE": "/none"}, ["/none", "cannot be read"]),
        ({"HMACFS_SECRET": SECRET + "\udcff"}, ["HMACFS_SECRET", "UTF-8"]), ({"HMACFS_REDIS_PASSWORD": "\udcff"}, ["UTF-8"]),
        ({"HMACFS_SECRET": SECRET, "HMACFS_SECRET_FILE": "/x"}, ["contradicts"]), ({"HMACFS_UNIX_SOCKET": "maybe"}, ["true or false"]),
    ],
)  # fmt: skip
def test_mistakes_in_the_environment(tmp_path: Path, environ: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, environ)
    assert all(word in str(caught.value) for word in words)
    assert "tiny" not in str(caught.value)


def test_variables_that_are_no_settings_are_a_warning(tmp_path: Path) -> None:
    loaded = settings(tmp_path, {"HMACFS_SECRETS": "x", "HMACFS_a\nb": "x", "HMACFS_WORKERS": "3"})
    assert loaded.workers == 3
    assert warnings(loaded) == [
        "HMACFS_SECRETS: unknown environment variable; did you mean HMACFS_SECRET?",
        "HMACFS_a?b: unknown environment variable",
    ]


def test_what_kubernetes_makes_for_services_is_one_warning(tmp_path: Path) -> None:
    """Also for a service "hmacfs-metrics", where one of its names is a setting's."""
    made = {
        "HMACFS_SERVICE_HOST": "10.96.0.7",
        "HMACFS_SERVICE_PORT": "8080",
        "HMACFS_SERVICE_PORT_HTTP": "8080",
        "HMACFS_PORT": "tcp://10.96.0.7:8080",
        "HMACFS_PORT_8080_TCP": "tcp://10.96.0.7:8080",
        "HMACFS_PORT_8080_TCP_PROTO": "tcp",
        "HMACFS_PORT_8080_TCP_PORT": "8080",
        "HMACFS_PORT_8080_TCP_ADDR": "10.96.0.7",
        "HMACFS_METRICS_SERVICE_HOST": "10.96.0.8",
        "HMACFS_METRICS_SERVICE_PORT": "9090",
        "HMACFS_METRICS_PORT": "tcp://[fd00::8]:9090",
        "HMACFS_METRICS_PORT_9090_TCP": "tcp://10.96.0.8:9090",
    }
    loaded = settings(tmp_path, made, MetricsPort=":9091")
    assert loaded.metrics_port == TcpAddress("", 9091)
    (remark,) = warnings(loaded)
    assert remark.startswith(", ".join(sorted(made)))
    assert "Kubernetes" in remark


def test_metrics_are_for_the_machine_itself_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    assert settings(tmp_path, {}).metrics_port == TcpAddress("127.0.0.1", 9090)
    assert settings(tmp_path, {}, MetricsPort=":9090").metrics_port == TcpAddress("", 9090)


def test_an_empty_variable_is_as_good_as_none(tmp_path: Path) -> None:
    names = [setting.variable for setting in SETTINGS]
    empty = dict.fromkeys([*names, "HMACFS_SECRET_FILE", "HMACFS_REDIS_PASSWORD_FILE", "HMACFS_CONFIG", "HMACFS_X"], "")
    loaded = settings(tmp_path, empty, Workers=3, MetricsEnabled=True, AllowedOrigins=["https://a.b"])
    assert loaded == settings(tmp_path, Workers=3, MetricsEnabled=True, AllowedOrigins=["https://a.b"])
    assert warnings(loaded) == []


def test_one_rule_finds_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for nothing in (
        {},
        {"HMACFS_CONFIG": "", "HMACFS_SECRET": ""},
        {"HMACFS_PORT": "tcp://10.0.0.1:1", "HMACFS_X": "y"},
    ):
        with pytest.raises(ConfigError, match="no configuration: "):
            find_config(None, nothing)
    assert find_config(None, {"HMACFS_SECRET_FILE": "/x"}) is None
    (tmp_path / "config.toml").touch()
    assert find_config(None, {"HMACFS_SECRET_FILE": "/x", "HMACFS_CONFIG": ""}) == Path("config.toml")
    assert find_config(None, {"HMACFS_CONFIG": "other.toml"}) == Path("other.toml")
    assert find_config(Path("named.toml"), {"HMACFS_CONFIG": "other.toml"}) == Path("named.toml")


def test_everybody_trusted_or_exempt_is_a_warning(tmp_path: Path) -> None:
    for networks in (["0.0.0.0/0"], ["127.0.0.1", "::/0"]):
        (remark,) = warnings(settings(tmp_path, TrustedProxies=networks))
        assert "config.toml: TrustedProxies: every address is a trusted proxy" in remark
        (remark,) = warnings(settings(tmp_path, RateLimitExempt=networks))
        assert "config.toml: RateLimitExempt: every address is exempt" in remark
    assert warnings(settings(tmp_path, TrustedProxies=["10.0.0.0/8"], RateLimitExempt=["10.0.0.0/8"])) == []


def test_the_environment_alone_is_enough(tmp_path: Path) -> None:
    assert load(None, {"HMACFS_SECRET": SECRET, "HMACFS_STORE_DIR": str(tmp_path)}).store_dir == tmp_path
    with pytest.raises(ConfigError, match="the environment: Secret is missing"):
        load(None, {})


NEWER = """
[server]
listen_address = "8080"
StoragePath = "/srv/uploads"
max_upload_size = "10GB"
file_naming = "original"
[security]
secret = "of the newer original"
enablejwt = false
[Redis]
redisenabled = false
[network_resilience]
enabled = true
[uploads]
"""


def test_the_original_s_newer_files_are_known(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(NEWER)
    with pytest.raises(ForeignConfig) as caught:
        load(path, {})
    message = str(caught.value)
    assert message.startswith(f"{path}: [server] listen_address: this file is of another version of the original")
    assert '; this one is called ListenPort ("address:port") here; ' in message
    assert 'called ListenPort ("address:port") here; -check lists them all' in message
    assert caught.value.translations == [
        '[server] listen_address -> ListenPort ("address:port")',
        "[server] StoragePath -> StoreDir",
        "[server] max_upload_size -> UploadMaxSize",
        "[server] file_naming -> has no counterpart here",
        "[security] secret -> Secret",
        "[security] enablejwt -> has no counterpart here",
        '[Redis] redisenabled -> RedisAddr ("" for no Redis)',
        "[network_resilience] enabled -> has no counterpart here",
    ]
    assert "newer original" not in message + str(caught.value.translations)


def test_the_original_s_files_from_in_between_are_known_too(tmp_path: Path) -> None:
    with pytest.raises(ForeignConfig) as caught:
        settings(tmp_path, MaxUploadSize=1, BlockDuration=300)
    assert caught.value.translations == ["MaxUploadSize -> UploadMaxSize", "BlockDuration -> has no counterpart here"]
    with pytest.raises(ConfigError, match="unknown table; settings stand at the top"):
        settings(tmp_path, mine={"Secret": 1})


def test_what_the_original_s_keys_are_called_here_are_settings() -> None:
    known = {setting.key for setting in SETTINGS}
    for table in (*original.TABLES.values(), original.TOP_LEVEL):
        assert {name.split()[0] for name in table.values() if name} <= known
    assert not {key.lower() for key in known} & original.TOP_LEVEL.keys()
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert table_of_original_keys() in readme


def test_secrets_never_show(tmp_path: Path) -> None:
    loaded = settings(
        tmp_path,
        PreviousSecrets=["another-secret-of-old"],
        RedisPassword="redis-password",
        RedisAddr="redis://user:url-password@host",
        FallbackDBPassword="db-password",
    )
    for shown in (repr(loaded), str(loaded), str(loaded.secret)):
        for hidden in (SECRET, "another-secret-of-old", "redis-password", "url-password", "db-password"):
            assert hidden not in shown
    with pytest.raises(TypeError):
        pickle.dumps(loaded.secret)
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.workers = 3  # type: ignore[misc]
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1


def test_unix_sockets(tmp_path: Path) -> None:
    loaded = settings(tmp_path, UnixSocket=True, ListenPort="/run/hmacfs.sock")
    assert loaded.listen == UnixAddress(Path("/run/hmacfs.sock"))
    assert loaded.idle_timeout == 75.0
    assert settings(tmp_path).idle_timeout == 15.0


def test_every_setting_has_a_field_and_a_row() -> None:
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert fields - {setting.field for setting in SETTINGS} == {"origins", "remarks"}
    for setting in SETTINGS:
        assert setting.variable == f"HMACFS_{'LISTEN_PORT' if setting.key == 'ListenPort' else setting.field.upper()}"
        assert setting.variable.removeprefix("HMACFS_").replace("_", "").lower() == setting.key.lower()
    assert table_of_settings().count("\n") == len(SETTINGS) + 1
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert table_of_settings() in readme


def test_what_only_the_machine_can_tell(tmp_path: Path) -> None:
    fresh = settings(tmp_path, StoreDir=str(tmp_path / "new" / "store"))
    check_paths(fresh)
    assert not (tmp_path / "new").exists()
    make_folders(fresh)
    check_paths(fresh)
    assert (tmp_path / "new" / "store").is_dir()
    assert [path.name for path in (tmp_path / "new" / "store").iterdir()] == [".hmacfs"]
    assert (tmp_path / "new" / "store" / ".hmacfs").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"StoreDir": str(tmp_path / "file")}, "StoreDir"),
        ({"StoreDir": "/proc/none"}, "StoreDir"),
        ({"RuntimeDir": "/proc/none"}, "RuntimeDir"),
        ({"StateDir": "/proc/none"}, "StateDir"),
        ({"StateDir": str(tmp_path / "file")}, "StateDir"),
        ({"StoreDir": str(tmp_path), "LogFile": str(tmp_path / "none" / "log")}, "LogFile"),
        ({"StoreDir": str(tmp_path), "UnixSocket": True, "ListenPort": str(tmp_path / "none" / "s")}, "ListenPort"),
        ({"StoreDir": str(tmp_path), "UnixSocket": True, "ListenPort": str(tmp_path / "file")}, "ListenPort"),
        ({"StoreDir": str(tmp_path), "UnixSocket": True, "ListenPort": str(tmp_path)}, "ListenPort"),
        ({"StoreDir": str(tmp_path), "UnixSocket": True, "ListenPort": "/proc/s"}, "ListenPort"),
    ]
    for values, words in cases:
        with pytest.raises(ConfigError, match=f"config.toml: {words}: "):
            check_paths(settings(tmp_path, **values))


def test_the_state_is_in_the_store_unless_it_has_a_folder_of_its_own(tmp_path: Path) -> None:
    store, elsewhere = tmp_path / "store", tmp_path / "state"
    default = settings(tmp_path)
    assert (default.state_dir, default.has_own_state_dir) == (store / ".hmacfs", False)
    (tmp_path / "way").symlink_to(store)
    for same in (store / ".hmacfs", tmp_path / "way" / ".hmacfs", store / ".." / "store" / ".hmacfs"):
        assert not settings(tmp_path, StateDir=str(same)).has_own_state_dir
    own = settings(tmp_path, StateDir=str(elsewhere))
    assert (own.state_dir, own.has_own_state_dir) == (elsewhere, True)
    check_private_paths(own, None, {})
    check_paths(own)
    assert not elsewhere.exists()
    make_folders(own)
    assert elsewhere.stat().st_mode & 0o777 == 0o700


def test_links_that_lead_nowhere_are_told_of_only_where_a_worker_needs_the_file(tmp_path: Path) -> None:
    loaded = settings(tmp_path, StateDir=str(tmp_path / "state"))
    make_folders(loaded)
    (loaded.state_dir / "of-others").symlink_to(tmp_path / "nothing")
    check_paths(loaded)
    assert not list(inaccessible_files(loaded))
    needed = loaded.state_dir / "sessions.sqlite3"
    needed.symlink_to(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=f"config.toml: StateDir: {needed} .* a link that leads nowhere: remove it"):
        check_paths(loaded)


@pytest.mark.parametrize(
    ("state", "runtime", "words"),
    [
        ("run", "run", "which a reboot may empty"), ("run/x", "run", "which a reboot may empty"),
        ("store/.hmacfs/run/x", "run", "leave StateDir out"), ("store/x", "run", "everybody may download it"),
        ("store", "run", "everybody may download it"),
    ],
)  # fmt: skip
def test_where_the_state_would_be_lost_or_served(tmp_path: Path, state: str, runtime: str, words: str) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "run").mkdir()
    loaded = settings(tmp_path, StateDir=str(tmp_path / state), RuntimeDir=str(tmp_path / runtime))
    with pytest.raises(ConfigError, match=f"config.toml: StateDir: {tmp_path / state} .*{words}"):
        check_private_paths(loaded, None, {})


def test_a_runtime_dir_in_the_reserved_folder_is_no_matter_of_the_state(tmp_path: Path) -> None:
    check_private_paths(settings(tmp_path, RuntimeDir=str(tmp_path / "store" / ".hmacfs")), None, {})


_SCALARS = st.booleans() | st.integers() | st.floats() | st.text(max_size=30)


@given(
    st.dictionaries(st.sampled_from([setting.key for setting in SETTINGS]), _SCALARS | st.lists(_SCALARS, max_size=3))
)
def test_any_value_is_taken_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in document.items() if value is not None]
    path.write_text("\n".join(lines).replace("NaN", "nan").replace("Infinity", "inf"), encoding="utf-8")
    try:
        load(path, {})
    except ConfigError as error:
        assert str(error).count("\n") == 0


@given(st.integers(min_value=0, max_value=2**40), st.sampled_from(["", "B", "kb", "MiB", "G"]))
def test_sizes_in_all_units(number: int, unit: str) -> None:
    factor = {"": 1, "B": 1, "kb": 1 << 10, "MiB": 1 << 20, "G": 1 << 30}[unit]
    if number * factor <= 2**62:
        assert size()(f"{number}{unit}") == number * factor
        assert byte_rate(f"{number}{unit}/s") == number * factor


@given(st.integers(min_value=1, max_value=10**6), st.sampled_from(["", "s", "m", "h", "d"]))
def test_durations_in_all_units(number: int, unit: str) -> None:
    assert duration()(f"{number}{unit}") == number * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]


_PERIODS = ["second", "minutes", "HOUR", "days", "month", "Years"]
_RATES = st.builds(
    "{}{}{}{}{}".format,
    st.integers(0, 10**6),
    st.sampled_from(["/", " / ", " per ", "PER"]),
    st.sampled_from(["", "0", "1", "15", "30 "]),
    st.sampled_from(["", " "]),
    st.sampled_from(_PERIODS),
)


@given(st.lists(_RATES, min_size=1, max_size=3), st.sampled_from([";", ", ", " | "]))
def test_request_rates_are_what_the_package_limits_makes_of_them(rates: list[str], separator: str) -> None:
    """Also the keys, by which counts that are kept go on."""
    text = separator.join(rates)
    expected = sorted(limits.parse_many(text), key=lambda item: item.get_expiry())
    found = request_rates(text)
    assert [(rate.amount, rate.seconds) for rate in found] == [(item.amount, item.get_expiry()) for item in expected]
    assert [rate.key("upload", "::/64") for rate in found] == [item.key_for("upload", "::/64") for item in expected]
    assert request_rates(";".join(map(str, found))) == found


def test_chunks_that_no_size_bounds_are_a_warning(tmp_path: Path) -> None:
    assert warnings(settings(tmp_path)) == []
    (remark,) = warnings(settings(tmp_path, AcceptUnsizedChunks=True))
    assert "config.toml: AcceptUnsizedChunks: " in remark
