"""Reading the configuration: a TOML file, the environment above it, and what must hold between settings.

Every mistake becomes one line that names where it is, the key, the value and what is allowed.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from hmacfs.config.settings import PUBLISHED_SECRET, REQUIRED, SETTINGS, Setting, Settings, cores
from hmacfs.config.values import FromEnvironment, TcpAddress, UnixAddress, shown, tcp_address
from hmacfs.config.values import path as socket_path
from hmacfs.errors import ConfigError
from hmacfs.naming import RESERVED_FOLDER

ENVIRONMENT_PREFIX = "HMACFS_"
CONFIG_VARIABLE = "HMACFS_CONFIG"

#: struct sockaddr_un has 108 bytes, the last of which is a zero.
_SOCKET_PATH_LIMIT = 107
#: As the log makes it: it names clients and files, which are not for everybody.
_LOG_MODE = 0o640
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
    given.update(_from_environment(environ))
    parsed: dict[str, Any] = {}
    for setting in SETTINGS:
        parsed[setting.field] = _parse(setting, given.get(setting.key), path)
    return _settings(parsed, given, path)


def _from_file(path: Path) -> dict[str, _Given]:
    text = ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{_one_line(path)}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{_one_line(path)}: is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        last = text.rstrip().count("\n") + 1
        sentence = str(error).replace("at end of document", f"at line {last}, the end of the document")
        raise ConfigError(f"{_one_line(path)}: is not TOML: {_one_line(sentence)}") from None
    except RecursionError:
        raise ConfigError(f"{_one_line(path)}: is not TOML: nested too deeply") from None
    known = {setting.key.lower(): setting for setting in SETTINGS}
    given: dict[str, _Given] = {}
    for key, value in document.items():
        setting = known.get(key.lower())
        where = f"{_one_line(path)}: {_one_line(key)}"
        if setting is None:
            raise ConfigError(f"{where}: unknown key{_nearest(key, [setting.key for setting in SETTINGS])}")
        if setting.key in given:
            raise ConfigError(f"{where}: given twice, in different spellings")
        given[setting.key] = _Given(value, where)
    return given


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    variables: dict[str, tuple[Setting, bool]] = {}
    for setting in SETTINGS:
        name = ENVIRONMENT_PREFIX + setting.field.upper()
        variables[name] = (setting, False)
        if setting.is_secret:
            variables[f"{name}_FILE"] = (setting, True)
    given: dict[str, _Given] = {}
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX) or name == CONFIG_VARIABLE:
            continue
        if name not in variables:
            raise ConfigError(f"{_one_line(name)}: unknown environment variable{_nearest(name, list(variables))}")
        setting, is_file = variables[name]
        if setting.key in given:
            raise ConfigError(f"{name}: contradicts {given[setting.key].where}: give one of the two")
        value = _secret_file(name, environ[name]) if is_file else environ[name]
        given[setting.key] = _Given(FromEnvironment(value), name)
    return given


def _secret_file(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{name}: {_one_line(path)}: cannot be read: {error.strerror}") from None
    except ValueError:  # not UTF-8, or no path at all
        raise ConfigError(f"{name}: {_one_line(path)}: is no file of UTF-8 text") from None


def _parse(setting: Setting, given: _Given | None, path: Path | None) -> Any:
    if given is None:
        if setting.default is REQUIRED:
            variable = ENVIRONMENT_PREFIX + setting.field.upper()
            raise ConfigError(f"{_one_line(path or 'the environment')}: {setting.key} is missing (or {variable})")
        return setting.parse(setting.default)
    try:
        return setting.parse(given.value)
    except ValueError as error:
        value = shown(given.value, is_secret=setting.is_secret)
        raise ConfigError(f"{given.where}: {_one_line(value)} is not allowed; allowed is {_one_line(error)}") from None


def _settings(parsed: dict[str, Any], given: dict[str, _Given], path: Path | None) -> Settings:
    """The object, once the settings fit each other."""

    elsewhere = _one_line(path or "the environment")
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
    if parsed["idle_timeout"] is None:
        parsed["idle_timeout"] = _IDLE_TIMEOUT_UNIX if is_unix else _IDLE_TIMEOUT_TCP
    parsed["workers"] = parsed["workers"] or cores()
    # Several machines may share a store, but no memory.
    parsed["runtime_dir"] = parsed["runtime_dir"] or parsed["store_dir"] / RESERVED_FOLDER / "run" / _host_name()
    return Settings(origins=MappingProxyType(origins), listen=listen, **parsed)


def _listen(text: str, refuse: Any, *, is_unix: bool) -> TcpAddress | UnixAddress:
    if is_unix:
        if re.fullmatch(r":?[0-9]*", text):
            raise refuse("ListenPort", f"{text!r} is no path; with UnixSocket = true it is the socket's path")
        if len(os.fsencode(text)) > _SOCKET_PATH_LIMIT or "\0" in text:
            raise refuse("ListenPort", f"is no path of at most {_SOCKET_PATH_LIMIT} bytes, which a socket needs")
        try:
            return UnixAddress(socket_path(text))
        except ValueError as error:
            raise refuse("ListenPort", f"{text!r} is not allowed; allowed is {error}") from None
    try:
        address: TcpAddress = tcp_address(text)
    except ValueError as error:
        hint = "; for a socket's path set UnixSocket = true" if "/" in text else ""
        raise refuse(
            "ListenPort", f"{_one_line(shown(text, is_secret=False))} is not allowed; allowed is {error}{hint}"
        ) from None
    return address


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname()).lstrip(".") or "localhost"


def _overlap(one: TcpAddress, other: TcpAddress) -> bool:
    return one.port == other.port and (one.host == other.host or not one.host or not other.host)


def _nearest(name: str, known: list[str]) -> str:
    by_lower = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[found[0]]}?" if found else ""


def _one_line(value: object) -> str:
    """For a message: control characters and line ends replaced, so that it stays one line."""
    return "".join(c if c.isprintable() else "?" for c in str(value))


def _check_folder(origin: str, folder: Path, mode: int) -> None:
    """Make the folder, and its parents, if they are missing; write to it."""
    try:
        for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            missing.mkdir(mode, exist_ok=True)
        _try_to_write(folder)
    except OSError as error:
        raise ConfigError(f"{origin}: {_one_line(folder)} cannot be written: {error.strerror}") from None


def _try_to_write(folder: Path) -> None:
    trial = folder / f".hmacfs-trial-{os.getpid()}"
    trial.touch()
    trial.unlink()


def _check_socket(origin: str, path: Path) -> None:
    """Its folder is there, and what stands in its place is an older socket or nothing."""
    try:
        _try_to_write(path.absolute().parent)
    except OSError as error:
        raise ConfigError(f"{origin}: the folder of {_one_line(path)} cannot be written: {error.strerror}") from None
    if path.exists() and not path.is_socket():
        raise ConfigError(f"{origin}: {_one_line(path)} is there already, and is no socket")


def check_environment(settings: Settings) -> None:
    """What only the machine can tell: store and runtime folder can be made and written, the log file too. Raises
    ``ConfigError``."""
    origins = settings.origins
    _check_folder(origins["StoreDir"], settings.store_dir, 0o755)
    _check_folder(origins["RuntimeDir"], settings.runtime_dir, 0o700)
    if settings.log_file is not None:
        try:
            os.close(os.open(settings.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _LOG_MODE))
        except OSError as error:
            path = _one_line(settings.log_file)
            raise ConfigError(f"{origins['LogFile']}: {path} cannot be written: {error.strerror}") from None
    if isinstance(settings.listen, UnixAddress):
        _check_socket(origins["ListenPort"], settings.listen.path)


def warnings(settings: Settings) -> list[str]:
    """What an operator should know though nothing is wrong with it, one sentence each."""
    remarks = []
    if PUBLISHED_SECRET.encode() in (secret.reveal() for secret in (settings.secret, *settings.previous_secrets)):
        remarks.append("the Secret is the one of the original's example, which everybody knows: change it")
    return remarks
