"""Checks before the server listens, or takes other settings: what gunicorn would find out late, or not at all.

Neither gunicorn nor Flask is imported: ``hmac-file-server -check`` looks at a configuration with this.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from hmacfs.config import (
    Settings,
    check_paths,
    check_private_paths,
    exposed_to_others,
    inaccessible_files,
    load,
    warnings,
)
from hmacfs.errors import ConfigError
from hmacfs.server import shared
from hmacfs.server.listening import address_problem
from hmacfs.sessions.open_session_store import check_settings, forgotten_sessions
from hmacfs.stores.object_store_settings import check_settings as check_store_settings
from hmacfs.stores.prepare_file_store import prepare_file_store

log = logging.getLogger("hmacfs.server")

#: Descriptors a worker needs besides two for each connection (its socket and a file); half of them for the files that
#: the store keeps open.
_SPARE_DESCRIPTORS = 512


def check(path: Path | None) -> Settings:
    """The settings of this file and the environment, which a server can use. Raises ``ConfigError``."""
    settings = load(path, os.environ)
    check_private_paths(settings, path, os.environ)
    check_paths(settings, listens=not shared.service_manager.is_activated)
    check_settings(settings)
    check_store_settings(settings)
    return settings


def remarks(settings: Settings, of_store: Iterable[str], config: Path | None) -> list[str]:
    """What is worth a warning, a sentence each. of_store: those about what the store can do."""
    return [
        *of_store,
        *warnings(settings),
        *inaccessible_files(settings),
        *forgotten_sessions(settings),
        *exposed_to_others(settings, config, os.environ),
    ]


def check_state_stays(running: Settings, settings: Settings) -> None:
    """Raises ``ConfigError`` if a reload brings another ``StateDir`` for the same files: the workers that finish their
    transfers and those that begin would remember uploads in two places."""
    if settings.store_address == running.store_address and settings.state_dir != running.state_dir:
        raise ConfigError(
            f"{settings.origins['StateDir']}: {settings.state_dir} instead of {running.state_dir} needs a restart: in a"
            " reload, workers with the old and with the new settings run side by side"
        )


def check_changes(running: Settings, settings: Settings) -> None:
    """Raises ``ConfigError`` if an address or a store that a reload brings cannot be used: gunicorn would give the old
    ones up and then end."""
    if settings.store_address != running.store_address:
        prepare_file_store(settings)
    problem = ""
    if settings.listen != running.listen:
        problem = _listen_problem(settings)
    if not problem and settings.metrics_port != running.metrics_port:
        problem = _metrics_problem(settings)
    if problem:
        raise ConfigError(problem)


def addresses_problem(settings: Settings) -> str:
    """Why this server cannot listen where it should; empty if it can."""
    if "GUNICORN_PID" in os.environ:  # the server that is being replaced still does, and hands its listener over
        return ""
    return _listen_problem(settings) or _metrics_problem(settings)


def _listen_problem(settings: Settings) -> str:
    if shared.service_manager.is_activated:
        return ""
    return address_problem(settings.origins["ListenPort"], settings.listen)


def _metrics_problem(settings: Settings) -> str:
    if not settings.metrics_enabled:
        return ""
    return address_problem(settings.origins["MetricsPort"], settings.metrics_port)


def refuse_to_start(problem: object) -> NoReturn:
    """End with the exit status of a mistake in the configuration, after which no service manager need try again."""
    print(f"hmac-file-server: {problem}", file=sys.stderr)
    sys.exit(2)


def raise_descriptor_limit(connections: int) -> None:
    """Allow a process the descriptors that so many connections need, or warn that it may not have them."""
    wanted = 2 * connections + _SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("MaxConnections needs %d open files, the limit is %d: raise it (LimitNOFILE)", wanted, hard)
