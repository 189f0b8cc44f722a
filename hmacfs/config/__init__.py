"""Settings: a TOML file and the environment, parsed once into a frozen object of final values."""

from hmacfs.config.advice import notes, warnings
from hmacfs.config.exposure import check_private_paths, exposed_to_others
from hmacfs.config.load import load
from hmacfs.config.paths import check_paths, inaccessible_files, make_folders
from hmacfs.config.settings import SETTINGS, Settings
from hmacfs.config.sources import CONFIG_VARIABLE, find_config
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

__all__ = [
    "CONFIG_VARIABLE",
    "SETTINGS",
    "ConditionalWrites",
    "DatabaseHost",
    "DatabaseTls",
    "DatabaseType",
    "DownloadOffload",
    "Durability",
    "FreeSpace",
    "LogFormat",
    "LogLevel",
    "RequestRate",
    "Secret",
    "Settings",
    "Storage",
    "TcpAddress",
    "UnixAddress",
    "check_paths",
    "check_private_paths",
    "exposed_to_others",
    "find_config",
    "inaccessible_files",
    "load",
    "make_folders",
    "notes",
    "warnings",
]
