"""gunicorn's hooks: what the master does at its start, at signals, and when workers begin and end."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import hmacfs
from hmacfs.config import Settings, Storage, notes
from hmacfs.errors import ConfigError
from hmacfs.server import shared
from hmacfs.server.configuration import Configuration, configuration
from hmacfs.server.listening import address_of, bind_address, refuse_connections
from hmacfs.server.metrics_endpoint import MetricsEndpoint, drop_gauges, metrics_folder
from hmacfs.server.preflight import addresses_problem, raise_descriptor_limit, refuse_to_start, remarks
from hmacfs.server.preload import preload
from hmacfs.server.service_manager import pass_on_sockets
from hmacfs.server.worker import BREAK_OFF_SECONDS, STOP_SIGNALS
from hmacfs.sessions.open_session_store import move_sessions, remote_stores
from hmacfs.stores.prepare_file_store import prepare_file_store
from hmacfs.system.runtime_folder import remove_abandoned

log = logging.getLogger("hmacfs.server")

#: The master kills what is left after this. The workers' own limit must come first: only that one cleans up.
MASTER_MARGIN_SECONDS = BREAK_OFF_SECONDS + 3


def stop_seconds(settings: Settings) -> int:
    """How long the master gives its workers to stop."""
    return int(settings.graceful_shutdown_timeout + MASTER_MARGIN_SECONDS)


class Hooks:
    """Each method whose name is in ``HOOKS`` is gunicorn's hook of that name."""

    HOOKS = ("on_starting", "post_fork", "when_ready", "on_reload", "child_exit", "pre_exec", "on_exit")

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._metrics = MetricsEndpoint()
        self._ready_actions: list[Callable[[], None]] = []
        #: For how many workers that a reload has replaced gunicorn's ``num_workers`` has been raised.
        self._replaced_workers = 0

    def by_name(self) -> dict[str, Callable[..., None]]:
        """The hooks, for gunicorn's settings."""
        return {name: getattr(self, name) for name in self.HOOKS}

    def at_ready(self, action: Callable[[], None]) -> None:
        """Have ``action`` called in the master once it listens."""
        self._ready_actions.append(action)

    @property
    def _settings(self) -> Settings:
        return self._configuration.settings

    # -- the master's start and end ---------------------------------------------------------------

    def on_starting(self, _server: Any) -> None:
        """In the master, before it listens."""
        settings = self._settings
        try:
            shared.service_manager.take_over()
        except ConfigError as error:
            refuse_to_start(error)
        if problem := addresses_problem(settings):
            sys.exit(f"hmac-file-server: {problem}")
        metrics_folder(settings)
        raise_descriptor_limit(settings.max_connections)
        try:
            store = prepare_file_store(settings)
        except ConfigError as error:
            refuse_to_start(error)
        for level, line in move_sessions(settings):
            log.log(level, "%s", line)
        abandoned = _remove_abandoned(settings)
        self._announce(settings)
        if store.removed:
            log.info("removed %d unfinished uploads of an earlier run", store.removed)
        if abandoned:
            log.info("removed what servers that ended had shared while they ran: %s", ", ".join(abandoned))
        self._metrics.merge_counters(settings)
        for note in notes(settings):
            log.info("%s", note)
        for remark in remarks(settings, store.remarks, self._configuration.path):
            log.warning("%s", remark)
        preload(settings)

    def _announce(self, settings: Settings) -> None:
        log.info("hmac-file-server %s, workers: %d, pid %d", hmacfs.__version__, settings.workers, os.getpid())
        log.info("configuration: %s", self._configuration.path or "from the environment")
        durability = f", durability: {settings.durability}" if settings.storage is Storage.LOCAL else ""
        log.info("store: %s%s, largest upload: %d bytes", settings.store_address, durability, settings.upload_max_size)
        log.info("features: %s", ", ".join(_features(settings)))

    def when_ready(self, server: Any) -> None:
        """In the master, once it listens."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda _, frame: self._stop(server, frame))
        server.handle_hup = lambda: self._reload(server)
        server.handle_usr2 = lambda: self._replace(server)
        server.handle_chld = server.handle_cld = lambda: self._look_at_children(server)
        self._announce_addresses(server)
        self._metrics.apply(self._settings, _workers_of(server))
        for action in self._ready_actions:
            action()

    def _announce_addresses(self, server: Any) -> None:
        settings = self._settings
        if not shared.service_manager.is_activated:
            log.info("listening at %s, uploads at %s", bind_address(settings), settings.url_prefix)
            return
        addresses = [address_of(listener) for listener in server.LISTENERS]
        log.info("listening at %s (socket activation), uploads at %s", " and ".join(addresses), settings.url_prefix)
        if str(settings.listen) not in addresses and bind_address(settings) not in addresses:
            log.warning("ListenPort = %s is not used: the service manager opened the sockets", settings.listen)

    def on_exit(self, _server: Any) -> None:
        """In the master, at its end."""
        if shared.intent.is_stop:
            log.info("stopped")

    # -- signals ----------------------------------------------------------------------------------

    def _stop(self, server: Any, frame: FrameType | None) -> None:
        """The first SIGINT or SIGTERM is a graceful stop, any further one an immediate one (gunicorn's SIGQUIT)."""
        if os.getpid() != server.pid:  # a worker, before ``post_fork``: the same Ctrl-C must not count twice
            return
        shared.intent.stop()
        shared.service_manager.notify("STOPPING=1", "STATUS=finishing what is running")
        if shared.intent.is_immediate_stop:
            log.info("stopping at once")
        else:
            log.info("stopping: transfers may go on for up to %g s", self._settings.graceful_shutdown_timeout)
        if _owns_listeners(server):
            for listener in server.LISTENERS:
                refuse_connections(listener)
        server.signal(signal.SIGQUIT if shared.intent.is_immediate_stop else signal.SIGTERM, frame)

    def _reload(self, server: Any) -> None:
        """SIGHUP. gunicorn waits for the old workers in here for as long as a stop may take, and is deaf to all signals
        meanwhile, a stop among them: ``on_reload`` sets that time to 0."""
        shared.service_manager.begin_reload()
        before = self._settings
        log.info("SIGHUP: reloading %s", self._configuration.path or "the environment")
        try:
            server.reload()
        finally:
            server.cfg.set("graceful_timeout", stop_seconds(self._settings))
        which = "the settings they had" if self._settings is before else "the new settings"
        log.info("reloaded: %d workers with %s", self._settings.workers, which)

    def on_reload(self, server: Any) -> None:
        """In the master after SIGHUP, before it starts workers with the new settings."""
        self._replaced_workers = 0
        shared.intent.supersede(server.worker_age)
        shared.service_manager.replace_workers(server.worker_age)
        self._metrics.merge_counters(self._settings)
        server.cfg.set("graceful_timeout", 0)  # see _reload
        self._metrics.apply(self._settings, _workers_of(server))

    def _replace(self, server: Any) -> None:
        """SIGUSR2. A service manager takes the end of the process that it knows for the end of the service."""
        if shared.service_manager.is_watching:
            log.error(
                "SIGUSR2 is for servers without a service manager: restart the service instead, which loses no request"
            )
            return
        server.reexec()

    def pre_exec(self, server: Any) -> None:
        """In the process that becomes the new master after SIGUSR2."""
        if shared.service_manager.is_activated:
            pass_on_sockets(server.LISTENERS)

    # -- workers ----------------------------------------------------------------------------------

    def post_fork(self, _server: Any, _worker: Any) -> None:
        """In a new worker, before it has signal handlers. A stop that comes now has to wait for those: the master's
        would swallow it, and a worker that it ended would leave connections in the listen backlog to be reset."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        self._metrics.close_in_child()

    def _look_at_children(self, server: Any) -> None:
        """SIGCHLD, which a worker that begins to serve sends too."""
        type(server).handle_chld(server)
        if shared.intent.serving:
            shared.service_manager.worker_serves(shared.intent.serving)

    def child_exit(self, server: Any, worker: Any) -> None:
        """In the master, when a worker has ended. Old workers that finish their transfers must not take the places of
        new ones: gunicorn counts them together."""
        drop_gauges(self._settings, worker.pid)
        self._metrics.merge_counters(self._settings)
        shared.forget_worker(worker.age)
        replaced = sum(shared.intent.is_superseded(one.age) for one in server.WORKERS.values())
        server.num_workers += replaced - self._replaced_workers
        self._replaced_workers = replaced


def _owns_listeners(server: Any) -> bool:
    """Whether no service manager, and no other server after SIGUSR2, goes on with them."""
    return not shared.service_manager.is_activated and server.reexec_pid == server.master_pid == 0


def _workers_of(server: Any) -> Callable[[], tuple[int, int]]:
    return lambda: (len(server.WORKERS), server.worker_age)


def _remove_abandoned(settings: Settings) -> list[str]:
    folders = settings.runtime_folders
    return [] if folders is None else remove_abandoned(folders, settings.runtime_dir)


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


#: gunicorn may read its settings again and again: the hooks stay the same, with their state.
hooks = Hooks(configuration)
