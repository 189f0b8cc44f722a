"""The servers that are measured: each a private instance on a loopback port, with a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, cast

from bench import processes, stores
from bench.names import signed_path
from tests.servers import Daemon, free_port, wait_until
from tests.servers.hmacfs import HmacFileServer

ROOT = Path(__file__).parents[1]
SECRET = "the secret of the benchmark, 32 B"
WORKERS = 2

_HERE = Path(__file__).parent
_DEPLOY = ROOT / "deploy"
BUILD = ROOT / "build" / "bench"
_PROGRAMS = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
PROBE = "probe/ready.txt"


class Unavailable(Exception):
    """A program that a contender needs is not here; the text says which."""


def program(name: str) -> str:
    """The path of an installed program. Raises ``Unavailable``."""
    found = shutil.which(name, path=_PROGRAMS)
    if found is None:
        raise Unavailable(f"{name} is not installed")
    return found


class Contender(ABC):
    """A server that keeps the files of ``/upload/`` below ``store``, inside ``folder``.

    ``launch`` starts its processes; ``start`` also waits until a file in the store can be downloaded.
    """

    name: ClassVar[str]
    scheme: ClassVar[str] = "http"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.port = free_port()
        self._daemons: list[Daemon] = []

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def leaders(self) -> list[int]:
        """The processes whose sessions make up this server."""
        return [daemon.pid for daemon in self._daemons]

    @abstractmethod
    def launch(self) -> None:
        """Raises ``Unavailable``."""

    def start(self) -> None:
        """Raises ``Unavailable``, ``TimeoutError`` and ``RuntimeError``."""
        self.store.mkdir(parents=True, exist_ok=True)
        self.launch()
        for daemon in self._daemons:
            daemon.wait_until(self._works, what=f"readiness of {self.name}")
        self._remove_probe()

    def require_running(self) -> None:
        """Raises ``RuntimeError`` with what it printed if one of its programs has ended."""
        for daemon in self._daemons:
            status = daemon.process.poll()
            if status is not None:
                raise RuntimeError(f"{self.name} ended with {status}: {daemon.log().strip()[-300:]}")

    def stop(self) -> None:
        """At once: gunicorn would wait for the connections that clients keep open."""
        while self._daemons:
            self._daemons.pop().kill()

    def cpu_seconds(self) -> float:
        return processes.cpu_seconds(self.leaders)

    def usage(self) -> processes.Usage:
        return processes.usage(self.leaders)

    def reset_peaks(self) -> None:
        processes.reset_peaks(self.leaders)

    def wait_until_idle(self) -> None:
        processes.wait_until_idle(self.leaders)

    def run(self, command: Sequence[str], folder: Path, **env: str) -> None:
        """Start a process of this server in a folder, which also gets its output. It may keep bytecode, as an installed
        one does, so that not each start compiles."""
        folder.mkdir(parents=True, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._daemons.append(Daemon(command, folder=folder, env={**inherited, **env}))

    def run_nginx(self, configuration: str) -> None:
        """Start nginx."""
        folder = self.folder / "nginx"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "nginx.conf").write_text(configuration)
        self.run([program("nginx"), "-e", "stderr", "-p", f"{folder}/", "-c", "nginx.conf"], folder)

    def free_socket(self) -> Path:
        """Where a Unix socket can be made."""
        path = self.folder / "http.sock"
        path.unlink(missing_ok=True)
        return path

    def run_shipped_nginx(self, socket: Path) -> None:
        """Start nginx as it is shipped, in front of what listens, soon, at this Unix socket."""
        wait_until(socket.exists, what=f"readiness of {self.name}")
        socket.chmod(0o666)  # as installed, nginx is in the socket's group
        site = shipped_site((_DEPLOY / "nginx.conf").read_text(), port=self.port, socket=socket, store=self.store)
        # Not root: what nginx must not serve it must not be able to read.
        self.run_nginx(around_site(site, user="nobody nogroup"))

    def put_in(self, name: str, source: Path) -> None:
        """See ``stores.put_in``."""
        stores.put_in(self.store, name, source)

    def take_out(self, expected: Iterable[str], source: Path, *, gap: int | None = None) -> stores.Stored:
        """See ``stores.take_out``."""
        return stores.take_out(self.store, expected, source, gap=gap)

    def _has_probe(self) -> bool:
        return (self.store / PROBE).exists()

    def _remove_probe(self) -> None:
        shutil.rmtree((self.store / PROBE).parent)

    def _works(self) -> bool:
        """Whether a small file is stored, by now, and comes back."""
        upload = urllib.request.Request(f"{self.url}{signed_path(SECRET, PROBE, 5)}", b"ready", method="PUT")
        try:
            if not self._has_probe():
                urllib.request.urlopen(upload, timeout=2).close()
            with urllib.request.urlopen(f"{self.url}/upload/{PROBE}", timeout=2) as answer:
                return bool(answer.read() == b"ready")
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False


class Hmacfs(Contender):
    """This project's server as it is shipped, but for the log of requests, which no contender writes."""

    name = "hmacfs"
    durability = "none"
    #: The state of the project that runs, and what it is told besides.
    tree: ClassVar[Path] = ROOT
    settings: ClassVar[Mapping[str, object]] = MappingProxyType({})

    def launch(self) -> None:
        self.run_server(ListenPort=f"127.0.0.1:{self.port}")

    def run_server(self, **settings: object) -> None:
        server = HmacFileServer(
            self.folder / "hmacfs",
            **{
                "Secret": SECRET,
                "StoreDir": str(self.store),
                "Workers": WORKERS,
                "UploadMaxSize": "4GB",
                "Durability": self.durability,
                "LogLevel": "warn",
                "IdleTimeout": "10m",
                "MaxConnectionsPerClient": 0,  # all clients have one address
                "MetricsEnabled": True,
                "MetricsPort": f"127.0.0.1:{free_port()}",
                "MinFreeSpace": None,
                **self.settings,
                **settings,
            },
        )
        server.folder.mkdir(parents=True, exist_ok=True)
        server.write_config()
        environment = {"PYTHONPATH": str(self.tree), "HMACFS_CONFIG": str(server.config)}
        self.run(self.command(server.config), server.folder, **environment)

    def command(self, config: Path) -> list[str]:
        return [sys.executable, "-m", "hmacfs", "-config", str(config)]


