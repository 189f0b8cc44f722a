"""What the master imports for its workers: pages that nobody writes to are then in memory once, and each worker begins
with its imports done.

gevent patches the standard library in the workers, after the fork. So nothing may be imported here that keeps what it
found unpatched and waits with it: drivers of Redis and databases are left to the workers.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.metadata
import os
from collections.abc import Callable, Iterator

from hmacfs.config import Settings
from hmacfs.sessions.open_session_store import prepare_embedded, remote_stores

#: The application, and what gevent's patches consist of: its events alone, which nobody listens to, are 2.9 MiB.
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
_FOR_SQLITE = ("hmacfs.sessions.sql", "hmacfs.sessions.sqlite")


def _modules(settings: Settings) -> list[str]:
    """What workers with these settings need, but for drivers."""
    for_metrics = _FOR_METRICS if settings.metrics_enabled else []
    return [*_ALWAYS, *for_metrics, *([] if remote_stores(settings) else _FOR_SQLITE)]


def preload(settings: Settings) -> None:
    """Import it, in a master that has no threads yet and has told prometheus_client its folder.

    What a reload brings besides, its workers import. SQLite's tables are made here too, if they are missing. The
    collector leaves alone from now on what is here: its marks would be writes. While modules are imported it has
    nothing to find, and would take a sixth of the time.
    """
    gc.disable()
    try:
        for name in _modules(settings):
            importlib.import_module(name)
        if not remote_stores(settings):
            _in_child(lambda: prepare_embedded(settings))
    finally:
        gc.enable()
    gc.collect()
    gc.freeze()


def _in_child(call: Callable[[], None]) -> None:
    """Call it in a process of its own: what that imports and opens ends with it."""
    child = os.fork()
    if child == 0:
        try:
            call()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


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
