"""Puts the parts together; the one module that names concrete classes."""

from __future__ import annotations

import dataclasses
import time

import flask

from hmacfs.config import Settings
from hmacfs.housekeeping import Sweeper
from hmacfs.keyring import Keyring
from hmacfs.sessions.chain import Chain
from hmacfs.sessions.opening import open_store
from hmacfs.storage.opening import open_storage
from hmacfs.storage.partial import PartialFiles
from hmacfs.storage.space import SpaceGuard
from hmacfs.telemetry.events import Events
from hmacfs.telemetry.logs import AccessLog
from hmacfs.transfer.receive import Receiver
from hmacfs.uploads.resumable import Limits, ResumableUploads
from hmacfs.uploads.whole import StoreWhole
from hmacfs.web.client import ClientAddress
from hmacfs.web.cors import Cors
from hmacfs.web.files import ServeFile
from hmacfs.web.guards import Guards
from hmacfs.web.health import Health, health
from hmacfs.web.routing import AnyPath, Desk, DirectDoor
from hmacfs.web.slots import SlotUploads
from hmacfs.web.transfers import Services, transfers
from hmacfs.web.tus import TusUploads


@dataclasses.dataclass(slots=True)
class Site:
    """The parts of a running application that the server around it needs: ``app.extensions["hmacfs"]``."""

    settings: Settings
    health: Health
    sweeper: Sweeper
    sessions: Chain

    def begin_stop(self) -> None:
        """From now on the application says that it takes no new work."""
        self.health.is_draining = True


class Core:
    """Storage, sessions and the use cases: what there is without the web. For one process."""

    def __init__(self, settings: Settings) -> None:
        self.storage = open_storage(settings)
        self.sessions = open_store(settings)
        self.limits = Limits(settings.upload_max_size, settings.session_ttl, settings.max_sessions_per_client)
        receiver = Receiver(
            self.storage.disk,
            chunk_size=settings.chunk_size,
            rate=settings.max_bytes_per_second,
            early_writeback=self.storage.durable,
        )
        space = SpaceGuard(self.storage.free_bytes, lambda: settings.min_free_space.of(self.storage.total_bytes()))
        self.store_whole = StoreWhole(self.storage, receiver, space, max_size=settings.upload_max_size)
        self.resumable = ResumableUploads(
            self.sessions,
            PartialFiles(self.storage),
            receiver,
            space,
            self.storage.exists,
            self.limits,
            time.time,
        )
        self.sweeper = Sweeper(self.resumable.sweep, self.storage.reserved / "sweep.lock", settings.sweep_interval)


def open_sweeper(settings: Settings) -> Sweeper:
    """For the command line. Raises ``ConfigError``."""
    return Core(settings).sweeper


def create_app(settings: Settings) -> flask.Flask:
    """The WSGI application, for one process."""
    core = Core(settings)
    cors = Cors(settings.allowed_origins)
    clients = ClientAddress(settings.trusted_proxies)
    desk = Desk(Events(AccessLog()), cors, clients, read_timeout=settings.read_timeout)
    services = Services(
        desk=desk,
        guards=Guards(
            Keyring([settings.secret.reveal(), *(secret.reveal() for secret in settings.previous_secrets)]),
            prefix=settings.url_prefix,
            accept_guessed_type=settings.accept_guessed_content_type,
        ),
        cors=cors,
        store_whole=core.store_whole,
        serve_file=ServeFile(
            core.storage.open,
            rate=settings.download_max_bytes_per_second,
            x_accel=settings.download_offload == "x-accel",
        ),
        slots=SlotUploads(core.resumable, settings.url_prefix),
        tus=TusUploads(core.resumable, settings.url_prefix),
        prefix=settings.url_prefix,
        signed_downloads=settings.require_signed_downloads,
        max_size=settings.upload_max_size,
    )
    state = Health([("store", core.storage.check_writable), ("session store", core.sessions.ping)])
    app = _flask(services, state)
    app.extensions["hmacfs"] = Site(settings, state, core.sweeper, core.sessions)
    return app


def _flask(services: Services, state: Health) -> flask.Flask:
    blueprint = transfers(services)
    app = flask.Flask("hmacfs", static_folder=None)
    app.url_map.merge_slashes = False  # "a//b" is refused, not redirected
    app.url_map.converters["any_path"] = AnyPath
    app.register_blueprint(blueprint)
    app.register_blueprint(health(services.desk, state))
    services.desk.serve_routing_errors(app)
    door = DirectDoor(app.wsgi_app, blueprint, services.desk, services.prefix)
    app.wsgi_app = door  # type: ignore[method-assign]
    return app
