"""Log lines: to the console or a file, as text or JSON, each written by one system call so that the lines of several
processes never mix."""

from __future__ import annotations

import contextvars
import functools
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

_ACCESS = "hmacfs.access"

#: What needs neither quotes nor escapes: graphic ASCII, but for quotation marks, equals signs and backslashes.
_PLAIN = bytes(code for code in range(0x21, 0x7F) if code not in b'"=\\')

_needs_quotes = re.compile(r'[\s"=\\]').search
#: A text as JSON writes it, in ASCII.
_quoted: Callable[[str], str] = json.JSONEncoder().encode


def escape(text: str) -> str:
    """``text`` on one line: control characters as ``\\xNN`` or ``\\uNNNN``."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape", "backslashreplace").decode("ascii"), text)


class LineHandler(logging.Handler):
    """Writes records to a file, opened for appending, or to standard error."""

    def __init__(self, path: Path | None, formatter: _Formatter) -> None:
        super().__init__()
        self.formatter: _Formatter = formatter
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
            self.write(self.format(record))
        except Exception:
            self.handleError(record)

    def write(self, line: str) -> None:
        """By one system call, for which no lock is needed. Raises ``OSError``."""
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        os.write(self._fd, data)


@functools.lru_cache(maxsize=2)
def _date(second: int) -> str:
    """Rendered once for all lines of a second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _timestamp(seconds: float) -> str:
    second = int(seconds)
    return f"{_date(second)}.{int((seconds - second) * 1000):03d}Z"


class _Formatter(logging.Formatter):
    """hidden: texts that no line may show; see ``mask``. Access lines have none of this server's settings.

    A record of the access log has the event as ``event``, and its line depends on nothing else: ``access_line`` makes
    it without a record too.
    """

    def __init__(self, hidden: Sequence[str] = ()) -> None:
        super().__init__()
        self._hidden = tuple(hidden)

    def format(self, record: logging.LogRecord) -> str:
        event: RequestFinished | None = getattr(record, "event", None)
        if event is None:
            return self.line(record)
        return self.access_line(event, record.levelname, record.created, record.process)

    def line(self, record: logging.LogRecord) -> str:
        raise NotImplementedError

    def access_line(self, event: RequestFinished, level: str, seconds: float, pid: int | None) -> str:
        raise NotImplementedError

    def message(self, record: logging.LogRecord) -> str:
        return mask(record.getMessage(), self._hidden)

    def traceback(self, record: logging.LogRecord) -> list[str]:
        if not record.exc_info:
            return []
        return [mask(line, self._hidden) for line in self.formatException(record.exc_info).splitlines()]


class TextFormatter(_Formatter):
    """``<time> <LEVEL> [<pid>] <message>``; the lines of a traceback are indented, so none can pass for a record."""

    def line(self, record: logging.LogRecord) -> str:
        line = _text_line(escape(self.message(record)), record.levelname, record.created, record.process)
        if current := request_id.get():
            line += f" request_id={current}"
        return line + "".join(f"\n    {cut(escape(part), LINE_LIMIT)}" for part in self.traceback(record))

    def access_line(self, event: RequestFinished, level: str, seconds: float, pid: int | None) -> str:
        values = _outside_values(event)
        is_plain = _are_plain(values)
        request_id, client, method, path, reason = values if is_plain else map(_text, values)
        message = (
            f"request_id={request_id} client={client} method={method} path={path}"
            f" status={event.status} received={event.received} sent={event.sent} seconds={event.seconds:.6f}"
        )
        if event.reason:
            message += f" reason={reason}"
        return _text_line(message if is_plain else escape(message), level, seconds, pid)


def _text_line(message: str, level: str, seconds: float, pid: int | None) -> str:
    return f"{_timestamp(seconds)} {level} [{pid}] {cut(message, LINE_LIMIT)}"


