"""The metrics of a worker, in files that it shares with the master (prometheus_client's multiprocess mode).

The names are the original's where it had one. Every label has few values: unknown methods are "other", and the path is
the route. ``scrape`` adds up those of all workers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from hmacfs.telemetry import labels
from hmacfs.telemetry.events import RequestFinished
from hmacfs.telemetry.value_files import ValueFiles, ValueMemory

#: Seconds, for files from 1 KB on a fast line to 10 GB on a slow one.
DURATION_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200),
)
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class _Durations:
    """A histogram of durations, counted in its cells."""

    def __init__(self, memory: ValueMemory, histogram: Histogram) -> None:
        self._memory = memory
        # The values are ours (see ``ValueFiles``); prometheus_client has no public way to them.
        self._sum: int = histogram._sum.at  # noqa: SLF001
        self._buckets: list[int] = [bucket.at for bucket in histogram._buckets]  # noqa: SLF001

    def observe(self, seconds: float) -> None:
        cells = self._memory.cells
        cells[self._sum] += seconds
        cells[self._buckets[bisect_left(DURATION_BUCKETS, seconds)]] += 1.0


class _Kind(NamedTuple):
    """What is counted of requests that are alike. ones: the cells of counters that have one more; has_received,
    has_sent: whether the bytes of their bodies count; durations: where their duration belongs."""

    ones: tuple[int, ...]
    has_received: bool
    has_sent: bool
    durations: _Durations | None


class Metrics:
    """A listener to events, and the gauges of a worker. One per process, made after the fork.

    transfers: the route of uploads and downloads. probes: the routes that monitors ask. files: where the values are.
    registry: where the metrics are registered (in multiprocess mode the values are in the files, whatever it is).
    """

    def __init__(
        self, registry: CollectorRegistry, files: ValueFiles, *, transfers: str, probes: Collection[str] = ()
    ) -> None:
        self._transfers = transfers
        self._registry = registry
        counter, histogram = self._counter, self._histogram
        self._requests = counter("http_requests_total", "Requests, by method and route.", "method", "path")
        self._responses = counter("hmacfs_http_responses_total", "Answers, by method and status.", "method", "status")
        upload_seconds = histogram("file_server_upload_duration_seconds", "Duration of successful uploads.")
        download_seconds = histogram("file_server_download_duration_seconds", "Duration of complete downloads.")
        self._upload_seconds = _Durations(files.histograms, upload_seconds)
        self._download_seconds = _Durations(files.histograms, download_seconds)
        self._upload_errors = counter("file_server_upload_errors_total", "Failed uploads, by reason.", "reason")
        self._download_errors = counter("file_server_download_errors_total", "Failed downloads, by reason.", "reason")
        self._refusals = counter("hmacfs_refusals_total", "Refused requests, by what they failed at.", "reason")
        self._uploads = counter("hmacfs_uploads_total", "Files stored.")
        self._downloads = counter("hmacfs_downloads_total", "Files and parts of files sent.")
        self._upload_bytes = _cell(counter("hmacfs_upload_bytes_total", "Bytes of request bodies received."))
        self._download_bytes = _cell(counter("hmacfs_download_bytes_total", "Bytes of files sent."))
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
        self._counters = files.counters
        self._kinds: dict[tuple[str, str, int, str, bool], _Kind] = {}

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
        kind = self._kinds.get((method, event.route, event.status, event.reason, event.stored))
        if kind is None:
            kind = self._add_kind(method, event.route, event.status, event.reason, event.stored)
        cells = self._counters.cells
        for at in kind.ones:
            cells[at] += 1.0
        if kind.has_received and event.received:
            cells[self._upload_bytes] += event.received
        if kind.has_sent:
            cells[self._download_bytes] += event.sent
        if kind.durations is not None:
            kind.durations.observe(event.seconds)

    def _add_kind(self, method: str, route: str, status: int, reason: str, stored: bool) -> _Kind:
        """Find once what such requests count: looking it up by labels costs more than counting."""
        is_transfer = route == self._transfers
        is_upload = is_transfer and method in labels.UPLOAD_METHODS
        is_download = is_transfer and method == "GET"
        is_sent = is_download and status < HTTPStatus.MULTIPLE_CHOICES
        ones = [self._requests.labels(method, route), self._responses.labels(method, str(status))]
        if reason in labels.REFUSALS:
            ones.append(self._refusals.labels(labels.REFUSALS[reason]))
        durations = None
        if is_upload and reason:
            ones.append(self._upload_errors.labels(reason))
        elif is_upload:
            durations = self._upload_seconds
            ones += [self._uploads] if stored else []
        elif is_download and reason:
            ones.append(self._download_errors.labels(reason))
        elif is_sent:
            durations = self._download_seconds
            ones.append(self._downloads)
        kind = _Kind(tuple(map(_cell, ones)), is_transfer, is_sent, durations)
        self._kinds[method, route, status, reason, stored] = kind
        return kind

    def note_turned_away(self) -> None:
        """A connection was one too many of its peer."""
        self._refusals.labels(labels.TURNED_AWAY).inc()

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


def _cell(counter: Counter) -> int:
    """Where a counter's value is: see ``_Durations``."""
    cell: int = counter._value.at  # noqa: SLF001
    return cell
