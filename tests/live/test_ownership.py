"""A check changes nothing, and what a command of root's makes is the service user's."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hmacfs.system.ownership import make_folder
from tests.live.client import get, put
from tests.servers import as_user, folder_of, free_port, give_to, wait_until
from tests.servers.hmacfs import HmacFileServer

ROOT = Path(__file__).parents[2]
#: A user with a group of its name on every Debian.
USER = "daemon"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users")


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that a visitor could see: names, modes, owners, times, contents."""
    found: dict[str, tuple[object, ...]] = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            status.st_ctime_ns,
            content,
        )
    return found


def run(*arguments: object, user: str = "") -> subprocess.CompletedProcess[str]:
    command = [*(as_user(user) if user else []), sys.executable, "-W", "error", "-m", "hmacfs", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=ROOT)


@pytest.fixture
def server() -> Iterator[HmacFileServer]:
    """Not started: the service's user's, who has nothing but his folder."""
    tried = subprocess.run(
        [*as_user(USER), sys.executable, "-c", "import hmacfs"], cwd=ROOT, capture_output=True, check=False
    )
    if tried.returncode != 0:
        pytest.skip(f"user {USER} cannot read this Python or this checkout")
    with folder_of(USER) as folder:
        server = HmacFileServer(
            folder,
            RuntimeDir=str(folder / "run" / "workers"),
            LogFile=str(folder / "server.log"),
            MetricsEnabled=True,
            MetricsPort=f"127.0.0.1:{free_port()}",
        )
        server.command = [*as_user(USER), *server.command]
        server.write_config()
        give_to(folder, USER)
        yield server
        if server._daemon is not None:
            server.daemon.kill()


def assert_all_is_the_users(folder: Path) -> None:
    uid = pwd.getpwnam(USER).pw_uid
    assert [str(path) for path in folder.rglob("*") if path.lstat().st_uid != uid and path.name != "output.log"] == []


@needs_root
def test_a_check_by_root_changes_nothing(server: HmacFileServer) -> None:
    """Neither before the first start nor afterwards, and the service's user can start."""
    before = snapshot(server.folder)
    for arguments in (["-check"], ["-check", "-online"]):
        assert run("-config", server.config, *arguments).returncode == 0
    assert snapshot(server.folder) == before
    server.start()
    assert put(server, "a", b"x").status == 201
    assert server.stop() == 0
    assert_all_is_the_users(server.folder)
    before = snapshot(server.folder)
    assert run("-config", server.config, "-check").returncode == 0
    assert run("-config", server.config, "-check", user=USER).returncode == 0
    assert snapshot(server.folder) == before


@needs_root
def test_a_check_as_that_user_says_what_root_has_left_to_do(server: HmacFileServer) -> None:
    """One line that names the path and what to do; and what it says is enough."""
    (server.folder / "above").mkdir(mode=0o755)
    server.settings["StoreDir"] = str(server.folder / "above" / "store")
    server.write_config()
    done = run("-config", server.config, "-check", user=USER)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    remedy = f"as root: install -d -o {USER} {server.settings['StoreDir']}"
    assert done.stderr.endswith(f"cannot be written: Permission denied; {remedy}\n")
    subprocess.run(remedy.partition(": ")[2].split(), check=True)
    assert run("-config", server.config, "-check", user=USER).returncode == 0
    reserved = Path(str(server.settings["StoreDir"]), ".hmacfs")
    (reserved / "tmp").mkdir(parents=True, mode=0o700)
    os.chown(reserved, *pwd.getpwnam(USER)[2:4])
    for arguments in (["-check"], []):
        done = run("-config", server.config, *arguments, user=USER)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert f"{reserved}/tmp cannot be written: Permission denied; it belongs to root" in done.stderr
        remedy = f"as root: chown -R {USER} {reserved}/tmp"
        assert remedy in done.stderr
    subprocess.run(remedy.partition(": ")[2].split(), check=True)
    assert run("-config", server.config, "-check", user=USER).returncode == 0


