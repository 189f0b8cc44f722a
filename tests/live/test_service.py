"""The service that ``deploy/`` ships, with the tools of systemd and with logrotate."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.client import get, put
from tests.servers import free_port, require_binary, wait_until
from tests.servers.hmacfs import HmacFileServer

StartServer = Callable[..., HmacFileServer]
DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "hmac-file-server.service"

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
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/hmac-file-server/bin/hmac-file-server", "/bin/true"))
    assert run("systemd-analyze", "verify", "--man=no", unit) == ""


def allowed_calls() -> set[str]:
    """What SystemCallFilter leaves, its lines applied in order."""
    allowed: set[str] = set()
    for line in directives("SystemCallFilter"):
        calls = {call for word in line.lstrip("~").split() for call in expand(word)}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed | expand("@default")


def expand(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    # The group's own name, comments, other groups and calls, one a line.
    words = [line.strip() for line in run("systemd-analyze", "--no-pager", "syscall-filter", name).splitlines()[1:]]
    return {call for word in words if word and not word.startswith("#") for call in expand(word)}


SANDBOX = """\
set -e
mount -t proc -o hidepid=invisible proc /proc
mount --bind "$1" "$1"
mount -o remount,bind,ro /
shift
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""
#: PR_SET_MDWE with PR_MDWE_REFUSE_EXEC_GAIN, which is what MemoryDenyWriteExecute asks for; kept over exec and fork.
DENY_EXECUTABLE_MEMORY = """\
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    sys.exit("no PR_SET_MDWE")
os.execvp(sys.argv[1], sys.argv[1:])
"""


@needs_root
def test_the_server_runs_within_the_service_s_limits(tmp_path: Path) -> None:
    """No capabilities, no executable memory of its own, a read-only system, none of others' processes in /proc, and no
    system call that the filter would refuse: what systemd sets up, made by hand."""
    for directive in ("MemoryDenyWriteExecute=yes", "ProtectProc=invisible", "NoNewPrivileges=yes"):
        assert directive in UNIT.read_text()
    counts, metrics = tmp_path / "counts", free_port()
    server = HmacFileServer(tmp_path, Workers=2, MetricsEnabled=True, MetricsPort=f"127.0.0.1:{metrics}")
    strace = [require_binary("strace"), "-D", "-f", "-c", "-o", str(counts)]
    sandbox = ["unshare", "--mount", "sh", "-c", SANDBOX, "sandbox", str(tmp_path)]
    server.command = [*sandbox, sys.executable, "-c", DENY_EXECUTABLE_MEMORY, *strace, *server.command]
    body = os.urandom(2**20)
    try:
        server.start()
        for name in ("deep/er/file.jpg", "other"):
            assert put(server, name, body).status == 201
            assert get(server, name).body == body
        assert get(server, "other", range="bytes=5-9").body == body[5:10]
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
            scraped = answer.read().decode()
        assert server.stop() == 0
    finally:
        server.daemon.kill()
    assert server.complaints() == []
    assert float(re.findall(r"^memory_usage_bytes (.*)$", scraped, re.MULTILINE)[0]) > 20e6
    assert re.search(r"^hmacfs_store_free_bytes [1-9]", scraped, re.MULTILINE)
    wait_until(lambda: counts.exists() and "total" in counts.read_text(), what="strace's table")
    used = {line.split()[-1] for line in counts.read_text().splitlines()[2:] if re.match(r" *[0-9.]+ ", line)} - {
        "total"
    }
    assert {"openat2", "sendfile", "linkat", "fsync"} <= used
    assert used - allowed_calls() == set()


def test_it_is_given_time_to_stop() -> None:
    from hmacfs.config import load
    from hmacfs.server.start import _MASTER_MARGIN_SECONDS

    settings = load(DEPLOY / "config.toml", {"HMACFS_SECRET": "of sixteen bytes"})
    assert float(directives("TimeoutStopSec")[0]) > settings.graceful_shutdown_timeout + _MASTER_MARGIN_SECONDS
    assert float(directives("LimitNOFILE")[0]) > 2 * settings.max_connections + 256


#: Stand-ins for what must not happen to this machine; what is made goes below $ROOT.
STAND_INS = {
    "sudo": 'exec "$@"',
    "python3": "exec true",
    "pip": "exec true",
    "systemctl": 'echo "$@" >>"$ROOT/systemctl.log"',
    "systemd-sysusers": 'exec /usr/bin/systemd-sysusers --root="$ROOT" "$@"',
    "systemd-tmpfiles": 'exec /usr/bin/systemd-tmpfiles --root="$ROOT" "$@"',
    "curl": "exec true",
}


@needs_root
def test_the_readme_s_steps_install_it(tmp_path: Path) -> None:
    """But for the packages, and for systemd's part."""
    require_binary("systemd-sysusers")
    readme = (DEPLOY.parent / "README.md").read_text(encoding="utf-8")
    steps = readme.partition("### As a service")[2].partition("```sh\n")[2].partition("```")[0]
    root, programs = tmp_path / "root", tmp_path / "bin"
    for folder in (root / "etc/nginx/sites-enabled", programs):
        folder.mkdir(parents=True)
    for name, script in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    steps = re.sub(r" /opt/\S+/pip", " pip", steps).replace(" /etc/", f" {root}/etc/")
    environment = {"ROOT": str(root), "PATH": f"{programs}:{os.environ['PATH']}"}
    run("sh", "-euc", f"cd {DEPLOY.parent}\n{steps}", **environment)
    group = next(line for line in (root / "etc/group").read_text().splitlines() if line.startswith("hmac-file-server:"))
    for shipped, name, mode, gid in [
        ("config.toml", "hmac-file-server/config.toml", 0o640, int(group.split(":")[2])),
        ("mime.types", "hmac-file-server/mime.types", 0o644, 0),
        (UNIT.name, f"systemd/system/{UNIT.name}", 0o644, 0),
        ("hmac-file-server.logrotate", "logrotate.d/hmac-file-server", 0o644, 0),
        ("nginx.conf", "nginx/sites-enabled/hmac-file-server", 0o644, 0),
    ]:
        installed = root / "etc" / name
        assert installed.read_bytes() == (DEPLOY / shipped).read_bytes()
        assert (stat.S_IMODE(installed.stat().st_mode), installed.stat().st_gid) == (mode, gid), name
    secret = root / "etc/hmac-file-server/secret"
    assert re.fullmatch(r"[0-9a-f]{64}\n", secret.read_text())
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert (root / "var/lib/hmac-file-server").stat().st_uid == int(user_of(root))
    assert (root / "systemctl.log").read_text().splitlines() == [
        *("daemon-reload", "enable --now hmac-file-server", "restart nginx")
    ]


def user_of(root: Path) -> str:
    (uid,) = re.findall(r"^hmac-file-server:[^:]*:(\d+):", (root / "etc/passwd").read_text(), re.MULTILINE)
    return str(uid)


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
    systemctl.write_text(
        '#!/bin/sh\n[ "$*" = "kill --kill-whom=main --signal=SIGUSR1 hmac-file-server.service" ] || exit 1\n'
        f"exec kill -USR1 {server.pid}\n"
    )
    systemctl.chmod(0o755)
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