def _outside_values(event: RequestFinished) -> tuple[str, str, str, str, str]:
    """The texts of an access line, which come from outside but for the last one: id, client, method, path, reason."""
    return event.request_id, event.client or "-", event.method, str(event.path), event.reason or "-"


def _are_plain(values: tuple[str, ...]) -> bool:
    """Whether none is empty or needs quotes or an escape, which is so for nearly every request: one look at all of
    them is cheaper than a search in each."""
    together = "".join(values)
    return together.isascii() and not together.encode().translate(None, _PLAIN) and all(values)


def _text(value: str) -> str:
    return value if value and _needs_quotes(value) is None else _quoted(value)


class JsonFormatter(_Formatter):
    """One JSON object a line."""

    def line(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": _json_text(self.message(record)),
        }
        if current := request_id.get():
            entry["request_id"] = current
        if trace := self.traceback(record):
            entry["traceback"] = "\n".join(map(_json_text, trace))
        return json.dumps(entry)

    def access_line(self, event: RequestFinished, level: str, seconds: float, pid: int | None) -> str:
        values = _outside_values(event)
        quoted = [f'"{value}"' for value in values] if _are_plain(values) else map(_quoted, values)
        request_id, client, method, path, reason = quoted
        line = (
            f'{{"time": "{_timestamp(seconds)}", "level": "{level.lower()}", "logger": "{_ACCESS}", "pid": {pid}'
            f', "request_id": {request_id}, "client": {client}, "method": {method}, "path": {path}'
            f', "status": {event.status}, "received": {event.received}, "sent": {event.sent}'
            f', "seconds": {round(event.seconds, 6)!r}'
        )
        return f'{line}, "reason": {reason}}}' if event.reason else f"{line}}}"


def _json_text(text: str) -> str:
    """Cut so that it takes a line's bytes at most, escapes included, of which a control character's has six."""
    if len(text) <= LINE_LIMIT and len(json.dumps(text)) <= LINE_LIMIT:
        return text
    return cut(text, LINE_LIMIT if text.isascii() and text.isprintable() else LINE_LIMIT // 6)


def configure(level: int, path: Path | None, form: str, hidden: Sequence[str] = ()) -> None:
    """Set up logging for this process: ``LogLevel``, ``LogFile``, ``LogFormat``; no line shows a text of ``hidden``.
    Repeating it replaces the set-up.

    Raises ``OSError`` if the file cannot be opened.
    """
    handler = LineHandler(path, JsonFormatter(hidden) if form == "json" else TextFormatter(hidden))
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
        self._log = logging.getLogger(_ACCESS)
        self._probes = frozenset(probes)

    @property
    def is_off(self) -> bool:
        """Whether it writes no line at the level that is set now."""
        return not self._log.isEnabledFor(logging.INFO)

    def __call__(self, event: RequestFinished) -> None:
        level = logging.DEBUG if event.route in self._probes else logging.INFO
        if not self._log.isEnabledFor(level):
            return
        if (handler := _only_handler(self._log, level)) is not None:
            # A record, and what logging does with it, costs several times what the line does.
            line = handler.formatter.access_line(event, logging.getLevelName(level), time.time(), os.getpid())
            try:
                handler.write(line)
            except OSError:
                pass  # logging tries again, and says what is wrong
            else:
                return
        record = self._log.makeRecord(self._log.name, level, "", 0, "request", (), None)
        record.event = event
        self._log.handle(record)


def _only_handler(logger: logging.Logger, level: int) -> LineHandler | None:
    """The handler that ``configure`` has made, if logging would just pass it a record of that logger and level: there
    are no filters and no other handlers, such as somebody's who embeds the application."""
    if logger.filters:
        return None
    while logger.parent is not None:
        if logger.handlers or not logger.propagate:
            return None
        logger = logger.parent
    if len(logger.handlers) != 1:
        return None
    handler = logger.handlers[0]
    if not isinstance(handler, LineHandler) or handler.filters or handler.level > level:
        return None
    return handler


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