@needs_root
def test_a_log_or_socket_in_everybody_s_folder(server: HmacFileServer) -> None:
    """Nobody is told to give a folder such as /var/log away, and what is told is enough."""
    shared = server.folder / "shared"
    shared.mkdir(mode=0o755)
    for changed in ({"LogFile": "x.log"}, {"ListenPort": "x.sock", "UnixSocket": True, "LogFile": ""}):
        server.settings.update(changed)
        key, name = next(iter(changed.items()))
        server.settings[key] = str(shared / str(name))
        server.write_config()
        done = run("-config", server.config, "-check", user=USER)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        remedy = f"install -d -o {USER} {shared}/hmac-file-server"
        assert f"cannot be written: Permission denied; as root: {remedy}, and name a file in there\n" in done.stderr
        subprocess.run(remedy.split(), check=True)
        server.settings[key] = str(shared / "hmac-file-server" / str(name))
        server.write_config()
        assert run("-config", server.config, "-check", user=USER).returncode == 0
        server.settings[key] = str(server.folder / "none" / str(name))
        server.write_config()
        done = run("-config", server.config, "-check", user=USER)
        made = f"make its folder: install -d -o {USER} {server.folder}/none\n"
        assert done.stderr.endswith(f"cannot be written: No such file or directory; {made}")


@needs_root
def test_a_configuration_or_secret_that_is_not_for_this_user(server: HmacFileServer) -> None:
    secret = server.folder / "secret"
    secret.write_text("a-secret-of-root's")
    os.chmod(secret, 0o600)
    os.chown(server.config, 0, 0)
    os.chmod(server.config, 0o600)
    remedy = f"it belongs to root: run this as that user or root, or let {USER} read it\n"
    done = run("-config", server.config, "-check", user=USER)
    assert done.stderr == f"hmac-file-server: {server.config}: cannot be read: Permission denied; {remedy}"
    give_to(server.config, USER)
    command = [*as_user(USER), sys.executable, "-m", "hmacfs", "-config", str(server.config), "-check"]
    environment = {**os.environ, "HMACFS_SECRET_FILE": str(secret)}
    told = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, cwd=ROOT, env=environment
    ).stderr
    assert told.endswith(f"HMACFS_SECRET_FILE: {secret}: cannot be read: Permission denied; {remedy}")


@needs_root
def test_a_sweep_by_root_before_the_server_s_first(server: HmacFileServer) -> None:
    """Also with the database's journals, which stay while the server runs."""
    server.store.mkdir()
    give_to(server.store, USER)
    assert run("sweep", "-config", server.config).returncode == 0
    assert_all_is_the_users(server.folder)
    server.settings["SweepInterval"] = "100ms"
    server.start()
    assert put(server, "a", b"x").status == 201
    done = run("sweep", "-config", server.config)
    assert done.returncode == 0, done.stderr
    orphan = server.store / ".hmacfs" / "partial" / ("x" * 22)
    orphan.touch()
    os.utime(orphan, (0, 0))
    give_to(orphan, USER)
    wait_until(lambda: not orphan.exists(), what="the server's own sweep")
    assert server.stop() == 0
    assert_all_is_the_users(server.folder)
    assert " ERROR " not in (server.folder / "server.log").read_text()


@needs_root
def test_a_lock_that_the_server_may_not_open_is_one_line(server: HmacFileServer) -> None:
    """As release 1.0 left it. The server goes on without sweeping."""
    lock = server.store / ".hmacfs" / "sweep.lock"
    lock.parent.mkdir(parents=True)
    give_to(server.store, USER)
    lock.touch(0o600)
    server.settings["SweepInterval"] = "100ms"
    server.start()
    log = server.folder / "server.log"
    line = f"{lock}: Permission denied; it belongs to root and this process is {USER}: as root: chown -R {USER} {lock}"
    wait_until(lambda: f"expired uploads are not removed: {line}" in log.read_text())
    assert "Traceback" not in log.read_text()
    assert f" WARNING [{server.pid}] {line}" in log.read_text()
    done = run("sweep", "-config", server.config, user=USER)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"hmacfs sweep: {line}\n")
    assert f"warning: {line}\n" in run("-config", server.config, "-check", user=USER).stdout
    assert server.stop() == 0


