"""Reading the configuration: a TOML file, the environment above it, and what must hold between settings.

Every mistake becomes one line that names where it is, the key, the value and what is allowed.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from hmacfs.config.original import Translation, translations
from hmacfs.config.placeholders import can_be_guessed, is_placeholder
from hmacfs.config.settings import REQUIRED, SETTINGS, Setting, Settings, cores
from hmacfs.config.values import FromEnvironment, TcpAddress, UnixAddress, one_line, password, shown, tcp_address
from hmacfs.config.values import path as socket_path
from hmacfs.errors import ConfigError, ForeignConfig
from hmacfs.protocol.names import RESERVED_FOLDER
from hmacfs.system.ownership import unreadable

ENVIRONMENT_PREFIX = "HMACFS_"
CONFIG_VARIABLE = "HMACFS_CONFIG"

#: struct sockaddr_un has 108 bytes, the last of which is a zero.
_SOCKET_PATH_LIMIT = 107
#: What Kubernetes puts into the environment of all pods for a service whose name begins with "hmacfs".
_KUBERNETES_NAME = re.compile(
    r"HMACFS_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_KUBERNETES_PORT = re.compile(r"(?:tcp|udp|sctp)://\S+:[0-9]+")
_NEW_SECRET = "make a new one, such as by: openssl rand -hex 32"  # noqa: S105
_NO_SECRET_ANY_MORE = "take it out as soon as the slots made with it are used up"  # noqa: S105
_IDLE_TIMEOUT_TCP, _IDLE_TIMEOUT_UNIX = 15.0, 75.0


class _Given(NamedTuple):
    """A value and where it was given: "config.toml: StoreDir" or "HMACFS_STORE_DIR"."""

    value: Any
    where: str


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of the file at ``path`` (``None``: no file), overridden by ``HMACFS_*`` variables.

    Reads that file and the files that ``HMACFS_..._FILE`` variables name, and nothing else. Raises ``ConfigError``.
    """
    given = _from_file(path) if path is not None else {}
    from_environment, remarks = _from_environment(environ)
    given.update(from_environment)
    parsed: dict[str, Any] = {}
    for setting in SETTINGS:
        parsed[setting.field] = _parse(setting, given.get(setting.key), path)
    return _settings(parsed, given, path, remarks)


def _from_file(path: Path) -> dict[str, _Given]:
    text = ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{one_line(path)}: cannot be read: {one_line(unreadable(path, error))}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{one_line(path)}: is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        last = text.rstrip().count("\n") + 1
        sentence = str(error).replace("at end of document", f"at line {last}, the end of the document")
        raise ConfigError(f"{one_line(path)}: is not TOML: {one_line(sentence)}") from None
    except RecursionError:
        raise ConfigError(f"{one_line(path)}: is not TOML: nested too deeply") from None
    if foreign := translations(document):
        raise _of_the_original(path, foreign)
    known = {setting.key.lower(): setting for setting in SETTINGS}
    given: dict[str, _Given] = {}
    for key, value in document.items():
        setting = known.get(key.lower())
        where = f"{one_line(path)}: {one_line(key)}"
        if setting is None:
            if isinstance(value, dict):
                raise ConfigError(f"{where}: unknown table; settings stand at the top of the file, in no table")
            raise ConfigError(f"{where}: unknown key{_nearest(key, [setting.key for setting in SETTINGS])}")
        if setting.key in given:
            raise ConfigError(f"{where}: given twice, in different spellings")
        given[setting.key] = _Given(value, where)
    return given


def _of_the_original(path: Path, found: list[Translation]) -> ForeignConfig:
    key, setting = one_line(found[0].key), found[0].setting
    name = f"is called {setting} here" if setting else "has no counterpart here"
    return ForeignConfig(
        f"{one_line(path)}: {key}: this file is of another version of the original, whose keys have other names; this "
        f"one {name}; -check lists them all",
        [one_line(translation) for translation in found],
    )


@functools.cache
def variables() -> Mapping[str, tuple[Setting, bool]]:
    """The environment variables that are settings: which, and whether they name a file that holds the value."""
    known: dict[str, tuple[Setting, bool]] = {}
    for setting in SETTINGS:
        name = ENVIRONMENT_PREFIX + setting.field.upper()
        known[name] = (setting, False)
        if setting.is_secret:
            known[f"{name}_FILE"] = (setting, True)
    return known


def _from_environment(environ: Mapping[str, str]) -> tuple[dict[str, _Given], list[str]]:
    """What is given there; an empty variable gives nothing. And a sentence about each that is no setting."""
    known = variables()
    given: dict[str, _Given] = {}
    remarks: list[str] = []
    of_kubernetes: list[str] = []
    for name, value in sorted(environ.items()):
        if not name.startswith(ENVIRONMENT_PREFIX) or name == CONFIG_VARIABLE or not value:
            continue
        if _KUBERNETES_NAME.fullmatch(name) or (name.endswith("_PORT") and _KUBERNETES_PORT.fullmatch(value)):
            of_kubernetes.append(name)
        elif name not in known:
            hint = _nearest(name, list(known), ENVIRONMENT_PREFIX)
            remarks.append(f"{one_line(name)}: unknown environment variable{hint}")
        else:
            setting, is_file = known[name]
            if setting.key in given:
                raise ConfigError(f"{name}: contradicts {given[setting.key].where}: give one of the two")
            given[setting.key] = _Given(FromEnvironment(_secret_file(name, value) if is_file else value), name)
    if of_kubernetes:
        names = ", ".join(of_kubernetes)
        remarks.append(f"{names}: made by Kubernetes and not read (enableServiceLinks: false ends that)")
    return given, remarks


