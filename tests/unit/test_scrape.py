"""The files of the metrics: folding those of processes that ended, damage, full disks."""

from __future__ import annotations

import gzip
import shutil
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, values
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from hmacfs.system import processes
from hmacfs.telemetry import value_files as files
from hmacfs.telemetry.events import RequestFinished
from hmacfs.telemetry.metrics import DURATION_BUCKETS, Metrics
from hmacfs.telemetry.sampler import Sampler
from hmacfs.telemetry.scrape import CounterMerge, ProcessCollector, Scrapes

ROUTE = "/upload/<path>"

#: One that lives with the number of the process that the tests run in, but started at another time; and one that lives.
DEAD, ALIVE = f"{processes.current().pid}-1", str(processes.current())


def write(folder: Path, process: str, value: float, kind: str = "counter") -> Path:
    path = folder / f"{kind}_{process}.db"
    content = MmapedDict(str(path))
    content.write_value(mmap_key("uploads", "uploads_total", ["path"], ["/é"], "Uploads."), value, 0.0)
    content.close()
    return path


def total(folder: Path) -> float:
    return sum(sample.value for metric in CounterMerge(folder).collect() for sample in metric.samples)


def test_counts_of_the_dead_are_folded_once(tmp_path: Path) -> None:
    write(tmp_path, DEAD, 5)
    write(tmp_path, "999999999-3", 7)
    write(tmp_path, ALIVE, 11)
    for _ in range(3):
        assert total(tmp_path) == 23
    assert sorted(path.name for path in tmp_path.glob("counter_*")) == ["counter_0.db", f"counter_{ALIVE}.db"]


def test_gauges_of_the_dead_are_dropped_though_their_number_is_in_use(tmp_path: Path) -> None:
    write(tmp_path, DEAD, 5, "gauge_livesum")
    write(tmp_path, ALIVE, 11, "gauge_livesum")
    assert total(tmp_path) == 11


def test_a_scrape_and_a_fold_in_the_background_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of a file, as POSIX has them, keep no thread of the same process out."""
    meeting = threading.Barrier(2)
    met: list[int] = []

    def fold_ended(_: CounterMerge) -> None:
        try:
            met.append(meeting.wait(timeout=0.1))
        except threading.BrokenBarrierError:
            meeting.reset()

    monkeypatch.setattr(CounterMerge, "_fold_ended", fold_ended)
    threads = [
        threading.Thread(target=CounterMerge(tmp_path).fold),
        threading.Thread(target=CounterMerge(tmp_path).collect),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met == []


@pytest.mark.parametrize("is_counted", [False, True])
def test_a_fold_that_was_broken_off_counts_nothing_twice(tmp_path: Path, *, is_counted: bool) -> None:
    write(tmp_path, "0", 100)
    path = write(tmp_path, DEAD, 5)
    kept = path.read_bytes()
    if is_counted:
        assert total(tmp_path) == 105
        path.write_bytes(kept)  # killed before it could be removed
    else:
        (tmp_path / "counter_0.draft").write_bytes(b"half")
    (tmp_path / "counter_0.added").write_text(path.name)
    assert total(tmp_path) == 105
    assert [path.name for path in tmp_path.glob("counter_*")] == ["counter_0.db"]


@pytest.mark.parametrize("where", ["0", DEAD], ids=["the sum", "a dead process"])
@pytest.mark.parametrize("damage", [b"", b"\xff\xff", struct.pack("ii", 4000, 0), b"\0" * 4096, b"\x7f" * 70000])
def test_a_damaged_file_costs_its_own_counts_only(tmp_path: Path, where: str, damage: bytes) -> None:
    (tmp_path / f"counter_{where}.db").write_bytes(damage)
    write(tmp_path, ALIVE, 11)
    write(tmp_path, "999999999-3", 7)
    assert total(tmp_path) == total(tmp_path) == 18
    for path in tmp_path.glob("counter_999999999-*"):
        path.unlink()
    (tmp_path / "counter_0.db").write_bytes(damage)
    assert total(tmp_path) == 11


@pytest.fixture(autouse=True)
def _value_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """prometheus_client's own again, after each test."""
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)


