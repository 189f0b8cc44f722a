"""What the master imports for its workers: pages that nobody writes to are then in memory once, and each worker begins
with its imports done.

gevent patches the standard library in the workers, after the fork. So nothing may be imported here that keeps what it
found unpatched and waits with it: drivers of Redis and databases are left to the workers, as is the client of an object
store.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.metadata
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator

from hmacfs.config import Settings, Storage
from hmacfs.errors import ConfigError
from hmacfs.sessions.open_session_store import prepare_embedded, remote_stores

log = logging.getLogger("hmacfs.server")

#: The application, and what gevent's patches import, which each worker would else have for itself (docs/facts.md,
#: section 14).
_ALWAYS = (
    "hmacfs.app",
    *(
        "gevent.events",
        "gevent.local",
        "gevent.select",
        "gevent.selectors",
        "gevent.signal",
        "gevent.ssl",
        "gevent.subprocess",
        "gevent.threading",
        "gevent.time",
        "_threading_local",
    ),
)
_FOR_METRICS = ("hmacfs.telemetry.scrape",)
#: But for what imports urllib3, whose TLS would block.
_FOR_S3 = (
    *(
        "hmacfs.protocol.http1.replies",
        "hmacfs.stores.s3.exclusive",
        "hmacfs.stores.s3.failures",
        "hmacfs.stores.s3.observer",
        "hmacfs.stores.s3.store",
    ),
    *("hmacfs.telemetry.object_store", "dateutil.parser", "dateutil.tz"),
)
_FOR_SQLITE = ("hmacfs.sessions.sql", "hmacfs.sessions.sqlite")


def _modules(settings: Settings) -> list[str]:
    """What workers with these settings need, but for drivers."""
    for_metrics = _FOR_METRICS if settings.metrics_enabled else []
    for_files = _FOR_S3 if settings.storage is Storage.S3 else []
    return [*_ALWAYS, *for_metrics, *for_files, *([] if remote_stores(settings) else _FOR_SQLITE)]


def preload(settings: Settings) -> None:
    """Import it, in a master that has no threads and no handlers of signals yet, and has told prometheus_client its
    folder.

    What a reload brings besides, its workers import. The collector leaves alone from now on what is here: its marks
    would be writes. While modules are imported it has nothing to find, and would take a sixth of the time. SQLite's
    tables are made here too, if they are missing.
    """
    gc.disable()
    try:
        for name in _modules(settings):
            importlib.import_module(name)
    finally:
        gc.enable()
    gc.collect()
    gc.freeze()
    if not remote_stores(settings):
        _make_tables(settings)


def _make_tables(settings: Settings) -> None:
    """Ends the start, as an import that fails does, if each worker would fail the same. The reason has been told."""
    status = _in_child(lambda: _prepare(settings))
    if status > 0:
        sys.exit(status)
    if status < 0:
        why = signal.strsignal(-status) or f"signal {-status}"
        log.warning("the process that makes or upgrades SQLite's tables was ended (%s): the workers do it", why)


def _prepare(settings: Settings) -> int:
    """The exit status: 1 if a step failed, 2 for a mistake in the configuration. Every wait for a lock has a limit."""
    try:
        prepare_embedded(settings)
    except ConfigError as error:
        print(f"hmac-file-server: {error}", file=sys.stderr, flush=True)
        return 2
    except Exception:
        log.exception("SQLite's tables cannot be made or upgraded: the server does not start")
        return 1
    return 0


def _in_child(call: Callable[[], int]) -> int:
    """The exit status of a process of its own that calls it, or the negative number of the signal that ended it. What
    the call imports and opens ends with that process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a parent may have had it ignored: then no status is kept
    status, child = 1, os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a terminal's is the master's too, which tells of it
            status = call()
        finally:
            os._exit(status)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except KeyboardInterrupt:
        os.kill(child, signal.SIGKILL)  # SQLite undoes what was begun
        os.waitpid(child, 0)
        raise


@contextlib.contextmanager
def no_plugins() -> Iterator[None]:
    """While gevent patches: it asks 25 times whether any installed package wants to be told, and each time reads the
    metadata of all of them, which took each worker 0.15 s of its start. None of ours does."""
    entry_points = importlib.metadata.entry_points
    importlib.metadata.entry_points = lambda **_: ()  # type: ignore[assignment]
    try:
        yield
    finally:
        importlib.metadata.entry_points = entry_points
