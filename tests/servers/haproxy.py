"""HAProxy, with the configuration that ``deploy/`` ships."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tests.servers import Daemon, accepts_connections, free_port, require_binary
from tests.servers.hmacfs import HmacFileServer

DEPLOY = Path(__file__).parents[2] / "deploy"


class HAProxy:
    """In front of two servers. ``changes``: of the shipped text."""

    def __init__(
        self,
        folder: Path,
        one: HmacFileServer,
        two: HmacFileServer,
        *,
        changes: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._changes = changes
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "haproxy.cfg"
        config.write_text(self._shipped(one, two))
        self.daemon = Daemon([require_binary("haproxy"), "-W", "-f", str(config)], folder=folder)
        self.daemon.wait_until(lambda: accepts_connections(self.port), what="HAProxy")

    def _shipped(self, one: HmacFileServer, two: HmacFileServer) -> str:
        text = (DEPLOY / "haproxy.cfg").read_text(encoding="utf-8")
        for shipped, ours in {
            # As many as a user who may not raise the limit of open files can have.
            "maxconn 20000": "maxconn 400",
            "bind :80\n": f"bind 127.0.0.1:{self.port}\n",
            "server one 192.0.2.11:8080": f"server one 127.0.0.1:{one.port}",
            "server two 192.0.2.12:8080": f"server two 127.0.0.1:{two.port}",
            **self._changes,
        }.items():
            assert shipped in text, shipped
            text = text.replace(shipped, ours)
        return text

    def stop(self) -> int:
        return self.daemon.stop()
