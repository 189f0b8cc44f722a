"""The log's lines, and by which way those of the access log get there."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hmacfs.cut import LINE_LIMIT, cut
from hmacfs.telemetry import logs
from hmacfs.telemetry.events import RequestFinished
from hmacfs.telemetry.logs import AccessLog, JsonFormatter, LineHandler, TextFormatter, escape

LOGGER = logging.getLogger("hmacfs.access")
ROOT = logging.getLogger()

EVENT = RequestFinished(
    "0123", "192.0.2.1", "PUT", "/upload/a/b.bin", "/upload/<path>", 201, "", 16, 0, 0.25, stored=True
)


def fields_of(event: RequestFinished) -> dict[str, object]:
    """What a line says, in its order."""
    fields: dict[str, object] = {
        "request_id": event.request_id,
        "client": event.client or "-",
        "method": event.method,
        "path": str(event.path),
        "status": event.status,
        "received": event.received,
        "sent": event.sent,
        "seconds": round(event.seconds, 6),
    }
    if event.reason:
        fields["reason"] = event.reason
    return fields


def as_text(value: object) -> str:
    text = f"{value:.6f}" if isinstance(value, float) else str(value)
    return json.dumps(text) if not text or re.search(r'[\s"=\\]', text) else text


texts = st.text(max_size=30) | st.text(st.sampled_from(' "=\\\x00\n\r\x1b\x85\u2028\udc80\u2603%a'), max_size=30)
events = st.builds(
    RequestFinished,
    request_id=texts,
    client=texts,
    method=texts,
    path=texts | st.integers(700, 2000).map(lambda count: "/\u2603" + "n" * count),
    route=st.just("/upload/<path>"),
    status=st.integers(100, 599),
    reason=st.just("") | texts,
    received=st.integers(0, 2**50),
    sent=st.integers(0, 2**50),
    seconds=st.floats(0, 1e7) | st.floats(0, 1e-3),
    stored=st.booleans(),
)


@given(event=events, level=st.sampled_from([logging.INFO, logging.DEBUG]), created=st.floats(0, 2e9))
@example(event=EVENT, level=logging.INFO, created=1_700_000_000.9999)
@example(event=EVENT, level=logging.INFO, created=1_700_000_001.0)
@example(event=EVENT._replace(path='/a b="\n2026-01-01T00:00:00.000Z INFO [1] forged'), level=logging.INFO, created=0.0)
def test_a_line_is_the_same_with_a_record_and_without(event: RequestFinished, level: int, created: float) -> None:
    record = LOGGER.makeRecord(LOGGER.name, level, "", 0, "request", (), None)
    record.created, record.process, record.event = created, 4711, event
    when = dt.datetime.fromtimestamp(int(created), dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    when += f".{int(created % 1 * 1000):03d}Z"
    name, fields = logging.getLevelName(level), fields_of(event)

    message = " ".join(f"{key}={as_text(value)}" for key, value in fields.items())
    text = f"{when} {name} [4711] {cut(escape(message), LINE_LIMIT)}"
    assert TextFormatter().access_line(event, name, created, 4711) == text
    assert TextFormatter().format(record) == text
    assert len(text.splitlines()) == 1

    entry = {"time": when, "level": name.lower(), "logger": "hmacfs.access", "pid": 4711, **fields}
    assert JsonFormatter().access_line(event, name, created, 4711) == json.dumps(entry)
    assert JsonFormatter().format(record) == json.dumps(entry)


@contextlib.contextmanager
def configured(path: Path, form: str = "text") -> Iterator[LineHandler]:
    """Logging as in the server: with the one handler, and without pytest's."""
    others, level = ROOT.handlers[:], ROOT.level
    ROOT.handlers[:] = []
    logs.configure(logging.INFO, path, form)
    handler = ROOT.handlers[0]
    assert isinstance(handler, LineHandler)
    try:
        yield handler
    finally:
        handler.close()
        ROOT.handlers[:] = others
        ROOT.setLevel(level)
        logging.captureWarnings(False)


