"""From the configuration to a running gunicorn: its settings, hooks and log."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

import hmacfs
from hmacfs.config import (
    CONFIG_VARIABLE,
    Settings,
    check_environment,
    check_places,
    exposed_to_others,
    find_config,
    inaccessible_files,
    load,
    prepare_environment,
    warnings,
)
from hmacfs.errors import ConfigError
from hmacfs.server.listening import address_of, address_problem, bind_address, refuse_connections
from hmacfs.server.metrics_endpoint import MetricsEndpoint, drop_gauges, metrics_folder
from hmacfs.server.service_manager import pass_on_sockets
from hmacfs.server.worker import BREAK_OFF_SECONDS, TransferWorker, connection_counts, manager, peers, shutdown_state
from hmacfs.sessions.open_session_store import check_settings, remote_stores
from hmacfs.stores.open_file_store import open_file_store
from hmacfs.system.runtime_folder import remove_abandoned
from hmacfs.telemetry import logs

if TYPE_CHECKING:
    import flask

log = logging.getLogger("hmacfs.server")

#: The master kills what is left after this. The workers' own limit must come first: only that one cleans up.
_MASTER_MARGIN_SECONDS = BREAK_OFF_SECONDS + 3
_MEMORY_FOLDER = "/dev/shm"  # noqa: S108 - the files in it have no name
#: Descriptors a worker needs besides two for each connection (its socket and a file).
_SPARE_DESCRIPTORS = 256

_current: Settings | None = None


def current_settings() -> Settings:
    """The settings of this server, read once; workers have them from the master that forked them.

    Raises ``ConfigError``.
    """
    return _current or reload_settings()


def reload_settings() -> Settings:
    """Read the settings anew (at start and on SIGHUP). If they cannot be used, a running server keeps those it has.

    Raises ``ConfigError`` if there are none yet.
    """
    global _current
    try:
        if _current is None:  # from now on it is the same file, wherever the process may be then
            use_config(find_config(None, os.environ))
        path = os.environ.get(CONFIG_VARIABLE)
        settings = check(Path(path) if path else None)
        prepare_environment(settings)
        if _current is not None:
            _check_changes(_current, settings)
    except ConfigError as error:
        if _current is None:
            raise
        log.error("%s; keeping the running configuration", error)
        manager.refuse(str(error))
        return _current
    _current = settings
    return settings


def use_config(path: Path | None) -> None:
    """Have the settings come from that file (``None``: from the environment alone)."""
    if path is not None:
        os.environ[CONFIG_VARIABLE] = str(path.absolute())
    else:
        os.environ.pop(CONFIG_VARIABLE, None)


def _check_changes(running: Settings, settings: Settings) -> None:
    """Raises ``ConfigError`` if an address or a store that a reload brings cannot be used: gunicorn would give the old
    ones up and then end."""
    if settings.store_dir != running.store_dir:
        open_file_store(settings)
    problem = ""
    if settings.listen != running.listen and not manager.is_activated:
        problem = address_problem(settings.origins["ListenPort"], settings.listen)
    if not problem and settings.metrics_enabled and settings.metrics_port != running.metrics_port:
        problem = address_problem(settings.origins["MetricsPort"], settings.metrics_port)
    if problem:
        raise ConfigError(problem)


def check(path: Path | None) -> Settings:
    """The settings of this file and the environment, which a server can use. Raises ``ConfigError``."""
    settings = load(path, os.environ)
    check_places(settings, path, os.environ)
    check_environment(settings, listens=not manager.is_activated)
    check_settings(settings)
    return settings


def load_app() -> flask.Flask:
    """The WSGI application of this server.

    Imported here and not above: the master never needs Flask, and gevent's patches in the workers must come before
    whatever imports ssl.
    """
    from hmacfs.app import create_app

    settings = current_settings()
    metrics_folder(settings)
    return create_app(settings)


def gunicorn_settings() -> dict[str, Any]:
    """gunicorn's settings for the current configuration. A configuration that cannot be used ends the process with one
    line, as ``hmac-file-server`` does."""
    try:
        is_reload = _current is not None
        settings = reload_settings()
        logs.configure(settings.log_level, settings.log_file, settings.log_format, settings.hidden)
    except ConfigError as error:
        _refuse_to_start(error)
    except OSError as error:  # the log file
        problem = f"LogFile: {settings.log_file} cannot be opened: {error.strerror}"
        if not is_reload:
            _refuse_to_start(problem)
        log.error("%s; going on with the old one", problem)
        manager.refuse(problem)
    return {
        # At another address than before gunicorn would close the listeners, and open others than it was given.
        "bind": ["inherited"] if manager.is_activated else [bind_address(settings)],
        "workers": settings.workers,
        "worker_class": TransferWorker,
        "worker_connections": settings.max_connections,
        "graceful_timeout": _patience(settings),
        "keepalive": max(1, int(settings.idle_timeout)),
        "umask": 0o117,  # a Unix socket's mode becomes 0660
        "worker_tmp_dir": heartbeat_folder(settings),
        "control_socket_disable": True,  # its path is shared by all gunicorns of a user
        "proc_name": "hmac-file-server",
        "logger_class": GunicornLogger,
        "on_starting": on_starting,
        "pre_fork": pre_fork,
        "post_fork": post_fork,
        "when_ready": when_ready,
        "on_reload": on_reload,
        "child_exit": child_exit,
        "pre_exec": pre_exec,
        "on_exit": on_exit,
    }


def _refuse_to_start(problem: object) -> NoReturn:
    """End with the exit status of a mistake in the configuration, after which no service manager need try again."""
    print(f"hmac-file-server: {problem}", file=sys.stderr)
    sys.exit(2)


def heartbeat_folder(settings: Settings) -> str:
    """Where workers have the files by which they tell that they live: in memory, since a disk that stalls would get
    them killed, where that can be had. Not in the temporary folder, of which there may be none that can be written."""
    return _MEMORY_FOLDER if os.access(_MEMORY_FOLDER, os.W_OK | os.X_OK) else str(settings.runtime_dir)


def _patience(settings: Settings) -> int:
    """Seconds that the master gives its workers to stop."""
    return int(settings.graceful_shutdown_timeout + _MASTER_MARGIN_SECONDS)


class GunicornLogger(Logger):  # type: ignore[misc]  # gunicorn has no type hints
    """gunicorn's messages, in this project's log. What it tells of its daily life is for debugging."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self.error_log.propagate = True
        self.error_log.setLevel(logging.NOTSET)

    def info(self, msg: str, *args: Any, **kwargs: Any) -> None:
        self.error_log.debug(msg, *args, **kwargs)

    def access(self, *args: Any) -> None:
        """Requests are logged by the application, which knows more of them."""

    def reopen_files(self) -> None:
        logs.reopen()

    def close_on_exec(self) -> None:
        """All our files are opened that way."""


