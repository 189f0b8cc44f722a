"""The two entries to the server: gunicorn's application class for the ``hmac-file-server`` command, and the WSGI
application for ``wsgi.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gunicorn.app.base import BaseApplication

from hmacfs.server.configuration import configuration
from hmacfs.server.metrics_endpoint import metrics_folder
from hmacfs.server.settings import gunicorn_settings

if TYPE_CHECKING:
    from hmacfs.web.flask_app import Application


def load_app() -> Application:
    """The WSGI application of this server, in a worker. What it consists of the master has imported (``preload``)."""
    from hmacfs.app import create_app

    settings = configuration.settings
    metrics_folder(settings)
    return create_app(settings)


class GunicornApplication(BaseApplication):  # type: ignore[misc]  # gunicorn has no type hints
    """The server as the ``hmac-file-server`` command starts it."""

    def load_config(self) -> None:
        for name, value in gunicorn_settings().items():
            self.cfg.set(name, value)

    def load(self) -> Application:
        return load_app()