def variant(name: str, *, tree: Path = ROOT, settings: Mapping[str, object] = MappingProxyType({})) -> type[Hmacfs]:
    """The same under another name: another state of the project, or with other settings."""
    changed = type("Variant", (Hmacfs,), {"name": name, "tree": tree.resolve(), "settings": settings})
    return cast("type[Hmacfs]", changed)


class DurableHmacfs(Hmacfs):
    """The same with its default durability."""

    name = "hmacfs-fsync"
    durability = "fsync"


class ShippedHmacfs(DurableHmacfs):
    """The same with every limit as it is shipped."""

    name = "hmacfs-shipped"

    def launch(self) -> None:
        self.metrics_port = free_port()
        limits = ("UploadMaxSize", "IdleTimeout", "AuthFailureRateLimit", "MaxConnectionsPerClient", "LogLevel")
        ports = {"ListenPort": f"127.0.0.1:{self.port}", "MetricsPort": f"127.0.0.1:{self.metrics_port}"}
        self.run_server(**dict.fromkeys(limits), **ports)


class FrontedHmacfs(Hmacfs):
    """This project's server at a Unix socket, behind nginx as shipped, which serves the downloads from the store."""

    name = "hmacfs+nginx"

    def launch(self) -> None:
        socket = self.free_socket()
        self.store.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:  # as installed, nginx is in the group of the files
            shutil.chown(self.store, group="nogroup")
            self.store.chmod(0o2750)
        self.run_server(ListenPort=str(socket), UnixSocket=True)
        self.run_shipped_nginx(socket)


