"""Puts the parts together; the one module that names concrete classes."""

from __future__ import annotations

import dataclasses

import flask

from hmacfs.config import Settings
from hmacfs.keyring import Keyring
from hmacfs.storage.local import LocalStorage
from hmacfs.storage.opening import open_storage
from hmacfs.storage.space import SpaceGuard
from hmacfs.telemetry.events import Events
from hmacfs.telemetry.logs import AccessLog
from hmacfs.transfer.receive import Receiver
from hmacfs.uploads.whole import StoreWhole
from hmacfs.web.client import ClientAddress
from hmacfs.web.cors import Cors
from hmacfs.web.files import ServeFile
from hmacfs.web.guards import Guards
from hmacfs.web.health import Health, health
from hmacfs.web.routing import AnyPath, Desk, DirectDoor
from hmacfs.web.transfers import transfers


@dataclasses.dataclass(slots=True)
class Site:
    """The parts of a running application that the server around it needs: ``app.extensions["hmacfs"]``."""

    settings: Settings
    storage: LocalStorage
    health: Health

    def begin_stop(self) -> None:
        """From now on the application says that it takes no new work."""
        self.health.is_draining = True


def create_app(settings: Settings) -> flask.Flask:
    """The WSGI application, for one process."""
    storage = open_storage(settings)
    desk = Desk(
        Events(AccessLog()),
        Cors(settings.allowed_origins),
        ClientAddress(settings.trusted_proxies),
        read_timeout=settings.read_timeout,
    )
    guards = Guards(
        Keyring([settings.secret.reveal(), *(secret.reveal() for secret in settings.previous_secrets)]),
        prefix=settings.url_prefix,
        accept_guessed_type=settings.accept_guessed_content_type,
    )
    receiver = Receiver(
        storage.disk,
        chunk_size=settings.chunk_size,
        rate=settings.max_bytes_per_second,
        early_writeback=storage.durable,
    )
    space = SpaceGuard(storage.free_bytes, lambda: settings.min_free_space.of(storage.total_bytes()))
    blueprint = transfers(
        desk,
        guards,
        StoreWhole(storage, receiver, space, max_size=settings.upload_max_size),
        ServeFile(
            storage.open,
            rate=settings.download_max_bytes_per_second,
            x_accel=settings.download_offload == "x-accel",
        ),
        Cors(settings.allowed_origins),
        prefix=settings.url_prefix,
        signed_downloads=settings.require_signed_downloads,
    )
    state = Health([("store", storage.check_writable)])
    app = flask.Flask("hmacfs", static_folder=None)
    app.url_map.merge_slashes = False  # "a//b" is refused, not redirected
    app.url_map.converters["any_path"] = AnyPath
    app.register_blueprint(blueprint)
    app.register_blueprint(health(desk, state))
    desk.serve_routing_errors(app)
    app.wsgi_app = DirectDoor(app.wsgi_app, blueprint, desk, settings.url_prefix)  # type: ignore[method-assign]
    app.extensions["hmacfs"] = Site(settings, storage, state)
    return app
