"""``StateDir`` apart from the files: what is in it, what survives, and how an operator gets there from the default."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.pieces import DIALECTS, Upload, begun
from tests.live.test_start import run
from tests.servers import wait_until
from tests.servers.hmacfs import HmacFileServer
from tests.servers.redis import RedisServer

StartServer = Callable[..., HmacFileServer]
DATABASE = "sessions.sqlite3"


def left_in(folder: Path) -> list[str]:
    """What the server keeps for itself there."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(("sessions.", "sweep.")))


def finish(upload: Upload) -> None:
    while upload.acknowledged < len(upload.body):
        answer = upload.send(upload.acknowledged)
        assert answer.status in (201, 202, 204), answer
        upload.acknowledged += len(upload.piece(upload.acknowledged))
    assert upload.stored().read_bytes() == upload.body


def begun_everywhere(server: HmacFileServer) -> list[Upload]:
    uploads = [begun(kind, server, kind.dialect) for kind in DIALECTS]
    for upload in uploads:
        upload.acknowledged = upload.size
    return uploads


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


def test_sessions_elsewhere_survive_a_restart(start_server: StartServer, tmp_path: Path) -> None:
    state = tmp_path / "made" / "state"
    server = start_server(StateDir=str(state), Workers=2)
    uploads = begun_everywhere(server)
    assert server.sweep() == "removed 0 expired uploads and 0 orphans\n"
    assert server.stop() == 0
    assert left_in(server.store / ".hmacfs") == []
    assert {DATABASE, "sweep.lock"} <= set(left_in(state))
    assert all(path.stat().st_mode & 0o077 == 0 for path in (state, *state.iterdir()))
    server.start()
    for upload in uploads:
        finish(upload)
    assert server.stop() == 0
    assert server.complaints() == []


def test_the_first_start_with_it_takes_the_sessions_along(start_server: StartServer, tmp_path: Path) -> None:
    """Also what is in the log of the database, after a kill; and ``-check`` says it beforehand."""
    server, state = start_server(Workers=2), tmp_path / "state"
    uploads = begun_everywhere(server)
    old = server.store / ".hmacfs" / DATABASE
    os.killpg(server.pid, signal.SIGKILL)
    server.daemon.kill()
    assert Path(f"{old}-wal").stat().st_size > 0
    server.settings["StateDir"] = str(state)
    server.write_config()
    assert f"{old} is going to be moved to {state} by the next start" in run("-config", server.config, "-check").stdout
    assert not state.exists()
    server.start()
    assert f"moved the sessions of unfinished uploads from {old} to {state}" in server.log()
    assert [name for name in left_in(old.parent) if name.startswith(DATABASE)] == []
    assert (state / DATABASE).stat().st_mode & 0o777 == 0o600
    for upload in uploads:
        finish(upload)
    assert server.complaints() == []


def test_a_database_that_others_use_stays_and_is_told(start_server: StartServer, tmp_path: Path) -> None:
    other, state = start_server(), tmp_path / "state"
    upload = begun(DIALECTS[0], other, "a")
    upload.acknowledged = upload.size
    old = other.store / ".hmacfs" / DATABASE
    server = start_server(StoreDir=str(other.store), StateDir=str(state))
    (told,) = server.complaints()
    assert f"StateDir: {old} cannot be moved to {state} (database is locked): the unfinished uploads" in told
    finish(upload)
    assert server.stop() == 0
    server.start()
    (_, told) = server.complaints()
    assert f"StateDir: {old} is used no more, since sessions are in {state / DATABASE}: remove it" in told
    assert "is used no more" in run("-config", server.config, "-check").stdout


def test_with_a_session_server_nothing_is_moved(start_server: StartServer, redis: RedisServer) -> None:
    server = start_server()
    assert server.stop() == 0
    server.settings |= {"StateDir": f"{server.folder}/state", "RedisAddr": redis.address}
    server.start()
    begun(DIALECTS[0], server, "a")
    assert (server.store / ".hmacfs" / DATABASE).exists()
    assert DATABASE not in left_in(server.folder / "state")
    assert server.complaints() == []


def test_a_reload_keeps_the_state_where_it_is(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server()
    upload = begun(DIALECTS[0], server, "a")
    upload.acknowledged = upload.size
    server.settings["StateDir"] = str(tmp_path / "state")
    server.write_config()
    os.kill(server.pid, signal.SIGHUP)
    wait_until(lambda: "keeping the running configuration" in server.log())
    (told,) = server.complaints()
    assert f"config.toml: StateDir: {tmp_path}/state instead of {server.store}/.hmacfs needs a restart" in told
    assert not (tmp_path / "state").exists()
    finish(upload)


def test_a_purge_of_it_is_survived(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(StateDir=str(tmp_path / "state"))
    begun(DIALECTS[0], server, "a")
    shutil.rmtree(tmp_path / "state")
    later = begun(DIALECTS[0], server, "b")
    later.acknowledged = later.size
    finish(later)
    assert server.sweep().startswith("removed 0 expired uploads")
    assert "sweep.lock" in left_in(tmp_path / "state")
