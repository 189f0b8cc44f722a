"""What is imported where: by commands, by the master before the fork, and by workers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from hmacfs.sessions.schema import STEPS, upgrade
from hmacfs.sessions.sqlite import open_sqlite

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
    *("functools", "hmacfs.sessions.sql", "hmacfs.sessions.sqlite", "hmacfs.system.threads", "jwt.jwks_client"),
    *("psutil._psposix", "selectors", "socket", "ssl", "subprocess", "threading"),
    *(("asyncio.base_futures",) if sys.version_info < (3, 12) else ()),
}


def ended(code: str, config: Path) -> subprocess.CompletedProcess[str]:
    """A new interpreter, after the code and the end of all that it started."""
    untraced = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environ = {**untraced, "PYTHONPATH": str(ROOT), "PROMETHEUS_MULTIPROC_DIR": str(config.parent)}
    command = [sys.executable, "-W", "error", "-c", f"import sys\n{code}", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)


def output(code: str, config: Path) -> set[str]:
    """The lines that it prints."""
    done = ended(code, config)
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


@pytest.fixture
def with_bucket(tmp_path: Path) -> Path:
    """The configuration of a server whose files are in an object store, which is away."""
    path = tmp_path / "config.toml"
    path.write_text(
        f'Secret = "{SECRET}"\nStorage = "s3"\nS3Endpoint = "https://127.0.0.1:1"\nS3Bucket = "files"\n'
        f'S3AccessKey = "id"\nS3SecretKey = "secret"\n'
        f'StateDir = "{tmp_path}/state"\nRuntimeDir = "{tmp_path}/run"\nMetricsEnabled = true\n'
    )
    for name in ("state", "run"):
        (tmp_path / name).mkdir()
    return path


def test_with_a_bucket_only_its_client_is_left_to_the_workers(with_bucket: Path) -> None:
    """urllib3 keeps what gevent replaces of ssl, and would block with it."""
    assert not {"urllib3", "botocore"} & modules(PRELOADED, with_bucket)
    left = output(
        f"{PRELOADED}\nbefore = set(sys.modules)\nfrom gevent import monkey\nwith no_plugins(): monkey.patch_all()\n"
        "hmacfs.app.create_app(settings)\nprint(*set(sys.modules) - before, sep='\\n')",
        with_bucket,
    )
    ours = {name for name in left if name.startswith("hmacfs")}
    assert ours == {
        *("hmacfs.stores.open_object_store", "hmacfs.stores.s3.calls", "hmacfs.stores.s3.client"),
        *("hmacfs.stores.s3.connections", "hmacfs.stores.s3.credentials", "hmacfs.stores.s3.download"),
        *("hmacfs.stores.s3.connection", "hmacfs.stores.s3.response", "hmacfs.stores.s3.signing"),
    }


def test_with_a_folder_nothing_of_a_bucket_is_imported(config: Path) -> None:
    imported = modules(f"{PRELOADED}\nhmacfs.app.create_app(settings)", configured(config, "MetricsEnabled = true"))
    assert not {"urllib3", "botocore", "hmacfs.stores.s3.store", "hmacfs.telemetry.object_store"} & imported


@pytest.fixture
def database(config: Path) -> Path:
    return config.parent / "store" / ".hmacfs" / "sessions.sqlite3"


def test_a_database_that_cannot_be_prepared_is_left_to_the_workers(config: Path, database: Path) -> None:
    database.parent.mkdir()
    database.write_bytes(b"no database " * 1000)
    output(PRELOADED, config)
    assert database.read_bytes() == b"no database " * 1000


#: With less patience for a database that another process has locked.
IMPATIENT = "from hmacfs.sessions import sqlite\nsqlite.open_sqlite.__kwdefaults__['timeout'] = 0.2\n"


def test_a_database_that_is_locked_does_not_hold_up_the_start(config: Path, database: Path) -> None:
    open_sqlite(database).connect().close()
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        output(f"{IMPATIENT}{PRELOADED}", config)
        other.execute("ROLLBACK")
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == []
    with database.with_suffix(".lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        output(f"{IMPATIENT}{PRELOADED}", config)


def with_a_record_that_no_step_can_read(database: Path) -> None:
    with contextlib.closing(open_sqlite(database).connect()) as connection:
        with connection.schema_access() as access:
            upgrade(access, STEPS[:1])
        columns = "token, state, touched, revision, record"
        connection.execute(f"INSERT INTO hmacfs_sessions ({columns}) VALUES ('x', 'finished', 1, 1, 'no record')")


@pytest.mark.parametrize("before", ["", "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)"])
def test_a_step_that_fails_ends_the_start_and_is_told_once(config: Path, database: Path, before: str) -> None:
    """Each worker would fail at it, too. The server's parent may have told it to ignore the ends of processes."""
    with_a_record_that_no_step_can_read(database)
    done = ended(f"{before}\n{PRELOADED}\nprint('went on')", config)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("SQLite's tables cannot be made or upgraded: the server does not start\nTraceback ")
    assert done.stderr.count("Traceback") == 1
    assert "JSONDecodeError" in done.stderr


