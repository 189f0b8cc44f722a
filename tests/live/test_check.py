"""``-check``, and how all commands find their configuration."""

from __future__ import annotations

import getpass
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.test_start import run
from tests.servers import folder_of, free_port
from tests.servers.hmacfs import HmacFileServer
from tests.servers.machine import Duration
from tests.servers.redis import RedisServer

SECRET = "of sixteen bytes"


def config(path: Path, **lines: object) -> Path:
    words = {"Secret": f'"{SECRET}"', "StoreDir": f'"{path.parent}/store"', **lines}
    path.write_text("".join(f"{key} = {value}\n" for key, value in words.items()))
    return path


@pytest.mark.parametrize("arguments", [["-check"], ["sign", "put", "a", "--size", "1"], ["sweep"], []])
def test_all_commands_find_the_configuration_alike(tmp_path: Path, arguments: list[str]) -> None:
    """A file that HMACFS_CONFIG names is read, and so is ./config.toml: a mistake in it is theirs to tell."""
    broken = config(tmp_path / "broken.toml", Workers='"many"')
    config(tmp_path / "config.toml", Workers='"few"')
    for env, words in (
        ({"HMACFS_CONFIG": str(broken)}, f"{broken}: Workers: 'many'"),
        ({"HMACFS_CONFIG": ""}, "config.toml: Workers: 'few'"),
        ({"HMACFS_WORKERS": "", "HMACFS_PORT": "tcp://10.0.0.1:80"}, "config.toml: Workers: 'few'"),
    ):
        done = run(*arguments, cwd=tmp_path, **env)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert words in done.stderr
    (tmp_path / "config.toml").unlink()
    done = run(*arguments, cwd=tmp_path, HMACFS_PORT="tcp://10.0.0.1:80")
    assert done.returncode == 2
    assert done.stderr.startswith("hmac-file-server: no configuration: ")
    assert done.stderr.count("\n") == 1


#: What makes a command slow to start, or may be imported only after gevent's patches.
HEAVY = {"flask", "flask_limiter", "gunicorn", "limits", "prometheus_client", "redis", "sqlalchemy", "ssl", "werkzeug"}


@pytest.mark.parametrize(
    ("arguments", "more"), [(["sign", "put", "a", "--size", "1"], {"gevent", "toml"}), (["-check"], set())]
)
def test_looking_at_a_configuration_needs_no_server(tmp_path: Path, arguments: list[str], more: set[str]) -> None:
    config(tmp_path / "config.toml", UploadRateLimit='"60/minute"', RedisAddr='"localhost"', Durability='"none"')
    program = "import sys; from hmacfs.cli import main; assert main(sys.argv[1:]) == 0; print(*sys.modules)"
    command = [sys.executable, "-W", "error", "-c", program, *arguments]
    loaded = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split()
    assert "hmacfs.config.settings" in loaded
    assert {name.partition(".")[0] for name in loaded} & (HEAVY | more) == set()


def test_a_check_says_which_file_is_good(tmp_path: Path) -> None:
    named = config(tmp_path / "named.toml", TrustedProxies='["0.0.0.0/0"]')
    done = run("-check", cwd=tmp_path, HMACFS_CONFIG=str(named), HMACFS_PORT="tcp://10.0.0.1:80")
    assert done.stdout.endswith(f"{named}: the configuration is good\n")
    assert f"warning: {named}: TrustedProxies: every address is a trusted proxy" in done.stdout
    assert "warning: HMACFS_PORT: made by Kubernetes" in done.stdout


