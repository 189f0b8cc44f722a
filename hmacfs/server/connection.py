"""One client connection: requests in, responses out, until either side ends it.

gunicorn's own loop for gevent costs more than everything else a small request needs, stalls the whole worker when a
client keeps sending what was refused, and hides the socket from the code that moves bytes (docs/facts.md, sections 2, 3
and 12). This one is PEP 3333 for a single application whose dynamic answers are small: bodies other than ``FileSlice``
are joined before they are sent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

import gevent

from hmacfs.addresses import is_loopback
from hmacfs.errors import PeerTimeout, ShuttingDown
from hmacfs.net.body import Body, ChunkedBody, SocketBody
from hmacfs.net.send import FileSlice
from hmacfs.net.transport import (
    GONE_ERRNOS,
    REQUESTS_QUANTUM_SECONDS,
    Deadline,
    ReceiveBuffer,
    Transport,
    TransportTimeout,
)
from hmacfs.protocol.http1.heads import BadRequestHead, RequestHead, parse_head
from hmacfs.protocol.http1.responses import (
    CLOSE,
    CONTINUE,
    KEEP_ALIVE,
    KEEP_ALIVE_1_0,
    Headers,
    ServerAndDate,
    refusal,
    response_head,
)
from hmacfs.server.lifecycle import Lifecycle
from hmacfs.telemetry import logs
from hmacfs.web.messages import Response

log = logging.getLogger("hmacfs.server")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
#: The response to a request with this environ and body; ``None`` if the WSGI application is to be asked.
Respond = Callable[[dict[str, Any], Body], Response | None]

#: Files up to this size are read and sent together with their head: one system call instead of two and one segment.
SMALL_FILE_BYTES = 64 * 1024

#: Larger files are sent corked, which takes two more system calls and pays where ``sendfile`` would send many segments
#: that are not full. Of 512 KiB the cork costs a fifth more CPU time, of 1 MiB a tenth; 4 MiB take the same both ways,
#: and of 1 GiB it saves a sixth. Over TLS, where each record is a write of its own, all but small ones are. The low
#: watermark of unsent bytes begins there too: with 1 MiB over 16 connections it took a tenth of the rate.
UNCORKED_FILE_BYTES = 1024 * 1024

#: An unread body of at most so many bytes is discarded, and the connection goes on: a new one would cost the client
#: more than sending them.
SMALL_BODY_BYTES = 64 * 1024

#: After any other refusal, and where something has arrived after a connection's last request, the bytes that the client
#: still sends are discarded within these bounds, so that it can read the response: a close with unread data makes the
#: kernel send a reset, which overtakes the response.
LINGER_BYTES = 64 * 1024 * 1024
LINGER_SECONDS = 5.0
LINGER_SILENCE_SECONDS = 2.0
#: Pause between two reads while lingering: a client that floods gets at most a few per cent of the worker.
LINGER_PAUSE_SECONDS = 0.001
_LINGER_PIECE = 256 * 1024

#: Later than any time.
BUSY = math.inf


@dataclasses.dataclass(slots=True, repr=False)
class ServerContext:
    """What all connections of a worker share. Times in seconds.

    ``respond`` is asked before the WSGI ``application``. ``idle_timeout`` bounds the wait for a request as well as the
    time its head may take. ``is_crowded``: nearly all connections that the worker may have are taken.
    """

    application: Application
    lifecycle: Lifecycle
    idle_timeout: float
    read_timeout: float
    write_timeout: float
    environ: dict[str, Any]
    is_crowded: bool = False
    respond: Respond = lambda _environ, _body: None
    server_and_date: ServerAndDate = dataclasses.field(default_factory=ServerAndDate)
    scratch: bytearray = dataclasses.field(default_factory=lambda: bytearray(_LINGER_PIECE))


class Connection:
    """Serves one accepted connection. ``peer`` is its address, or ``None`` for a Unix socket; ``of_proxy`` that it
    brings the requests of many clients.

    ``is_idle``: no request is being received or served. ``waits_since``: since when (``time.monotonic``) the end of the
    connection would cost no response; ``BUSY`` while it would.
    """

    def __init__(
        self, context: ServerContext, transport: Transport, peer: tuple[Any, ...] | None, *, of_proxy: bool = False
    ) -> None:
        self.context = context
        self.transport = transport
        self.receive_buffer = ReceiveBuffer(self.transport)
        self.is_idle = True
        self.of_proxy = of_proxy
        self._is_refused = False
        self.waits_since = self._succeeded = time.monotonic()
        self._deadline = Deadline(context.idle_timeout)
        self._has_answered = False
        #: Bytes of the last request's body that are still to come, to be discarded.
        self._to_discard = 0
        address = {"REMOTE_ADDR": peer[0], "REMOTE_PORT": str(peer[1])} if peer else {"REMOTE_ADDR": ""}
        #: What the environs of all its requests hold.
        self._environ = {**context.environ, **address}

    def serve(self) -> None:
        """Serve requests until the connection ends. The caller closes the socket afterwards."""
        self._deadline.begin()
        try:
            while self._serve_request():
                self._has_answered = True
        except (TransportTimeout, PeerTimeout):
            log.debug("dropped %s: it took nothing for too long", self._environ["REMOTE_ADDR"])
        except ShuttingDown:
            log.debug("broke off a response to %s to stop", self._environ["REMOTE_ADDR"])
        except OSError as error:
            if error.errno not in GONE_ERRNOS:
                log.warning("a transfer broke off: %s", error)
        finally:
            self._deadline.close()
            self.transport.close()

    def end_if_idle(self) -> None:
        """Make the connection end now if no request is on its way (for a stop)."""
        if self.is_idle and not self.transport.has_arrived:
            self.transport.stop_reading()

    def end_if_waiting(self) -> bool:
        """Evict the connection unless that would cost a response: whether it was. A client that has sent only a part of
        a head has sent no request."""
        if self.waits_since == BUSY or self.transport.has_arrived:
            return False
        self.waits_since = BUSY  # not again
        self.transport.stop_reading()
        return True

    @property
    def may_stay(self) -> bool:
        """Whether the connection may go on after a request that was refused, or while the worker is crowded. Refusals
        alone keep none open for longer than it may be idle. A proxy's carries the requests of many clients."""
        if self.of_proxy:
            return True
        return not self.context.is_crowded and time.monotonic() - self._succeeded <= self.context.idle_timeout

    def _serve_request(self) -> bool:
        """Serve one request; whether another may follow."""
        try:
            head = self._read_head()
        except BadRequestHead as error:
            self._refuse(error)
            return False
        if head is None:
            return False
        self.is_idle = False
        self.waits_since = BUSY
        body = self._body(head)
        may_follow = self._answer(head, body)
        self.waits_since = now = time.monotonic()
        if not may_follow:
            if not body.is_complete or self.receive_buffer.count or self.transport.has_arrived:
                self._linger()
            return False
        if not self._is_refused:
            self._succeeded = now
        self.is_idle = not self.receive_buffer.count
        return True

    # -- the request ------------------------------------------------------------------------------

    def _read_head(self) -> RequestHead | None:
        """The next request's head; ``None`` if the client left before it was complete, ``TransportTimeout`` if it took
        too long."""
        buffer, deadline = self.receive_buffer, self._deadline
        if buffer.count:
            self.transport.yield_if_due(REQUESTS_QUANTUM_SECONDS)
            if (head := self._parse_head()) is not None:
                return head
            self.is_idle = not buffer.count
        deadline.at = self.waits_since + self.context.idle_timeout
        try:
            if self._has_answered and not buffer.count:
                # The next request is not here yet, unless the client does not wait for answers: a read that finds
                # nothing costs more than the poller, which also lets others have their turn.
                self.transport.wait_readable(None)
            while buffer.more(None):
                if (head := self._parse_head()) is not None:
                    return head
                self.is_idle = not buffer.count
        finally:
            deadline.at = math.inf
        return None

    def _parse_head(self) -> RequestHead | None:
        """The head that has been read, unless it is not complete yet, or still after a body that is to be discarded."""
        buffer = self.receive_buffer
        self.is_idle = False
        if self._to_discard:
            self._to_discard -= len(buffer.take(self._to_discard))
        head = parse_head(buffer.ahead, self._environ)
        if head is not None:
            buffer.skip(head.size)
        return head

    def discard(self, body: Body) -> bool:
        """Discard an unread body that is small, or has arrived already: whether the next request can be found after it.
        The rest of it and the next head together may take no longer than a connection may be idle."""
        to_come = body.discard(SMALL_BODY_BYTES)
        self._to_discard = to_come or 0
        return to_come is not None

    def _body(self, head: RequestHead) -> Body:
        fields = head.fields
        send_continue = self._send_continue if fields.expects_continue else None
        if fields.is_chunked:
            return ChunkedBody(self.receive_buffer, self.context.read_timeout, send_continue)
        return SocketBody(self.receive_buffer, head.length or 0, self.context.read_timeout, send_continue)

    def _send_continue(self) -> None:
        if not self.receive_buffer.count:  # else the client did not wait
            self.transport.send(CONTINUE, self.context.write_timeout)

    # -- the response -----------------------------------------------------------------------------

    def _answer(self, head: RequestHead, body: Body) -> bool:
        """Have the application respond, and send that; whether another request may follow. Raises ``OSError``,
        ``PeerTimeout``, ``TransportTimeout`` if the client does not take it."""
        environ = head.environ
        environ["wsgi.input"] = body
        try:
            response = self.context.respond(environ, body) or _by_wsgi(self.context.application, environ)
        except Exception:
            log.exception("unexpected error")
            return self._fail(head, body)
        content = response.body
        if isinstance(content, bytes):
            return self._send(head, body, response, content)
        try:
            if isinstance(content, FileSlice):
                return self._send_file(head, body, response, content)
            return self._send(head, body, response, b"".join(content))
        finally:
            close = getattr(content, "close", None)
            if close is not None:
                close()

    def _send(self, head: RequestHead, body: Body, response: Response | WsgiResponse, content: bytes) -> bool:
        may_follow, data = self._render(head, body, response, len(content))
        if content and head.environ["REQUEST_METHOD"] != "HEAD":
            data += content
        self.transport.send(data, self.context.write_timeout)
        return may_follow

    def _send_file(self, head: RequestHead, body: Body, response: Response | WsgiResponse, file: FileSlice) -> bool:
        if file.count > SMALL_FILE_BYTES or file.rate:
            may_follow, data = self._render(head, body, response, file.count)
            self._send_from_disk(data, file)
            return may_follow
        try:
            content = file.read()
        except OSError as error:
            log.error("a stored file cannot be read: %s", error.strerror)
            return self._fail(head, body)
        may_follow, data = self._render(head, body, response, file.count)
        self.transport.send_both(data, content, self.context.write_timeout)
        file.sent = len(content)
        return may_follow and len(content) == file.count

    def _send_from_disk(self, head: bytes, file: FileSlice) -> None:
        transport, timeout = self.transport, self.context.write_timeout
        if file.rate:  # neither corked nor sent ahead: the first bytes would wait for the next ones
            transport.send(head, timeout)
            file.send_over(transport, timeout)
        elif file.count <= UNCORKED_FILE_BYTES and not transport.is_encrypted:
            transport.send_ahead(head, timeout)
            file.send_over(transport, timeout)
        else:
            is_local = not transport.is_encrypted and is_loopback(self._environ["REMOTE_ADDR"])
            with transport.corked(), transport.unsent_low_watermark() if is_local else contextlib.nullcontext():
                transport.send(head, timeout)
                file.send_over(transport, timeout)

    def _fail(self, head: RequestHead, body: Body) -> bool:
        """Respond 500, after an unexpected error of the application or the disk, and end the connection."""
        headers: Headers = [("X-Request-ID", logs.request_id.get() or _name_request())]
        response = Response(HTTPStatus.INTERNAL_SERVER_ERROR, headers)
        head.keep_alive = False
        return self._send(head, body, response, b"")

    def _render(
        self, head: RequestHead, body: Body, response: Response | WsgiResponse, length: int
    ) -> tuple[bool, bytes]:
        """Whether another request may follow, and the response's head, which says so.

        Nobody will read the rest of the request's body after this: the next request has to be found after it.
        """
        status, context = response.status_line, self.context
        self._is_refused = is_refused = status >= "4"
        may_follow = (
            head.keep_alive
            and not context.lifecycle.ends_connections
            and (body.is_complete or self.discard(body))
            and (not (is_refused or context.is_crowded) or self.may_stay)
        )
        end = CLOSE
        if may_follow:
            end = KEEP_ALIVE if head.environ["SERVER_PROTOCOL"] == "HTTP/1.1" else KEEP_ALIVE_1_0
        lines = context.server_and_date.at(time.time())
        return may_follow, response_head(status, lines, response.headers, length, end)

    def _refuse(self, error: BadRequestHead) -> None:
        request_id = _name_request()
        log.info(
            "%s sent a request that is not understood: %s", self._environ["REMOTE_ADDR"] or "a local client", error
        )
        response = refusal(error.status, str(error), request_id, time.time())
        self.transport.send(response, self.context.write_timeout)
        self._linger()

    def _linger(self) -> None:
        """Let the client read the response: discard what it still sends, within bounds, before the socket is closed."""
        self.transport.stop_writing()
        discarded = 0
        with contextlib.suppress(TransportTimeout), self.transport.limit(LINGER_SECONDS):
            while discarded < LINGER_BYTES:
                count = self.transport.discard(self.context.scratch)
                if count is None:
                    self.transport.wait_readable(LINGER_SILENCE_SECONDS)
                elif count == 0:
                    return
                else:
                    discarded += count
                    gevent.sleep(LINGER_PAUSE_SECONDS)


class WsgiResponse:
    """What a WSGI application responds. ``start`` is PEP 3333's ``start_response``."""

    __slots__ = ("body", "headers", "status_line")

    def __init__(self) -> None:
        self.status_line = ""
        self.headers: Headers = []
        self.body: Iterable[bytes] = ()

    def start(
        self, status: str, headers: Iterable[tuple[str, str]], exc_info: object = None
    ) -> Callable[[bytes], object]:
        if self.status_line and exc_info is None:
            raise AssertionError("start_response was called twice")
        self.status_line = status
        self.headers = [
            ("Content-Length", value) if name.lower() == "content-length" else (name, value) for name, value in headers
        ]
        return _no_write


def _by_wsgi(application: Application, environ: dict[str, Any]) -> WsgiResponse:
    response = WsgiResponse()
    response.body = application(environ, response.start)
    return response


def _name_request() -> str:
    """An id for a request that never reached the application, for the response and for the log lines about it."""
    request_id = secrets.token_hex(8)
    logs.request_id.set(request_id)
    return request_id


def _no_write(data: bytes) -> object:
    raise NotImplementedError("the write callable of PEP 3333 is not offered")
