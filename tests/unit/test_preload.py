"""What is imported where: by commands, by the master before the fork, and by workers."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from hmacfs.sessions.schema import STEPS

ROOT = Path(__file__).parents[2]
SECRET = "0123456789abcdef0123456789abcdef"
#: In what a worker is before it has patched the standard library, and after.
PRELOADED = """
from pathlib import Path
from hmacfs.config import load
from hmacfs.server.preload import no_plugins, preload
import hmacfs.server.settings
settings = load(Path(sys.argv[1]), {})
preload(settings)
"""
#: Keep something that gevent replaces, and may: they do not wait with it, or never run in a worker.
HARMLESS = {
    *("click.globals", "jinja2.utils", "reprlib", "tempfile", "wrapt.synchronization"),
    *("prometheus_client.metrics", "prometheus_client.registry", "prometheus_client.values", "werkzeug.routing.map"),
    *("asyncio.base_futures", "functools", "hmacfs.sessions.sql", "jwt.jwks_client", "ssl", "subprocess", "threading"),
    *("hmacfs.system.threads", "psutil._psposix", "selectors", "socket", "sqlalchemy.dialects.sqlite.aiosqlite"),
}


def output(code: str, config: Path) -> set[str]:
    """The lines that a new interpreter prints."""
    untraced = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environ = {**untraced, "PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": str(config.parent)}
    command = [sys.executable, "-W", "error", "-c", f"import sys\n{code}", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n"))


def modules(code: str, config: Path) -> set[str]:
    """The packages, of any depth, that are imported after the code."""
    return output(f"{code}\nprint(*sys.modules, sep='\\n')", config)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(f'Secret = "{SECRET}"\nStoreDir = "{tmp_path}/store"\nRuntimeDir = "{tmp_path}/run"\n')
    for name in ("store", "run"):
        (tmp_path / name).mkdir()
    return path


def configured(config: Path, *lines: str) -> Path:
    config.write_text("\n".join([*lines, config.read_text()]))
    return config


def test_commands_import_no_server(config: Path) -> None:
    imported = modules("import hmacfs.cli", config)
    assert "hmacfs.config" in imported
    for name in ("gunicorn", "gevent", "flask", "limits", "prometheus_client", "sqlalchemy", "sqlite3", "redis", "ssl"):
        assert name not in imported


def test_the_master_imports_what_its_workers_need(config: Path) -> None:
    imported = modules(PRELOADED, configured(config, "MetricsEnabled = true"))
    assert {"hmacfs.app", "flask", "hmacfs.telemetry.scrape", "hmacfs.sessions.sqlite"} <= imported
    for name in ("redis", "psycopg2", "MySQLdb", "sqlalchemy"):
        assert name not in imported


def test_a_worker_has_nothing_left_to_import(config: Path) -> None:
    left = output(
        f"{PRELOADED}\nbefore = set(sys.modules)\nfrom gevent import monkey\nwith no_plugins(): monkey.patch_all()\n"
        "hmacfs.app.create_app(settings)\nprint(*set(sys.modules) - before, sep='\\n')",
        configured(config, "MetricsEnabled = true"),
    )
    assert {name for name in left if name and name.split(".")[0] not in ("gevent", "zope", "_threading_local")} == set()


def test_no_event_loop_and_no_open_database_is_forked(config: Path) -> None:
    """SQLite's tables are there, and its journal, which an open connection would have, is not."""
    left = output(
        f"{PRELOADED}\nimport os\nfrom gevent._hub_local import get_hub_if_exists\nprint(get_hub_if_exists())\n"
        "print(*(os.readlink(each) for each in os.scandir('/proc/self/fd') if os.path.exists(each)), sep='\\n')",
        config,
    )
    assert "None" in left
    assert not [name for name in left if "sessions" in name]
    (database,) = config.parent.rglob("sessions.sqlite3")
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT version FROM hmacfs_schema").fetchall() == [(len(STEPS),)]


def test_a_database_that_cannot_be_prepared_is_left_to_the_workers(config: Path) -> None:
    (config.parent / "store" / ".hmacfs").mkdir()
    database = config.parent / "store" / ".hmacfs" / "sessions.sqlite3"
    database.write_bytes(b"no database " * 1000)
    output(PRELOADED, config)
    assert database.read_bytes() == b"no database " * 1000


#: The modules with something that was there before gevent's patches and refers to what they replaced: as a global, a
#: function's default or closure, or in a class.
KEEPERS = f"""{PRELOADED}
import gc, types
from gevent import monkey
names = [name for name in sys.modules if not name.startswith("_") and name.split(".")[0] not in ("gevent", "posix")]
gc.unfreeze()
there = [each for each in gc.get_objects() if isinstance(each, (types.FunctionType, type))]
gc.freeze()
with no_plugins():
    monkey.patch_all()
replaced = {{id(value) for values in monkey.saved.values() for value in values.values() if callable(value)}}
replaced.remove(id(monkey.get_original("os", "close")))  # it waits for nothing

def references(each):
    if isinstance(each, type):
        return vars(each).values()
    cells = [cell.cell_contents for cell in each.__closure__ or () if cell != types.CellType()]
    return [*(each.__defaults__ or ()), *(each.__kwdefaults__ or {{}}).values(), *cells]

keepers = [name for name in names if any(id(value) in replaced for value in vars(sys.modules[name]).values())]
there = [each for each in there if not str(each.__module__).startswith("gevent.")]
keepers += [each.__module__ for each in there if any(id(value) in replaced for value in references(each))]
print(*keepers, sep="\\n")
"""


def test_the_patches_find_all_that_they_look_for(config: Path) -> None:
    """A module that was imported before the patches must not keep what they replace, and wait with it."""
    keepers = output(KEEPERS, configured(config, "MetricsEnabled = true"))
    assert {name for name in keepers if name} <= HARMLESS, "import it in the workers, or show that it does not wait"


def test_with_redis_alone_there_is_no_database(config: Path) -> None:
    redis = configured(config, 'RedisAddr = "127.0.0.1:1"', 'RedisTimeout = "100ms"')
    assert not {"sqlalchemy", "redis"} & modules(PRELOADED, redis)
    imported = modules(f"{PRELOADED}\nhmacfs.app.create_app(settings)", redis)
    assert "redis" in imported
    assert not {"sqlalchemy", "sqlite3", "psycopg2", "MySQLdb"} & imported
