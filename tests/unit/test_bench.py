"""The pure parts of the benchmark: what it signs, how it reads what programs print, and how it judges."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from bench import curl, disk, facts, processes, report, s3_works, stores, works
from bench.contenders import Contender, Hmacfs, Unavailable, shipped_site, variant
from bench.contenders_tls import Certificate, with_tls
from bench.fleet import Fleet
from bench.material import sparse_file
from bench.metrics import METRICS, Sample
from bench.names import UploadList, names, signed_path
from bench.outcome import LoadFailed, Outcome
from bench.proxied import shipped_haproxy
from bench.requests import kinds
from bench.results import Results, Verdict, WorkResult, judge
from bench.rounds import Rounds
from bench.s3_clients import elapsed
from bench.slow import slow_clients
from bench.start import seconds_to_answer
from bench.targets import S3_TABLE, TABLE, TARGETS, Comparison
from bench.works import Entry, Work, Workshop, select, select_for
from bench.wrk import WrkResult

if TYPE_CHECKING:
    from bench.object_store import Engine

DEPLOY = Path(__file__).parents[2] / "deploy"
# docs/protocol.md, section 2, scheme v
VECTOR_SECRET = "a-horse-is-a-horse-even-is-a-jet"
VECTOR_NAME = "9f1c2d3e-4b5a-4c6d-8e7f-0a1b2c3d4e5f/photo.jpg"
VECTOR_MAC = "325f6a670a2eadef1a1642aa8ac29e9fc0b8ba8e00ac365207dda882702e2594"


def test_signed_paths_are_those_of_the_protocol() -> None:
    assert signed_path(VECTOR_SECRET, VECTOR_NAME, 1048576) == f"/upload/{VECTOR_NAME}?v={VECTOR_MAC}"


def test_names_look_like_those_of_xmpp_servers_and_never_repeat() -> None:
    some = list(names(1000))
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/photo\.jpg", name) for name in some)
    assert len(set(some)) == 1000
    assert list(names(1000)) == some
    assert set(names(1000, seed=1)).isdisjoint(some)


def test_the_threads_share_the_list_of_uploads(tmp_path: Path) -> None:
    paths = UploadList(tmp_path / "list", "secret", 7, threads=2, count=5)
    lines = [(tmp_path / f"list.{thread}").read_text().splitlines() for thread in range(2)]
    assert [len(mine) for mine in lines] == [3, 2]
    assert lines[1] == [signed_path("secret", name, 7) for name in paths.by_thread[1]]
    assert {name for mine in paths.by_thread for name in mine} == set(names(5))


def test_wrks_result_is_found_after_its_own_words() -> None:
    output = (
        "Running 1s test\n  9 requests in 1.00s\n"
        '\nRESULT {"requests": 9, "bytes": 99, "microseconds": 1500000, "refused": 0, "broken": 0, "p50": 250, "p99": 4000}\n'
    )
    assert WrkResult.parse(output).outcome(1000) == Outcome(1.5, 9, 9000, 0.00025, 0.004)


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        ("", "no result"),
        ('\nRESULT {"requests": 9, "bytes": 9, "microseconds": 1, "refused": 2, "broken": 0, "p50": 0, "p99": 0}', "2 refused"),
        ('\nRESULT {"requests": 9, "bytes": 9, "microseconds": 1, "refused": 0, "broken": 3, "p50": 0, "p99": 0}', "3 broken"),
        ('\nRESULT {"requests": 0, "bytes": 0, "microseconds": 1, "refused": 0, "broken": 0, "p50": 0, "p99": 0}', "0 answers"),
    ],
)  # fmt: skip
def test_a_load_with_a_wrong_answer_does_not_count(result: str, complaint: str) -> None:
    with pytest.raises(LoadFailed, match=complaint):
        WrkResult.parse(f"unable to connect\n{result}")


def test_curls_transfers() -> None:
    assert curl.parse("201 1024 0 0.001500\n404 0 9 2.0\n") == [
        curl.Transfer(201, 1024, 0, 0.0015),
        curl.Transfer(404, 0, 9, 2.0),
    ]


def test_processor_time_is_read_after_any_program_name() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    fields = "S 1 40 40 0 -1 4194560 1 2 3 4 100 20 3 1 20 0 1 0 99 1 1"
    assert processes.parse_stat(f"41 (a) b (c) {fields}") == processes.Stat(40, 124 / ticks)


def test_sizes_of_a_process() -> None:
    text = "Name:\tx: 5 kB\nVmHWM:\t   2048 kB\nVmRSS:\t 1024 kB\nThreads:\t3\n"
    assert processes.parse_sizes(text) == {"VmHWM": 2048 * 1024, "VmRSS": 1024 * 1024}


def test_what_a_session_uses_can_be_seen() -> None:
    program = "sum(range(3_000_000)); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        used = processes.usage([leader.pid])
        assert used.peak >= used.rss > used.pss > 0
        assert processes.cpu_seconds([leader.pid]) >= used.cpu_seconds > 0
        leader.communicate(b"\n", timeout=30)


def test_stored_files_are_counted_compared_and_removed(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(os.urandom(5000))
    store = tmp_path / "store"
    expected = list(names(10))
    for name in expected[:6]:
        stores.put_in(store, name, body)
    for index, content in ((0, os.urandom(5000)), (3, body.read_bytes()[:-1])):
        (store / expected[index]).unlink()
        (store / expected[index]).write_bytes(content)
    assert stores.take_out(store, expected, body) == stores.Stored(4, 2)
    assert list(store.iterdir()) == []


def test_counting_stops_where_the_stored_files_end(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"x")
    expected = list(names(10))
    for index in (0, 2, 6):
        stores.put_in(tmp_path, expected[index], body)
    assert stores.take_out(tmp_path, expected, body, gap=2) == stores.Stored(2, 0)
    assert (tmp_path / expected[6]).exists()


def test_a_store_is_filled_as_xmpp_servers_do(tmp_path: Path) -> None:
    stores.fill(tmp_path, 30)
    folders = list(tmp_path.iterdir())
    assert len(folders) == 30
    assert all([path.name for path in folder.iterdir()] == ["photo.jpg"] for folder in folders)


def test_the_disks_rate_is_that_of_real_files(tmp_path: Path) -> None:
    for own_folders in (False, True):
        rate = disk.synced_creations(tmp_path, 2, 0.1, own_folders=own_folders)
        assert rate.threads == 2
        assert rate.per_second > 0
    assert disk.synced_write(tmp_path, 2**20) > 0
    assert list(tmp_path.iterdir()) == []
    assert disk.best([disk.Rate(1, 5.0), disk.Rate(8, 7.0), disk.Rate(32, 6.0)]) == disk.Rate(8, 7.0)


def work_result(**samples: list[Sample]) -> WorkResult:
    return WorkResult("put", "PUT", ["per_s", "p50_ms"], "go", samples)


def test_medians_and_ratios_leave_out_what_failed() -> None:
    """A ratio is the median of those within a round, not the medians' own."""
    work = work_result(
        ours=[{"per_s": 10.0}, {}, {"per_s": 30.0}, {"per_s": 20.0}],
        go=[{"per_s": 40.0}, {"per_s": 50.0}, {"per_s": 45.0}, {"per_s": 80.0}],
    )
    assert work.median("ours", "per_s") == 20.0
    assert work.median("ours", "p50_ms") is None
    assert work.median("nobody", "per_s") is None
    assert work.ratio("ours", "go", "per_s") == pytest.approx(0.25)
    assert work.ratios("ours", "go", "per_s") == pytest.approx([0.25, 30 / 45, 0.25])
    assert work.differences("ours", "go", "per_s") == pytest.approx([-30.0, -15.0, -60.0])
    assert work.ratio("ours", "nobody", "per_s") is None
    assert work.ratios("ours", "nobody", "per_s") == []


