"""How often the operator is told of what the store fails at."""

from __future__ import annotations

import logging

import pytest

from hmacfs.errors import StorageFailed, StoreUnavailable
from hmacfs.web.failure_log import CALM_SECONDS, REPEAT_SECONDS, FailureLog


def failure(kind: type[StorageFailed], where: str, cause: str) -> StorageFailed:
    error = kind(where=where)
    error.__cause__ = OSError(5, cause)
    return error


def test_a_store_that_is_away_is_told_of_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    failures = FailureLog(lambda: now[0])
    for name in ("a", "b", "c"):
        failures.note(failure(StoreUnavailable, name, "refused"))
    assert [record.getMessage() for record in caplog.records] == ["storage failed: a: refused"]
    now[0] += REPEAT_SECONDS
    failures.note(failure(StoreUnavailable, "d", "refused"))
    assert caplog.records[-1].getMessage() == "storage failed: d: refused (and 2 times since it was told)"
    failures.note(failure(StoreUnavailable, "e", "reset"))
    assert caplog.records[-1].getMessage() == "storage failed: e: reset"
    assert len(caplog.records) == 3


def test_the_end_is_told_once_the_store_works_without_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    failures = FailureLog(lambda: now[0])
    failures.note_success()
    for seconds in (0.0, 3.0, 2.0):
        now[0] += seconds
        failures.note(failure(StoreUnavailable, "a", "refused"))
    failures.note(failure(StorageFailed, "b", "Input/output error"))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        now[0] += CALM_SECONDS - 1
        failures.note_success()
        assert caplog.records == [], "it works now and then"
        now[0] += 1
        for _ in range(2):
            failures.note_success()
    told = [record.getMessage() for record in caplog.records]
    assert told == ["the store works again: 3 requests failed within 5 s: store-unavailable [Errno 5] refused"]
    failures.note(failure(StoreUnavailable, "a", "refused"))
    assert caplog.records[-1].getMessage() == "storage failed: a: refused"


def test_each_file_that_the_disk_fails_at_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    failures = FailureLog(lambda: 100.0)
    for name in ("a", "b", "a"):
        failures.note(failure(StorageFailed, name, "Input/output error"))
    told = [record.getMessage() for record in caplog.records]
    assert told == ["storage failed: a: Input/output error", "storage failed: b: Input/output error"]


def test_what_it_remembers_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    failures = FailureLog(lambda: 100.0)
    for number in range(5000):
        failures.note(failure(StorageFailed, str(number), "Input/output error"))
    assert len(caplog.records) == 5000
    assert len(failures._kinds) <= 1000
