"""HAProxy, with the configuration that ``deploy/`` ships."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tests.servers import Daemon, accepts_connections, free_port, require_binary

DEPLOY = Path(__file__).parents[2] / "deploy"


class HAProxy:
    """In front of two servers at these ports. ``changes``: of the shipped text. is_composed: that of ``deploy/compose``."""

    def __init__(
        self,
        folder: Path,
        one: int,
        two: int,
        *,
        changes: Mapping[str, str] = MappingProxyType({}),
        is_composed: bool = False,
    ) -> None:
        self._changes = changes
        self._is_composed = is_composed
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "haproxy.cfg"
        config.write_text(self._shipped(one, two))
        self.daemon = Daemon([require_binary("haproxy"), "-W", "-f", str(config)], folder=folder)
        self.daemon.wait_until(lambda: accepts_connections(self.port), what="HAProxy")

    def _shipped(self, one: int, two: int) -> str:
        name, port, hosts = "haproxy.cfg", 80, ("192.0.2.11", "192.0.2.12")
        if self._is_composed:
            name, port, hosts = "compose/haproxy.cfg", 8080, ("server-one", "server-two")
        text = (DEPLOY / name).read_text(encoding="utf-8")
        for shipped, ours in {
            # As many as a user who may not raise the limit of open files can have.
            "maxconn 20000": "maxconn 400",
            f"bind :{port}\n": f"bind 127.0.0.1:{self.port}\n",
            f"server one {hosts[0]}:8080": f"server one 127.0.0.1:{one}",
            f"server two {hosts[1]}:8080": f"server two 127.0.0.1:{two}",
            **self._changes,
        }.items():
            assert shipped in text, shipped
            text = text.replace(shipped, ours)
        return text

    def is_up(self, name: str) -> bool:
        """Whether it takes that server (``one``, ``two``) for one that serves, as its checks went so far."""
        said = re.findall(rf"^Server machines/{name} is (UP|DOWN)", self.daemon.log(), re.MULTILINE)
        return not said or said[-1] == "UP"

    def stop(self) -> int:
        return self.daemon.stop()