class GunicornApplication(BaseApplication):  # type: ignore[misc]  # gunicorn has no type hints
    """The server as the ``hmac-file-server`` command starts it."""

    def load_config(self) -> None:
        for name, value in gunicorn_settings().items():
            self.cfg.set(name, value)

    def load(self) -> flask.Flask:
        return load_app()


def on_starting(_server: Any) -> None:
    """In the master, before it listens."""
    settings = current_settings()
    try:
        manager.take_over()
    except ConfigError as error:
        _refuse_to_start(error)
    problem = _addresses_problem(settings)
    if problem:
        sys.exit(f"hmac-file-server: {problem}")
    metrics_folder(settings)
    _raise_descriptor_limit(settings.max_connections)
    try:
        storage = open_file_store(settings)
    except ConfigError as error:
        _refuse_to_start(error)
    removed = storage.remove_leftovers()
    abandoned = remove_abandoned(storage.reserved / "run", settings.runtime_dir)
    log.info("hmac-file-server %s, workers: %d, pid %d", hmacfs.__version__, settings.workers, os.getpid())
    log.info("configuration: %s", os.environ.get(CONFIG_VARIABLE) or "from the environment")
    log.info(
        "store: %s, durability: %s, largest upload: %d bytes",
        settings.store_dir,
        settings.durability,
        settings.upload_max_size,
    )
    log.info("features: %s", ", ".join(_features(settings)))
    if removed:
        log.info("removed %d unfinished uploads of an earlier run", removed)
    if abandoned:
        log.info("removed what servers that ended had shared while they ran: %s", ", ".join(abandoned))
    _monitoring.fold(settings)
    for remark in (
        *storage.capabilities.remarks(),
        *warnings(settings),
        *inaccessible_files(settings),
        *_exposed(settings),
    ):
        log.warning("%s", remark)


