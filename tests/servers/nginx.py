"""nginx, with the configuration that ``deploy/`` ships."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tests.servers import Daemon, accepts_connections, descriptor_limit, free_port, require_binary
from tests.servers.hmacfs import HmacFileServer

DEPLOY = Path(__file__).parents[2] / "deploy"


def share(store: Path) -> None:
    """Make a store whose files belong to the group of nginx's workers: as installed, nginx is in the server's group."""
    store.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        shutil.chown(store, group="nogroup")
        store.chmod(0o2750)


def wrapped(site: str, folder: Path) -> str:
    """What Debian's nginx.conf has around a site, with nginx's files in ``folder``."""
    user = "user nobody nogroup;\n" if os.geteuid() == 0 else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    files = min(descriptor_limit(), 20_000)
    temporary = "\n".join(f"    {kind}_temp_path {folder}/{kind};" for kind in kinds)
    return (
        f"{user}worker_processes 1;\nworker_rlimit_nofile {files};\npid {folder}/nginx.pid;\n"
        f"events {{ worker_connections {min(files, 8192)}; }}\n"
        f"http {{\n{temporary}\n    access_log off;\n{site}\n}}\n"
    )


def _mounted(site: str, below: str) -> str:
    """The site as README says to change it for a server below a path."""
    if not below:
        return site
    shipped = "    location /upload/ {\n        proxy_pass http://hmac_file_server;\n"
    assert shipped in site
    return site.replace(shipped, f'    location "{below}/" {{\n        proxy_pass http://hmac_file_server/;\n')


class Nginx:
    """In front of a server that listens at a Unix socket. ``variant``: "A" has nginx serve public downloads itself, "C"
    fetch them from an object store. ``below``: the path below which nginx mounts the server, such as "/files". ``changes``: of the shipped text."""

    def __init__(
        self,
        folder: Path,
        server: HmacFileServer,
        *,
        variant: str = "",
        below: str = "",
        changes: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._changes = changes
        self.folder = folder
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        binary = require_binary("nginx")
        (folder / "nginx.conf").write_text(wrapped(_mounted(self._shipped(server, variant), below), folder))
        for parent in (folder, *folder.parents, server.store, *server.store.parents):
            if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
        command = [binary, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
        self._daemon = Daemon([*command, "-g", "daemon off;"], folder=folder)
        self._daemon.wait_until(lambda: accepts_connections(self.port), what="nginx")

    def _shipped(self, server: HmacFileServer, variant: str) -> str:
        text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
        if variant == "A":
            text = re.sub(r"    location /upload/ \{\n        proxy_pass [^}]*\}\n", "", text, count=1)
        if variant:
            text = re.sub(rf"^( *)#{variant} ", r"\1", text, flags=re.MULTILINE)
        for shipped, ours in {
            "/run/hmac-file-server/http.sock": str(server.settings["ListenPort"]),
            "listen 80;": f"listen 127.0.0.1:{self.port};",
            "    listen [::]:80;\n": "",
            "/var/lib/hmac-file-server/store": str(server.store),
            "/etc/hmac-file-server/mime.types": str(DEPLOY / "mime.types"),
            "/var/log/nginx": str(self.folder),
            **self._changes,
        }.items():
            assert shipped in text or not variant, shipped
            text = text.replace(shipped, ours)
        return text

    def stop(self) -> None:
        self._daemon.stop()

    def kill(self) -> None:
        self._daemon.kill()

    def errors(self) -> str:
        """nginx's error log."""
        path = self.folder / "error.log"
        return path.read_text() if path.exists() else ""

    def log(self) -> str:
        """nginx's access log."""
        return (self.folder / "access.log").read_text()
