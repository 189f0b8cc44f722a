"""The settings that this server runs with, and their replacement by a reload."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from hmacfs.config import CONFIG_VARIABLE, Settings, find_config, make_folders
from hmacfs.errors import ConfigError
from hmacfs.server import shared
from hmacfs.server.preflight import check, check_changes, check_state_stays

log = logging.getLogger("hmacfs.server")


class Configuration:
    """Read once by the master; workers have it from the master that forked them. Where it is read from stands in the
    environment, for the successor that SIGUSR2 starts."""

    def __init__(self) -> None:
        self._settings: Settings | None = None

    @property
    def is_read(self) -> bool:
        return self._settings is not None

    @property
    def settings(self) -> Settings:
        """The settings in use, read now if they were not yet. Raises ``ConfigError``."""
        return self._settings or self.read()

    @property
    def path(self) -> Path | None:
        """The file; ``None`` if the settings are from the environment alone."""
        path = os.environ.get(CONFIG_VARIABLE)
        return Path(path) if path else None

    def use(self, path: Path | None) -> None:
        """Have the settings come from that file (``None``: from the environment alone)."""
        if path is not None:
            os.environ[CONFIG_VARIABLE] = str(path.absolute())
        else:
            os.environ.pop(CONFIG_VARIABLE, None)

    def read(self) -> Settings:
        """Read the settings again (at start and on SIGHUP). If they cannot be used, a running server keeps those it
        has.

        Raises ``ConfigError`` if there are none yet.
        """
        running = self._settings
        try:
            if running is None:  # from now on it is the same file, wherever the process may be then
                self.use(find_config(None, os.environ))
            settings = check(self.path)
            if running is not None:
                check_state_stays(running, settings)
            make_folders(settings)
            if running is not None:
                check_changes(running, settings)
        except ConfigError as error:
            if running is None:
                raise
            log.error("%s; keeping the running configuration", error)
            shared.service_manager.refuse(str(error))
            return running
        self._settings = settings
        return settings


#: Of this process and those that it forks.
configuration = Configuration()
