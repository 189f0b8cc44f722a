"""Settings: a TOML file and the environment, parsed once into a frozen, typed object."""

from hmacfs.config.load import check_environment, load, warnings
from hmacfs.config.settings import SETTINGS, Settings, markdown_table
from hmacfs.config.values import FreeSpace, Secret, TcpAddress, UnixAddress, parse_duration

__all__ = [
    "SETTINGS",
    "FreeSpace",
    "Secret",
    "Settings",
    "TcpAddress",
    "UnixAddress",
    "check_environment",
    "load",
    "markdown_table",
    "parse_duration",
    "warnings",
]