def test_the_keys_of_the_original_s_newer_file_are_listed(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[server]\nlisten_address = "8080"\nstorage_path = "x"\n[security]\nsecret = "hidden-one"\n'
    )
    done = run("-check", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.splitlines()[1:] == ["[server] storage_path -> StoreDir", "[security] secret -> Secret"]
    assert done.stderr.startswith(
        "hmac-file-server: config.toml: [server] listen_address: this file is of another version"
    )
    assert "hidden" not in done.stdout + done.stderr
    assert run(cwd=tmp_path).stdout == ""


def test_redis_and_database_are_tried_only_when_asked(tmp_path: Path) -> None:
    lines = {"FallbackEnabled": "true", "FallbackDBUser": '"u"', "FallbackDBName": '"n"'}
    path = config(
        tmp_path / "config.toml",
        RedisAddr=f'"127.0.0.1:{free_port()}"',
        FallbackDBHost=f'"127.0.0.1:{free_port()}"',
        **lines,
    )
    done = run("-config", path, "-check")
    assert (done.returncode, "warning: Redis" in done.stdout) == (0, False)
    assert "not tried: whether Redis and PostgreSQL can be reached" in done.stdout
    done = run("-config", path, "-check", "-online")
    assert (done.returncode, done.stderr) == (0, "")
    refused = [line for line in done.stdout.splitlines() if "does not serve: " in line]
    assert [line.split()[:2] for line in refused] == [["warning:", "Redis"], ["warning:", "PostgreSQL"]]
    assert all("refused" in line for line in refused)


def test_a_redis_that_hangs_costs_its_timeout(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        path = config(
            tmp_path / "config.toml", RedisAddr=f'"127.0.0.1:{deaf.getsockname()[1]}"', RedisTimeout='"300ms"'
        )
        with Duration() as own:
            done = run("-config", path, "-check", "-online")
        assert "warning: Redis does not serve: Timeout" in done.stdout
        assert own.seconds < 20


def test_a_redis_that_answers_and_one_that_wants_a_password(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis", password="sesame and more") as redis:
        address = f'"{redis.address}"'
        good = config(tmp_path / "good.toml", RedisAddr=address, RedisPassword='"sesame and more"')
        assert "warning: Redis" not in run("-config", good, "-check", "-online").stdout
        assert redis.client().dbsize() == 0
        bad = config(tmp_path / "bad.toml", RedisAddr=address, RedisPassword='"wrong-word"')
        done = run("-config", bad, "-check", "-online")
        assert "warning: Redis does not serve: " in done.stdout
        assert "wrong-word" not in done.stdout


@pytest.mark.parametrize("place", ["StateDir", "RuntimeDir", "LogFile", "config", "secret", "link", "reserved"])
@pytest.mark.parametrize("arguments", [["-check"], []])
def test_what_would_be_served_and_must_not_be_is_refused(tmp_path: Path, place: str, arguments: list[str]) -> None:
    """By whichever way its path leads into the store; not what lies in the reserved folder."""
    store = tmp_path / "store"
    (store / "own").mkdir(parents=True)
    (tmp_path / "way").symlink_to(store)
    lines, environ = {}, {}
    path = tmp_path / "config.toml"
    words = "is inside of StoreDir"
    if place in ("StateDir", "RuntimeDir", "LogFile"):
        lines[place] = f'"{tmp_path}/way/own/x"'
    elif place == "config":
        path = tmp_path / "way" / "config.toml"
        lines["StoreDir"] = f'"{store}"'
    elif place == "secret":
        (store / "secret").write_text("a secret of more than 16 bytes")
        environ["HMACFS_SECRET_FILE"] = str(tmp_path / "way" / "secret")
    elif place == "link":
        (store / ".hmacfs").symlink_to("own")
        words = f"{store}/.hmacfs is a link"
    else:
        (store / ".hmacfs" / "store").mkdir(parents=True)
        lines["StoreDir"], words = f'"{store}/.hmacfs/store"', "is inside of what a server keeps for itself"
    config(path, **lines)
    if place == "secret":
        path.write_text(path.read_text().replace("Secret", "#Secret"))
    done = run("-config", path, *arguments, cwd=tmp_path, **environ)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert words in done.stderr
    assert not any((store / "own").iterdir())
    if place in ("RuntimeDir", "LogFile"):
        (store / ".hmacfs").mkdir()
        config(path, **{place: f'"{tmp_path}/way/.hmacfs/x"'})
        assert run("-config", path, "-check").returncode == 0


def test_what_every_user_can_read_is_told() -> None:
    with folder_of(getpass.getuser()) as folder:
        folder.chmod(0o755)
        secret = folder / "secret"
        secret.write_text("a secret of more than 16 bytes")
        path = config(folder / "config.toml", Durability='"none"')
        by_file = config(folder / "by-file.toml")
        by_file.write_text(by_file.read_text().replace("Secret", "#Secret"))
        (folder / "store").mkdir()
        environ = {"HMACFS_SECRET_FILE": str(secret)}
        warning = "can be read by every user of this machine"
        for mode in (0o755, 0o750):
            (folder / "store").chmod(mode)
            for file in (path, by_file, secret):
                file.chmod(mode & 0o666)
            told = [
                [line for line in run("-config", path, "-check").stdout.splitlines() if warning in line],
                [
                    line
                    for line in run("-config", by_file, "-check", cwd=folder, **environ).stdout.splitlines()
                    if warning in line
                ],
            ]
            if mode == 0o750:
                assert told == [[], []]
                continue
            stores = f"warning: {folder}/store {warning}: chmod o-rwx {folder}/store"
            assert told == [
                [stores, f"warning: {path}: Secret: {path} {warning}, with the secret in it: chmod o-rwx {path}"],
                [
                    stores,
                    f"warning: HMACFS_SECRET_FILE: {secret} {warning}, with the secret in it: chmod o-rwx {secret}",
                ],
            ]
        (folder / "store").chmod(0o755)
        with HmacFileServer(folder, LogLevel="warn") as server:
            server.config.chmod(0o600)
            assert [line for line in server.complaints() if warning in line and f"{folder}/store " in line]
        folder.chmod(0o700)
        assert warning not in run("-config", path, "-check").stdout, "nobody else gets there"
