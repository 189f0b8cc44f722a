"""What readiness says, and how often it is logged."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from hmacfs.errors import StorageFailed, StoreStarting
from hmacfs.telemetry.events import RequestFinished
from hmacfs.telemetry.logs import AccessLog
from hmacfs.web.readiness import LOOK_SECONDS, PROBES, REMINDER_SECONDS, Readiness
from tests.servers import wait_until


def test_a_failure_is_logged_when_it_begins_and_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 1000.0
    cause: OSError | None = OSError(5, "Input/output error")

    def check() -> None:
        if cause is not None:
            raise StorageFailed from cause

    health = Readiness([("store", check)], clock=lambda: now)
    with caplog.at_level(logging.INFO):
        for _ in range(100):
            assert health.reasons() == ["store: The server could not store or read the file."]
        assert len(caplog.records) == 1
        assert "not ready: store" in caplog.text
        assert "Input/output error" in caplog.text
        cause = OSError(30, "Read-only file system")
        now += LOOK_SECONDS
        health.reasons()
        assert "Read-only file system" in caplog.text
        now += REMINDER_SECONDS
        health.reasons()
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
        cause = None
        now += LOOK_SECONDS
        assert health.reasons() == health.reasons() == []
        assert caplog.messages[3:] == ["ready again: store"]


def test_a_store_that_is_still_starting_is_nothing_to_warn_of(caplog: pytest.LogCaptureFixture) -> None:
    def check() -> None:
        raise StoreStarting

    with caplog.at_level(logging.INFO):
        assert Readiness([("store", check)]).reasons() == [
            "store: What the server's store can do is still being tried."
        ]
    assert [(one.levelname, one.message) for one in caplog.records] == [
        ("INFO", "not ready: store: What the server's store can do is still being tried")
    ]


def test_probes_are_logged_at_level_debug(caplog: pytest.LogCaptureFixture) -> None:
    log = AccessLog(probes=PROBES)
    with caplog.at_level(logging.DEBUG, "hmacfs.access"):
        for route in (*PROBES, "/upload/<path>"):
            log(RequestFinished("id", "::1", "GET", route, route, 200, "", 0, 3, 0.001, stored=False))
        assert [record.levelname for record in caplog.records] == ["DEBUG", "DEBUG", "INFO"]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING])
def test_a_level_above_info_leaves_the_access_log_out(caplog: pytest.LogCaptureFixture, level: int) -> None:
    with caplog.at_level(level, "hmacfs.access"):
        assert AccessLog().is_off == (level > logging.INFO)


def test_a_flood_of_questions_costs_one_look() -> None:
    now, looks = 1000.0, 0
    may_end = threading.Event()

    def check() -> None:
        nonlocal looks
        looks += 1
        assert may_end.wait(10)
        raise StorageFailed

    health = Readiness([("store", check)], clock=lambda: now)
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(health.reasons) for _ in range(20)]
        may_end.set()
        assert {len(one.result()) for one in asked} == {1}
    assert looks == 1
    health.is_stopping = lambda: True
    assert len(health.reasons()) == 2, "that is known without a look"
    now += LOOK_SECONDS
    health.reasons()
    assert looks == 2


def test_a_look_that_takes_long_is_the_answer_for_all_who_waited() -> None:
    """Else each of them takes as long again, one after the other, and the balancer's own question waits for all."""
    now, looks, asked = 1000.0, 0, 0

    def clock() -> float:
        nonlocal asked
        asked += 1
        return now

    def check() -> None:
        nonlocal now, looks
        looks += 1
        wait_until(lambda: asked > 20, what="all who ask")
        now += 5 * LOOK_SECONDS

    health = Readiness([("store", check)], clock=clock)
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(lambda _: health.reasons(), range(20))) == [[]] * 20
    assert looks == 1
    health.reasons()
    assert looks == 2, "what was found is old by now"