def test_a_lock_that_cannot_be_made_ends_the_start_with_one_line(config: Path, database: Path) -> None:
    database.with_suffix(".lock").mkdir(parents=True)
    done = ended(f"{PRELOADED}\nprint('went on')", config)
    assert (done.returncode, done.stdout) == (2, "")
    lock = database.with_suffix(".lock")
    assert done.stderr == f"hmac-file-server: {config}: StoreDir: {lock} cannot be written: Is a directory\n"


#: Where the process that makes the tables would do so.
INSTEAD = """
import os, signal, time
from hmacfs.server import preload as module
def instead(settings):
    {}
module.prepare_embedded = instead
print("buffered", end="")
"""


def test_when_it_is_killed_the_workers_make_the_tables(config: Path) -> None:
    done = ended(f"{INSTEAD.format('os.kill(os.getpid(), signal.SIGKILL)')}{PRELOADED}\nprint('went on')", config)
    assert (done.returncode, done.stdout) == (0, "bufferedwent on\n")
    assert done.stderr == "the process that makes or upgrades SQLite's tables was ended (Killed): the workers do it\n"


def test_an_interrupted_start_leaves_no_process(config: Path) -> None:
    """It would keep the output open, which is read to its end."""
    interrupt = "os.kill(os.getppid(), signal.SIGINT); time.sleep(300)"
    # A shell has it ignored in what it runs in the background.
    by_terminal = "\nsignal.signal(signal.SIGINT, signal.default_int_handler)"
    done = ended(f"{INSTEAD.format(interrupt)}{by_terminal}{PRELOADED}\nprint('went on')", config)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "buffered")
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.endswith("KeyboardInterrupt\n")


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
    keepers = {name for name in output(KEEPERS, configured(config, "MetricsEnabled = true")) if name}
    assert keepers - HARMLESS == set(), "import it in the workers, or show that it does not wait"
    assert HARMLESS - keepers == set(), "it keeps nothing any more: take it from the list"


def test_the_patches_find_all_that_they_look_for_with_a_bucket_too(with_bucket: Path) -> None:
    keepers = {name for name in output(KEEPERS, with_bucket) if name}
    assert keepers - HARMLESS == set(), "import it in the workers, or show that it does not wait"


def test_with_redis_alone_there_is_no_database(config: Path) -> None:
    redis = configured(config, 'RedisAddr = "127.0.0.1:1"', 'RedisTimeout = "100ms"')
    assert not {"sqlalchemy", "redis"} & modules(PRELOADED, redis)
    imported = modules(f"{PRELOADED}\nhmacfs.app.create_app(settings)", redis)
    assert "redis" in imported
    assert not {"sqlalchemy", "sqlite3", "psycopg2", "MySQLdb"} & imported
