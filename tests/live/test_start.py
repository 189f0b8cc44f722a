"""Starting, checking, signing, logging and stopping, as an operator does it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.client import get, put, request
from tests.servers import Daemon, accepts_connections, free_port, require_binary, wait_until
from tests.servers.hmacfs import HmacFileServer
from tests.unit.test_config import ORIGINAL
from tests.unit.test_preload import with_a_record_that_no_step_can_read

ROOT = Path(__file__).parents[2]
StartServer = Callable[..., HmacFileServer]


def run(*arguments: object, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    command = [sys.executable, "-W", "error", "-m", "hmacfs", *map(str, arguments)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HMACFS_")}
    environ = {**clean, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd=cwd, env=environ)


def test_mistakes_end_the_start_with_one_line(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    needed = f'Secret = "0123456789abcdef"\nStoreDir = "{tmp_path}/s"\n'
    database = 'FallbackEnabled = true\nFallbackDBUser = "u"\nFallbackDBName = "n"\n'
    for content, words in [
        (None, "cannot be read"),
        ("ListenPort = ", "not TOML"),
        ('Secret = "0123456789abcdef"\nStoreDirr = "x"', "did you mean StoreDir?"),
        ('Secret = "0123456789abcdef"\nStoreDir = "/proc/none"', "config.toml: StoreDir: /proc/none cannot be written"),
        (f'{needed}RedisAddr = "http://x"', "config.toml: RedisAddr: "),
        (f'{needed}{database}FallbackDBHost = "a:b:c"', "config.toml: FallbackDBHost: 'a:b:c' is not allowed"),
    ]:
        if content is not None:
            config.write_text(content)
        for arguments in (["-config", config], ["--config", config, "-check"]):
            done = run(*arguments)
            assert done.returncode == 2
            assert done.stdout == ""
            assert done.stderr.count("\n") == 1
            assert done.stderr.startswith("hmac-file-server: ")
            assert words in done.stderr


def test_check_says_that_all_is_well(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'Secret = "0123456789abcdef"\nStoreDir = "{tmp_path}/store"')
    done = run("-config", config, "-check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("the configuration is good\n")


def test_a_host_that_does_not_exist_is_one_clear_line(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    for host in ("host.invalid", "a" * 80, "a..b"):
        config.write_text(f'Secret = "0123456789abcdef"\nStoreDir = "{tmp_path}/store"\nListenPort = "{host}:8080"')
        done = run("-config", config)
        assert done.returncode != 0
        assert done.stderr.count("\n") == 1
        assert f"config.toml: ListenPort: cannot listen at {host}:8080" in done.stderr


def test_sweeping_a_store_that_is_not_there(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('Secret = "0123456789abcdef"\nStoreDir = "/proc/none"')
    done = run("sweep", "-config", config)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"hmac-file-server: {config}: StoreDir: /proc/none cannot be used: No such file or directory\n"
    )


def test_the_originals_example_starts(tmp_path: Path) -> None:
    port = free_port()
    text = ORIGINAL.replace("/mnt/storage/hmac-file-server/", f"{tmp_path}/store")
    text = text.replace("/var/log/hmac-file-server.log", f"{tmp_path}/log").replace(":8080", f":{port}")
    (tmp_path / "config.toml").write_text(text.replace(":9090", f":{free_port()}"))
    command = [sys.executable, "-W", "error", "-m", "hmacfs", "-config", str(tmp_path / "config.toml")]
    daemon = Daemon(command, folder=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        daemon.wait_until(lambda: accepts_connections(port))
        daemon.wait_until(lambda: "uploads at /upload/" in (tmp_path / "log").read_text())
        assert "a-horse" not in (tmp_path / "log").read_text() + daemon.log()
        assert daemon.stop() == 0
    finally:
        daemon.kill()


def test_gunicorn_starts_the_same_server(tmp_path: Path) -> None:
    server = HmacFileServer(tmp_path)
    gunicorn = Path(sys.executable).with_name("gunicorn")
    server.command = [str(gunicorn), "-c", str(ROOT / "gunicorn.conf.py"), "wsgi:app"]
    server.command += ["--chdir", str(ROOT)]
    server.start(HMACFS_CONFIG=str(server.config))
    try:
        assert put(server, "by/gunicorn.txt", b"x").headers["Server"] == "hmacfs"
        assert get(server, "by/gunicorn.txt").body == b"x"
        assert "listening at" in server.log()
        assert server.stop() == 0
        assert server.complaints() == []
    finally:
        server.daemon.kill()
    server.settings["Secret"] = "short"
    server.write_config()
    done = subprocess.run(
        server.command,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "HMACFS_CONFIG": str(server.config)},
    )
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert "Secret" in done.stderr


def test_an_upgrade_that_fails_ends_the_start(tmp_path: Path) -> None:
    server = HmacFileServer(tmp_path)
    server.store.mkdir()
    with_a_record_that_no_step_can_read(server.store / ".hmacfs" / "sessions.sqlite3")
    server.write_config()
    done = run("-config", server.config)
    assert done.returncode == 1
    assert "SQLite's tables cannot be made or upgraded: the server does not start" in done.stderr
    assert "listening at" not in done.stderr
    assert "Booting worker" not in done.stderr


def test_an_address_in_use_is_one_clear_line(start_server: StartServer, tmp_path: Path) -> None:
    first = start_server()
    second = HmacFileServer(tmp_path / "second", ListenPort=f"127.0.0.1:{first.port}")
    second.folder.mkdir()
    second.write_config()
    done = run("-config", second.config)
    assert done.returncode != 0
    begin = f"hmac-file-server: {second.config}: ListenPort: cannot listen at"
    remedy = "another program listens there: choose another port"
    assert done.stderr == f"{begin} 127.0.0.1:{first.port}: Address already in use; {remedy}\n"
    path = tmp_path / "used.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        second.settings.update(ListenPort=str(path), UnixSocket=True)
        second.write_config()
        done = run("-config", second.config)
        assert done.stderr == f"{begin} {path}: another server does\n"
    assert path.exists()


def test_the_start_says_what_it_serves_and_no_secret(start_server: StartServer) -> None:
    server = start_server(PreviousSecrets=["an old secret, also hidden"], RedisPassword="hidden-as-well")
    log = server.log()
    for word in ("hmac-file-server 1.", str(server.store), str(server.port), "durability: fsync", "previous secrets"):
        assert word in log
    for hidden in (str(server.settings["Secret"]), "an old secret", "hidden-as-well"):
        assert hidden not in log


def assert_curl_lines_work(daemon: Daemon) -> None:
    """Also that the first one, which stores a file, does so once and says so only then."""
    require_binary("curl")
    daemon.wait_until(lambda: daemon.log().count("curl ") == 2)
    upload, fetch = [line.strip() for line in daemon.log().splitlines() if "curl " in line]
    for line, status, expected in (
        (upload, 0, "stored\n"),
        (fetch, 0, "It works.\n"),
        (upload, 22, "already exists.\n"),
    ):
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout[-len(expected) :]) == (status, expected)
        assert (status == 0) == (done.stderr == "" or "Total" in done.stderr)


def test_a_folder_is_enough(tmp_path: Path) -> None:
    """It keeps its secret for the next start, in a file that no URL names and nobody else may read."""
    ports = free_port(), free_port()
    signed = ""
    for port in (*ports, None):
        command = [sys.executable, "-W", "error", "-m", "hmacfs", "./data", *(["--port", str(port)] if port else [])]
        daemon = Daemon(
            command, folder=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "HMACFS_STORE_DIR": "/nowhere"}
        )
        try:
            daemon.log_path.write_text("")
            assert_curl_lines_work(daemon)
            config = tmp_path / "data" / ".hmacfs" / "config.toml"
            assert config.stat().st_mode & 0o777 == 0o600
            done = run("sign", "-config", "data/.hmacfs/config.toml", "put", "a.txt", "--size", 1, cwd=tmp_path)
            assert done.stdout.startswith(f"http://127.0.0.1:{port or ports[1]}/upload/a.txt?v=")
            assert "hmacfs sign -config data/.hmacfs/config.toml put NAME --file FILE" in daemon.log()
            query = done.stdout.partition("?")[2]
            assert signed in ("", query)
            signed = query
            assert request(port or ports[1], "GET", "/upload/.hmacfs/config.toml").status in (400, 404)
            assert daemon.stop() == 0
        finally:
            daemon.kill()
    assert len(list((tmp_path / "data").glob("try-*/hello.txt"))) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sing", "put", "a"], "unrecognized arguments: put a"), (["swep"], "no command of this name, and no folder"),
        (["./file"], "write -config ./file"), (["file"], "write -config file"), (["./data", "--port", "0"], "--port '0' is not allowed"),
        (["./data", "--port", "http"], "--port 'http' is not allowed"), (["./data", "-config", "x"], "not both"),
        (["-config", "x", "--port", "1"], "--port goes with a folder"), (["/proc/none/data"], "/proc/none: No such file"),
        (["./data", "-check"], "not both"), (["-init", "x", "./data"], "not both"),
        (["-config", "x", "-online"], "-online goes with -check"),
    ],
)  # fmt: skip
def test_mistakes_with_a_folder(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "file").touch()
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_s_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("./data", "--port", port, cwd=tmp_path)
    assert done.returncode != 0
    assert (
        done.stderr
        == f"hmac-file-server: {tmp_path}/data/.hmacfs/config.toml: ListenPort: cannot listen at 127.0.0.1:{port}: "
        "Address already in use; another program listens there: choose another port\n"
    )


def test_help_names_variables_examples_and_documentation() -> None:
    for arguments in (["--help"], ["-h"], ["./data", "--help"]):
        text = run(*arguments).stdout
        for word in (
            "HMACFS_CONFIG",
            "HMACFS_SECRET_FILE",
            "./data --port 9000",
            "README.md",
            "sign",
            "sweep",
            "-online",
        ):
            assert word in text, arguments


def test_help_of_a_command_is_its_own() -> None:
    for command in ("sign", "sweep"):
        assert run(command, "--help").stdout.startswith(f"usage: hmac-file-server {command} [-h]")


def test_the_server_says_what_it_is(start_server: StartServer) -> None:
    server = start_server()
    answer = request(server, "GET", "/")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert answer.body.startswith(b"This is an HMAC file server")
    assert answer.body.count(b"\n") == 1
    head = request(server, "HEAD", "/")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(answer.body)))
    assert request(server, "GET", "/other").status == 404
    assert request(server, "POST", "/", b"x").status == 405


def test_init_and_the_printed_curl_lines(tmp_path: Path) -> None:
    assert run("-init", "config.toml", cwd=tmp_path).returncode == 0
    config = tmp_path / "config.toml"
    assert config.stat().st_mode & 0o777 == 0o600
    before = config.read_text()
    done = run("-init", "config.toml", cwd=tmp_path)
    said = "hmac-file-server: config.toml is there already, and stays as it is: name another file\n"
    assert (done.returncode, done.stderr) == (2, said)
    assert config.read_text() == before
    port = free_port()
    config.write_text(before.replace("127.0.0.1:8080", f"127.0.0.1:{port}").replace(":9091", f":{free_port()}"))
    command = [sys.executable, "-m", "hmacfs", "-config", "config.toml", "-curl"]
    daemon = Daemon(command, folder=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert_curl_lines_work(daemon)
        assert list((tmp_path / "data").glob("try-*/hello.txt"))
    finally:
        daemon.kill()


def test_signed_urls_for_scripts(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server()
    (tmp_path / "photo").write_bytes(b"12345")

    def sign(*arguments: object) -> str:
        done = run("sign", *arguments, "-config", server.config)
        assert done.returncode == 0, done.stderr
        url = done.stdout.strip()
        assert url.startswith(server.url)
        return url.removeprefix(server.url)

    assert request(server, "PUT", sign("put", "a/ü 1.txt", "--size", 5), b"12345").status == 201
    assert request(server, "PUT", sign("put", "a/2.txt", "--file", tmp_path / "photo"), b"12345").status == 201
    typed = sign("put", "a/3.png", "--size", 5, "--type", "image/png")
    assert request(server, "PUT", typed, b"12345", content_type="image/jpeg").status == 403
    assert request(server, "PUT", typed, b"12345", content_type="image/png").status == 201
    assert request(server, "PUT", sign("put", "/a/4.txt", "--expires", "1h"), b"any").status == 201
    assert request(server, "GET", sign("get", "a/4.txt", "--expires", "1h")).body == b"any"
    public = run("sign", "get", "x", "--expires", "1h", "-config", server.config, HMACFS_PUBLIC_URL="https://u.example")
    assert public.stdout.startswith("https://u.example/upload/x?v3=")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["put", "a"], "needs --size"), (["get", "a"], "needs --expires"), (["put", "../a", "--size", "1"], "segment of dots"),
        (["put", "a", "--expires", "soon"], "'soon' is not allowed"), (["put", "a", "--size", "1", "--expires", "1h"], "leave"),
        (["put", "a", "--file", "/none"], "No such file"), (["put", "a", "--size", "-1"], "number of bytes"),
    ],
)  # fmt: skip
def test_mistakes_in_signing(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "config.toml").write_text(f'Secret = "0123456789abcdef"\nStoreDir = "{tmp_path}"')
    done = run("sign", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_log_files_are_reopened_and_lines_cannot_be_forged(start_server: StartServer, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    server = start_server(LogFile=str(log))
    get(server, "before")
    wait_until(lambda: "/upload/before" in log.read_text())
    log.rename(tmp_path / "rotated.log")
    os.kill(server.pid, signal.SIGUSR1)
    wait_until(log.exists)

    def logged_anew() -> bool:
        get(server, "after")
        return "/upload/after" in log.read_text()

    wait_until(logged_anew)
    forged = "x%0a2026-01-01T00:00:00.000Z%20INFO%20forged=1%1b[2J"
    request(server, "GET", f"/upload/{forged}", user_agent="a\tb")
    wait_until(lambda: "status=400" in log.read_text())
    assert "\x1b" not in log.read_text()
    assert all(line[:4].isdigit() and " [" in line for line in log.read_text().splitlines())
    assert not any(line.startswith("2026-01-01") for line in log.read_text().splitlines())


def test_a_log_file_that_cannot_be_reopened(start_server: StartServer, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    server = start_server(LogFile=str(log))
    assert log.stat().st_mode & 0o777 == 0o640
    rotated = log.rename(tmp_path / "rotated.log")
    log.mkdir()
    os.kill(server.pid, signal.SIGUSR1)
    wait_until(lambda: rotated.read_text().count("cannot be opened again") == 2)  # master and worker
    get(server, "afterwards")
    wait_until(lambda: "/upload/afterwards" in rotated.read_text())
    assert server.stop() == 0


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_request_makes_a_long_line(start_server: StartServer, form: str) -> None:
    server = start_server(LogFormat=form, LogLevel="debug")
    for path in ("/upload/" + "%E2%98%83" * 3_000, "/" + "x" * 30_000, "/upload/.hmacfs/tus/" + "\xe9" * 30_000):
        for method in ("GET", "PUT", "PATCH", "X" * 32):
            answer = request(server, method, path, x_request_id="i" * 64, x_forwarded_for="f" * 1_000)
            assert 400 <= answer.status < 500
    wait_until(lambda: server.log().count("bytes)") >= 9, what="the lines")
    assert max(map(len, server.log().splitlines())) < 1_400


def test_json_logs(start_server: StartServer) -> None:
    server = start_server(LogFormat="json")
    put(server, "ü/file.txt", b"hello")
    wait_until(lambda: '"PUT"' in server.log())
    lines = [json.loads(line) for line in server.log().splitlines()]
    line = next(line for line in lines if line.get("method") == "PUT")
    assert (line["path"], line["status"], line["received"], line["client"]) == (
        "/upload/%C3%BC/file.txt",
        201,
        5,
        "127.0.0.1",
    )
    assert line["seconds"] > 0
    assert line["level"] == "info"


def test_log_levels(start_server: StartServer) -> None:
    server = start_server(LogLevel="error")
    get(server, "nothing")
    server.stop()
    assert server.log() == ""


def test_a_runtime_folder_that_was_cleaned_away_is_made_again(start_server: StartServer, tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    server = start_server(RuntimeDir=str(runtime), MetricsEnabled=True, MetricsPort=f"127.0.0.1:{free_port()}")
    old = server.workers()[0].pid
    shutil.rmtree(runtime)
    server.workers()[0].kill()
    wait_until(lambda: [worker.pid for worker in server.workers()] not in ([], [old]), what="a new worker")
    wait_until(server.is_ready, what="its readiness")
    assert put(server, "file", b"x").status == 201
    assert server.stop() == 0