def _exposed(settings: Settings) -> Iterator[str]:
    path = os.environ.get(CONFIG_VARIABLE)
    return exposed_to_others(settings, Path(path) if path else None, os.environ)


def when_ready(server: Any) -> None:
    """In the master, once it listens."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _, frame: _stop(server, frame))
    server.handle_hup = lambda: _reload(server)
    server.handle_usr2 = lambda: _replace(server)
    server.handle_chld = server.handle_cld = lambda: _look_at_children(server)
    settings = current_settings()
    if manager.is_activated:
        addresses = [address_of(listener) for listener in server.LISTENERS]
        log.info("listening at %s (socket activation), uploads at %s", " and ".join(addresses), settings.url_prefix)
        if str(settings.listen) not in addresses and bind_address(settings) not in addresses:
            log.warning("ListenPort = %s is not used: the service manager opened the sockets", settings.listen)
    else:
        log.info("listening at %s, uploads at %s", bind_address(settings), settings.url_prefix)
    _monitoring.apply(current_settings(), _workers_of(server))
    for action in _when_ready:
        action()


def on_reload(server: Any) -> None:
    """In the master after SIGHUP, before it starts workers with the new settings."""
    global _drained
    _drained = 0
    shutdown_state.supersede(server.worker_age)
    manager.replace_workers(server.worker_age)
    _monitoring.fold(current_settings())
    server.cfg.set("graceful_timeout", 0)  # see _reload
    _monitoring.apply(current_settings(), _workers_of(server))


def _reload(server: Any) -> None:
    """SIGHUP. gunicorn waits for the old workers in here for as long as a stop may take, and is deaf to all signals
    meanwhile, a stop among them."""
    manager.begin_reload()
    before = current_settings()
    log.info("SIGHUP: reloading %s", os.environ.get(CONFIG_VARIABLE) or "the environment")
    try:
        server.reload()
    finally:
        server.cfg.set("graceful_timeout", _patience(current_settings()))
    which = "the settings they had" if current_settings() is before else "the new settings"
    log.info("reloaded: %d workers with %s", current_settings().workers, which)


def _look_at_children(server: Any) -> None:
    """SIGCHLD, which a worker that begins to serve sends too."""
    type(server).handle_chld(server)
    if shutdown_state.serving:
        manager.worker_serves(shutdown_state.serving)


def _replace(server: Any) -> None:
    """SIGUSR2. A service manager takes the end of the process that it knows for the end of the service."""
    if manager.is_watching:
        log.error(
            "SIGUSR2 is for servers without a service manager: restart the service instead, which loses no request"
        )
        return
    server.reexec()


def pre_exec(server: Any) -> None:
    """In the process that becomes the new master after SIGUSR2."""
    if manager.is_activated:
        pass_on_sockets(server.LISTENERS)


def child_exit(server: Any, worker: Any) -> None:
    """In the master, when a worker has ended. Old workers that finish their transfers must not take the places of new
    ones: gunicorn counts them together."""
    global _drained
    drop_gauges(current_settings(), worker.pid)
    _monitoring.fold(current_settings())
    connection_counts.withdraw(worker.age)
    peers.release(worker.age)
    draining = sum(one.age <= shutdown_state.superseded for one in server.WORKERS.values())
    server.num_workers += draining - _drained
    _drained = draining


def on_exit(_server: Any) -> None:
    """In the master, at its end."""
    if shutdown_state.is_stopping:
        log.info("stopped")


def _workers_of(server: Any) -> Callable[[], tuple[int, int]]:
    return lambda: (len(server.WORKERS), server.worker_age)


def pre_fork(_server: Any, worker: Any) -> None:
    """In the master, before it forks a worker."""
    peers.claim(worker.age)


def post_fork(_server: Any, _worker: Any) -> None:
    """In a new worker, before it has signal handlers: those of the master, which only note the signal, must not swallow
    a stop that comes while the worker starts."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    _monitoring.close_in_child()