def without_times(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "TIME", text)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_needs_no_record_and_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    path, writes, write = tmp_path / "log", [], os.write

    def counted(fd: int, data: bytes) -> int:
        writes.append(data)
        return write(fd, data)

    with configured(path, form), monkeypatch.context() as patch:
        patch.setattr(LOGGER, "handle", lambda record: pytest.fail("a record"))
        patch.setattr(os, "write", counted)
        before = time.time()
        AccessLog()(EVENT)
        logging.getLogger("hmacfs").info("between")
        AccessLog(probes=[EVENT.route])(EVENT)
        AccessLog()(EVENT._replace(status=404, reason="not-found"))
    lines = path.read_bytes().splitlines(keepends=True)
    assert writes == lines
    assert len(lines) == 3, "a probe's is of level debug"
    said = lines[0].decode().split()[0] if form == "text" else json.loads(lines[0])["time"]
    assert abs(dt.datetime.fromisoformat(said).timestamp() - before) < 60
    assert f"[{os.getpid()}]" in lines[0].decode() if form == "text" else json.loads(lines[0])["pid"] == os.getpid()
    assert b"between" in lines[1]
    assert b"not-found" in lines[2]


def refuse(_: logging.LogRecord) -> bool:
    return False


def added_handler(logger: logging.Logger, _: LineHandler) -> Callable[[], object]:
    handler = logging.NullHandler()
    logger.addHandler(handler)
    return lambda: logger.removeHandler(handler)


def added_filter(logger: logging.Logger, _: LineHandler) -> Callable[[], object]:
    logger.addFilter(refuse)
    return lambda: logger.removeFilter(refuse)


def handlers_filter(_: logging.Logger, handler: LineHandler) -> Callable[[], object]:
    handler.addFilter(refuse)
    return lambda: handler.removeFilter(refuse)


def handlers_level(_: logging.Logger, handler: LineHandler) -> Callable[[], object]:
    handler.setLevel(logging.WARNING)
    return lambda: None


def kept_to_itself(logger: logging.Logger, _: LineHandler) -> Callable[[], object]:
    remove = added_handler(logger, _)
    logger.propagate = False

    def undo() -> None:
        logger.propagate = True
        remove()

    return undo


Change = Callable[[logging.Logger, LineHandler], Callable[[], object]]


@pytest.mark.parametrize(
    ("change", "logger", "is_written"),
    [
        (added_handler, LOGGER, True),
        (added_handler, logging.getLogger("hmacfs"), True),
        (added_handler, ROOT, True),
        (added_filter, LOGGER, False),
        (handlers_filter, ROOT, False),
        (handlers_level, ROOT, False),
        (kept_to_itself, LOGGER, False),
        (kept_to_itself, logging.getLogger("hmacfs"), False),
    ],
)
def test_what_else_is_set_up_holds_for_the_access_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Change, logger: logging.Logger, *, is_written: bool
) -> None:
    path, records, handle = tmp_path / "log", [], LOGGER.handle

    def seen(record: logging.LogRecord) -> None:
        records.append(record)
        handle(record)

    with configured(path) as handler, monkeypatch.context() as patch:
        patch.setattr(LOGGER, "handle", seen)
        AccessLog()(EVENT)
        assert records == []
        undo = change(logger, handler)
        try:
            AccessLog()(EVENT)
        finally:
            undo()
    assert len(records) == 1
    first, *others = without_times(path.read_text()).splitlines()
    assert others == [first] * is_written


def test_a_level_that_is_off_writes_nothing(tmp_path: Path) -> None:
    with configured(tmp_path / "log"):
        log = AccessLog()
        ROOT.setLevel(logging.WARNING)
        log(EVENT)
        ROOT.setLevel(logging.INFO)
        logging.disable(logging.INFO)
        try:
            log(EVENT)
        finally:
            logging.disable(logging.NOTSET)
    assert (tmp_path / "log").read_text() == ""


def test_a_line_that_cannot_be_written_is_reported_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[logging.LogRecord] = []
    with configured(Path("/dev/full")) as handler:
        monkeypatch.setattr(handler, "handleError", failed.append)
        AccessLog()(EVENT)
    assert [record.event for record in failed] == [EVENT]  # type: ignore[attr-defined]


def test_lines_go_to_the_file_that_was_opened_last(tmp_path: Path) -> None:
    path, moved = tmp_path / "log", tmp_path / "log.1"
    with configured(path) as handler:
        log = AccessLog()
        log(EVENT)
        path.rename(moved)
        log(EVENT)
        logs.reopen()
        log(EVENT)
        logs.configure(logging.INFO, tmp_path / "another", "json")
        log(EVENT)
        ROOT.handlers[0].close()
    assert handler not in ROOT.handlers
    assert [len((tmp_path / name).read_text().splitlines()) for name in ("log", "log.1", "another")] == [1, 2, 1]
