"""The server's side of a service manager such as systemd: inherited sockets, readiness, and the outcome of a reload.

Protocols: sd_listen_fds(3) and sd_notify(3). gunicorn implements both, but it notifies READY before any worker can
serve, and closes the descriptors that a successor (SIGUSR2) looks for.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import stat
from pathlib import Path
from typing import Any, NamedTuple

from hmacfs.errors import ConfigError

log = logging.getLogger("hmacfs.server")

#: The first inherited descriptor.
FIRST_SOCKET = 3
#: In the folder of the service, where ``hmacfs reload`` reads how its reload ended.
OUTCOME_FILE = "reload.json"


class Outcome(NamedTuple):
    """How the last reload of the process ``pid`` ended. ``problem`` is one line, empty after success."""

    pid: int
    serial: int
    problem: str


class ServiceManager:
    """The state of the protocol, in the master."""

    def __init__(self) -> None:
        self._has_sockets = False
        self._notify_address = ""
        self._is_ready = False
        self._serial = 0
        self._problem = ""
        #: The workers that a reload in progress replaces are no older than this; ``None`` if there is none in progress.
        self._replaced: int | None = None

    def take_over(self) -> None:
        """Before gunicorn listens: take over from the environment, so that gunicorn does not act on it. Raises
        ``ConfigError`` if an inherited descriptor is no socket to listen at."""
        _check_sockets(_socket_count())
        self._has_sockets = _socket_count() > 0
        self._notify_address = os.environ.pop("NOTIFY_SOCKET", "")

    @property
    def is_activated(self) -> bool:
        """Whether the listening sockets are the manager's, and outlive this process. Raises ``ConfigError`` if the
        environment makes no sense."""
        return self._has_sockets or _socket_count() > 0

    @property
    def is_watching(self) -> bool:
        """Whether a manager wants to know which process is the server."""
        return bool(self._notify_address)

    def worker_serves(self, age: int) -> None:
        """A worker of this age, or a younger one, has begun to serve: the start or the reload is complete."""
        if not self._is_ready:
            self._is_ready = True
            self.notify("READY=1", "STATUS=serving")
        if self._replaced is not None and age > self._replaced:
            self._end_reload()

    def begin_reload(self) -> None:
        self._serial += 1
        self._problem = ""
        self._replaced = None

    def refuse(self, problem: str) -> None:
        """The reload in progress keeps the old settings, or some of them, for this reason."""
        self._problem = problem

    def replace_workers(self, age: int) -> None:
        """The reload in progress has started workers that are to replace those up to this age."""
        self._replaced = age
        if self._problem:
            self._end_reload()

    def _end_reload(self) -> None:
        self._replaced = None
        self.notify(f"STATUS=reload refused: {self._problem}" if self._problem else "STATUS=serving")
        if (folder := runtime_folder()) is not None:
            try:
                _write(folder, Outcome(os.getpid(), self._serial, self._problem))
            except OSError as error:
                log.warning("%s cannot be written: %s", folder / OUTCOME_FILE, error.strerror)

    def notify(self, *lines: str) -> None:
        """Tell the manager, if there is one."""
        address = self._notify_address
        if not address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), "\0" + address[1:] if address[0] == "@" else address)


def runtime_folder() -> Path | None:
    """The folder that systemd makes for the running service (``RuntimeDirectory=``, the first one)."""
    name = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(name) if name else None


def _write(folder: Path, outcome: Outcome) -> None:
    draft = folder / f".{OUTCOME_FILE}-{outcome.pid}"
    draft.write_text(json.dumps(outcome._asdict()), encoding="utf-8")
    draft.replace(folder / OUTCOME_FILE)


def last_outcome(folder: Path) -> Outcome | None:
    """How the last reload ended, ``None`` if nothing tells."""
    try:
        return Outcome(**json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):
        return None


def _socket_count() -> int:
    """How many the environment offers to this process."""
    if os.environ.get("LISTEN_PID", "").strip() != str(os.getpid()):
        return 0
    count = os.environ.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdigit() and len(count) < 5):
        raise ConfigError(f"the environment: LISTEN_FDS: {count!r} is not allowed; allowed is a number of sockets")
    return int(count)


def _check_sockets(count: int) -> None:
    for fd in range(FIRST_SOCKET, FIRST_SOCKET + count):
        problem = _socket_problem(fd)
        if problem:
            raise ConfigError(
                f"the environment: LISTEN_FDS: descriptor {fd} is {problem}; allowed is a listening stream socket "
                "(ListenStream= with Accept=no)"
            )


def _socket_problem(fd: int) -> str:
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return "no socket"
        with socket.socket(fileno=os.dup(fd)) as trial:
            if trial.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
                return "of another address family"
            if trial.type != socket.SOCK_STREAM or not trial.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return "a socket that does not listen for streams"
    except OSError as error:
        return f"not usable ({error.strerror})"
    return ""


def pass_on_sockets(listeners: list[Any]) -> None:
    """Just before a successor is executed: put the sockets where it looks for them."""
    beyond = FIRST_SOCKET + len(listeners)
    copies = [fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD, beyond) for listener in listeners]
    for place, copy in enumerate(copies, FIRST_SOCKET):
        os.dup2(copy, place)  # inheritable, unlike the copy's original
        os.set_inheritable(copy, False)