@pytest.mark.parametrize(
    ("target", "value", "reached"),
    [
        (Comparison("", "put", "ours", "per_s", 0.5, "go"), 0.5, True),
        (Comparison("", "put", "ours", "per_s", 0.51, "go"), 0.5, False),
        (Comparison("", "put", "ours", "p50_ms", 0.7, "go"), 0.6, True),
        (Comparison("", "put", "ours", "p50_ms", 0.5, "go"), 0.6, False),
        (Comparison("", "put", "ours", "p50_ms", 6.0), 6.0, True),
        (Comparison("", "put", "ours", "p50_ms", 5.9), 6.0, False),
        (Comparison("", "put", "ours", "p99_ms", 1.0), None, None),
        (Comparison("", "put", "ours", "per_s", None, "go"), 0.5, None),
        (Comparison("", "other", "ours", "per_s", 1.0, "go"), None, None),
    ],
)
def test_a_target_is_a_lower_or_an_upper_bound_after_its_metric(
    target: Comparison, value: float | None, reached: bool | None
) -> None:
    work = work_result(ours=[{"per_s": 5.0, "p50_ms": 6.0}], go=[{"per_s": 10.0, "p50_ms": 10.0}])
    verdict = judge(Results({}, [work]), [target])[0]
    assert verdict.value == (pytest.approx(value) if value is not None else None)
    assert verdict.reached is reached


