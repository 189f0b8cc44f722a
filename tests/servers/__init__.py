"""Real servers for tests: each a private instance on a free loopback port, in a folder of its own."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from tests import markers
from tests.servers import reaper

T = TypeVar("T")

#: Besides those of ``PATH``; the last has the programs that come as Python packages.
_MORE_FOLDERS = [
    *("/usr/sbin", "/sbin", *sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)),
    str(Path(sys.executable).parent),
]


def require(found: T | None, what: str) -> T:
    """``found``, or a skip that says what is missing; with ``CI=true`` a failure."""
    if found is not None:
        return found
    sentence = f"{what} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(sentence)
    pytest.skip(sentence)


def require_binary(name: str) -> str:
    """The path of a program."""
    markers.check_program(name)
    path = os.pathsep.join([os.environ.get("PATH", ""), *_MORE_FOLDERS])
    return require(shutil.which(name, path=path), name)


def require_root(what: str) -> None:
    """A skip for other users, which names what they may not do. No machine is wrong for that: nor is it with ``CI=true``."""
    if os.geteuid() != 0:
        pytest.skip(f"only root may {what}")


def descriptor_limit() -> int:
    """How many files a process of this user may have open at most, wherever its limit stands now."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def raise_descriptor_limit() -> None:
    """Let this process and its children open as many files as they may: a login's limit is often 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


#: The ports given last: a test asks for some before it starts a server on the first.
_GIVEN: deque[int] = deque(maxlen=100)


def free_port() -> int:
    """A loopback port that nothing listened at a moment ago. It is none of those that the kernel gives to clients: one of
    these could have it before its server is started, or started again."""
    with contextlib.suppress(OSError, ValueError):
        first_of_clients = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        for _ in range(100):
            port = 10_000 + secrets.randbelow(first_of_clients - 10_000)
            if port not in _GIVEN and _is_free(port):
                _GIVEN.append(port)
                return port
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def wait_until(condition: Callable[[], T], *, timeout: float = 45.0, what: str = "the condition") -> T:
    """The first true value of ``condition``, asked often; an error after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout} s")
        time.sleep(0.02)


def accepts_connections(port: int) -> bool:
    """Whether something listens at the loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def answers_200(url: str, timeout: float) -> bool:
    """Whether a GET is answered so by now. Any other answer, and none, is a no."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()  # it is an answer too, and Python 3.14 warns of one that is not closed
        return False
    except OSError:
        return False


def as_user(name: str) -> list[str]:
    """A command's prefix that runs it as that user, for servers that refuse to run as root; nothing for other users."""
    if os.geteuid() != 0:
        return []
    return [require_binary("setpriv"), f"--reuid={name}", f"--regid={name}", "--clear-groups"]


def give_to(folder: Path, name: str) -> None:
    """Make a user own a folder with all that is in it, and let everybody reach it."""
    if os.geteuid() != 0:
        return
    user = pwd.getpwnam(name)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid)
    for parent in folder.parents:
        if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)


@contextlib.contextmanager
def folder_of(user: str) -> Iterator[Path]:
    """A new folder for a server that runs as that user. pytest's own folders won't do: each pytest that starts on this
    machine closes them to other users again."""
    with tempfile.TemporaryDirectory(prefix=f"{user}-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        reaper.watch_folder(folder)
        give_to(folder, user)
        yield folder
    reaper.forget_folder(folder)


def freeze(*pids: int) -> None:
    """Stop processes until SIGCONT; none of their threads runs any more. The signal alone is no promise of that: on a
    busy machine some thread answers one more request."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    wait_until(lambda: all(map(_is_stopped, tasks)), what="the stop of all threads")


def _is_stopped(task: Path) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    return True


class Daemon:
    """A running program in a folder of its own, its output in ``log``, stopped with its children.

    pass_fds: descriptors that it gets under the same numbers.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.log_path = folder / "output.log"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        reaper.watch_group(self.process.pid)

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """What it printed so far."""
        return self.log_path.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool], *, timeout: float = 45.0, what: str = "readiness") -> None:
        """Wait for a condition that needs the program to live."""

        def settled() -> bool:
            return condition() or self.process.poll() is not None

        try:
            wait_until(settled, timeout=timeout, what=what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it printed:\n{self.log()}") from None
        if self.process.poll() is not None and not condition():
            raise RuntimeError(f"it ended with {self.process.returncode}; it printed:\n{self.log()}")

    def stop(self, number: int = signal.SIGTERM, *, timeout: float = 20.0) -> int:
        """Send a signal, wait for the end, and kill what is left of its process group. The exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it and all its children at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        reaper.forget_group(self.process.pid)
