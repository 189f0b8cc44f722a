"""The metrics of all workers, added up and served by the master.

Each process writes its counts to files named after it. Those of processes that ended are folded into one set of files
(process 0), so that a scrape stays cheap and no count is lost, not even when the whole server is restarted; the gauges
of such processes are dropped.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import logging
import os
import platform
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

import hmacfs
from hmacfs.system.processes import Process
from hmacfs.system.shared_file import SharedFile
from hmacfs.telemetry.value_files import file_of

log = logging.getLogger("hmacfs.telemetry")

#: The process number of the counts of all processes that ended.
_ENDED = "0"
#: CPU usage is measured over at least so many seconds.
_CPU_SECONDS = 1.0
#: How old an answer to a scrape may be, and how many forms of it are kept.
_REMEMBERED_SECONDS = 1.0
_TEXTS = 8
#: Of this process: the thread that folds and the one that answers scrapes have a ``CounterMerge`` each, of one folder.
_threads = threading.Lock()


class CounterMerge:
    """The folder with the metrics of all processes; several servers may use it at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def collect(self) -> list[Metric]:
        """The metrics of all processes, past and present; none while their folder is not there and cannot be made."""
        try:
            return self._collect()
        except OSError as error:
            log.warning("%s: the metrics cannot be read: %s", self._path, error.strerror)
            return []

    def fold(self) -> None:
        """Add up the counts of processes that ended, so that their files go."""
        try:
            with self._lock():
                self._fold_ended()
        except OSError as error:
            log.warning("the counts of processes that ended cannot be added up: %s", error.strerror)

    def _collect(self) -> list[Metric]:
        with self._lock():
            collector = MultiProcessCollector(None, str(self._path))
            try:
                self._fold_ended()
            except OSError as error:
                log.warning("the counts of processes that ended cannot be added up: %s", error.strerror)
            try:
                return list(collector.collect())
            except (struct.error, FileNotFoundError):  # a process that started or ended just now
                return list(collector.collect())

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Excludes other threads and servers. Servers not by ``flock``, which a worker that is forked meanwhile would
        hold as long as it lives. Threads by a lock of their own: ``lockf``'s belongs to the process, excludes none of
        its threads, and is lost once any of them closes the file."""
        with _threads, SharedFile(self._path / "fold.lock") as file:
            fcntl.lockf(file.fd, fcntl.LOCK_EX)
            yield

    def _fold_ended(self) -> None:
        """Add the counts of processes that ended to those of process 0, and remove their files."""
        for path in self._path.glob("gauge_*.db"):
            if _has_ended(path):
                path.unlink(missing_ok=True)
        for kind in ("counter", "histogram"):
            into = self._path / f"{kind}_{_ENDED}.db"
            self._end_last_fold(into)
            ended = [path for path in self._path.glob(f"{kind}_*.db") if _has_ended(path)]
            if ended or not _is_sound(into):
                self._fold(into, ended)

    def _fold(self, into: Path, ended: list[Path]) -> None:
        """Renaming the draft is the commit point. A crash before it changes nothing; after it, ``.added`` lists the
        inputs still to delete."""
        counts: dict[str, float] = {}
        for path in [into, *ended]:
            for key, value in _values(path):
                counts[key] = counts.get(key, 0.0) + value
        draft = into.with_suffix(".draft")
        draft.write_bytes(file_of(counts))
        into.with_suffix(".added").write_text("\n".join(path.name for path in ended))
        draft.replace(into)
        self._end_last_fold(into)

    def _end_last_fold(self, into: Path) -> None:
        draft, added = into.with_suffix(".draft"), into.with_suffix(".added")
        if draft.exists():
            added.unlink(missing_ok=True)
            draft.unlink()
        elif added.exists():
            for name in added.read_text().splitlines():
                (self._path / name).unlink(missing_ok=True)
            added.unlink()


def _has_ended(path: Path) -> bool:
    name = path.stem.rpartition("_")[2]
    process = Process.parse(name)
    return name != _ENDED and not (process and process.is_alive)


def _values(path: Path) -> Iterator[tuple[str, float]]:
    """The counts in a file, up to the first damaged one (after a power cut)."""
    try:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):
            name, sample, labels, text = json.loads(key)
            if not (isinstance(name, str) and isinstance(sample, str) and isinstance(text, str)):
                raise ValueError(key)
            labels.items()
            yield key, value
    except FileNotFoundError:
        pass
    except (struct.error, RuntimeError, ValueError, TypeError, AttributeError):
        log.warning("the metrics in %s are damaged: what cannot be read is lost", path.name)


def _is_sound(path: Path) -> bool:
    try:
        return all(json.loads(key) for key, *_ in MmapedDict.read_all_values_from_file(str(path)))
    except FileNotFoundError:
        return True
    except (struct.error, RuntimeError, ValueError):
        return False


class ProcessCollector:
    """Metrics that are measured at each scrape, of this process, the master, and its children.

    space: what the names of its gauges begin with. folder: whose file system they tell of. workers: how many there are,
    and how many were started so far.
    """

    def __init__(self, space: str, folder: Path, workers: Callable[[], tuple[int, int]]) -> None:
        self._space = space
        self._folder = folder
        self._workers = workers
        self._cpu_seconds: dict[int, float] = {}
        self._measured = 0.0
        self._percent = 0.0

    def collect(self) -> Iterator[Metric]:
        processes = _processes()
        yield _gauge("memory_usage_bytes", "Memory of all processes.", sum(map(_memory, processes)))
        yield _gauge("cpu_usage_percent", "CPU time of all processes; 100 is one core.", self._cpu(processes))
        alive, started = self._workers()
        yield _gauge("hmacfs_workers", "Worker processes.", alive)
        yield CounterMetricFamily("hmacfs_workers_started", "Worker processes started.", value=started)
        with contextlib.suppress(OSError):
            name, space = self._space, os.statvfs(self._folder)
            if space.f_blocks:  # 0: unknown
                yield _gauge(f"{name}_free_bytes", "Free space for files.", space.f_bavail * space.f_frsize)
                yield _gauge(f"{name}_size_bytes", "Size of the file system.", space.f_blocks * space.f_frsize)
            if space.f_files:
                yield _gauge(f"{name}_free_inodes", "Files that may still be made.", space.f_favail)
                yield _gauge(f"{name}_inodes", "Files that the file system can hold.", space.f_files)
        yield _build_info()

    def _cpu(self, processes: Iterable[psutil.Process]) -> float:
        """Per cent of one core since the last measurement."""
        now = time.monotonic()
        passed = now - self._measured
        if passed >= _CPU_SECONDS:
            used = {process.pid: _cpu_seconds(process) for process in processes}
            before, self._cpu_seconds, self._measured = self._cpu_seconds, used, now
            spent = sum(max(0.0, seconds - before[pid]) for pid, seconds in used.items() if pid in before)
            self._percent = 100 * spent / passed
        return self._percent


def _processes() -> list[psutil.Process]:
    master = psutil.Process()
    return [master, *master.children(recursive=True)]


def _memory(process: psutil.Process) -> int:
    """Bytes; memory that several processes share counts once in all where the kernel tells it (Linux)."""
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", 0) or full.rss)
    except psutil.Error:
        return 0


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _build_info() -> Metric:
    labels = {
        "version": hmacfs.__version__,
        "python": platform.python_version(),
        "gunicorn": version("gunicorn"),
        "gevent": version("gevent"),
    }
    family = GaugeMetricFamily("hmacfs_build_info", "Versions.", labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


class _All:
    def __init__(self, merge: CounterMerge, process: ProcessCollector) -> None:
        self._merge = merge
        self._process = process

    def collect(self) -> Iterator[Metric]:
        for metric in self._merge.collect():
            yield metric
            if metric.name == "goroutines_count":
                yield _renamed(metric, "greenlets_count")
        yield from self._process.collect()


def _renamed(metric: Metric, name: str) -> Metric:
    """Untyped, since a gauge's name ought not to end in "_count"."""
    copy = Metric(name, metric.documentation, "unknown")
    for sample in metric.samples:
        copy.add_sample(name, sample.labels, sample.value)
    return copy


