"""Log lines: to the console or a file, as text or JSON, each written by one system call so that the lines of several
processes never mix."""

from __future__ import annotations

import contextvars
import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from hmacfs.cut import LINE_LIMIT, cut
from hmacfs.masking import mask
from hmacfs.system.ownership import open_file
from hmacfs.telemetry.events import RequestFinished

log = logging.getLogger(__name__)

#: The id of the request that this greenlet serves; empty outside of one. Each log line made meanwhile carries it.
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")

#: All that could end a line, hide part of one or control a terminal: C0 and C1 controls, DEL, line separators.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_needs_quotes = re.compile(r'[\s"=\\]').search


def escape(text: str) -> str:
    """``text`` on one line: control characters as ``\\xNN`` or ``\\uNNNN``."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape", "backslashreplace").decode("ascii"), text)


class LineHandler(logging.Handler):
    """Writes records to a file, opened for appending, or to standard error."""

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self._path = path
        self._fd = self._open()

    def _open(self) -> int:
        if self._path is None:
            return sys.stderr.fileno()
        return open_file(self._path, os.O_WRONLY | os.O_APPEND, 0o640)

    def reopen(self) -> None:
        """Open the file again, after a rotation has moved it. If that fails, the old one stays in use."""
        if self._path is None:
            return
        try:
            fd = self._open()
        except OSError as error:
            log.error("LogFile: %s cannot be opened again: %s; going on with the old one", self._path, error.strerror)
            return
        old, self._fd = self._fd, fd
        os.close(old)

    def close(self) -> None:
        if self._path is not None and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            os.write(self._fd, (self.format(record) + "\n").encode("utf-8", "backslashreplace"))
        except Exception:
            self.handleError(record)


def _timestamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"


class _Formatter(logging.Formatter):
    """hidden: texts that no line may show; see ``mask``. Access lines have none of this server's settings."""

    def __init__(self, hidden: Sequence[str] = ()) -> None:
        super().__init__()
        self._hidden = tuple(hidden)

    def message(self, record: logging.LogRecord) -> str:
        return mask(record.getMessage(), self._hidden)

    def traceback(self, record: logging.LogRecord) -> list[str]:
        if not record.exc_info:
            return []
        return [mask(line, self._hidden) for line in self.formatException(record.exc_info).splitlines()]


class TextFormatter(_Formatter):
    """``<time> <LEVEL> [<pid>] <message>``; the lines of a traceback are indented, so none can pass for a record."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", None)
        message = self.message(record) if fields is None else " ".join(f"{k}={_text(v)}" for k, v in fields.items())
        line = f"{_timestamp(record.created)} {record.levelname} [{record.process}] {cut(escape(message), LINE_LIMIT)}"
        if fields is None and (current := request_id.get()):
            line += f" request_id={current}"
        return line + "".join(f"\n    {cut(escape(part), LINE_LIMIT)}" for part in self.traceback(record))


class JsonFormatter(_Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
        }
        fields = getattr(record, "fields", None)
        if fields is None:
            entry["message"] = _json_text(self.message(record))
            if current := request_id.get():
                entry["request_id"] = current
        else:
            entry.update(fields)
        if trace := self.traceback(record):
            entry["traceback"] = "\n".join(map(_json_text, trace))
        return json.dumps(entry)


def _json_text(text: str) -> str:
    """Cut so that it takes a line's bytes at most, escapes included, of which a control character's has six."""
    if len(text) <= LINE_LIMIT and len(json.dumps(text)) <= LINE_LIMIT:
        return text
    return cut(text, LINE_LIMIT if text.isascii() and text.isprintable() else LINE_LIMIT // 6)


def _text(value: object) -> str:
    text = f"{value:.6f}" if isinstance(value, float) else str(value)
    return text if text and _needs_quotes(text) is None else json.dumps(text)


def configure(level: int, path: Path | None, form: str, hidden: Sequence[str] = ()) -> None:
    """Set up logging for this process: ``LogLevel``, ``LogFile``, ``LogFormat``; no line shows a text of ``hidden``.
    Repeating it replaces the set-up.

    Raises ``OSError`` if the file cannot be opened.
    """
    handler = LineHandler(path)
    handler.setFormatter(JsonFormatter(hidden) if form == "json" else TextFormatter(hidden))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, LineHandler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(True)


def reopen() -> None:
    """Open the log file again (SIGUSR1, after logrotate has moved it)."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LineHandler):
            handler.reopen()


class AccessLog:
    """A listener that writes a line per request: at level info, at level debug for the routes ``probes``, which a
    monitor asks every few seconds."""

    def __init__(self, *, probes: Collection[str] = ()) -> None:
        self._log = logging.getLogger("hmacfs.access")
        self._probes = frozenset(probes)

    @property
    def is_off(self) -> bool:
        """Whether it writes no line at the level that is set now."""
        return not self._log.isEnabledFor(logging.INFO)

    def __call__(self, event: RequestFinished) -> None:
        level = logging.DEBUG if event.route in self._probes else logging.INFO
        if not self._log.isEnabledFor(level):
            return
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
        record = self._log.makeRecord(self._log.name, level, "", 0, "request", (), None)
        record.fields = fields
        self._log.handle(record)


class RefusalLog:
    """A listener that warns of requests that failed for a reason that only the operator can remove: at the first one,
    and then at most every ``PAUSE_SECONDS``, with their number since.

    causes: the cause to name for each reason, a word from ``errors``.
    """

    PAUSE_SECONDS = 60.0

    def __init__(self, causes: Mapping[str, Callable[[], str]], clock: Callable[[], float] = time.monotonic) -> None:
        self._causes = causes
        self._clock = clock
        self._counts: dict[str, int] = {}
        self._said: dict[str, float] = {}

    def __call__(self, event: RequestFinished) -> None:
        reason = event.reason
        if reason not in self._causes:
            return
        self._counts[reason] = self._counts.get(reason, 0) + 1
        now = self._clock()
        if now - self._said.get(reason, -math.inf) < self.PAUSE_SECONDS:
            return
        self._said[reason] = now
        count = self._counts.pop(reason)
        requests = "1 request was" if count == 1 else f"{count} requests were"
        log.warning("%s refused (%s): %s", requests, reason, self._causes[reason]())
