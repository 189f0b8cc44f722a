"""What is measured: each work with those that do it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import attacks, disk, honest, instructions, stores
from bench.contenders import (
    ROOT,
    SECRET,
    Contender,
    DurableHmacfs,
    FlaskView,
    FrontedHmacfs,
    GoServer,
    Hmacfs,
    Nginx,
    ShippedHmacfs,
    variant,
)
from bench.contenders_tls import TlsGoServer, TlsHmacfs, TlsNginx
from bench.fleet import Fleet
from bench.idle import idle_connections
from bench.loads import CurlDownload, CurlUpload, Load, WrkDownload, WrkUpload
from bench.material import random_file, sparse_file
from bench.measure import MIB, measure
from bench.metrics import Sample
from bench.names import PREFIX, names, signed_path
from bench.outcome import LoadFailed
from bench.pieces import STORES, RangePieces, SqliteSessions, TusPieces, WholeFiles, split
from bench.proxied import GoBehindHAProxy, GoBehindNginx, HmacfsBehindHAProxy
from bench.slow import slow_clients
from bench.start import seconds_to_answer
from bench.targets import Comparison
from bench.together import measure_together

ALL: tuple[type[Contender], ...] = (Hmacfs, FrontedHmacfs, Nginx, GoServer, FlaskView)
SEVERAL: tuple[type[Contender], ...] = (Hmacfs, Nginx, GoServer)
ON_DISK: tuple[type[Contender], ...] = (DurableHmacfs, Hmacfs)
BEHIND_NGINX: tuple[type[Contender], ...] = (FrontedHmacfs, GoBehindNginx)
BEHIND_HAPROXY: tuple[type[Contender], ...] = (HmacfsBehindHAProxy, GoBehindHAProxy)
OVER_TLS: tuple[type[Contender], ...] = (TlsHmacfs, TlsNginx, TlsGoServer)

DISK = "disk alone"
BEFORE = "before"
IDLE_CONNECTIONS = 5_000
SLOW_CLIENTS = 200
STORES_AT_ONCE = 4
#: Of each stream of the throttled works, and how many there are.
THROTTLED_RATE, THROTTLED_STREAMS = "32MB", 16
MANY_FILES = 1_000_000
#: More than this server keeps open.
MANY_NAMES = 5_000

#: The metrics of the kinds of requests that are counted.
INSTRUCTIONS = {
    "PUT 1 KiB": "put_1k",
    "GET 16 KiB": "get_16k",
    "GET 1 KiB": "get_1k",
    "PUT 16 KiB": "put_16k",
    "GET 16 KiB, each another": "get_16k_each",
}

_BIG = ("gb_per_s", "cpu_per_gb", "peak_mib", "pss_mib")
_SMALL = ("per_s", "p50_ms", "p99_ms", "cpu_ms", "peak_mib", "pss_mib")
_LATENCY = ("p50_ms", "p99_ms", "per_s")


class Entry(NamedTuple):
    """One that does a work. ``measure`` takes the seconds that a run should last; it raises ``LoadFailed``,
    ``Unavailable`` and what a start can raise."""

    name: str
    measure: Callable[[int], Sample]


class Work(NamedTuple):
    """columns: keys of ``METRICS``, the decisive one first. baseline: the entry that the others are compared with.
    setup: what has to be done once before. rounds: no more of them are needed, or there is time for."""

    name: str
    title: str
    columns: tuple[str, ...]
    baseline: str
    entries: tuple[Entry, ...]
    setup: Callable[[], None] = lambda: None
    rounds: int = 1000


class Workshop:
    """Makes the works. ram and disk: folders for the stores; longest: seconds of the longest run; before: the folder of
    another state of the project, which does some of the works too."""

    def __init__(
        self, fleet: Fleet, ram: Path, disk: Path, *, longest: int, quick: bool, before: Path | None = None
    ) -> None:
        self._fleet = fleet
        self._ram = ram
        self._disk = disk
        self._longest = longest
        self._quick = quick
        self._before = before
        self._kinds_before = (variant(BEFORE, tree=before),) if before else ()
        self._material = ram / "material"
        self._material.mkdir()

    def works(self, *, full: bool) -> list[Work]:
        """All of them; full: also those that take many minutes."""
        works = [
            *self._in_memory(),
            *self._over_tls(),
            *self._proxied(),
            *self._durable(),
            self._several(),
            *self._pieces(),
        ]
        works += [self._latency(), self._idle(), self._slow_and_fast(), *self._throttled(), self._memory()]
        works += [self._start(), self._instructions(), self._attacked()]
        return [*works, *self._million()] if full else works

    def _in_memory(self) -> list[Work]:
        loads = self._uploads()
        loads += [
            ("get-1g", "GET 1 GiB, one stream", _BIG, CurlDownload(self._file(1024 * MIB))),
            ("get-1m", "GET 1 MiB, one file, 16 connections", _SMALL, self._wrk_download(MIB, 16)),
            ("get-16k", "GET 16 KiB, one file, 32 connections", _SMALL, self._wrk_download(16 * 1024, 32)),
            (
                "get-16k-many",
                f"GET 16 KiB, {MANY_NAMES:,} files in turn, 32 connections",
                _SMALL,
                self._wrk_download(16 * 1024, 32, count=MANY_NAMES),
            ),
        ]
        return [
            Work(name, title, columns, "go", self._entries(ALL, self._ram, load))
            for name, title, columns, load in loads
        ]

    def _over_tls(self) -> list[Work]:
        large = self._file(1024 * MIB)
        loads: list[tuple[str, str, tuple[str, ...], Load]] = [
            ("tls-put-1g", "PUT 1 GiB, one stream, over TLS", _BIG, CurlUpload(large)),
            ("tls-get-1g", "GET 1 GiB, one stream, over TLS", _BIG, CurlDownload(large)),
            ("tls-get-16k", "GET 16 KiB, 32 connections, over TLS", _SMALL, self._wrk_download(16 * 1024, 32)),
        ]
        return [
            Work(name, title, columns, TlsGoServer.name, self._entries(OVER_TLS, self._ram, load))
            for name, title, columns, load in loads
        ]

    def _proxied(self) -> list[Work]:
        large, small = self._file(1024 * MIB), self._wrk_upload(1024, 32)
        nginx = Work(
            "put-1g-nginx",
            "PUT 1 GiB, one stream, through the shipped nginx",
            _BIG,
            GoBehindNginx.name,
            self._entries(BEHIND_NGINX, self._ram, CurlUpload(large)),
        )
        through_haproxy: list[tuple[str, str, tuple[str, ...], Load]] = [
            ("put-1g", "PUT 1 GiB, one stream", _BIG, CurlUpload(large)),
            ("get-1g", "GET 1 GiB, one stream", _BIG, CurlDownload(large)),
            ("put-1k", "PUT 1 KiB, 32 connections", _SMALL, small),
        ]
        return [nginx] + [
            Work(
                f"{name}-haproxy",
                f"{title}, through the shipped HAProxy",
                columns,
                GoBehindHAProxy.name,
                self._entries(BEHIND_HAPROXY, self._ram, load),
            )
            for name, title, columns, load in through_haproxy
        ]

    def _durable(self) -> list[Work]:
        """On the disk, with and without durability; for some with what the disk itself does."""
        large = CurlUpload(self._file(1024 * MIB))
        limits = {
            "put-1g": (*self._entries([GoServer], self._disk, large), Entry(DISK, self._disk_write)),
            "put-1k": (
                Entry(DISK, self._disk_creations),
                Entry(f"{DISK}, a folder each", partial(self._disk_creations, own_folders=True)),
            ),
        }
        works = []
        for name, title, columns, load in self._uploads():
            entries = (*self._entries(ON_DISK, self._disk, load), *limits.get(name, ()))
            baseline = DISK if name in limits else "hmacfs"
            works.append(Work(f"{name}-fsync", f"{title}, to disk", columns, baseline, entries))
        return works

    def _uploads(self) -> list[tuple[str, str, tuple[str, ...], Load]]:
        return [
            ("put-1g", "PUT 1 GiB, one stream", _BIG, CurlUpload(self._file(1024 * MIB))),
            ("put-8x32m", "PUT 32 MiB, 8 streams", _BIG, CurlUpload(self._file(32 * MIB), streams=8, each=4)),
            ("put-1m", "PUT 1 MiB, 16 connections", _SMALL, self._wrk_upload(MIB, 16)),
            ("put-64k", "PUT 64 KiB, 32 connections", _SMALL, self._wrk_upload(64 * 1024, 32)),
            ("put-1k", "PUT 1 KiB, 32 connections", _SMALL, self._wrk_upload(1024, 32)),
        ]

    def _several(self) -> Work:
        """A file system creates files one after the other in one folder: several stores are what shows the rest."""
        load = self._wrk_upload(1024, 8)
        kinds = (DurableHmacfs, Hmacfs, GoServer)
        entries = tuple(Entry(kind.name, partial(self._measure_together, kind, load)) for kind in kinds)
        title = f"PUT 1 KiB, {STORES_AT_ONCE} servers with a store each, 8 connections each, to disk"
        return Work("put-1k-stores", title, _SMALL, "go", entries)

    def _pieces(self) -> list[Work]:
        source, film = self._file(64 * MIB), self._file(200 * MIB)
        parts = split(source, MIB)
        plain = Entry("without", partial(self._measure, SqliteSessions, self._ram, WholeFiles(parts)))
        by_range = RangePieces(source, parts)
        whole = Entry("plain PUT", partial(self._measure, SqliteSessions, self._ram, CurlUpload(film)))
        by_tus = TusPieces(film, split(film, 8 * MIB))
        tus = Entry("tus", partial(self._measure, SqliteSessions, self._ram, by_tus))
        columns = ("per_s", "mean_ms", "gb_per_s", "cpu_ms")
        return [
            Work(
                "pieces",
                "64 pieces of 1 MiB in a session, by where it is remembered",
                columns,
                plain.name,
                (plain, *self._entries(STORES, self._ram, by_range)),
            ),
            Work("tus", "200 MiB by tus in pieces of 8 MiB", _BIG, whole.name, (whole, tus)),
        ]

    def _latency(self) -> Work:
        entries = self._entries(ALL, self._ram, self._wrk_upload(1024, 1))
        return Work("latency", "PUT 1 KiB, one after the other", _LATENCY, "go", entries)

    def _idle(self) -> Work:
        load = self._wrk_upload(1024, 32)
        entries = [Entry(kind.name, partial(self._with_idle, kind, load)) for kind in (*SEVERAL, *self._kinds_before)]
        title = f"PUT 1 KiB, 32 connections, beside {IDLE_CONNECTIONS:,} idle ones"
        return Work("idle", title, ("per_s", "share", "p99_ms", "peak_mib", "pss_mib"), "go", tuple(entries))

    def _slow_and_fast(self) -> Work:
        load = self._wrk_upload(64 * 1024, 8)
        kinds: tuple[type[Contender], ...] = (Hmacfs, GoServer, *self._kinds_before)
        entries = tuple(Entry(kind.name, partial(self._with_slow, kind, load)) for kind in kinds)
        title = f"PUT 64 KiB, 8 connections, beside {SLOW_CLIENTS} slow transfers"
        return Work("slow-and-fast", title, ("per_s", "share", "p99_ms", "cpu_ms", "peak_mib"), "go", entries)

    def _throttled(self) -> list[Work]:
        """What counts is what keeping to a rate costs, and that the rate is used."""
        source = self._file(32 * MIB)
        limits = {"MaxBytesPerSecond": THROTTLED_RATE, "DownloadMaxBytesPerSecond": THROTTLED_RATE}
        trees = {kind.name: kind.tree for kind in (Hmacfs, *self._kinds_before)}
        kinds = [variant(name, tree=tree, settings=limits) for name, tree in trees.items()]
        columns = ("cpu_per_gb", "gb_per_s", "peak_mib", "pss_mib")
        loads: list[tuple[str, str, Load]] = [
            ("put", "PUT", CurlUpload(source, streams=THROTTLED_STREAMS)),
            ("get", "GET", CurlDownload(source, streams=THROTTLED_STREAMS)),
        ]
        return [
            Work(
                f"throttled-{name}",
                f"{title} 32 MiB, {THROTTLED_STREAMS} streams of {THROTTLED_RATE} per second each",
                columns,
                kinds[-1].name,
                self._entries(kinds, self._ram / "throttled", load),
            )
            for name, title, load in loads
        ]

    def _instructions(self) -> Work:
        trees = {Hmacfs.name: ROOT} | ({BEFORE: self._before} if self._before else {})
        entries = tuple(Entry(name, partial(_instructions_of, tree)) for name, tree in trees.items())
        title = "Instructions of a small request, outside of the kernel"
        return Work("instructions", title, tuple(INSTRUCTIONS.values()), entries[-1].name, entries, rounds=1)

    def _memory(self) -> Work:
        entries = [Entry(kind.name, partial(self._memory_of, kind)) for kind in ALL]
        title = "Resident memory: idle, and its growth by an upload of 2 GiB"
        return Work("memory", title, ("idle_mib", "growth_mib", "idle_pss_mib"), "go", tuple(entries))

    def _start(self) -> Work:
        kinds = (Hmacfs, GoServer, FlaskView, *self._kinds_before)
        entries = tuple(Entry(kind.name, partial(self._start_of, kind)) for kind in kinds)
        return Work("start", "From the start to the first answer", ("start_s",), "go", entries)

    def _start_of(self, kind: type[Contender], _seconds: int) -> Sample:
        """Of an instance that ran before: see ``seconds_to_answer``."""
        contender = kind(self._ram / f"{kind.name}-started")
        try:
            contender.start()
            contender.stop()
            return {"start_s": seconds_to_answer(contender)}
        finally:
            contender.stop()

    def _attacked(self) -> Work:
        every = list(attacks.ATTACKS)
        entries = [Entry(name, partial(self._under, [name])) for name in every]
        entries = [
            Entry("nobody", partial(self._under, [])),
            *entries,
            Entry("all at once", partial(self._under, every)),
        ]
        title = "PUT 1 MiB, one a second, while others attack from other addresses"
        return Work("attack", title, ("p99_ms", "p50_ms", "refused", "tries"), "nobody", tuple(entries))

    def _under(self, wanted: list[str], seconds: int) -> Sample:
        """With a new instance, so that nothing is left of another attack."""
        contender = ShippedHmacfs(self._ram / ShippedHmacfs.name)
        try:
            contender.start()
            target = attacks.Target(contender.port, contender.metrics_port, SECRET)
            with attacks.under(wanted, target) as tries:
                sample = honest.uploads(contender.port, SECRET, self._file(MIB), names(seconds), seconds)
            contender.require_running()
        finally:
            contender.stop()
            shutil.rmtree(contender.folder, ignore_errors=True)
        if idle := [name for name in wanted if not tries[name]]:
            raise LoadFailed(f"nothing was tried: {', '.join(idle)}")
        return sample | {"tries": float(sum(tries.values()))}

    def _million(self) -> list[Work]:
        works = []
        for kind, durability in ((DurableHmacfs, "durable"), (Hmacfs, "not durable")):
            load = self._wrk_upload(1024, 1)
            empty, filled = self._disk / "empty", self._disk / "filled"
            entries = (
                Entry("empty store", partial(self._measure, kind, empty, load)),
                Entry("filled store", partial(self._measure, kind, filled, load)),
            )
            title = f"PUT 1 KiB, one after the other, {durability}, into a store of {MANY_FILES:,} files"
            fill = partial(_fill, filled / kind.name / "store")
            works.append(Work(f"million-{kind.name}", title, _LATENCY, "empty store", entries, fill))
        return works

    def _entries(self, kinds: Iterable[type[Contender]], place: Path, load: Load) -> tuple[Entry, ...]:
        return tuple(Entry(kind.name, partial(self._measure, kind, place, load)) for kind in kinds)

    def _measure(self, kind: type[Contender], place: Path, load: Load, seconds: int) -> Sample:
        if place != self._ram:
            stores.sync(self._disk)
        return measure(self._fleet.get(kind, place), load, seconds)

    def _with_idle(self, kind: type[Contender], load: Load, seconds: int) -> Sample:
        contender = self._fleet.get(kind, self._ram)
        without = measure(contender, load, seconds)
        name = next(names(1, filename="avatar.png"))
        source = self._file(1024)
        stores.put_in(contender.store, name, source)
        with idle_connections(contender.port, f"{PREFIX}{name}", IDLE_CONNECTIONS):
            beside = measure(contender, load, seconds)
        stores.take_out(contender.store, [name], source)
        return beside | {"share": beside["per_s"] / without["per_s"]}

    def _with_slow(self, kind: type[Contender], load: Load, seconds: int) -> Sample:
        contender = self._fleet.get(kind, self._ram)
        without = measure(contender, load, seconds)
        source = self._file(64 * MIB)
        size = source.stat().st_size
        read, *written = names(1 + SLOW_CLIENTS // 2, seed=2, filename="film.mp4")
        stores.put_in(contender.store, read, source)
        uploads = [signed_path(SECRET, name, size) for name in written]
        with slow_clients(contender.port, [f"{PREFIX}{read}"] * (SLOW_CLIENTS // 2), uploads, size):
            beside = measure(contender, load, seconds)
        contender.wait_until_idle()
        stores.take_out(contender.store, [read, *written], source)
        return beside | {"share": beside["per_s"] / without["per_s"]}

    def _measure_together(self, kind: type[Contender], load: Load, seconds: int) -> Sample:
        stores.sync(self._disk)
        contenders = [self._fleet.get(kind, self._disk / f"store-{number}") for number in range(STORES_AT_ONCE)]
        return measure_together(contenders, load, seconds)

    def _memory_of(self, kind: type[Contender], seconds: int) -> Sample:
        """Of a new instance, which has served one small upload and download."""
        contender = kind(self._ram / f"{kind.name}-fresh")
        try:
            contender.start()
            contender.wait_until_idle()
            idle = contender.usage()
            large = sparse_file(self._material, 2048 * MIB)
            busy = measure(contender, CurlUpload(large), seconds)
        finally:
            contender.stop()
        return {
            "idle_mib": idle.rss / MIB,
            "growth_mib": busy["peak_mib"] - idle.rss / MIB,
            "idle_pss_mib": idle.pss / MIB,
        }

    def _disk_write(self, _seconds: int) -> Sample:
        stores.sync(self._disk)
        return {"gb_per_s": 1024 * MIB / 1e9 / disk.synced_write(self._disk, 1024 * MIB)}

    def _disk_creations(self, seconds: int, *, own_folders: bool = False) -> Sample:
        stores.sync(self._disk)
        levels = disk.THREADS[1::2] if self._quick else disk.THREADS
        span = seconds / len(levels)
        rates = [disk.synced_creations(self._disk, level, span, own_folders=own_folders) for level in levels]
        rate = disk.best(rates)
        return {"per_s": rate.per_second, "threads": rate.threads}

    def _file(self, size: int) -> Path:
        return random_file(self._material, size)

    def _wrk_download(self, size: int, connections: int, *, count: int = 1) -> WrkDownload:
        return WrkDownload(self._file(size), self._material, connections=connections, count=count)

    def _wrk_upload(self, size: int, connections: int) -> WrkUpload:
        return WrkUpload(self._file(size), self._material, connections=connections, longest=self._longest)


def _fill(store: Path) -> None:
    store.mkdir(parents=True, exist_ok=True)
    stores.fill(store, MANY_FILES)


def _instructions_of(tree: Path, _seconds: int) -> Sample:
    figures = instructions.count(tree, instructions.REQUESTS)
    return {INSTRUCTIONS[name]: figure for name, figure in figures.items()}


def select_for(works: Sequence[Work], targets: Sequence[Comparison]) -> list[Work]:
    """Those works that the targets are about, with those entries alone."""
    wanted = {(target.work, name) for target in targets for name in (target.entry, target.against)}
    chosen = []
    for work in works:
        entries = tuple(entry for entry in work.entries if (work.name, entry.name) in wanted)
        if entries:
            baseline = work.baseline if work.baseline in [entry.name for entry in entries] else entries[0].name
            chosen.append(work._replace(entries=entries, baseline=baseline))
    return chosen


def select(works: Sequence[Work], wanted: Sequence[str]) -> list[Work]:
    """The works with these names, all if there are none. Raises ``ValueError`` with the names there are."""
    unknown = set(wanted) - {work.name for work in works}
    if unknown:
        raise ValueError(f"no such work: {', '.join(sorted(unknown))}; there are {', '.join(w.name for w in works)}")
    return [work for work in works if not wanted or work.name in wanted]
