"""Final values of settings that depend on others or on the machine: the last step after parsing.

Each function takes the parsed value and those of all fields. ``ValueError`` has a sentence of what is wrong.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hmacfs.config.parsers as parsers
from hmacfs.config.messages import one_line, shown
from hmacfs.config.values import Storage, TcpAddress, UnixAddress
from hmacfs.protocol.names import RESERVED_FOLDER

#: struct sockaddr_un has 108 bytes, the last of which is a zero.
_SOCKET_PATH_LIMIT = 107
#: The folder in the reserved one for the machines' runtime folders.
RUNTIME_FOLDERS = "run"
#: The folder in ``StateDir`` for what is on its way to an object store.
SPOOL_FOLDER = "spool"
_IDLE_TIMEOUT_TCP, _IDLE_TIMEOUT_UNIX = 15.0, 75.0


def listen(text: str, parsed: Mapping[str, Any]) -> TcpAddress | UnixAddress:
    """An address, or the socket's path with ``UnixSocket``."""
    return _unix_address(text) if parsed["unix_socket"] else _tcp_address(text)


def _unix_address(text: str) -> UnixAddress:
    if re.fullmatch(r":?[0-9]*", text):
        raise ValueError(f"{shown(text)} is no path; with UnixSocket = true it is the socket's path")
    if len(os.fsencode(text)) > _SOCKET_PATH_LIMIT or "\0" in text:
        raise ValueError(f"is no path of at most {_SOCKET_PATH_LIMIT} bytes, which a socket needs")
    try:
        return UnixAddress(parsers.path(text))
    except ValueError as error:
        raise ValueError(f"{shown(text)} is not allowed; allowed is {error}") from None


def _tcp_address(text: str) -> TcpAddress:
    try:
        return parsers.tcp_address(text)
    except ValueError as error:
        hint = "; for a socket's path set UnixSocket = true" if "/" in text else ""
        raise ValueError(f"{one_line(shown(text))} is not allowed; allowed is {error}{hint}") from None


def idle_timeout(seconds: float | None, parsed: Mapping[str, Any]) -> float:
    """A proxy on a Unix socket keeps its connections longer than a client does."""
    if seconds is not None:
        return seconds
    return _IDLE_TIMEOUT_UNIX if parsed["unix_socket"] else _IDLE_TIMEOUT_TCP


def workers(number: int, _parsed: Mapping[str, Any]) -> int:
    """0: one for each processor core that this process may use."""
    if number:
        return number
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def store_dir(folder: Path | None, parsed: Mapping[str, Any]) -> Path | None:
    """``None`` where the files are in no folder, whatever is given."""
    return folder if parsed["storage"] is Storage.LOCAL else None


def state_dir(folder: Path | None, parsed: Mapping[str, Any]) -> Path:
    """By default with the files: who moves or mounts those has the sessions of unfinished uploads too."""
    return folder or Path(_store_dir(parsed), RESERVED_FOLDER)


def runtime_dir(folder: Path | None, parsed: Mapping[str, Any]) -> Path:
    """By default one for each machine: several may share a store, but no memory."""
    if folder:
        return folder
    store = _store_dir(parsed)
    host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname()).lstrip(".") or "localhost"
    return Path(store, RESERVED_FOLDER, RUNTIME_FOLDERS, host)


def _store_dir(parsed: Mapping[str, Any]) -> Path:
    if (folder := store_dir(parsed["store_dir"], parsed)) is None:
        raise ValueError('is needed with Storage = "s3", where there is no folder of files that it could be in')
    return folder


def path_style(is_path: bool | None, parsed: Mapping[str, Any]) -> bool:
    """An engine of one's own seldom has a host name for each bucket; Amazon's has nothing else."""
    return bool(parsed["s3_endpoint"]) if is_path is None else is_path


def spool_dir(folder: Path | None, parsed: Mapping[str, Any]) -> Path:
    """By default with the state: on a local disk, which has more room than the temporary folder or the runtime's."""
    return folder or Path(state_dir(parsed["state_dir"], parsed), SPOOL_FOLDER)
