"""Settings: a TOML file and the environment, parsed once into a frozen, typed object."""

from hmacfs.config.exposure import check_places, exposed_to_others
from hmacfs.config.find import find_config
from hmacfs.config.load import CONFIG_VARIABLE, load, warnings
from hmacfs.config.machine import check_environment, inaccessible_files, prepare_environment
from hmacfs.config.settings import SETTINGS, Settings, markdown_table
from hmacfs.config.values import FreeSpace, Secret, TcpAddress, UnixAddress, parse_duration

__all__ = [
    "CONFIG_VARIABLE",
    "SETTINGS",
    "FreeSpace",
    "Secret",
    "Settings",
    "TcpAddress",
    "UnixAddress",
    "check_environment",
    "check_places",
    "exposed_to_others",
    "find_config",
    "inaccessible_files",
    "load",
    "markdown_table",
    "parse_duration",
    "prepare_environment",
    "warnings",
]
