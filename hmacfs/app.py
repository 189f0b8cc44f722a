"""Puts the parts together; the one module that names concrete classes."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hmacfs.addresses import NetworkShares, networks_of
from hmacfs.admission.running import RunningUploads
from hmacfs.admission.shares import ClientShares
from hmacfs.admission.space import SpaceGuard
from hmacfs.background import RepairLoop, Sweeper
from hmacfs.caching import bounded_cache
from hmacfs.config import FreeSpace, Settings, Storage
from hmacfs.net.body import Body
from hmacfs.net.receive import Receiver
from hmacfs.protocol.keyring import Keyring
from hmacfs.rates.failover import FailoverCounter
from hmacfs.rates.limiting import WindowRateLimiter
from hmacfs.rates.open_counter import open_counter
from hmacfs.sessions.leases import LeaseLocker
from hmacfs.sessions.open_session_store import open_session_store
from hmacfs.sessions.replicated import ReplicatedSessionStore
from hmacfs.stores.local.locker import FileLocker
from hmacfs.stores.open_local_store import open_local_reader, open_local_store
from hmacfs.stores.prepare_file_store import prepare_file_store
from hmacfs.system.runtime_folder import RuntimeClaim
from hmacfs.system.shared_rows import SharedRows
from hmacfs.system.shared_sums import SharedSums
from hmacfs.system.threads import FileCalls
from hmacfs.telemetry.events import Events, Listener
from hmacfs.telemetry.logs import AccessLog, RefusalLog
from hmacfs.telemetry.metrics import Metrics
from hmacfs.telemetry.sampler import Sampler
from hmacfs.telemetry.value_files import ValueFiles
from hmacfs.uploads.contracts.locks import Locker
from hmacfs.uploads.contracts.stores import FileReader, FileStore
from hmacfs.uploads.progress import SweepResult, UploadLimits
from hmacfs.uploads.resumable import ResumableUploads
from hmacfs.uploads.tokens import SessionTokens
from hmacfs.uploads.whole import UploadFile
from hmacfs.web import flask_app
from hmacfs.web.client_address import ClientAddress
from hmacfs.web.cors import Cors
from hmacfs.web.dispatch import RequestHandler
from hmacfs.web.file_view import FileView
from hmacfs.web.guards import Guards
from hmacfs.web.head_view import HeadView
from hmacfs.web.locations import Locations
from hmacfs.web.messages import Response
from hmacfs.web.put_view import PutView
from hmacfs.web.rate_limits import DOWNLOAD, SIGNATURE, UPLOAD, RateLimitKey, RateLimits
from hmacfs.web.readiness import PROBES, WELCOME, Readiness, probe_routes
from hmacfs.web.slot_views import SlotViews
from hmacfs.web.transfers import Transfers
from hmacfs.web.tus_views import TusViews
from hmacfs.web.unproven import UnprovenLookups

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from hmacfs.stores.s3.observer import CallObserver
    from hmacfs.telemetry.object_store import ObjectStoreMetrics


@dataclasses.dataclass(slots=True)
class AppRuntime:
    """The parts of a running application that the server around it needs: ``app.extensions["hmacfs"]``.

    respond: see ``FastPath``.
    """

    settings: Settings
    readiness: Readiness
    core: Core
    sampler: Sampler | None
    repair_loop: RepairLoop
    respond: Callable[[dict[str, Any], Body], Response | None]

    def note_turned_away(self) -> None:
        """A connection was one too many of its peer."""
        if self.sampler is not None:
            self.sampler.note_turned_away()

    def tasks(
        self, connections: Callable[[], int], is_running: Callable[[], bool], is_stopping: Callable[[], bool]
    ) -> list[Callable[[], None]]:
        """Functions, each to run in a greenlet of its own. connections: how many are open. is_running, is_stopping: see
        ``Lifecycle``."""
        core = self.core
        self.readiness.is_stopping = is_stopping
        tasks: list[Callable[[], None]] = [
            lambda: core.sweeper.run_while(is_running),
            core.space.publish_forever,
            core.running.check_forever,
            self.repair_loop.run_forever,
        ]
        sampler = self.sampler
        if sampler is not None:
            tasks += [lambda: sampler.sample_forever(connections, len(tasks)), sampler.count_sessions]
        return tasks


class _Storage(NamedTuple):
    """file_calls: how the calls to the file system of files in the making are made. spooled: how many bytes of this
    process are on their way to an object store."""

    store: FileStore
    sessions: ReplicatedSessionStore
    locker: Locker
    file_calls: FileCalls
    spooled: Callable[[], int]


def _open_storage(settings: Settings, calls: CallObserver | None) -> _Storage:
    """calls: is told of those of an object store's engine. Raises ``ConfigError``."""
    if settings.storage is Storage.S3:
        from hmacfs.stores.open_object_store import open_object_store  # an extra

        sessions = open_session_store(settings)
        objects = open_object_store(settings, sessions.claims, calls)
        spool = objects.spool
        return _Storage(objects, sessions, LeaseLocker(sessions.leases), spool.file_calls, lambda: spool.used)
    store = open_local_store(settings)
    sessions = open_session_store(settings)
    return _Storage(store, sessions, FileLocker(store.partials), store.file_calls, lambda: 0)


