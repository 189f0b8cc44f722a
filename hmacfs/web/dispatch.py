"""One definition of each route, reached by two doors: Flask's dispatch, and a direct one for the transfers.

Flask's and Werkzeug's own work costs about as much as everything else a small upload needs. The direct door skips it,
but not a single check: both doors call the very same decorated view through the very same ``RequestHandler.answer``.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any

import flask
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import PathConverter

from hmacfs.dialects import tus
from hmacfs.errors import HmacfsError, StorageFailed
from hmacfs.net.send import FileSlice
from hmacfs.protocol.methods import allow, methods_of
from hmacfs.telemetry import logs
from hmacfs.telemetry.events import Events, RequestFinished
from hmacfs.web.client_address import ClientAddress
from hmacfs.web.cors import Cors
from hmacfs.web.messages import Request, Response, Status, View
from hmacfs.web.problems import problem, problem_of

log = logging.getLogger("hmacfs.web")

WsgiApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_EXCHANGE = "hmacfs.request"
#: The route, in metrics and logs, of requests that no view is for.
_OTHER = "other"
#: Longer than any path besides those of files; Flask looks at all of it.
_LONGEST_ROUTE = 128


class RequestHandler:
    """Turns what a view returns or raises into an answer, and tells the listeners."""

    def __init__(self, events: Events, cors: Cors, clients: ClientAddress, *, read_timeout: float) -> None:
        self._events = events
        self._cors = cors
        self._clients = clients
        self._read_timeout = read_timeout

    def request(self, environ: dict[str, Any]) -> Request:
        """The request behind ``environ``; the same object if it is asked for again."""
        request: Request | None = environ.get(_EXCHANGE)
        if request is None:
            request = Request(environ, self._clients(environ), self._read_timeout)
            environ[_EXCHANGE] = request
            logs.request_id.set(request.request_id)
        return request

    def answer(self, view: View, route: str, request: Request) -> Response:
        """Call the view; whatever it raises becomes an answer too."""
        try:
            response = view(request)
        except HmacfsError as error:
            if isinstance(error, StorageFailed):
                log.error("%s", error.for_log())
            response = problem_of(error, request.header("ACCEPT") or "")
        except HTTPException as error:
            response = _routing_problem(error, request)
        except Exception:
            log.exception("unexpected error")
            response = problem(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "internal-error",
                "The server made a mistake.",
                request.header("ACCEPT") or "",
                [],
            )
        # Every answer to a tus client says so, refusals too; to OPTIONS the view has said it to everybody.
        if request.header("TUS_RESUMABLE") is not None and tus.RESUMABLE not in response.headers:
            response.headers.append(tus.RESUMABLE)
        if request.rate_headers is not None:
            response.headers += request.rate_headers
        self._cors.add_to(response.headers, request)
        response.headers.append(("X-Request-ID", request.request_id))
        self._announce(request, response, route)
        return response

    def serve_routing_errors(self, app: flask.Flask) -> None:
        """Answer Flask's own refusals (no such route, not this method) in the same form as all others."""

        @app.errorhandler(HTTPException)
        def refuse(error: HTTPException) -> flask.Response:
            def view(_: Request) -> Response:
                raise error

            return as_flask_response(self.answer(view, _OTHER, self.request(flask.request.environ)))

    def _announce(self, request: Request, response: Response, route: str) -> None:
        """Publish the event now, or when the file has gone out."""
        body = response.body
        if isinstance(body, FileSlice):
            body.on_close = lambda file: self._publish(request, response, route, file.sent, cut=file.sent < file.count)
        else:
            self._publish(request, response, route, 0 if request.method == "HEAD" else len(body))

    def _publish(self, request: Request, response: Response, route: str, sent: int, *, cut: bool = False) -> None:
        self._events.publish(
            RequestFinished(
                request_id=request.request_id,
                client=request.client,
                method=request.method,
                path=request.log_path,
                route=route,
                status=response.status.value,
                reason="answer-cut-short" if cut else response.reason,
                received=request.received,
                sent=sent,
                seconds=request.elapsed(),
                stored=response.stored,
            )
        )


