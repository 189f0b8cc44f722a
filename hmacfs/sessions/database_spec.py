"""What the SQL store needs to know of a database: how to connect, and where the kinds of databases differ."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from hmacfs.config import DatabaseTls
from hmacfs.sessions.database import DatabaseConnection

#: Where systems keep the certificates of the authorities that they trust.
_SYSTEM_CAS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")

#: Seconds. A healthy database answers in milliseconds; one that does not within this counts as unreachable.
DATABASE_TIMEOUT = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class DatabaseSpec:
    """One database.

    name: for logs and metrics. connect: makes a new connection; raises ``DatabaseError``, also for what the operating
    system refuses. clock: an expression for the time in Unix seconds, with their fraction, by the one clock that all of
    its users share. begin, end: statements that take and release the lock under which tables are upgraded; a lost
    connection releases it too. is_transient: whether an error of the driver says that the same statement may succeed if
    it is repeated at once (a deadlock's victim). timeout: seconds after which a statement or a connection attempt is
    given up. connections: how many at most. identity: a value for the database as it is at the moment, asked before
    each operation; when it changes, connections to the former one are closed. Raises ``OSError`` if there is none.
    """

    name: str
    connect: Callable[[], DatabaseConnection]
    clock: str
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