class Core:
    """Storage, sessions and the use cases: what there is without the web. For one process. calls: see
    ``_open_storage``."""

    def __init__(self, settings: Settings, calls: CallObserver | None = None) -> None:
        self.store, self.sessions, self.locker, file_calls, self.spooled = _open_storage(settings, calls)
        self.keyring = Keyring([settings.secret.reveal(), *(secret.reveal() for secret in settings.previous_secrets)])
        self.limits = UploadLimits(
            settings.upload_max_size,
            settings.session_ttl,
            settings.max_sessions_per_client,
            settings.max_sessions_per_path,
        )
        receiver = Receiver(
            file_calls,
            chunk_size=settings.chunk_size,
            rate=settings.max_bytes_per_second,
            least_rate=settings.min_bytes_per_second,
        )
        self.reserved = SharedSums(settings.runtime_dir / "reserved")
        self.rows = SharedRows(settings.runtime_dir / "running")
        self.space = SpaceGuard(
            self.store.free_bytes,
            lambda: settings.min_free_space.of(self.store.total_bytes()),
            self.reserved,
            shares=_shares(settings, self.rows),
        )
        self.running = RunningUploads(self.rows)
        self.upload_file = UploadFile(self.store, receiver, self.running, self.space, max_size=settings.upload_max_size)
        self.resumable = ResumableUploads(
            self.sessions,
            self.store,
            self.locker,
            receiver,
            self.space,
            self.limits,
            time.time,
            SessionTokens(self.keyring),
        )
        self.runtime = RuntimeClaim(settings.runtime_dir)
        self.sweeper = Sweeper(self._sweep, settings.state_dir / "sweep.lock", settings.sweep_interval)

    def _sweep(self) -> SweepResult:
        self.sessions.forget_entries()
        return self.resumable.sweep()

    def check_store(self) -> None:
        """For readiness. Raises what ``FileStore.check_writable`` does."""
        self.store.check_writable()
        self.space.check()


def _shares(settings: Settings, rows: SharedRows) -> ClientShares | None:
    """``None`` if no client has a limit."""
    share = settings.max_reserved_per_client
    if share == FreeSpace():
        return None
    limited = RateLimitKey(settings.rate_limit_exempt, "MaxReservedPerClient")

    @bounded_cache(4096)
    def networks(client: str) -> NetworkShares:
        return networks_of(client) if limited(client) is not None else ()

    return ClientShares(rows, networks, share.of)


def open_sweeper(settings: Settings) -> Sweeper:
    """For the command line. Raises ``ConfigError``."""
    return Core(settings).sweeper


def open_file_store(settings: Settings) -> FileStore:
    """The configured one, for the command line; no server need have run with these settings yet. Raises
    ``ConfigError``."""
    prepare_file_store(settings)
    return open_local_store(settings) if settings.storage is Storage.LOCAL else _open_storage(settings, None).store


def open_file_reader(settings: Settings) -> FileReader:
    """The same to be read alone: in a folder nothing is made. Raises ``ConfigError``."""
    return open_local_reader(settings) if settings.storage is Storage.LOCAL else open_file_store(settings)


