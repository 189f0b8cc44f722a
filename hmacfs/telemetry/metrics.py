"""The metrics of a worker, in files that it shares with the master (prometheus_client's multiprocess mode).

The names are the original's where it had one. Every label has few values: unknown methods are "other", and the path is
the route. ``scrape`` adds up those of all workers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from hmacfs.telemetry import labels
from hmacfs.telemetry.events import RequestFinished

#: Seconds, for files from 1 KB on a fast line to 10 GB on a slow one.
DURATION_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200),
)
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """A listener to events, and the gauges of a worker. One per process, made after the fork.

    transfers: the route of uploads and downloads. probes: the routes that monitors ask. registry: where the metrics are
    registered (in multiprocess mode the values are in the files, whatever it is).
    """

    def __init__(self, registry: CollectorRegistry, *, transfers: str, probes: Collection[str] = ()) -> None:
        self._transfers = transfers
        self._registry = registry
        counter, histogram = self._counter, self._histogram
        self._requests = counter("http_requests_total", "Requests, by method and route.", "method", "path")
        self._responses = counter("hmacfs_http_responses_total", "Answers, by method and status.", "method", "status")
        self._upload_seconds = histogram("file_server_upload_duration_seconds", "Duration of successful uploads.")
        self._download_seconds = histogram("file_server_download_duration_seconds", "Duration of complete downloads.")
        self._upload_errors = counter("file_server_upload_errors_total", "Failed uploads, by reason.", "reason")
        self._download_errors = counter("file_server_download_errors_total", "Failed downloads, by reason.", "reason")
        self._refusals = counter("hmacfs_refusals_total", "Refused requests, by what they failed at.", "reason")
        self._uploads = counter("hmacfs_uploads_total", "Files stored.")
        self._downloads = counter("hmacfs_downloads_total", "Files and parts of files sent.")
        self._upload_bytes = counter("hmacfs_upload_bytes_total", "Bytes of request bodies received.")
        self._download_bytes = counter("hmacfs_download_bytes_total", "Bytes of files sent.")
        self._begin_at_zero(probes)
        self._lag = histogram("hmacfs_event_loop_lag_seconds", "How late a worker's timers are.", LAG_BUCKETS)
        self.connections = self._gauge("active_connections_total", "Open connections.")
        self.greenlets = self._gauge("goroutines_count", "Greenlets: those of connections and the server's own.")
        self.uploads_in_progress = self._gauge("hmacfs_uploads_in_progress", "Uploads under way.")
        self._sessions = self._gauge("hmacfs_sessions", "Upload sessions, by state.", "state")
        self._active = self._gauge(
            "hmacfs_session_store_active", "Which session store answers.", "store", mode="livemax"
        )
        self._up = self._gauge("hmacfs_session_store_up", "Whether all workers reach it.", "store", mode="livemin")
        self._rates_up = self._gauge(
            "hmacfs_rate_limit_store_up", "Whether all workers count requests in it.", "store", mode="livemin"
        )
        self._children: dict[tuple[str, str, int], tuple[Counter, Counter]] = {}

    def _begin_at_zero(self, probes: Collection[str]) -> None:
        for reason in {*labels.REFUSALS.values(), labels.TURNED_AWAY}:
            self._refusals.labels(reason)
        for reason in labels.upload_reasons():
            self._upload_errors.labels(reason)
        for reason in labels.DOWNLOAD_REASONS:
            self._download_errors.labels(reason)
        for method, route in labels.requests(self._transfers, frozenset(probes)):
            self._requests.labels(method, route)
        for method, status in labels.responses():
            self._responses.labels(method, status)

    def _counter(self, name: str, text: str, *names: str) -> Counter:
        return Counter(name, text, names, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = DURATION_BUCKETS) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self._registry)

    def _gauge(self, name: str, text: str, *names: str, mode: str = "livesum") -> Gauge:
        return Gauge(name, text, names, multiprocess_mode=mode, registry=self._registry)  # type: ignore[arg-type]

    def __call__(self, event: RequestFinished) -> None:
        method = event.method if event.method in labels.METHODS else "other"
        key = method, event.route, event.status
        requests, responses = self._children.get(key) or self._add_children(key)
        requests.inc()
        responses.inc()
        if event.reason and (refusal := labels.REFUSALS.get(event.reason)):
            self._refusals.labels(refusal).inc()
        if event.route != self._transfers:
            return
        if event.received:
            self._upload_bytes.inc(event.received)
        if method in labels.UPLOAD_METHODS:
            self._count_upload(event)
        elif method == "GET":
            self._count_download(event)

    def _add_children(self, key: tuple[str, str, int]) -> tuple[Counter, Counter]:
        """The counters of requests with that method, route and status: looking them up by labels costs more than
        counting."""
        method, route, status = key
        children = self._requests.labels(method, route), self._responses.labels(method, str(status))
        self._children[key] = children
        return children

    def _count_upload(self, event: RequestFinished) -> None:
        if event.reason:
            self._upload_errors.labels(event.reason).inc()
            return
        self._upload_seconds.observe(event.seconds)
        if event.stored:
            self._uploads.inc()

    def _count_download(self, event: RequestFinished) -> None:
        if event.status < 300:
            self._download_bytes.inc(event.sent)
        if event.reason:
            self._download_errors.labels(event.reason).inc()
        elif event.status < 300:
            self._download_seconds.observe(event.seconds)
            self._downloads.inc()

    def note_turned_away(self) -> None:
        """A connection was one too many of its peer."""
        self._refusals.labels(labels.TURNED_AWAY).inc()

    def touch(self) -> None:
        """Change a value, by nothing."""
        self._uploads.inc(0)

    def observe_lag(self, seconds: float) -> None:
        self._lag.observe(seconds)

    def set_sessions(self, count_by_state: Mapping[str, int]) -> None:
        """Set by one worker only: the values of all add up."""
        for state, count in count_by_state.items():
            self._sessions.labels(state).set(count)

    def set_session_stores(self, active: str, is_up: Mapping[str, bool]) -> None:
        for store, up in is_up.items():
            self._active.labels(store).set(store == active)
            self._up.labels(store).set(up)

    def set_rate_limit_store(self, store: str, *, is_up: bool) -> None:
        self._rates_up.labels(store).set(is_up)