class Nginx(Contender):
    """nginx alone: DAV PUT, which checks no signature, and static files."""

    name = "nginx"

    def launch(self) -> None:
        self.run_nginx(around_site(self.site(), user="root"))

    def site(self) -> str:
        site = (_HERE / "nginx-dav.conf").read_text()
        return site.replace("@PORT@", str(self.port)).replace("@STORE@", str(self.store))


def shipped_site(text: str, *, port: int, socket: Path, store: Path) -> str:
    """The shipped configuration of nginx with its variant A (nginx serves public downloads), for these places.

    Raises ``Unavailable`` if it has changed so that this cannot be told from it.
    """
    text, found = re.subn(r"    location /upload/ \{\n        proxy_pass [^}]*\}\n", "", text, count=1)
    changes = {
        "    #A ": "    ",
        "/run/hmac-file-server/http.sock": str(socket),
        "listen 80;": f"listen 127.0.0.1:{port} backlog=4096;",
        "    listen [::]:80;\n": "",
        "/var/lib/hmac-file-server/store": str(store),
        "/etc/hmac-file-server/mime.types": str(_DEPLOY / "mime.types"),
        "access_log /var/log/nginx/access.log hmac_file_server;": "access_log off;",
        "error_log /var/log/nginx/error.log emerg;": "error_log stderr warn;",
        "limit_conn ": "#limit_conn ",  # all clients have one address
    }
    for shipped, ours in changes.items():
        if not found or shipped not in text:
            raise Unavailable(f"deploy/nginx.conf does not look as expected: {shipped!r}")
        text = text.replace(shipped, ours)
    return text


def around_site(site: str, *, user: str) -> str:
    """What stands around a site in nginx's main configuration."""
    # Uploads end up on the file system that the store is on, so that they are renamed and not copied.
    folders = "".join(
        f"    {kind}_temp_path {kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"{f'user {user};' if os.geteuid() == 0 else ''}\ndaemon off;\nworker_processes {WORKERS};\n"
        "worker_rlimit_nofile 20000;\npid nginx.pid;\nerror_log stderr warn;\n"
        "events { worker_connections 9000; }\n"
        f"http {{\n{folders}    access_log off;\n{site}\n}}\n"
    )


class GoServer(Contender):
    """A server in Go with nothing but its standard library."""

    name = "go"

    def launch(self) -> None:
        self.run_server(f"127.0.0.1:{self.port}")

    def run_server(self, address: str) -> None:
        self.run([str(build_go_server()), address, str(self.store), SECRET, *self.options()], self.folder / "go")

    def options(self) -> list[str]:
        return []


class FlaskView(Contender):
    """A plain Flask view behind gunicorn and gevent, with the usual loop that reads and writes."""

    name = "flask"

    def launch(self) -> None:
        command = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--worker-class=gevent"]
        command += [f"--workers={WORKERS}", f"--bind=127.0.0.1:{self.port}", "bench.naive:app"]
        self.run(command, self.folder / "flask", PYTHONPATH=str(ROOT), BENCH_STORE=str(self.store), BENCH_SECRET=SECRET)


def build_go_server() -> Path:
    """The program made from ``gobase.go``, built if it is older than that. Raises ``Unavailable``."""
    source, binary = _HERE / "gobase.go", BUILD / "bench-go-server"
    if binary.exists() and binary.stat().st_mtime >= source.stat().st_mtime:
        return binary
    BUILD.mkdir(parents=True, exist_ok=True)
    offline = {"GOTOOLCHAIN": "local", "GOPROXY": "off", "GO111MODULE": "off", "GOCACHE": str(BUILD / "go-cache")}
    log = BUILD / "go-build.log"
    with log.open("wb") as output:
        command = [program("go"), "build", "-o", str(binary), str(source)]
        status = subprocess.run(command, env={**os.environ, **offline}, stdout=output, stderr=output, check=False)
    if status.returncode != 0:
        raise Unavailable(f"gobase.go does not build: {log.read_text(errors='replace').strip()}")
    return binary