def metrics_in(folder: Path) -> tuple[Metrics, files.ValueFiles]:
    kept = files.ValueFiles(folder)
    return Metrics(CollectorRegistry(), kept, transfers=ROUTE), kept


def samples(folder: Path) -> dict[tuple[str, str], float]:
    """What a scrape finds, but for what is 0: by name, and the values of its labels."""
    found = (sample for metric in CounterMerge(folder).collect() for sample in metric.samples)
    return {(one.name, " ".join(sorted(one.labels.values()))): one.value for one in found if one.value}


def finished(method: str, status: int, reason: str = "", **facts: Any) -> RequestFinished:
    event = RequestFinished("id", "::1", method, f"{ROUTE}/a", ROUTE, status, reason, 0, 0, 0.003, stored=False)
    return event._replace(**facts)


def test_what_each_request_counts(tmp_path: Path) -> None:
    metrics, _ = metrics_in(tmp_path)
    for _ in range(2):
        metrics(finished("PUT", 201, received=1024, stored=True))
    metrics(finished("PATCH", 204, received=512, seconds=9000.0))
    metrics(finished("PUT", 403, "bad-signature", received=10))
    metrics(finished("GET", 200, sent=4096))
    metrics(finished("GET", 206, "answer-cut-short", sent=100))
    metrics(finished("GET", 304))
    metrics(finished("GET", 404, "not-found", sent=300))
    metrics(finished("BREW", 405, "method-not-allowed"))
    metrics(finished("GET", 200, route="/healthz", sent=3))
    assert {key: count for key, count in samples(tmp_path).items() if "le" not in key and "bucket" not in key[0]} == {
        ("http_requests_total", f"{ROUTE} PUT"): 3,
        ("http_requests_total", f"{ROUTE} PATCH"): 1,
        ("http_requests_total", f"{ROUTE} GET"): 4,
        ("http_requests_total", f"{ROUTE} other"): 1,
        ("http_requests_total", "/healthz GET"): 1,
        ("hmacfs_http_responses_total", "201 PUT"): 2,
        ("hmacfs_http_responses_total", "204 PATCH"): 1,
        ("hmacfs_http_responses_total", "403 PUT"): 1,
        ("hmacfs_http_responses_total", "200 GET"): 2,
        ("hmacfs_http_responses_total", "206 GET"): 1,
        ("hmacfs_http_responses_total", "304 GET"): 1,
        ("hmacfs_http_responses_total", "404 GET"): 1,
        ("hmacfs_http_responses_total", "405 other"): 1,
        ("hmacfs_refusals_total", "signature"): 1,
        ("file_server_upload_errors_total", "bad-signature"): 1,
        ("file_server_download_errors_total", "not-found"): 1,
        ("file_server_download_errors_total", "answer-cut-short"): 1,
        ("hmacfs_uploads_total", ""): 2,
        ("hmacfs_upload_bytes_total", ""): 2 * 1024 + 512 + 10,
        ("hmacfs_downloads_total", ""): 1,
        ("hmacfs_download_bytes_total", ""): 4196,
        ("file_server_upload_duration_seconds_sum", ""): 9000.006,
        ("file_server_upload_duration_seconds_count", ""): 3,
        ("file_server_download_duration_seconds_sum", ""): 0.003,
        ("file_server_download_duration_seconds_count", ""): 1,
    }


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.0011, 7200.0, 7201.0])
def test_a_duration_is_in_the_bucket_that_prometheus_client_would_choose(tmp_path: Path, seconds: float) -> None:
    metrics, _ = metrics_in(tmp_path)
    metrics(finished("PUT", 201, seconds=seconds))
    name = "file_server_upload_duration_seconds_bucket"
    buckets = {float(le): count for (found, le), count in samples(tmp_path).items() if found == name}
    assert buckets == {bound: 1 for bound in (*DURATION_BUCKETS, float("inf")) if seconds <= bound}


