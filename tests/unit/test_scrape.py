"""The files of the metrics: folding those of processes that ended, damage, full disks."""

from __future__ import annotations

import gzip
import shutil
import struct
import threading
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, values
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from hmacfs.system import processes
from hmacfs.telemetry import value_files as files
from hmacfs.telemetry.metrics import Metrics
from hmacfs.telemetry.sampler import Sampler
from hmacfs.telemetry.scrape import CounterMerge, ProcessCollector, Scrapes

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


def test_where_there_is_no_room_values_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    (tmp_path / "file").touch()
    files.ValueFiles(tmp_path / "file" / "missing")
    assert values.ValueClass is values.MutexValue
    Metrics(CollectorRegistry(), transfers="/upload/<path>")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_have_room_for_all_that_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    files.ValueFiles(tmp_path)
    sizes = {path: path.stat().st_size for path in tmp_path.iterdir()}
    metrics = Metrics(CollectorRegistry(), transfers="/upload/<path>")
    metrics.set_sessions({"open": 1, "finished": 1, "aborted": 1})
    metrics.set_session_stores("redis", {"redis": True, "postgres": True})
    metrics.set_rate_limit_store("redis", is_up=True)
    assert {path: path.stat().st_size for path in tmp_path.iterdir()} == sizes
    assert all(path.stat().st_blocks * 512 >= size for path, size in sizes.items())


def test_sampling_goes_on_after_a_purge_that_came_before_the_first_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    folder = tmp_path / "metrics"
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    files.ValueFiles(folder)
    metrics = Metrics(CollectorRegistry(), transfers="/upload/<path>")
    stores = ("SQLite", {"SQLite": True})
    sampler = Sampler(
        metrics, uploads=int, stores=lambda: stores, rates_are_shared=None, sessions=dict, lock=tmp_path / "lock"
    )
    shutil.rmtree(folder)

    def sleep(_: float) -> None:
        folder.mkdir()  # the second time it is there: FileExistsError

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(FileExistsError):
        sampler.sample_forever(int, 2)
    assert (folder / f"gauge_livemax_{processes.current()}.db").exists()


def test_all_scrapes_of_a_second_are_answered_alike(tmp_path: Path) -> None:
    """In each form that was asked for; and it is looked only once."""
    now, looks = [100.0], []

    def workers() -> tuple[int, int]:
        looks.append(now[0])
        return len(looks), 0

    scrapes = Scrapes(CounterMerge(tmp_path), ProcessCollector(tmp_path, workers), clock=lambda: now[0])
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
