"""The service that ``deploy/`` ships, with the tools of systemd and with logrotate. ``test_systemd`` has the real thing."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.client import get
from tests.programs import program
from tests.servers import require_binary, wait_until
from tests.servers.hmacfs import HmacFileServer

StartServer = Callable[..., HmacFileServer]
DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT, SOCKET = DEPLOY / "hmac-file-server.service", DEPLOY / "hmac-file-server.socket"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def run(*command: str | Path, **env: str) -> str:
    """What a command that must succeed printed, errors too."""
    words = [require_binary(str(command[0])), *map(str, command[1:])]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **env})
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def directives(name: str) -> list[str]:
    """The values of all lines of the unit with that name."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


def test_the_service_is_hardened() -> None:
    said = run("systemd-analyze", "security", "--offline=true", "--threshold=20", UNIT)
    assert float(said.rpartition("Overall exposure level for hmac-file-server.service: ")[2].split()[0]) <= 2.0


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    """But for the program, which is not installed here."""
    for unit in (UNIT, SOCKET):
        text = unit.read_text().replace("/opt/hmac-file-server/bin/hmac-file-server", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    assert run("systemd-analyze", "verify", "--man=no", *(tmp_path / unit.name for unit in (UNIT, SOCKET))) == ""


def test_it_is_given_time_to_stop() -> None:
    from hmacfs.config import load
    from hmacfs.server.hooks import MASTER_MARGIN_SECONDS

    settings = load(DEPLOY / "config.toml", {"HMACFS_SECRET": "of sixteen bytes"})
    assert float(directives("TimeoutStopSec")[0]) > settings.graceful_shutdown_timeout + MASTER_MARGIN_SECONDS
    assert float(directives("LimitNOFILE")[0]) > 2 * settings.max_connections + 256


@needs_root
def test_users_and_folders(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("etc/hmac-file-server/secret", "etc/hmac-file-server/config.toml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    run("systemd-sysusers", f"--root={root}", DEPLOY / "hmac-file-server.sysusers")
    user = next(line for line in (root / "etc/passwd").read_text().splitlines() if line.startswith("hmac-file-server:"))
    group = next(line for line in (root / "etc/group").read_text().splitlines() if line.startswith("hmac-file-server:"))
    _, _, uid, gid, _, home, shell = user.split(":")
    assert (home, shell) == ("/var/lib/hmac-file-server", "/usr/sbin/nologin")
    assert group.split(":")[2:] == [gid, "www-data"]
    run("systemd-tmpfiles", "--create", f"--root={root}", DEPLOY / "hmac-file-server.tmpfiles")
    for name, mode, owner, of_group in [
        ("etc/hmac-file-server", 0o755, 0, 0),
        ("etc/hmac-file-server/config.toml", 0o640, 0, int(gid)),
        ("etc/hmac-file-server/secret", 0o600, 0, 0),
        ("run/hmac-file-server", 0o750, int(uid), int(gid)),
        ("var/lib/hmac-file-server", 0o750, int(uid), int(gid)),
        ("var/log/hmac-file-server", 0o750, int(uid), int(gid)),
    ]:
        found = (root / name).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (mode, owner, of_group), name


class Requests(threading.Thread):
    """Asks for files, each of another name, until it is told to end."""

    def __init__(self, server: HmacFileServer) -> None:
        super().__init__()
        self.count = 0
        self.is_over = threading.Event()
        self._server = server

    def run(self) -> None:
        while not self.is_over.wait(0.001):
            assert get(self._server, f"request-{self.count}").status == 404
            self.count += 1


def test_logrotate_loses_no_line(start_server: StartServer, tmp_path: Path) -> None:
    logrotate = require_binary("logrotate")
    logs = tmp_path / "logs"
    logs.mkdir(mode=0o750)
    log = logs / "server.log"
    server = start_server(LogFile=str(log), Workers=2)
    config = tmp_path / "logrotate.conf"
    text = (DEPLOY / "hmac-file-server.logrotate").read_text().replace("/var/log/hmac-file-server", str(logs))
    if os.geteuid() == 0:
        text = text.replace("su hmac-file-server hmac-file-server", "su root root")
    else:
        text = text.replace("    su hmac-file-server hmac-file-server\n", "")
    config.write_text(text)
    config.chmod(0o644)
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.symlink_to(program("systemctl_kill.sh"))
    requests = Requests(server)
    requests.start()
    try:
        for _ in range(3):
            wait_until(lambda: log.exists() and "request-" in log.read_text(), what="a line in the new file")
            before = requests.count
            run(
                logrotate,
                "--force",
                "--state",
                tmp_path / "state",
                config,
                PATH=f"{systemctl.parent}:{os.environ['PATH']}",
                SERVER_PID=str(server.pid),
            )
            wait_until(lambda before=before: requests.count > before + 20, what="more requests")  # type: ignore[misc]
    finally:
        requests.is_over.set()
        requests.join()
    assert server.stop() == 0
    assert sorted(path.name for path in logs.iterdir()) == [
        *("server.log", "server.log.1", "server.log.2.gz", "server.log.3.gz")
    ]
    lines = log.read_text() + (logs / "server.log.1").read_text()
    lines += run("zcat", *logs.glob("*.gz"))
    seen = Counter(re.findall(r" path=/upload/request-([0-9]+) ", lines))
    assert seen == Counter(map(str, range(requests.count)))
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    assert f"path=/upload/request-{requests.count - 1} " in log.read_text()