class Scrapes(Collector):
    """The answers to scrapes. All of a second get the same, which is made once, so that frequent scrapes cost no more
    than one collection per second. For one thread.

    clock: ``time.monotonic`` or its like.
    """

    def __init__(
        self, merge: CounterMerge, process: ProcessCollector, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = _All(merge, process)
        self._clock = clock
        self._collected = float("-inf")
        self._metrics: list[Metric] = []
        self._texts: dict[tuple[str, bool], bytes] = {}

    def render(self, accept: str, accept_encoding: str) -> tuple[list[tuple[str, str]], bytes]:
        """Headers and content, for the values of Accept and Accept-Encoding."""
        now = self._clock()
        if now - self._collected >= _REMEMBERED_SECONDS:
            self._metrics = list(self._source.collect())
            self._texts.clear()
            self._collected = self._clock()
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a malformed version
            encode, content_type = choose_encoder("")
        is_gzip = any(word.partition(";")[0].strip().lower() == "gzip" for word in accept_encoding.split(","))
        content = self._texts.get((content_type, is_gzip))
        if content is None:
            content = encode(self)
            if is_gzip:
                content = gzip.compress(content, compresslevel=1)
            if len(self._texts) < _TEXTS:  # the client chooses the version
                self._texts[content_type, is_gzip] = content
        headers = [("Content-Type", content_type)]
        return [*headers, ("Content-Encoding", "gzip")] if is_gzip else headers, content

    def collect(self) -> list[Metric]:
        """For the encoders: the metrics as they were collected."""
        return self._metrics
