"""A private MariaDB."""

from __future__ import annotations

import os
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from tests.servers import (
    Daemon,
    accepts_connections,
    as_user,
    free_port,
    freeze,
    give_to,
    require,
    require_binary,
)

USER = PASSWORD = DATABASE = "hmacfs"

_SET_UP = f"""
CREATE DATABASE IF NOT EXISTS {DATABASE};
CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON {DATABASE}.* TO '{USER}'@'%';
"""


class MariaDBServer:
    """MariaDB on a loopback port of its own, which it keeps over restarts, with one database and one user of it.
    What was committed outlives ``kill``, but nothing is synced to disk."""

    type = "mysql"

    def __init__(self, folder: Path, *, tls: bool = False) -> None:
        require(find_spec("MySQLdb"), "mysqlclient")
        self.folder = folder
        #: Whether it speaks TLS, with ``server.crt`` and ``server.key`` of its folder.
        self._tls = tls
        self.port = free_port()
        self._data = folder / "data"
        self._binary = require_binary("mariadbd")
        self._daemon: Daemon | None = None

    @property
    def host(self) -> str:
        """As ``FallbackDBHost`` has it."""
        return f"127.0.0.1:{self.port}"

    @property
    def socket(self) -> Path:
        return self.folder / "mysql.sock"

    def make(self) -> Self:
        """Make the database, unless that was done."""
        if self._data.exists():
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "set-up.sql").write_text(_SET_UP)
        give_to(self.folder, "mysql")
        options = ["--no-defaults", f"--datadir={self._data}", "--skip-test-db", "--skip-name-resolve"]
        options += ["--auth-root-authentication-method=normal", "--innodb-log-file-size=4M"]
        run = [*as_user("mysql"), require_binary("mariadb-install-db"), *options]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder)
        return self

    def start(self) -> Self:
        self.make()
        options = ["--no-defaults", f"--datadir={self._data}", f"--port={self.port}", "--bind-address=127.0.0.1"]
        options += [f"--socket={self.socket}", f"--pid-file={self.folder / 'pid'}", "--skip-name-resolve"]
        options += ["--innodb-flush-log-at-trx-commit=2", "--innodb-log-file-size=4M", "--innodb-use-native-aio=0"]
        options += ["--innodb-buffer-pool-size=16M", f"--init-file={self.folder / 'set-up.sql'}"]
        if self._tls:
            give_to(self.folder, "mysql")
            options += [f"--ssl-cert={self.folder}/server.crt", f"--ssl-key={self.folder}/server.key"]
        self._daemon = Daemon([*as_user("mysql"), self._binary, *options], folder=self.folder)
        self._daemon.wait_until(self.answers, timeout=40, what="MariaDB's readiness")
        return self

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """The rows of a statement; committed at once."""
        import MySQLdb  # type: ignore[import-untyped]

        connection = MySQLdb.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, database=DATABASE, connect_timeout=5
        )
        try:
            connection.autocommit(True)
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def answers(self) -> bool:
        import MySQLdb

        try:
            return accepts_connections(self.port) and self.query("SELECT 1") == [(1,)]
        except MySQLdb.OperationalError:
            return False

    @property
    def pid(self) -> int:
        assert self._daemon is not None, "not started"
        return self._daemon.pid

    def pause(self) -> None:
        """From now on connections are accepted by the kernel and nobody answers."""
        freeze(self.pid)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._daemon is not None:
            self._daemon.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
