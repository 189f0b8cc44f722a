"""Where settings are given: a TOML file, and the environment above it. Here they are found and not yet parsed."""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hmacfs.config.declare import ENVIRONMENT_PREFIX, Setting
from hmacfs.config.messages import one_line
from hmacfs.config.original import Translation, translations
from hmacfs.config.parsers import FromEnvironment
from hmacfs.config.settings import SETTINGS
from hmacfs.errors import ConfigError, ForeignConfig
from hmacfs.system.ownership import unreadable

CONFIG_VARIABLE = "HMACFS_CONFIG"

_DEFAULT_FILE = Path("config.toml")
#: What Kubernetes puts into the environment of all pods for a service whose name begins with "hmacfs".
_KUBERNETES_NAME = re.compile(
    r"HMACFS_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_KUBERNETES_PORT = re.compile(r"(?:tcp|udp|sctp)://\S+:[0-9]+")


class Given(NamedTuple):
    """A value and where it was given: "config.toml: StoreDir" or "HMACFS_STORE_DIR"."""

    value: Any
    where: str


def find_config(named: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The configuration file, by one rule for the server and for all its commands: the file ``named`` on the command
    line; else the one that ``HMACFS_CONFIG`` names; else ``./config.toml`` if it is there; else ``None``, if the
    environment has settings. Raises ``ConfigError`` where there is nothing at all."""
    if named is not None:
        return named
    if path := environ.get(CONFIG_VARIABLE):
        return Path(path)
    if _DEFAULT_FILE.exists():
        return _DEFAULT_FILE
    if any(environ.get(name) for name in variables()):
        return None
    raise ConfigError(
        f"no configuration: there is no ./{_DEFAULT_FILE}; give -config FILE, set {CONFIG_VARIABLE}, or make one: -init"
        f" {_DEFAULT_FILE}"
    )


def from_file(path: Path) -> dict[str, Given]:
    """What a TOML file gives, by the settings' keys. Raises ``ConfigError``, for another program's file the subclass
    ``ForeignConfig``."""
    document = _read(path)
    if foreign := translations(document):
        raise _of_the_original(path, foreign)
    known = {setting.key.lower(): setting for setting in SETTINGS}
    given: dict[str, Given] = {}
    for key, value in document.items():
        where = f"{one_line(path)}: {one_line(key)}"
        setting = known.get(key.lower())
        if setting is None and isinstance(value, dict):
            raise ConfigError(f"{where}: unknown table; settings stand at the top of the file, in no table")
        if setting is None:
            raise ConfigError(f"{where}: unknown key{_nearest(key, [setting.key for setting in SETTINGS])}")
        if setting.key in given:
            raise ConfigError(f"{where}: given twice, in different spellings")
        given[setting.key] = Given(value, where)
    return given


def _read(path: Path) -> dict[str, Any]:
    text = ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return tomllib.loads(text)
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
    """The environment variables of all settings: which, and whether the variable names a file with the value."""
    known = {setting.variable: (setting, False) for setting in SETTINGS}
    return known | {f"{setting.variable}_FILE": (setting, True) for setting in SETTINGS if setting.is_secret}


def from_environment(environ: Mapping[str, str]) -> tuple[dict[str, Given], list[str]]:
    """What variables give, by the settings' keys, and a sentence about each variable that is no setting. An empty one
    gives nothing. Raises ``ConfigError``."""
    known = variables()
    given: dict[str, Given] = {}
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
            given[setting.key] = Given(FromEnvironment(_secret_file(name, value) if is_file else value), name)
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


def _nearest(name: str, known: list[str], prefix: str = "") -> str:
    by_lower = {candidate.removeprefix(prefix).lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.removeprefix(prefix).lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[found[0]]}?" if found else ""
