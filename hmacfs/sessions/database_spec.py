"""What the SQL store needs to know of a database: how to connect, and where the kinds of databases differ.

No SQLAlchemy here: with SQLite a server that has its tables never imports it (11 MiB, a quarter of the start).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from hmacfs.config import DatabaseTls

if TYPE_CHECKING:
    import sqlalchemy as sa

#: Where systems keep the certificates of the authorities that they trust.
_SYSTEM_CAS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")

#: Seconds. A healthy database answers in milliseconds; one that does not within this counts as unreachable.
DATABASE_TIMEOUT = 5.0


class DatabaseFailed(Exception):
    """A connection or a statement failed. driver_error: what the driver raised; is_lost: whether the connection is."""

    def __init__(self, driver_error: BaseException, *, is_lost: bool = False) -> None:
        super().__init__(str(driver_error))
        self.driver_error = driver_error
        self.is_lost = is_lost


class RowRefused(DatabaseFailed):
    """A unique index has such a row already."""


class ValueRefused(DatabaseFailed):
    """The database can store no such value, however often it is tried."""


class Result(NamedTuple):
    """rows: what a query found. changed: how many rows an ``UPDATE`` found to change."""

    rows: Sequence[tuple[Any, ...]]
    changed: int

    def scalar(self) -> Any:
        """The first column of the first row; ``None`` if there is none."""
        return self.rows[0][0] if self.rows else None


class DatabaseConnection(Protocol):
    """A connection whose every statement is a transaction of its own, for one thread at a time.

    Both methods raise ``DatabaseFailed`` and its kinds.
    """

    def execute(self, statement: str, values: Mapping[str, object] | None = None) -> Result:
        """values: for the placeholders of the statement, such as ``:token``."""

    def schema_access(self) -> AbstractContextManager[sa.Connection]:
        """To the same database, by SQLAlchemy: what its tables are made and upgraded by."""

    def close(self) -> None:
        """In whatever state it is."""


@dataclasses.dataclass(frozen=True, slots=True)
class DatabaseSpec:
    """One database.

    name: for logs and metrics. connect: a new connection; raises ``DatabaseFailed``. begin, end: statements that take
    and release the lock under which tables are upgraded; so does a lost connection. is_transient: whether an error of
    the driver says that the same statement may succeed if it is repeated at once (a deadlock's victim). timeout:
    seconds after which a statement or a connection attempt is given up. connections: how many at most. identity: a
    value for the database as it is at the moment, asked before each operation; when it changes, connections to the
    former one are closed. Raises ``OSError`` if there is none.
    """

    name: str
    connect: Callable[[], DatabaseConnection]
    begin: tuple[str, ...]
    end: tuple[str, ...]
    is_transient: Callable[[BaseException], bool]
    timeout: float
    connections: int
    identity: Callable[[], object] = lambda: None


@dataclasses.dataclass(frozen=True, slots=True)
class Tls:
    """How to reach a database. mode: ``FallbackDBTLS``. ca: the file of trusted certificates, with ``verify-full``."""

    mode: DatabaseTls = DatabaseTls.DRIVER
    ca: str = ""


DRIVERS_OWN = Tls()


@dataclasses.dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """Where a database is, and who asks. host: a name, an address, or the path of a Unix socket (MySQL) or of its
    folder (PostgreSQL). port: ``None`` for the usual one. timeout: see ``DatabaseSpec``."""

    host: str
    port: int | None
    user: str
    password: str = dataclasses.field(repr=False)
    database: str
    tls: Tls = DRIVERS_OWN
    timeout: float = DATABASE_TIMEOUT


def tls_of(mode: DatabaseTls, ca: Path | None) -> Tls:
    """The settings' values; without a ``ca`` the system's. Raises ``ValueError`` if there is none."""
    if mode is not DatabaseTls.VERIFY_FULL:
        return Tls(mode)
    files = [str(ca)] if ca is not None else [path for path in _SYSTEM_CAS if os.path.isfile(path)]
    if not files:
        raise ValueError("this system has no certificates to trust; name a file in FallbackDBTLSCA")
    return Tls(mode, files[0])