def test_a_difference_is_of_each_round() -> None:
    work = work_result(ours=[{"p50_ms": 5.0}, {"p50_ms": 7.0}, {"p50_ms": 6.0}], go=[{"p50_ms": 4.0}] * 3)
    target = Comparison("more", "put", "ours", "p50_ms", 1.5, "go", is_difference=True)
    (verdict,) = judge(Results({}, [work]), [target])
    assert (verdict.value, verdict.spread, verdict.reached) == (2.0, (1.0, 3.0), False)
    assert verdict.medians == (6.0, 4.0)


def test_a_run_of_object_stores_is_judged_by_its_own_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_works, "random_file", sparse_file)
    workshop = s3_works.S3Workshop(Fleet(), cast("Engine", None), tmp_path, longest=1)
    everything = workshop.works()
    assert all(metric in METRICS for work in everything for metric in work.columns)
    assert all(work.baseline in [entry.name for entry in work.entries] for work in everything)
    measured = {(work.name, entry.name) for work in everything for entry in work.entries}
    for target in S3_TABLE:
        assert (target.work, target.entry) in measured, target.text
        assert target.against is None or (target.work, target.against) in measured, target.text
    of_s3, of_others = Results({"engine": "SeaweedFS"}), Results({})
    assert [verdict.text for verdict in judge(of_s3)] == [
        target.text for target in S3_TABLE if target.bound is not None
    ]
    assert [verdict.text for verdict in judge(of_others)] == [target.text for target in TARGETS]


def test_rclone_s_own_time_is_the_last_that_it_tells() -> None:
    log = """{"level":"info","msg":"Copied (new)","stats":{"elapsedTime":0.5}}
{"level":"info","msg":"the end","stats":{"bytes":5,"elapsedTime":1.25}}
not JSON
{"level":"info","msg":"no figures"}"""
    assert elapsed(log) == 1.25
    assert elapsed("Failed to copy") == 0.0


def test_what_has_no_bound_is_shown_and_not_judged() -> None:
    work = work_result(ours=[{"per_s": 5.0}], go=[{"per_s": 10.0}])
    verdicts = judge(Results({}, [work]), [Comparison("shown", "put", "ours", "per_s", None, "go")])
    assert "shown" in report.summary_table(verdicts)
    assert all(target.bound is not None for target in TARGETS)


def test_targets_name_what_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(works, "random_file", sparse_file)
    monkeypatch.setattr(works, "split", lambda source, _size: [source])
    workshop = Workshop(Fleet(), tmp_path, tmp_path, longest=1, quick=True, before=tmp_path)
    everything = workshop.works(full=True)
    assert len({work.name for work in everything}) == len(everything)
    assert all(metric in METRICS for work in everything for metric in work.columns)
    assert all(work.baseline in [entry.name for entry in work.entries] for work in everything)
    measured = {(work.name, entry.name) for work in everything for entry in work.entries}
    for target in TARGETS:
        assert (target.work, target.entry) in measured, target.text
        assert target.against is None or (target.work, target.against) in measured, target.text
        assert target.metric in METRICS
    assert {kind.name for kind in kinds()} == set(works.INSTRUCTIONS)
    chosen = select_for(everything, TABLE)
    assert {work.name for work in chosen} == {target.work for target in TABLE}


def test_results_survive_their_file(tmp_path: Path) -> None:
    results = Results({"cores": 2}, [work_result(ours=[{"per_s": 5.0}, {}])], ["put, go, round 1: refused"])
    results.write(tmp_path / "new" / "results.json")
    assert Results.read(tmp_path / "new" / "results.json") == results


def test_tables_are_aligned_markdown() -> None:
    assert report.table(["", "per s"], [["ours", "5"], ["go", "1,000"]]).splitlines() == [
        "|      | per s |",
        "|------|------:|",
        "| ours |     5 |",
        "| go   | 1,000 |",
    ]


