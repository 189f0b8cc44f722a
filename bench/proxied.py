"""The servers behind the proxies that ``deploy/`` ships the configuration of."""

from __future__ import annotations

from pathlib import Path

from bench.contenders import Contender, GoServer, Hmacfs, Unavailable, program
from tests.servers import free_port

_DEPLOY = Path(__file__).parents[1] / "deploy"


class GoBehindNginx(GoServer):
    """The server in Go at a Unix socket, behind the same nginx as this project's."""

    name = "go+nginx"

    def launch(self) -> None:
        socket = self.free_socket()
        self.run_server(str(socket))
        self.run_shipped_nginx(socket)


class HmacfsBehindHAProxy(Hmacfs):
    """This project's server behind HAProxy as shipped, one machine instead of two."""

    name = "hmacfs+haproxy"

    def launch(self) -> None:
        upstream = free_port()
        self.run_server(ListenPort=f"127.0.0.1:{upstream}", TrustedProxies=["127.0.0.1"])
        run_haproxy(self, shipped_haproxy((_DEPLOY / "haproxy.cfg").read_text(), port=self.port, upstream=upstream))


class GoBehindHAProxy(GoServer):
    """The server in Go behind the same HAProxy, which cannot ask it whether it is ready."""

    name = "go+haproxy"

    def launch(self) -> None:
        upstream = free_port()
        self.run_server(f"127.0.0.1:{upstream}")
        text = shipped_haproxy((_DEPLOY / "haproxy.cfg").read_text(), port=self.port, upstream=upstream)
        run_haproxy(self, _without(text, "option httpchk GET /readyz", "http-check expect status 200"))


def run_haproxy(contender: Contender, configuration: str) -> None:
    """Start HAProxy as one of the contender's programs."""
    folder = contender.folder / "haproxy"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "haproxy.cfg").write_text(configuration)
    contender.run([program("haproxy"), "-db", "-f", "haproxy.cfg"], folder)


def shipped_haproxy(text: str, *, port: int, upstream: int) -> str:
    """The shipped configuration of HAProxy for these ports, without the log of requests, which no contender writes.

    Raises ``Unavailable`` if it has changed so that this cannot be told from it.
    """
    changes = {
        "maxconn 20000": "maxconn 4000",  # so that an ordinary limit of open files is enough
        "bind :80\n": f"bind 127.0.0.1:{port} backlog 4096\n",
        "server one 192.0.2.11:8080": f"server one 127.0.0.1:{upstream}",
    }
    for shipped, ours in changes.items():
        if shipped not in text:
            raise Unavailable(f"deploy/haproxy.cfg does not look as expected: {shipped!r}")
        text = text.replace(shipped, ours)
    return _without(text, "log stdout format raw local0", "server two 192.0.2.12:8080")


def _without(text: str, *lines: str) -> str:
    for line in lines:
        if f"    {line}\n" not in text:
            raise Unavailable(f"deploy/haproxy.cfg does not look as expected: {line!r}")
        text = text.replace(f"    {line}\n", "")
    return text