def create_app(settings: Settings) -> flask_app.Application:
    """The WSGI application, for one process. With metrics, ``PROMETHEUS_MULTIPROC_DIR`` names their folder."""
    app = flask_app.new_application()
    metrics = _metrics(app, settings) if settings.metrics_enabled else None
    core = Core(settings, metrics.object_store if metrics is not None else None)
    counter = open_counter(settings)
    clients = ClientAddress(settings.trusted_proxies)
    cors = Cors(settings.allowed_origins)
    access_log = AccessLog(probes=PROBES)
    # The level was set before this process was forked, and no request changes it.
    listeners: list[Listener] = [] if access_log.is_off else [access_log]
    refusals = RefusalLog({"no-space": core.space.describe, "too-much-reserved": core.space.describe_shares})
    repairs = [core.store.repair, core.runtime.repair, core.reserved.repair, core.rows.repair, counter.repair]
    sampler = None
    if metrics is not None:
        listeners.append(metrics.requests)
        repairs.append(metrics.values.repair)
        sampler = _sampler(metrics, core, counter, settings)
    handler = RequestHandler(Events(listeners, [refusals]), cors, clients, read_timeout=settings.read_timeout)
    rates = _rates(flask_app.rate_limiter(app, counter, clients), settings)
    readiness = Readiness([("store", core.check_store), ("session store", core.sessions.ping)])
    fast_path = flask_app.add_routes(
        app, handler, transfers=_transfers(settings, core, rates, cors).routes(), others=probe_routes(readiness)
    )
    app.extensions["hmacfs"] = AppRuntime(settings, readiness, core, sampler, RepairLoop(repairs), fast_path.respond)
    return app


def _rates(limiter: WindowRateLimiter, settings: Settings) -> RateLimits:
    rates = {
        UPLOAD: settings.upload_rate_limit,
        DOWNLOAD: settings.download_rate_limit,
        SIGNATURE: settings.auth_failure_rate_limit,
    }
    return RateLimits(limiter, rates, settings.rate_limit_exempt)


def _transfers(settings: Settings, core: Core, rates: RateLimits, cors: Cors) -> Transfers:
    guards = Guards(
        core.keyring,
        prefix=settings.url_prefix,
        count_failure=rates.signatures,
        signed_downloads=settings.require_signed_downloads,
        accept_guessed_type=settings.accept_guessed_content_type,
        accept_unsized_chunks=settings.accept_unsized_chunks,
    )
    locations = Locations(settings.url_prefix, settings.public_url)
    unproven = UnprovenLookups(core.sessions.concurrency)
    slots = SlotViews(core.resumable, locations)
    file = FileView(
        core.store,
        rate=settings.download_max_bytes_per_second,
        offload=settings.download_offload,
    )
    return Transfers(
        prefix=settings.url_prefix,
        max_size=settings.upload_max_size,
        guards=guards,
        rates=rates,
        cors=cors,
        put=PutView(core.upload_file, slots, locations),
        file=file,
        head=HeadView(file.serve, guards, slots, unproven),
        tus=TusViews(core.resumable, settings.url_prefix, locations, unproven),
    )


class _AllMetrics(NamedTuple):
    requests: Metrics
    object_store: ObjectStoreMetrics | None
    values: ValueFiles


def _metrics(app: flask_app.Application, settings: Settings) -> _AllMetrics:
    values = ValueFiles(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
    registry = flask_app.metrics_registry(app)
    requests = Metrics(registry, values, transfers=f"{settings.url_prefix}<path>", probes={*PROBES, WELCOME})
    return _AllMetrics(requests, _object_store_metrics(registry) if settings.storage is Storage.S3 else None, values)


def _object_store_metrics(registry: CollectorRegistry) -> ObjectStoreMetrics:
    from hmacfs.stores.s3.observer import OPERATIONS, OUTCOMES
    from hmacfs.telemetry.object_store import ObjectStoreMetrics

    return ObjectStoreMetrics(registry, OPERATIONS, OUTCOMES)


def _sampler(metrics: _AllMetrics, core: Core, counter: FailoverCounter, settings: Settings) -> Sampler:
    def stores() -> tuple[str, Mapping[str, bool]]:
        status = core.sessions.status()
        return status.active, status.is_up

    of_store = metrics.object_store
    return Sampler(
        metrics.requests,
        uploads=lambda: core.space.uploads,
        stores=stores,
        rates_are_shared=(lambda: counter.is_shared) if settings.redis_addr else None,
        sessions=core.sessions.count_by_state,
        lock=settings.runtime_dir / "census.lock",
        more=[] if of_store is None else [lambda: of_store.spool.set(core.spooled())],
    )