def test_a_report_says_what_was_not_measured() -> None:
    work = work_result(ours=[{"per_s": 5000.0, "p50_ms": 0.5}], go=[{}])
    assert report.work_table(work).splitlines()[2:] == [
        "| ours | 5,000 |      0.50 |    - |",
        "| go   |     - |         - |    - |",
    ]
    verdicts = [
        Verdict("a", 1.5, True, 1.7, (1.6, 1.75), True),
        Verdict("b", 16.0, False, 20.0, None, False),
        Verdict("c", 1.0, True, None, None, None),
    ]
    lines = report.target_table(verdicts).splitlines()[2:]
    assert [re.split(r"\s*\|\s*", line)[1:-1] for line in lines] == [
        ["a", "at least 1.5", "1.70 (1.60 to 1.75)", "reached"],
        ["b", "at most 16", "20.00", "not reached"],
        ["c", "at least 1", "-", "not measured"],
    ]
    assert "- put, go, round 1: refused" in report.render(Results({}, [work], ["put, go, round 1: refused"]))


def test_the_summary_has_both_figures_and_no_verdict() -> None:
    work = work_result(
        ours=[{"per_s": 5000.0, "p50_ms": 0.5}, {"per_s": 6000.0}], go=[{"per_s": 4000.0}, {"per_s": 4000.0}]
    )
    targets = [
        Comparison("PUT", "put", "ours", "per_s", 1.0, "go"),
        Comparison("its latency", "put", "ours", "p50_ms", 1.0),
        Comparison("GET", "get", "ours", "per_s", 1.0, "go"),
    ]
    lines = report.summary_table(judge(Results({}, [work]), targets)).splitlines()[2:]
    assert [re.split(r"\s*\|\s*", line)[1:-1] for line in lines] == [
        ["PUT, per s", "5,500", "4,000", "1.38", "1.25 to 1.50"],
        ["its latency", "0.50", "-", "-", ""],
    ]


def test_rounds_take_turns_and_go_on_after_a_failure() -> None:
    calls: list[tuple[str, int]] = []

    def first(seconds: int) -> Sample:
        calls.append(("first", seconds))
        return {"per_s": float(len(calls))}

    def second(seconds: int) -> Sample:
        calls.append(("second", seconds))
        if len(calls) == 3:
            raise LoadFailed("a wrong\n answer")
        return {"per_s": float(len(calls))}

    entries = (Entry("first", first), Entry("second", second), Entry("third", lambda _: missing()))
    results, said = Results({}), list[str]()
    Rounds(2, 5, warm_up=True, say=said.append).run(Work("w", "title", ("per_s",), "go", entries), results)
    assert calls == [("first", 1), ("second", 1), ("second", 5), ("first", 5), ("first", 5), ("second", 5)]
    assert results.works[0].samples == {
        "first": [{"per_s": 4.0}, {"per_s": 5.0}],
        "second": [{}, {"per_s": 6.0}],
        "third": [],
    }
    assert results.problems == ["w, third: it is not installed", "w, second, round 1: a wrong answer"]
    assert said[0] == "title"
    assert len(said) == 7


def missing() -> Sample:
    raise Unavailable("it is not installed")


def test_a_work_may_need_fewer_rounds() -> None:
    results = Results({})
    entry = Entry("one", lambda _: {"per_s": 1.0})
    work = Work("w", "title", ("per_s",), "one", (entry,), rounds=1)
    Rounds(9, 1, warm_up=False, say=lambda _: None).run(work, results)
    assert results.works[0].samples == {"one": [{"per_s": 1.0}]}


def test_works_are_chosen_by_targets_with_the_entries_that_these_name() -> None:
    def entries(*names: str) -> tuple[Entry, ...]:
        return tuple(Entry(name, lambda _: {}) for name in names)

    everything = [
        Work("a", "", (), "go", entries("ours", "go", "flask")),
        Work("b", "", (), "go", entries("ours", "go")),
    ]
    targets = [Comparison("", "a", "ours", "per_s", 1.0, "flask"), Comparison("", "c", "ours", "per_s", 1.0)]
    (chosen,) = select_for(everything, targets)
    assert (chosen.name, [entry.name for entry in chosen.entries], chosen.baseline) == ("a", ["ours", "flask"], "ours")


def test_works_are_chosen_by_name() -> None:
    works = [Work(name, "", (), "", ()) for name in ("a", "b")]
    assert select(works, []) == works
    assert select(works, ["b"]) == works[1:]
    with pytest.raises(ValueError, match="no such work: c; there are a, b"):
        select(works, ["b", "c"])


def test_the_shipped_nginx_configuration_can_be_measured() -> None:
    text = (DEPLOY / "nginx.conf").read_text()
    site = shipped_site(text, port=81, socket=Path("/our/socket"), store=Path("/our/store"))
    assert "listen 127.0.0.1:81 " in site
    assert "server unix:/our/socket " in site
    assert re.search(r"^ +alias /our/store/;", site, re.MULTILINE)
    assert len(re.findall(r"^ +location /upload/ {", site, re.MULTILINE)) == 1
    with pytest.raises(Unavailable, match="does not look as expected"):
        shipped_site(text.replace("listen 80;", "listen 8080;"), port=81, socket=Path("/s"), store=Path("/d"))