def _routing_problem(error: HTTPException, request: Request) -> Response:
    """Flask's own refusals: no such route, a method that the route does not have."""
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    headers = [allow(error.valid_methods or ())] if isinstance(error, MethodNotAllowed) else []
    reason = status.phrase.lower().replace(" ", "-")
    return problem(status, reason, f"{status.phrase}.", request.header("ACCEPT") or "", headers)


class AnyPathConverter(PathConverter):
    """Matches every rest of a path, also one that is no legal name, so that the view's own gate judges it."""

    regex = "(?s:.*)"
    part_isolating = False


#: The rule of the transfers: every path below the mount point.
ANY_PATH = "/<any_path:path>"


class TransferBlueprint(flask.Blueprint):
    """A blueprint whose views take an ``Request`` and return a ``Response``.

    ``direct`` holds the view of each method, for a door in front of a blueprint with one rule.
    """

    def __init__(self, name: str, import_name: str, handler: RequestHandler, *, url_prefix: str | None = None) -> None:
        super().__init__(name, import_name, url_prefix=url_prefix)
        self._desk = handler
        self.direct: dict[str, tuple[View, str]] = {}

    def transfer(self, rule: str, *methods: str) -> Callable[[View], View]:
        """Register a view for ``rule`` and ``methods``, with Flask and for the direct door."""

        route = f"{self.url_prefix or ''}{rule}".replace(ANY_PATH, "/<path>")

        def register(view: View) -> View:
            self.direct.update(dict.fromkeys(methods, (view, route)))

            def flask_view(**_: object) -> flask.Response:
                # The name is parsed from the environ, once and strictly; Flask's own idea of it is not used.
                request = self._desk.request(flask.request.environ)
                if request.method not in methods:  # Werkzeug takes "put" for "PUT"
                    return as_flask_response(self._desk.answer(refuse_method(methods), _OTHER, request))
                return as_flask_response(self._desk.answer(view, route, request))

            self.add_url_rule(
                rule, endpoint=view.__name__, view_func=flask_view, methods=methods, provide_automatic_options=False
            )
            return view

        return register


class _PlainResponse(flask.Response):
    """Has no type of its own accord: a Reply says what there is to say."""

    default_mimetype = None


def as_flask_response(response: Response) -> flask.Response:
    return _PlainResponse(
        response.body, status=status_line(response.status), headers=response.headers, direct_passthrough=True
    )


def _no_such_url(_: Request) -> Response:
    raise NotFound


class FastPath:
    """WSGI middleware: requests below ``prefix`` skip Flask's dispatch, as do those for the mount point itself, written
    without its slash."""

    def __init__(
        self, flask_door: WsgiApplication, blueprint: TransferBlueprint, handler: RequestHandler, prefix: str
    ) -> None:
        self._flask_door = flask_door
        self._direct = blueprint.direct
        self._desk = handler
        self._prefix = prefix
        self._others = (prefix.removesuffix("/"), "*")  # OPTIONS * (RFC 9110 section 9.3.7)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        view: View
        if path.startswith("//"):  # Werkzeug would drop the slashes that are too many and find a route
            view, route = _no_such_url, _OTHER
        elif path.startswith(self._prefix) or path in self._others:
            found = self._direct.get(environ["REQUEST_METHOD"])
            view, route = found or (refuse_method(methods_of(path, self._prefix)), _OTHER)
        elif len(path) > _LONGEST_ROUTE:
            view, route = _no_such_url, _OTHER
        else:
            return self._flask_door(environ, start_response)
        response = self._desk.answer(view, route, self._desk.request(environ))
        start_response(status_line(response.status), response.headers)
        return (response.body,) if isinstance(response.body, bytes) else response.body


def refuse_method(known: Sequence[str]) -> View:
    """A view that answers 405 and names the methods that there are."""

    def refuse(_: Request) -> Response:
        raise MethodNotAllowed(known)

    return refuse


@functools.lru_cache(maxsize=100)
def status_line(status: HTTPStatus | Status) -> str:
    return f"{status.value} {status.phrase}"