@needs_root
def test_what_root_makes_is_never_what_somebody_else_put_there(tmp_path: Path, server: HmacFileServer) -> None:
    """A link that the user has laid leads to no file of root's changing hands."""
    precious = tmp_path / "precious"
    precious.write_text("root's")
    reserved = server.store / ".hmacfs"
    reserved.mkdir(parents=True)
    (reserved / "sweep.lock").symlink_to(precious)
    (reserved / "partial").symlink_to(tmp_path)
    give_to(server.store, USER)
    owner = precious.stat().st_uid, tmp_path.stat().st_uid
    run("sweep", "-config", server.config)
    assert (precious.stat().st_uid, tmp_path.stat().st_uid) == owner
    assert precious.read_text() == "root's"


@needs_root
@pytest.mark.parametrize("name", ["sweep.lock", "sessions.lock", "sessions.sqlite3"])
@pytest.mark.parametrize("is_there", [True, False], ids=["a file", "nothing"])
def test_root_follows_no_link_that_the_user_has_laid(
    tmp_path: Path, server: HmacFileServer, name: str, is_there: bool
) -> None:
    precious = tmp_path / "precious"
    if is_there:
        precious.touch()
    link = server.store / ".hmacfs" / name
    link.parent.mkdir(parents=True)
    give_to(server.store, USER)
    link.symlink_to(precious)
    done = run("sweep", "-config", server.config)
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert len(done.stderr.splitlines()) == 1
    assert "it is a link in a folder of " in done.stderr
    assert (precious.exists(), is_there and precious.read_bytes()) == (is_there, is_there and b"")


@needs_root
def test_a_folder_that_was_put_in_the_place_of_a_new_one_stays_root_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = pwd.getpwnam(USER)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    os.chown(tmp_path, user.pw_uid, user.pw_gid)
    mkdir = os.mkdir

    def swapped(path: Path, mode: int) -> None:
        mkdir(path, mode)
        path.rename(tmp_path / "away")
        (tmp_path / "precious").rename(path)

    monkeypatch.setattr(os, "mkdir", swapped)
    make_folder(tmp_path / "new")
    assert (tmp_path / "new").stat().st_uid == 0


@needs_root
def test_what_the_disk_refuses_is_one_line_with_the_whole_path(server: HmacFileServer) -> None:
    """In the log alone."""
    (server.store / "a").mkdir(parents=True)
    give_to(server.store, USER)
    (server.store / "a" / "locked").touch(0o600)
    server.start()
    answer = get(server, "a/locked")
    assert (answer.status, answer.body) == (500, b"The server could not store or read the file.\n")
    log = (server.folder / "server.log").read_text()
    assert f"] storage failed: {server.store}/a/locked: Permission denied request_id=" in log
    assert ".:" not in log
    assert "Errno" not in log


@needs_root
def test_a_first_configuration_is_the_folder_owner_s(server: HmacFileServer) -> None:
    path = server.folder / "first.toml"
    assert run("-init", path).returncode == 0
    assert path.stat().st_uid == pwd.getpwnam(USER).pw_uid
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_check_changes_nothing_and_needs_nothing(tmp_path: Path) -> None:
    """As the user who runs the tests; what cannot be made is told from the parent."""
    server = HmacFileServer(tmp_path, LogFile=str(tmp_path / "log"), RuntimeDir=str(tmp_path / "a" / "b"))
    server.write_config()
    before = snapshot(tmp_path)
    assert run("-config", server.config, "-check").returncode == 0
    (tmp_path / "a").touch()
    done = run("-config", server.config, "-check")
    assert f"RuntimeDir: {tmp_path}/a/b cannot be written: Not a directory\n" in done.stderr
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to("nowhere")
    done = run("-config", server.config, "-check")
    assert f"RuntimeDir: {tmp_path}/a/b cannot be written: No such file or directory\n" in done.stderr
    (tmp_path / "a").unlink()
    assert {path: kept[:3] for path, kept in snapshot(tmp_path).items()} == {
        path: kept[:3] for path, kept in before.items()
    }
    shutil.rmtree(tmp_path / "a", ignore_errors=True)