def test_nginx_has_tls_where_it_listens() -> None:
    site = (Path(works.__file__).parent / "nginx-dav.conf").read_text()
    changed = with_tls(site, Certificate(Path("/chain"), Path("/key")))
    assert re.findall(r"^ +listen .* ssl;$", changed, re.MULTILINE)
    assert "ssl_certificate /chain;\n    ssl_certificate_key /key;\n" in changed


def test_the_shipped_haproxy_configuration_can_be_measured() -> None:
    text = (DEPLOY / "haproxy.cfg").read_text()
    changed = shipped_haproxy(text, port=81, upstream=82)
    assert "bind 127.0.0.1:81 " in changed
    assert set(re.findall(r"^ +server \w+ (\S+)", changed, re.MULTILINE)) == {"127.0.0.1:82"}
    assert not re.search(r"^ +log stdout", changed, re.MULTILINE)
    with pytest.raises(Unavailable, match="does not look as expected"):
        shipped_haproxy(text.replace("bind :80\n", "bind :8080\n"), port=81, upstream=82)


def test_a_variant_is_another_state_or_has_other_settings(tmp_path: Path) -> None:
    other = variant("before", tree=tmp_path, settings={"MaxBytesPerSecond": "1MB"})
    assert (other.name, other.tree, other.settings) == ("before", tmp_path, {"MaxBytesPerSecond": "1MB"})
    assert Hmacfs.settings == {}


def test_a_slow_transfer_that_breaks_off_does_not_count() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def load() -> None:
            with slow_clients(port, ["/a"], ["/b"], 10**6):
                for _ in range(2):
                    listener.accept()[0].close()

        with pytest.raises(LoadFailed, match=r"^[12] steps of slow transfers failed: "):
            load()


def test_what_programs_say_of_themselves() -> None:
    assert facts.first_version("wrk debian/4.1.0-3+b2 [epoll] Copyright (C) 2012") == "4.1.0"
    assert facts.first_version("HAProxy version 2.6.12-1+deb12u4 2026/10/17") == "2.6.12"
    assert facts.first_version("nginx version: nginx/1.22.1\n") == "1.22.1"
    assert facts.first_version("go1.27.3") == "1.27.3"
    assert facts.first_version("not found") == "-"


def test_how_and_where_from_an_interpreter_was_built() -> None:
    assert facts.python_build("'--enable-shared' '--prefix=/usr'") == "not configured for PGO and LTO"
    assert facts.python_build("'--enable-optimizations' '--with-lto'") == "built with PGO and LTO"
    assert facts.python_origin(Path("/root/.pyenv/versions/3.11.7")) == "pyenv"
    assert facts.python_origin(Path("/usr")) == "the distribution's"
    assert facts.python_origin(Path("/usr/local")) == "built here"
    assert facts.python_origin(Path("/opt/python")) == "another's"


def test_the_calls_of_small_requests_are_counted() -> None:
    done = subprocess.run([sys.executable, "-m", "bench.calls"], capture_output=True, text=True, check=True)
    lines = [line.partition(":") for line in done.stdout.splitlines()]
    assert [name for name, _, _ in lines] == [
        "PUT 1 KiB", "GET 1 KiB", "PUT 16 KiB", "GET 16 KiB", "GET 16 KiB, each another",
        "PATCH 1 KiB, not the last", "PATCH 1 KiB, the last",
    ]  # fmt: skip
    assert all(20 < int(text.split()[0]) < 1000 for _, _, text in lines)


class _Late(Contender):
    """Resets its first client, and answers the second."""

    name = "late"

    def __init__(self, folder: Path, answer: bytes) -> None:
        super().__init__(folder)
        self._answer = answer

    def launch(self) -> None:
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with socket.create_server(("127.0.0.1", self.port)) as listener:
            listener.accept()[0].close()
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(self._answer)


def test_a_start_is_measured_up_to_the_first_answer(tmp_path: Path) -> None:
    assert 0.0 < seconds_to_answer(_Late(tmp_path, b"HTTP/1.1 404 Not Found\r\n\r\n")) < 30.0
    with pytest.raises(LoadFailed, match="answered"):
        seconds_to_answer(_Late(tmp_path, b"HTTP/1.1 500 Internal Server Error\r\n\r\n"))
