"""What a service manager and the server tell one another, without a service manager; and updates that cost nothing."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest

from tests.live.client import Client, get, put, request
from tests.programs import program
from tests.servers import Daemon, accepts_connections, folder_of, free_port, wait_until
from tests.servers.hmacfs import HmacFileServer
from tests.servers.nginx import Nginx

StartServer = Callable[..., HmacFileServer]

HAND_OVER = str(program("hand_over.py"))


def hand_over(server: HmacFileServer, sockets: Sequence[socket.socket]) -> None:
    """Let the server be started with these."""
    descriptors = [opened.fileno() for opened in sockets]
    assert all(fd >= 3 + len(descriptors) for fd in descriptors)
    server.pass_fds = descriptors
    words = [sys.executable, HAND_OVER, str(len(descriptors)), *map(str, descriptors)]
    server.command = [*words, *server.command]


def listening(address: str | int) -> socket.socket:
    """A listening socket, Unix or TCP, whose descriptor is out of the way of those that are handed over."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as opened:
        opened.bind(address if isinstance(address, str) else ("127.0.0.1", address))
        opened.listen(1000)
        return socket.socket(fileno=high(opened.fileno()))


def high(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20)


def test_inherited_sockets_are_served_and_left_alone(tmp_path: Path) -> None:
    """A Unix and a TCP socket; what ListenPort names is in use, and stays so over a reload."""
    path, port = str(tmp_path / "http.sock"), free_port()
    server = HmacFileServer(tmp_path / "server", Workers=2)
    with listening(path) as one, listening(port) as other, socket.socket() as used:
        used.bind(("127.0.0.1", server.port))
        used.listen()
        hand_over(server, [one, other])
        server.is_ready = lambda: "listening at" in server.log()  # type: ignore[method-assign]
        with server:
            assert f"listening at {path} and 127.0.0.1:{port} (socket activation)" in server.log()
            assert f"ListenPort = 127.0.0.1:{server.port} is not used" in server.log()
            assert request(port, "PUT", server.sign_v("file", 5), b"12345").status == 201
            server.settings["UploadMaxSize"] = 3
            server.settings["ListenPort"] = f"127.0.0.1:{free_port()}"
            server.write_config()
            os.kill(server.pid, signal.SIGHUP)
            wait_until(lambda: request(port, "PUT", server.sign_v("more", 5), b"12345").status == 413)
            server.settings["UnixSocket"], server.settings["ListenPort"] = True, path
            with Client(server) as client:
                client.head("GET", server.path("file"))
                assert client.answer().body == b"12345"
            assert server.stop() == 0
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            assert Path(path).is_socket()


@pytest.mark.parametrize(
    ("count", "kind", "words"),
    [
        ("many", socket.SOCK_STREAM, "LISTEN_FDS: 'many' is not allowed"),
        ("-1", socket.SOCK_STREAM, "LISTEN_FDS: '-1' is not allowed"),
        ("1", socket.SOCK_STREAM, "descriptor 3 is a socket that does not listen for streams"),
        ("1", socket.SOCK_DGRAM, "descriptor 3 is a socket that does not listen for streams"),
    ],
)
def test_what_cannot_be_listened_at_is_refused(tmp_path: Path, count: str, kind: int, words: str) -> None:
    server = HmacFileServer(tmp_path)
    server.write_config()
    with socket.socket(socket.AF_INET, kind) as wrong:
        high_fd = high(wrong.fileno())
        command = [sys.executable, HAND_OVER, "1", str(high_fd), *server.command]
        environ = {**os.environ, "LISTEN_FDS": count}
        done = subprocess.run(
            command, env=environ, pass_fds=[high_fd], capture_output=True, text=True, timeout=30, check=False
        )
        os.close(high_fd)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("hmac-file-server: the environment: LISTEN_FDS: ")
    assert words in done.stderr