def test_where_there_is_no_room_values_stay_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    metrics, kept = metrics_in(tmp_path / "file" / "missing")
    metrics(finished("PUT", 201, stored=True))
    metrics.connections.set(3)
    kept.repair()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_have_room_for_all_that_is_counted(tmp_path: Path) -> None:
    metrics, _ = metrics_in(tmp_path)
    sizes = {path: path.stat().st_size for path in tmp_path.iterdir()}
    metrics.set_sessions({"open": 1, "finished": 1, "aborted": 1})
    metrics.set_session_stores("redis", {"redis": True, "postgres": True})
    metrics.set_rate_limit_store("redis", is_up=True)
    assert {path: path.stat().st_size for path in tmp_path.iterdir()} == sizes
    assert all(path.stat().st_blocks * 512 >= size for path, size in sizes.items())


def test_a_file_that_is_full_takes_no_further_label(tmp_path: Path) -> None:
    """It is not enlarged: a full disk kills a process that writes to a hole of a mapped file."""
    memory = files.ValueMemory(1024, tmp_path / "counter_1.db")

    def count(path: str) -> None:
        memory.cells[memory.place(mmap_key("uploads", "uploads_total", ["path"], [path], "Uploads."))] += 1

    count("a")
    with pytest.raises(OSError, match="no room for another label"):
        count("b" * 1024)
    count("c")
    assert (tmp_path / "counter_1.db").stat().st_size == 1024
    assert samples(tmp_path) == {("uploads_total", "a"): 1, ("uploads_total", "c"): 1}


def test_a_process_goes_on_with_the_file_that_it_has_made(tmp_path: Path) -> None:
    for _ in range(2):
        metrics, _ = metrics_in(tmp_path)
        metrics(finished("PUT", 201, stored=True))
    assert samples(tmp_path)["hmacfs_uploads_total", ""] == 2


def test_files_that_were_removed_are_made_again_with_what_was_counted_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "metrics"
    metrics, kept = metrics_in(folder)
    stores = ("SQLite", {"SQLite": True})
    sampler = Sampler(
        metrics, uploads=int, stores=lambda: stores, rates_are_shared=None, sessions=dict, lock=tmp_path / "lock"
    )
    metrics(finished("PUT", 201, stored=True))
    shutil.rmtree(folder)
    metrics(finished("PUT", 201, stored=True))
    sampler.sample(3, 2)  # the first values of their kinds
    kept.repair()
    kept.repair()
    assert caplog.messages == ["the files of this process's metrics were removed: made again"]
    metrics(finished("PUT", 201, stored=True))
    found = samples(folder)
    assert found["hmacfs_uploads_total", ""] == found["file_server_upload_duration_seconds_count", ""] == 3
    assert found["active_connections_total", ""] == 3
    assert found["hmacfs_session_store_active", "SQLite"] == 1


def test_all_scrapes_of_a_second_are_answered_alike(tmp_path: Path) -> None:
    """In each form that was asked for; and it is looked only once."""
    now, looks = [100.0], []

    def workers() -> tuple[int, int]:
        looks.append(now[0])
        return len(looks), 0

    scrapes = Scrapes(CounterMerge(tmp_path), ProcessCollector("hmacfs_store", tmp_path, workers), clock=lambda: now[0])
    plain = scrapes.render("", "")
    for accept in ("", "application/openmetrics-text", *(f"text/plain;version=1.0.{number}" for number in range(50))):
        text = scrapes.render(accept, "")[1]
        assert b"\nhmacfs_workers 1.0\n" in text
        assert gzip.decompress(scrapes.render(accept, "br, gzip")[1]) == text
    assert scrapes.render("", "") == plain
    assert looks == [100.0]
    now[0] = 101.0
    assert b"\nhmacfs_workers 2.0\n" in scrapes.render("", "")[1]
    assert looks == [100.0, 101.0]
