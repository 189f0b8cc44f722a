"""A private Ceph of one monitor, one storage daemon that keeps everything in memory, and one S3 gateway."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.servers import Daemon, accepts_connections, free_port, require, require_binary, wait_until
from tests.servers.object_store import ObjectStoreServer

_CONFIGURATION = """\
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{monitor}
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
auth supported = none
ms bind msgr2 = false
ms bind ipv6 = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon warn on pool no redundancy = false
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
osd class dir = {library}/rados-classes
erasure code dir = {library}/ceph/erasure-code
plugin dir = {library}/ceph
mon data = {folder}/mon
mon data avail crit = 1
mon data avail warn = 1
osd data = {folder}/osd
rgw data = {folder}/rgw
run dir = {folder}/run
admin socket = {run}/$name.asok
log file = {folder}/$name.log
pid file = {folder}/$name.pid
keyring = {folder}/keyring
crash dir = {folder}
osd memory target = 1073741824
osd check max object name len on startup = false
osd failsafe full ratio = .99
mon osd full ratio = .99
mon osd backfillfull ratio = .99
mon osd nearfull ratio = .98
mon osd report timeout = 3600
rgw enable usage log = false
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw thread pool size = 64
rgw dns name = localhost
rgw enable apis = s3
rgw gc obj min wait = 5
rgw multipart min part size = 65536
# What quotas compare with is to be as young as the test.
rgw bucket quota ttl = 1
rgw user quota bucket sync interval = 1
rgw user quota sync interval = 1
"""


class Ceph(ObjectStoreServer):
    """It heeds conditions of PUT and of GET, and no others. What it has stored is gone after ``kill``."""

    least_part = 65_536

    heeds_complete = heeds_delete = tells_aborted = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._gateway, self._monitor, self._storage = (
            require_binary(name) for name in ("radosgw", "ceph-mon", "ceph-osd")
        )
        found = next((path for path in Path("/usr/lib").glob("*/rados-classes")), None)
        self._library = require(found, "Ceph's rados-classes").parent
        self._configuration = folder / "ceph.conf"

    def _start(self) -> None:
        monitor = free_port()
        for name in ("mon", "osd", "rgw", "run"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir()
        (self.folder / "keyring").touch()
        fsid = str(uuid.uuid4())
        self._configuration.write_text(
            _CONFIGURATION.format(
                folder=self.folder,
                run=self.folder / "run",
                fsid=fsid,
                monitor=monitor,
                port=self.port,
                library=self._library,
            )
        )
        self._start_monitor(monitor, fsid)
        self._start_storage()
        self._launch("gateway", [self._gateway, "-n", "client.rgw", "-f"], lambda: accepts_connections(self.port))
        self.add_user("test", self.access_key, self.secret_key)

    def _start_monitor(self, port: int, fsid: str) -> None:
        address, table = f"[v1:127.0.0.1:{port}]", str(self.folder / "monmap")
        self._run("monmaptool", "--create", "--clobber", "--addv", "a", address, "--fsid", fsid, table)
        self._run(self._monitor, "--mkfs", "-i", "a", "--monmap", table)
        asked = ("ceph", "--connect-timeout", "5", "-s")
        self._launch("monitor", [self._monitor, "-i", "a", "-f"], lambda: self._ask(*asked)[0] == 0)

    def _start_storage(self) -> None:
        identity = str(uuid.uuid4())
        self._run("ceph", "osd", "new", identity)
        self._run(self._storage, "-i", "0", "--mkfs", "--osd-uuid", identity)
        self._ask("ceph", "osd", "crush", "add", "osd.0", "1", "root=default", "host=h")
        self._launch(
            "storage", [self._storage, "-i", "0", "-f"], lambda: " 1 up" in self._ask("ceph", "osd", "stat")[1]
        )

    def add_user(self, name: str, access_key: str, secret_key: str) -> None:
        keys = ("--access-key", access_key, "--secret", secret_key)
        create = ("radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}", *keys)
        known = ("radosgw-admin", "user", "info", f"--uid={name}")
        wait_until(lambda: 0 in (self._ask(*create)[0], self._ask(*known)[0]), what="the user")

    def limited_user(self, quota_bytes: int) -> dict[str, Any]:
        """The ``S3Options`` of a new user, whose objects may have so many bytes together."""
        name = f"user-{secrets.token_hex(4)}"
        self.add_user(name, name, self.secret_key)
        of_user = ("--quota-scope=user", f"--uid={name}")
        self._run("radosgw-admin", "quota", "set", *of_user, f"--max-size={quota_bytes}B")
        self._run("radosgw-admin", "quota", "enable", *of_user)
        return {"access_key": name}

    def _launch(self, name: str, command: list[str], is_ready: Callable[[], bool]) -> None:
        """Start a daemon and wait for it. See ``_run``: one that ends at once is started again."""
        folder = self.folder / f"output-{name}"
        folder.mkdir(exist_ok=True)
        self.daemons.append(Daemon(command, folder=folder, env=self._environment()))

        def settled() -> bool:
            if self.daemons[-1].process.poll() is not None:
                self.daemons.pop().kill()
                self.daemons.append(Daemon(command, folder=folder, env=self._environment()))
            return is_ready()

        wait_until(settled, timeout=90, what=f"the readiness of the {name}")

    def _run(self, *command: str) -> None:
        """Run a command until it succeeds. Without authentication the first command of a connection may overtake the
        answer that tells which cluster this is, and is refused for a wrong "fsid"."""
        wait_until(lambda: self._ask(*command)[0] == 0, timeout=30, what=f"the success of {command}")

    def _ask(self, *command: str) -> tuple[int, str]:
        """Its exit status and what it printed."""
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, timeout=60, check=False, cwd=self.folder
        )
        return done.returncode, done.stdout + done.stderr

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "CEPH_CONF": str(self._configuration)}
