"""Sessions in a database or in Redis, reached by TLS: what it must prove, and what happens if it cannot."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toml

from tests.live.pieces import DIALECTS, begun
from tests.servers import folder_of, free_port, require_binary
from tests.servers.hmacfs import HmacFileServer, fallback
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

StartServer = Callable[..., HmacFileServer]
Database = PostgresServer | MariaDBServer

#: The classes, by the users that they run as, which have the names of the drivers.
KINDS: dict[str, Callable[..., Database]] = {"postgres": PostgresServer, "mysql": MariaDBServer}
#: How many connections the session store has, and how many of them are encrypted.
ENCRYPTED = (
    "SELECT count(*), count(*) FILTER (WHERE ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
    " WHERE application_name = 'hmac-file-server'"
)


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run([require_binary("openssl"), *arguments], check=True, capture_output=True, cwd=folder)


def certify(folder: Path, address: str) -> None:
    """An authority, ``ca.crt``, and a certificate of its for that address, ``server.crt``."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority")
    of_server = (
        "-keyout",
        "server.key",
        "-out",
        "server.crt",
        "-subj",
        "/CN=database",
        "-addext",
        f"subjectAltName={address}",
    )
    openssl(folder, "req", "-x509", *key, *of_server, "-CA", "ca.crt", "-CAkey", "ca.key")
    (folder / "server.key").chmod(0o600)
    (folder / "ca.crt").chmod(0o644)


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def encrypting(kind: str) -> Iterator[Database]:
    with folder_of(kind) as folder:
        certify(folder, "IP:127.0.0.1")
        with KINDS[kind](folder, tls=True) as database:
            yield database


@pytest.fixture(scope="module")
def plain(kind: str) -> Iterator[Database]:
    with folder_of(kind) as folder, KINDS[kind](folder) as database:
        yield database


def verified(ca: Path) -> dict[str, object]:
    return {"FallbackDBTLS": "verify-full", "FallbackDBTLSCA": str(ca)}


def complaint(tmp_path: Path, database: Database, **settings: object) -> str:
    """What ``-check -online`` has to say of it."""
    return checked(tmp_path, **{**fallback(database), **settings})


def checked(tmp_path: Path, **settings: object) -> str:
    path = tmp_path / "config.toml"
    values = {"Secret": "0123456789abcdeX!kl", "StoreDir": str(tmp_path / "store"), **settings}
    path.write_text(toml.dumps(values))
    run = [sys.executable, "-m", "hmacfs", "-check", "-online", "-config", str(path)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    lines = [line for line in done.stdout.splitlines() if "does not serve" in line]
    return "".join(lines) + done.stderr


@pytest.mark.parametrize("mode", ["", "disable", "require", "verify-full"])
def test_a_server_that_speaks_tls_is_reached_in_each_mode(tmp_path: Path, encrypting: Database, mode: str) -> None:
    more = verified(encrypting.folder / "ca.crt") if mode == "verify-full" else {"FallbackDBTLS": mode}
    assert complaint(tmp_path, encrypting, **more) == ""


def test_a_server_that_speaks_none_is_refused(tmp_path: Path, plain: Database, encrypting: Database) -> None:
    assert complaint(tmp_path, plain) == ""
    assert complaint(tmp_path, plain, FallbackDBTLS="disable") == ""
    assert "does not serve" in complaint(tmp_path, plain, FallbackDBTLS="require")
    assert "does not serve" in complaint(tmp_path, plain, **verified(encrypting.folder / "ca.crt"))


def test_a_certificate_that_does_not_fit_is_refused(tmp_path: Path, encrypting: Database) -> None:
    """Of another authority, or of none that the system knows, or for another name."""
    certify(tmp_path / "other", "IP:127.0.0.1")
    assert "does not serve" in complaint(tmp_path, encrypting, **verified(tmp_path / "other" / "ca.crt"))
    assert "does not serve" in complaint(tmp_path, encrypting, FallbackDBTLS="verify-full")
    by_name = {
        "FallbackDBHost": f"127.0.0.2:{encrypting.port}"
        if encrypting.type == "mysql"
        else f"localhost:{encrypting.port}"
    }
    named: Any = {**verified(encrypting.folder / "ca.crt"), **by_name}
    assert "does not serve" in complaint(tmp_path, encrypting, **named)


def test_uploads_go_on_by_tls_alone(start_server: StartServer, encrypting: Database) -> None:
    server = start_server(**fallback(encrypting), **verified(encrypting.folder / "ca.crt"))
    for dialect in DIALECTS:
        upload = begun(dialect, server, dialect.dialect)
        for offset in (40_000, 80_000):
            assert upload.send(offset).status in (201, 202, 204)
        assert upload.stored().read_bytes() == upload.body
    if isinstance(encrypting, PostgresServer):
        ((connections, encrypted),) = encrypting.query(ENCRYPTED)
        assert connections == encrypted
        assert encrypted
    assert server.complaints() == []


def test_a_file_that_is_not_there_and_one_that_is_of_no_use(tmp_path: Path, plain: Database) -> None:
    missing = complaint(tmp_path, plain, **verified(tmp_path / "none.crt"))
    assert "FallbackDBTLSCA: " in missing
    assert "No such file" in missing
    assert "only with FallbackDBTLS" in complaint(tmp_path, plain, FallbackDBTLSCA=str(tmp_path / "none.crt"))


def test_redis_proves_who_it_is(tmp_path: Path) -> None:
    folder, port = tmp_path / "redis", free_port()
    certify(folder, "IP:127.0.0.1")
    files = ["--tls-cert-file", str(folder / "server.crt"), "--tls-key-file", str(folder / "server.key")]
    options = [
        *files,
        "--tls-port",
        str(port),
        "--tls-auth-clients",
        "no",
        "--tls-ca-cert-file",
        str(folder / "ca.crt"),
    ]
    ours = f"ssl_ca_certs={folder / 'ca.crt'}"
    with RedisServer(folder, *options):
        for address, serves in [
            (f"rediss://127.0.0.1:{port}/0?{ours}", True),
            (f"rediss://127.0.0.1:{port}/0", False),  # of an authority that the system does not know
            (f"rediss://localhost:{port}/0?{ours}", False),  # for another name
        ]:
            assert ("does not serve" in checked(tmp_path, RedisAddr=address)) is not serves, address
