"""The application behind the real connection loop, in one process without gunicorn, for what counts in a process.

``python -m bench.in_process FD [LEVEL]`` prints a line, and serves the connected socket of that descriptor. LEVEL: of
the log, which goes to a file; without one it is off.
"""

from __future__ import annotations

import gevent.monkey

gevent.monkey.patch_all()

import contextlib  # noqa: E402
import os  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402

from bench.requests import SECRET  # noqa: E402


@contextlib.contextmanager
def application(log_level: str | None = None) -> Iterator[Any]:
    """With the embedded defaults, but for durability and the log, in a temporary folder."""
    from hmacfs.app import create_app
    from hmacfs.config import load
    from hmacfs.telemetry import logs

    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        config = Path(folder) / "config.toml"
        config.write_text(
            f'Secret = "{SECRET}"\nStoreDir = "{folder}/store"\nRuntimeDir = "{folder}/run"\nDurability = "none"\n'
            f'LogLevel = "{log_level or "info"}"\nLogFile = "{folder}/log"\n'
        )
        for name in ("store", "run", "metrics"):
            (Path(folder) / name).mkdir()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = f"{folder}/metrics"
        settings = load(config, {})
        if log_level is not None:
            logs.configure(settings.log_level, settings.log_file, settings.log_format)
        app = create_app(settings)
        # What each worker does once a second: files stay open from the first time on.
        app.extensions["hmacfs"].core.store.repair()
        yield app


def connection(application: Any, sock: socket.socket) -> Any:
    """One that is served in the calling greenlet by its ``serve``."""
    from hmacfs.net.transport import Transport
    from hmacfs.server.connection import Connection, ServerContext
    from hmacfs.server.lifecycle import Lifecycle, MasterIntent

    environ = {
        "SERVER_NAME": "x",
        "SERVER_PORT": "80",
        "wsgi.errors": sys.stderr,
        "wsgi.input_terminated": True,
        "wsgi.multiprocess": True,
        "wsgi.multithread": True,
        "wsgi.run_once": False,
        "wsgi.url_scheme": "http",
        "wsgi.version": (1, 0),
    }
    context = ServerContext(
        application=application,
        lifecycle=Lifecycle(MasterIntent(), 1),
        idle_timeout=600,
        read_timeout=600,
        write_timeout=600,
        environ=environ,
        respond=application.extensions["hmacfs"].respond,
    )
    return Connection(context, Transport(sock), ("127.0.0.1", 1))


def main() -> None:
    sock = socket.socket(fileno=int(sys.argv[1]))
    with application(*sys.argv[2:]) as app:
        print("ready", flush=True)
        gevent.spawn(connection(app, sock).serve).join()
    sys.stdout.flush()
    os._exit(0)  # the application's threads and tasks know no end


if __name__ == "__main__":
    main()
