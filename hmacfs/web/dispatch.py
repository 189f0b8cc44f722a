"""From a WSGI request to its answer: calls the view, turns what it raises into an answer, and publishes what happened.

Flask's and Werkzeug's own work costs about as much as everything else that a small upload needs. The fast path skips
it, but not a single check: both entries take the endpoint from the same table and call ``RequestHandler.handle``.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from hmacfs.dialects import tus
from hmacfs.errors import HmacfsError, StorageFailed
from hmacfs.net.body import Body, body_of
from hmacfs.net.send import FileSlice
from hmacfs.protocol.http1.responses import pairs_of
from hmacfs.telemetry import logs
from hmacfs.telemetry.events import Events, RequestFinished
from hmacfs.web.client_address import ClientAddress
from hmacfs.web.cors import Cors
from hmacfs.web.failure_log import FailureLog
from hmacfs.web.messages import Request, Response
from hmacfs.web.problems import problem, problem_of
from hmacfs.web.routes import NO_SUCH_PATH, Endpoint, RouteTable

log = logging.getLogger("hmacfs.web")

WsgiApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: Longer than any path that only Flask knows; Flask would look at all of it.
_LONGEST_PATH_FOR_FLASK = 128


class RequestHandler:
    """Has an endpoint answer a request. read_timeout: how long one read of its body may wait, in seconds."""

    def __init__(self, events: Events, cors: Cors, clients: ClientAddress, *, read_timeout: float) -> None:
        self._events = events
        self._cors = cors
        self._clients = clients
        self._read_timeout = read_timeout
        self._failures = FailureLog()

    def handle(self, endpoint: Endpoint, environ: dict[str, Any], body: Body | None = None) -> Response:
        """The endpoint's answer, or the one that an error becomes. The event is published now, or once the file that is
        the answer's body has been sent. body: the request's, ``None`` for that of the environ."""
        if body is None:
            body = body_of(environ, self._read_timeout)
        body.client = client = self._clients(environ)
        request = Request(environ, client, body, endpoint.allowed)
        logs.request_id.set(request.request_id)
        try:
            response = endpoint.view(request)
        except HmacfsError as error:
            if isinstance(error, StorageFailed):
                self._failures.note(error)
            response = problem_of(error, environ.get("HTTP_ACCEPT", ""))
        except Exception:
            log.exception("unexpected error")
            response = _internal_error(environ)
        else:
            if response.stored or isinstance(response.body, FileSlice):
                self._failures.note_success()
        headers = response.headers
        # Every answer to a tus client says so, refusals too; the one to OPTIONS says it to all clients.
        if "HTTP_TUS_RESUMABLE" in environ and tus.RESUMABLE not in headers:
            headers.append(tus.RESUMABLE)
        if request.rate_headers is not None:
            headers += request.rate_headers
        self._cors.add_to(headers, request)
        headers.append(f"X-Request-ID: {request.request_id}\r\n")
        if isinstance(response.body, FileSlice):
            response.body.on_close = functools.partial(self._publish, request, response, endpoint.name)
        else:
            self._publish(request, response, endpoint.name)
        return response

    def _publish(self, request: Request, response: Response, route: str, file: FileSlice | None = None) -> None:
        """file: the body, of which as much was sent as will be."""
        if file is not None:
            sent, is_cut = file.sent, file.sent < file.count
        else:
            sent, is_cut = 0 if request.method == "HEAD" else len(response.body), False  # type: ignore[arg-type]
        self._events.publish(
            RequestFinished(
                request.request_id,
                request.client,
                request.method,
                request,
                route,
                int(response.status),
                "answer-cut-short" if is_cut else response.reason,
                request.body.received,
                sent,
                time.monotonic() - request.started,
                response.stored,
            )
        )


def _internal_error(environ: dict[str, Any]) -> Response:
    accept = environ.get("HTTP_ACCEPT", "")
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal-error", "The server made a mistake.", accept, [])


class FastPath:
    """Answers what ``routes`` cover, without Flask's dispatch: by ``respond``, or as WSGI middleware that passes on the
    rest."""

    def __init__(self, flask_dispatch: WsgiApplication, routes: RouteTable, handler: RequestHandler) -> None:
        self._flask_dispatch = flask_dispatch
        self._find = routes.find
        self._handle = handler.handle

    def respond(self, environ: dict[str, Any], body: Body | None = None) -> Response | None:
        """The answer, which this project's own server sends as it is; ``None`` to a request that is for Flask. body: as
        for ``RequestHandler.handle``."""
        path = environ["PATH_INFO"]
        endpoint = self._find(path, environ["REQUEST_METHOD"])
        if endpoint is None:
            if len(path) <= _LONGEST_PATH_FOR_FLASK:
                return None
            endpoint = NO_SUCH_PATH
        return self._handle(endpoint, environ, body)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        response = self.respond(environ)
        if response is None:
            return self._flask_dispatch(environ, start_response)
        start_response(response.status_line, pairs_of(response.headers))
        return (response.body,) if isinstance(response.body, bytes) else response.body