def on_ready(action: Callable[[], None]) -> None:
    """Have ``action`` called in the master once it listens."""
    _when_ready.append(action)


_when_ready: list[Callable[[], None]] = []
#: How many workers that a reload has replaced ``num_workers`` has room for.
_drained = 0
_monitoring = MetricsEndpoint()


def _stop(server: Any, frame: FrameType | None) -> None:
    """The first SIGINT or SIGTERM is a graceful stop, any further one an immediate one (gunicorn's SIGQUIT)."""
    shutdown_state.stop()
    manager.notify("STOPPING=1", "STATUS=finishing what is running")
    if shutdown_state.is_hurried:
        log.info("stopping at once")
    else:
        log.info("stopping: transfers may go on for up to %g s", current_settings().graceful_shutdown_timeout)
    if _owns_listeners(server):
        for listener in server.LISTENERS:
            refuse_connections(listener)
    server.signal(signal.SIGQUIT if shutdown_state.is_hurried else signal.SIGTERM, frame)


def _owns_listeners(server: Any) -> bool:
    """Whether no service manager, and no other server after SIGUSR2, goes on with them."""
    return not manager.is_activated and server.reexec_pid == server.master_pid == 0


def _features(settings: Settings) -> list[str]:
    features = ["uploads v, v2, token, v3, bearer"]
    features.append("signed downloads" if settings.require_signed_downloads else "public downloads")
    if settings.previous_secrets:
        features.append(f"previous secrets: {len(settings.previous_secrets)}")
    if settings.max_bytes_per_second:
        features.append(f"uploads throttled to {settings.max_bytes_per_second} bytes/s")
    if settings.download_max_bytes_per_second:
        features.append(f"downloads throttled to {settings.download_max_bytes_per_second} bytes/s")
    limited = {
        "uploads": settings.upload_rate_limit,
        "downloads": settings.download_rate_limit,
        "wrong signatures": settings.auth_failure_rate_limit,
    }
    features += [f"{what} limited to {'; '.join(map(str, rates))}" for what, rates in limited.items() if rates]
    features.append(f"upload sessions in {' and '.join(remote_stores(settings)) or 'SQLite'}")
    return features


def _addresses_problem(settings: Settings) -> str:
    """Why this server cannot listen where it should; empty if it can."""
    if "GUNICORN_PID" in os.environ:  # the server that is being replaced still does, and hands its listener over
        return ""
    problem = ""
    if not manager.is_activated:
        problem = address_problem(settings.origins["ListenPort"], settings.listen)
    if settings.metrics_enabled and not problem:
        problem = address_problem(settings.origins["MetricsPort"], settings.metrics_port)
    return problem


def _raise_descriptor_limit(connections: int) -> None:
    wanted = 2 * connections + _SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("MaxConnections needs %d open files, the limit is %d: raise it (LimitNOFILE)", wanted, hard)
