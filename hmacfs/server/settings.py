"""What gunicorn is told: its settings, made from ours."""

from __future__ import annotations

import logging
import os
from typing import Any

from hmacfs.config import Settings
from hmacfs.errors import ConfigError
from hmacfs.server import shared
from hmacfs.server.configuration import configuration
from hmacfs.server.hooks import hooks, stop_seconds
from hmacfs.server.listening import bind_address
from hmacfs.server.logger import GunicornLogger
from hmacfs.server.preflight import refuse_to_start
from hmacfs.server.worker import TransferWorker
from hmacfs.telemetry import logs

log = logging.getLogger("hmacfs.server")

_MEMORY_FOLDER = "/dev/shm"  # noqa: S108 - the files in it have no name


def gunicorn_settings() -> dict[str, Any]:
    """gunicorn's settings for the configuration, which is read again. One that cannot be used ends the process with one
    line at the start; later it is logged, and the one in use stays."""
    settings = _read_settings()
    return {
        # At another address than before gunicorn would close the listeners, and open others than it was given.
        "bind": ["inherited"] if shared.service_manager.is_activated else [bind_address(settings)],
        "workers": settings.workers,
        "worker_class": TransferWorker,
        "worker_connections": settings.max_connections,
        "graceful_timeout": stop_seconds(settings),
        "keepalive": max(1, int(settings.idle_timeout)),
        "umask": 0o117,  # a Unix socket's mode becomes 0660
        "worker_tmp_dir": heartbeat_folder(settings),
        "control_socket_disable": True,  # its path is shared by all gunicorns of a user
        "proc_name": "hmac-file-server",
        "logger_class": GunicornLogger,
        **hooks.by_name(),
    }


def _read_settings() -> Settings:
    """With the log configured as they say."""
    is_reload = configuration.is_read
    try:
        settings = configuration.read()
        logs.configure(settings.log_level, settings.log_file, settings.log_format, settings.hidden)
    except ConfigError as error:
        refuse_to_start(error)
    except OSError as error:  # the log file
        problem = f"LogFile: {settings.log_file} cannot be opened: {error.strerror}"
        if not is_reload:
            refuse_to_start(problem)
        log.error("%s; going on with the old one", problem)
        shared.service_manager.refuse(problem)
    return settings


def heartbeat_folder(settings: Settings) -> str:
    """Where workers have the files by which they tell that they live: in memory, since a disk that stalls would get
    them killed, where that can be had. Not in the temporary folder, of which there may be none that can be written."""
    return _MEMORY_FOLDER if os.access(_MEMORY_FOLDER, os.W_OK | os.X_OK) else str(settings.runtime_dir)
