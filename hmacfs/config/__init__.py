"""Settings: a TOML file and the environment, parsed once into a frozen, typed object."""

from hmacfs.config.find import find_config
from hmacfs.config.load import load, warnings
from hmacfs.config.machine import check_environment, foreign_files, prepare_environment
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
    "find_config",
    "foreign_files",
    "load",
    "markdown_table",
    "parse_duration",
    "prepare_environment",
    "warnings",
]
