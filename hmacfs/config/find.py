"""Where the configuration is: one rule for the server and for all its commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hmacfs.config.load import CONFIG_VARIABLE, variables
from hmacfs.errors import ConfigError

_HERE = Path("config.toml")


def find_config(named: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file ``named`` on the command line; else the one that ``HMACFS_CONFIG`` names; else ``./config.toml`` if it
    is there; else ``None``, if the environment has settings. Raises ``ConfigError`` where there is nothing at all."""
    if named is not None:
        return named
    if path := environ.get(CONFIG_VARIABLE):
        return Path(path)
    if _HERE.exists():
        return _HERE
    if any(environ.get(name) for name in variables()):
        return None
    raise ConfigError(
        f"no configuration: there is no ./{_HERE}; give -config FILE, set {CONFIG_VARIABLE}, or make one: -init {_HERE}"
    )
