"""gunicorn's messages, in this project's log."""

from __future__ import annotations

import logging
from typing import Any

from gunicorn.glogging import Logger

from hmacfs.telemetry import logs


class GunicornLogger(Logger):  # type: ignore[misc]  # gunicorn has no type hints
    """What gunicorn tells of its daily life is for debugging."""

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