class Manager:
    """What sd_notify(3) tells, line by line."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def next(self) -> list[str]:
        return self.socket.recv(4096).decode().splitlines()


def test_the_manager_is_told_when_a_worker_serves_and_how_a_reload_went(tmp_path: Path) -> None:
    server = HmacFileServer(tmp_path)
    server.write_config()
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "RUNTIME_DIRECTORY": str(tmp_path)}

    def reload() -> tuple[int, str]:
        command = [sys.executable, "-W", "error", "-m", "hmacfs", "reload", str(daemon.pid)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    with Manager(tmp_path / "notify") as manager:
        daemon = Daemon(server.command, folder=tmp_path, env=environment)
        try:
            assert manager.next() == ["READY=1", "STATUS=serving"]
            assert get(server, "nothing").status == 404
            server.settings["UploadMaxSize"] = 3
            server.write_config()
            assert reload() == (0, "")
            assert manager.next() == ["STATUS=serving"]
            assert put(server, "large", b"12345").status == 413
            server.settings["UploadMaxSize"] = "much"
            server.write_config()
            status, said = reload()
            assert status == 1
            assert said.count("\n") == 1
            assert "UploadMaxSize: 'much' is not allowed" in said
            assert manager.next()[0].startswith("STATUS=reload refused: ")
            daemon.process.send_signal(signal.SIGUSR2)
            wait_until(lambda: "SIGUSR2 is for servers without a service manager" in daemon.log())
            daemon.process.send_signal(signal.SIGTERM)
            assert manager.next()[0] == "STOPPING=1"
            assert daemon.process.wait(10) == 0
        finally:
            daemon.kill()
        status, said = reload()
        assert (status, "cannot be reached" in said) == (2, True)
        del environment["RUNTIME_DIRECTORY"]
        status, said = reload()
        assert (status, "RUNTIME_DIRECTORY is not set" in said) == (2, True)


class Load:
    """Uploads and downloads through nginx, several at once, each answer counted, until the end of the context."""

    CLIENTS = 6

    def __init__(self, nginx: Nginx, server: HmacFileServer) -> None:
        self.answers: Counter[str] = Counter()
        self._nginx, self._server = nginx, server
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(self.CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self) -> None:
        """Until each client can have had several answers."""
        before = self.answers.total()
        wait_until(lambda: self.answers.total() > before + 10 * self.CLIENTS, timeout=60, what="answers")

    def _run(self, number: int) -> None:
        count = 0
        while not self._is_over.is_set():
            count += 1
            name, body = f"{number}-{count}", bytes(20_000)
            self._ask("PUT", self._server.sign_v(name, len(body)), body)
            self._ask("GET", self._server.path(name), b"")
            time.sleep(number * 0.003)  # some of nginx's idle connections are warmer than others

    def _ask(self, method: str, target: str, body: bytes) -> None:
        try:
            answer = request(self._nginx.port, method, target, body)
            self.answers[f"{method} {answer.status}"] += 1
        except OSError as error:
            self.answers[f"{method} {error!r}"] += 1


@pytest.fixture
def nginx_folder() -> Iterator[Path]:
    with folder_of("nobody") as folder:
        yield folder


def behind_nginx(folder: Path) -> HmacFileServer:
    return HmacFileServer(
        folder / "server", ListenPort=str(folder / "s.sock"), UnixSocket=True, Workers=2, Durability="none"
    )


def test_a_restart_with_inherited_sockets_costs_no_request(nginx_folder: Path) -> None:
    server = behind_nginx(nginx_folder)
    with listening(str(server.settings["ListenPort"])) as opened:
        Path(str(server.settings["ListenPort"])).chmod(0o666)
        hand_over(server, [opened])
        server.start()
        nginx = Nginx(nginx_folder / "nginx", server)
        try:
            with Load(nginx, server) as load:
                for _ in range(3):
                    load.wait_for_more()
                    assert server.stop() == 0
                    server.start()
                load.wait_for_more()
            assert set(load.answers) == {"PUT 201", "GET 200"}, (load.answers, nginx.errors())
            assert server.stop() == 0
        finally:
            nginx.kill()
            server.daemon.kill()


@pytest.mark.parametrize("is_activated", [False, True], ids=["own socket", "inherited socket"])
def test_an_upgrade_by_sigusr2_costs_no_request(nginx_folder: Path, is_activated: bool) -> None:
    server = behind_nginx(nginx_folder)
    path = Path(str(server.settings["ListenPort"]))
    opened = listening(str(path)) if is_activated else None
    if opened is not None:
        hand_over(server, [opened])
    server.start()
    path.chmod(0o666)
    nginx = Nginx(nginx_folder / "nginx", server)
    master = server.pid
    try:
        with Load(nginx, server) as load:
            for _ in range(3):
                load.wait_for_more()
                listened = server.log().count("listening at")
                wait_until(lambda: has_successor(master, server, listened), what="the successor")  # noqa: B023
                successor = int(server.log().rpartition("listening at")[0].rpartition("[")[2].partition("]")[0])
                load.wait_for_more()
                os.kill(master, signal.SIGTERM)
                wait_until(lambda: not is_running(master), what="the end of the old server")  # noqa: B023
                master = successor
            load.wait_for_more()
        assert set(load.answers) == {"PUT 201", "GET 200"}, (load.answers, nginx.errors())
    finally:
        nginx.kill()
        server.daemon.kill()
        if opened is not None:
            opened.close()


def has_successor(master: int, server: HmacFileServer, listened: int) -> bool:
    """Ask for it again: gunicorn ignores SIGUSR2 until it has noticed that its own predecessor is gone, as well as once
    there is a successor."""
    os.kill(master, signal.SIGUSR2)
    return server.log().count("listening at") > listened


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_a_stop_serves_what_comes_on_open_connections_and_is_short(start_server: StartServer) -> None:
    server = start_server()
    with Client(server) as used, Client(server) as fresh, Client(server) as idle:
        for client in (used, idle):
            client.head("GET", server.path("nothing"))
            assert client.answer().status == 404
        began = time.monotonic()
        server.daemon.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts_connections(server.port), what="the end of new connections")
        for client, name in ((used, "one"), (fresh, "two")):
            client.head("PUT", server.sign_v(name, 5), content_length=5)
            client.send(b"12345")
            answer = client.answer()
            assert (answer.status, answer.headers["Connection"]) == (201, "close")
        assert idle.is_closed(within=5)
        assert server.daemon.process.wait(10) == 0
        assert time.monotonic() - began > 1.0, "a proxy has a moment for the idle one"
    assert server.complaints() == []