def _secret_file(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        why = one_line(unreadable(Path(path), error))
        raise ConfigError(f"{name}: {one_line(path)}: cannot be read: {why}") from None
    except ValueError:  # not UTF-8, or no path at all
        raise ConfigError(f"{name}: {one_line(path)}: is no file of UTF-8 text") from None


def _parse(setting: Setting, given: _Given | None, path: Path | None) -> Any:
    if given is None:
        if setting.default is REQUIRED:
            variable = ENVIRONMENT_PREFIX + setting.field.upper()
            raise ConfigError(f"{one_line(path or 'the environment')}: {setting.key} is missing (or {variable})")
        return setting.parse(setting.default)
    try:
        return setting.parse(given.value)
    except ValueError as error:
        value = shown(given.value, is_secret=setting.is_secret)
        raise ConfigError(f"{given.where}: {one_line(value)} is not allowed; allowed is {one_line(error)}") from None


def _settings(parsed: dict[str, Any], given: dict[str, _Given], path: Path | None, remarks: list[str]) -> Settings:
    """The object, once the settings fit each other."""

    elsewhere = one_line(path or "the environment")
    origins = {
        setting.key: given[setting.key].where if setting.key in given else f"{elsewhere}: {setting.key}"
        for setting in SETTINGS
    }

    def refuse(key: str, sentence: str) -> ConfigError:
        return ConfigError(f"{origins[key]}: {sentence}")

    listen_text, is_unix = parsed.pop("listen_port"), parsed.pop("unix_socket")
    listen = _listen(listen_text, refuse, is_unix=is_unix)
    metrics: TcpAddress = parsed["metrics_port"]
    if parsed["metrics_enabled"] and isinstance(listen, TcpAddress) and _overlap(listen, metrics):
        raise refuse("MetricsPort", f"{metrics} is the address of ListenPort; give another port")
    if parsed["fallback_enabled"]:
        for key, field in (("FallbackDBUser", "fallback_db_user"), ("FallbackDBName", "fallback_db_name")):
            if not parsed[field]:
                raise refuse(key, "is needed with FallbackEnabled = true")
    if parsed["fallback_db_tls_ca"] is not None and parsed["fallback_db_tls"] != "verify-full":
        raise refuse("FallbackDBTLSCA", 'is of use only with FallbackDBTLS = "verify-full"')
    if parsed["idle_timeout"] is None:
        parsed["idle_timeout"] = _IDLE_TIMEOUT_UNIX if is_unix else _IDLE_TIMEOUT_TCP
    parsed["workers"] = parsed["workers"] or cores()
    # Several machines may share a store, but no memory.
    parsed["runtime_dir"] = parsed["runtime_dir"] or parsed["store_dir"] / RESERVED_FOLDER / "run" / _host_name()
    return Settings(origins=MappingProxyType(origins), remarks=tuple(remarks), listen=listen, **parsed)


def _listen(text: str, refuse: Any, *, is_unix: bool) -> TcpAddress | UnixAddress:
    if is_unix:
        if re.fullmatch(r":?[0-9]*", text):
            raise refuse(
                "ListenPort",
                f"{shown(text)} is no path; with UnixSocket = true it is the socket's path",
            )
        if len(os.fsencode(text)) > _SOCKET_PATH_LIMIT or "\0" in text:
            raise refuse("ListenPort", f"is no path of at most {_SOCKET_PATH_LIMIT} bytes, which a socket needs")
        try:
            return UnixAddress(socket_path(text))
        except ValueError as error:
            raise refuse("ListenPort", f"{shown(text)} is not allowed; allowed is {error}") from None
    try:
        address: TcpAddress = tcp_address(text)
    except ValueError as error:
        hint = "; for a socket's path set UnixSocket = true" if "/" in text else ""
        raise refuse("ListenPort", f"{one_line(shown(text))} is not allowed; allowed is {error}{hint}") from None
    return address


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname()).lstrip(".") or "localhost"


def _overlap(one: TcpAddress, other: TcpAddress) -> bool:
    return one.port == other.port and (one.host == other.host or not one.host or not other.host)


def _nearest(name: str, known: list[str], prefix: str = "") -> str:
    by_lower = {candidate.removeprefix(prefix).lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.removeprefix(prefix).lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[found[0]]}?" if found else ""


def _weak_secrets(settings: Settings) -> Iterator[str]:
    """A sentence about each secret that is none. A password may be short, where nobody can try many."""
    for setting in SETTINGS:
        value = getattr(settings, setting.field) if setting.is_secret else None
        remedy = _NO_SECRET_ANY_MORE if setting.key == "PreviousSecrets" else _NEW_SECRET
        for secret in value if isinstance(value, tuple) else (value,):
            text = secret.reveal().decode() if secret else ""
            if text and is_placeholder(text):
                yield f"{settings.origins[setting.key]}: is a placeholder, which everybody knows: {remedy}"
            elif text and setting.parse is not password and can_be_guessed(text):
                yield f"{settings.origins[setting.key]}: can be guessed: {remedy}"


def warnings(settings: Settings) -> list[str]:
    """What an operator should know though nothing is wrong with it, one sentence each."""
    remarks = [*settings.remarks]
    remarks += _weak_secrets(settings)
    if any(network.prefixlen == 0 for network in settings.trusted_proxies):
        where = settings.origins["TrustedProxies"]
        remarks.append(f"{where}: every address is a trusted proxy: anybody may claim to be anybody; name your proxies")
    if any(network.prefixlen == 0 for network in settings.rate_limit_exempt):
        remarks.append(f"{settings.origins['RateLimitExempt']}: every address is exempt: there are no rate limits")
    if settings.accept_unsized_chunks:
        where = settings.origins["AcceptUnsizedChunks"]
        remarks.append(f"{where}: a signature over one chunk is good for files of UploadMaxSize")
    return remarks
