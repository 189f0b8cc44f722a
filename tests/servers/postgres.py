"""A private PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Self

import psutil

from tests.servers import Daemon, accepts_connections, as_user, free_port, give_to, require_binary, wait_until

USER = PASSWORD = DATABASE = "hmacfs"


class PostgresServer:
    """PostgreSQL on a loopback port of its own, which it keeps over restarts, with one database and one user who owns
    it. What was committed outlives ``kill``, but nothing is synced to disk."""

    type = "postgres"

    def __init__(self, folder: Path, *, encoding: str = "UTF8", tls: bool = False) -> None:
        self.folder = folder
        #: Whether it speaks TLS, with ``server.crt`` and ``server.key`` of its folder.
        self._tls = tls
        self.port = free_port()
        self._data = folder / "data"
        self._encoding = encoding
        self._binary = require_binary("postgres")
        self._daemon: Daemon | None = None

    @property
    def host(self) -> str:
        """As ``FallbackDBHost`` has it."""
        return f"127.0.0.1:{self.port}"

    def make(self) -> Self:
        """Make the database, unless that was done."""
        if self._data.exists():
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        give_to(self.folder, "postgres")
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        options = ["--username", USER, "--auth", "scram-sha-256", "--pwfile", str(secret), "--no-sync"]
        options += ["--encoding", self._encoding, "--locale", "C", "--no-instructions"]
        run = [*as_user("postgres"), require_binary("initdb"), "--pgdata", str(self._data), *options]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL, cwd=self.folder)
        return self

    def start(self) -> Self:
        self.make()
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}"]
        settings += ["fsync=off", "full_page_writes=off", "max_connections=60"]
        if self._tls:
            give_to(self.folder, "postgres")
            settings += ["ssl=on", f"ssl_cert_file={self.folder}/server.crt", f"ssl_key_file={self.folder}/server.key"]
        options = [word for setting in settings for word in ("-c", setting)]
        command = [*as_user("postgres"), self._binary, "-D", str(self._data), *options]
        self._daemon = Daemon(command, folder=self.folder)
        self._daemon.wait_until(self.answers, what="PostgreSQL's readiness")
        self._make_database()
        return self

    def _make_database(self) -> None:
        if self.query("SELECT 1 FROM pg_database WHERE datname = %s", DATABASE, database="postgres") == []:
            self.query(f"CREATE DATABASE {DATABASE}", database="postgres")

    def query(self, statement: str, *arguments: object, database: str = DATABASE) -> list[tuple[object, ...]]:
        """The rows of a statement; committed at once."""
        import psycopg2  # type: ignore[import-untyped]

        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database, connect_timeout=5
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, arguments or None)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def answers(self) -> bool:
        import psycopg2

        try:
            return accepts_connections(self.port) and self.query("SELECT 1", database="postgres") == [(1,)]
        except psycopg2.OperationalError:
            return False

    def _processes(self) -> list[psutil.Process]:
        """The server and its children, each of which is the leader of a process group of its own."""
        assert self._daemon is not None, "not started"
        try:
            server = psutil.Process(self._daemon.pid)
            return [server, *server.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def pause(self) -> None:
        """From now on connections are accepted by the kernel and nobody answers."""
        wait_until(self._suspend, what="the stop")

    def _suspend(self) -> bool:
        """Whether all were stopped already; the last to begin may not have been."""
        moving = [process for process in self._processes() if process.status() != psutil.STATUS_STOPPED]
        for process in moving:
            process.suspend()
        return not moving

    def resume(self) -> None:
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):  # a connection's, which has ended meanwhile
                process.resume()

    def kill(self) -> None:
        """End it as a crash would."""
        if self._daemon is None:
            return
        processes = self._processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._daemon.kill()
        psutil.wait_procs(processes, timeout=10)

    def stop(self) -> None:
        """End it in good order."""
        if self._daemon is not None and self._daemon.process.poll() is None:
            os.kill(self._daemon.pid, signal.SIGINT)  # "fast": without waiting for clients
            self._daemon.process.wait(20)
        self.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
