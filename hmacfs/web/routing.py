"""One definition of each route, reached by two doors: Flask's dispatch, and a direct one for the transfers.

Flask's and Werkzeug's own work costs about as much as everything else a small upload needs. The direct door skips it,
but not a single check: both doors call the very same decorated view through the very same ``Desk.answer``.
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
from hmacfs.telemetry import logs
from hmacfs.telemetry.events import Events, RequestFinished
from hmacfs.transfer.send import FileSlice
from hmacfs.web.client import ClientAddress
from hmacfs.web.cors import Cors
from hmacfs.web.exchange import Exchange, Reply, Status, View
from hmacfs.web.methods import allow, methods_of
from hmacfs.web.problems import problem, problem_of

log = logging.getLogger("hmacfs.web")

WsgiApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_EXCHANGE = "hmacfs.exchange"
#: The route, in metrics and logs, of requests that no view is for.
_OTHER = "other"
#: Longer than any path besides those of files; Flask looks at all of it.
_LONGEST_ROUTE = 128


class Desk:
    """Turns what a view returns or raises into an answer, and tells the listeners."""

    def __init__(self, events: Events, cors: Cors, clients: ClientAddress, *, read_timeout: float) -> None:
        self._events = events
        self._cors = cors
        self._clients = clients
        self._read_timeout = read_timeout

    def exchange(self, environ: dict[str, Any]) -> Exchange:
        """The request behind ``environ``; the same object if it is asked for again."""
        exchange: Exchange | None = environ.get(_EXCHANGE)
        if exchange is None:
            exchange = Exchange(environ, self._clients(environ), self._read_timeout)
            environ[_EXCHANGE] = exchange
            logs.request_id.set(exchange.request_id)
        return exchange

    def answer(self, view: View, route: str, exchange: Exchange) -> Reply:
        """Call the view; whatever it raises becomes an answer too."""
        try:
            reply = view(exchange)
        except HmacfsError as error:
            if isinstance(error, StorageFailed):
                log.error("%s", error.for_log())
            reply = problem_of(error, exchange.header("ACCEPT") or "")
        except HTTPException as error:
            reply = _routing_problem(error, exchange)
        except Exception:
            log.exception("unexpected error")
            reply = problem(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "internal-error",
                "The server made a mistake.",
                exchange.header("ACCEPT") or "",
                [],
            )
        # Every answer to a tus client says so, refusals too; to OPTIONS the view has said it to everybody.
        if exchange.header("TUS_RESUMABLE") is not None and tus.RESUMABLE not in reply.headers:
            reply.headers.append(tus.RESUMABLE)
        if exchange.rate_headers is not None:
            reply.headers += exchange.rate_headers
        self._cors.add_to(reply.headers, exchange)
        reply.headers.append(("X-Request-ID", exchange.request_id))
        self._announce(exchange, reply, route)
        return reply

    def serve_routing_errors(self, app: flask.Flask) -> None:
        """Answer Flask's own refusals (no such route, not this method) in the same form as all others."""

        @app.errorhandler(HTTPException)
        def refuse(error: HTTPException) -> flask.Response:
            def view(_: Exchange) -> Reply:
                raise error

            return as_flask_response(self.answer(view, _OTHER, self.exchange(flask.request.environ)))

    def _announce(self, exchange: Exchange, reply: Reply, route: str) -> None:
        """Publish the event now, or when the file has gone out."""
        body = reply.body
        if isinstance(body, FileSlice):
            body.on_close = lambda file: self._publish(exchange, reply, route, file.sent, cut=file.sent < file.count)
        else:
            self._publish(exchange, reply, route, 0 if exchange.method == "HEAD" else len(body))

    def _publish(self, exchange: Exchange, reply: Reply, route: str, sent: int, *, cut: bool = False) -> None:
        self._events.publish(
            RequestFinished(
                request_id=exchange.request_id,
                client=exchange.client,
                method=exchange.method,
                path=exchange.log_path,
                route=route,
                status=reply.status.value,
                reason="answer-cut-short" if cut else reply.reason,
                received=exchange.received,
                sent=sent,
                seconds=exchange.elapsed(),
                stored=reply.stored,
            )
        )


def _routing_problem(error: HTTPException, exchange: Exchange) -> Reply:
    """Flask's own refusals: no such route, a method that the route does not have."""
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    headers = [allow(error.valid_methods or ())] if isinstance(error, MethodNotAllowed) else []
    reason = status.phrase.lower().replace(" ", "-")
    return problem(status, reason, f"{status.phrase}.", exchange.header("ACCEPT") or "", headers)


class AnyPath(PathConverter):
    """Matches every rest of a path, also one that is no legal name, so that the view's own gate judges it."""

    regex = "(?s:.*)"
    part_isolating = False


#: The rule of the transfers: every path below the mount point.
ANY_PATH = "/<any_path:path>"


class TransferBlueprint(flask.Blueprint):
    """A blueprint whose views take an ``Exchange`` and return a ``Reply``.

    ``direct`` holds the view of each method, for a door in front of a blueprint with one rule.
    """

    def __init__(self, name: str, import_name: str, desk: Desk, *, url_prefix: str | None = None) -> None:
        super().__init__(name, import_name, url_prefix=url_prefix)
        self._desk = desk
        self.direct: dict[str, tuple[View, str]] = {}

    def transfer(self, rule: str, *methods: str) -> Callable[[View], View]:
        """Register a view for ``rule`` and ``methods``, with Flask and for the direct door."""

        route = f"{self.url_prefix or ''}{rule}".replace(ANY_PATH, "/<path>")

        def register(view: View) -> View:
            self.direct.update(dict.fromkeys(methods, (view, route)))

            def flask_view(**_: object) -> flask.Response:
                # The name is parsed from the environ, once and strictly; Flask's own idea of it is not used.
                exchange = self._desk.exchange(flask.request.environ)
                if exchange.method not in methods:  # Werkzeug takes "put" for "PUT"
                    return as_flask_response(self._desk.answer(refuse_method(methods), _OTHER, exchange))
                return as_flask_response(self._desk.answer(view, route, exchange))

            self.add_url_rule(
                rule, endpoint=view.__name__, view_func=flask_view, methods=methods, provide_automatic_options=False
            )
            return view

        return register


class _PlainResponse(flask.Response):
    """Has no type of its own accord: a Reply says what there is to say."""

    default_mimetype = None


def as_flask_response(reply: Reply) -> flask.Response:
    return _PlainResponse(reply.body, status=status_line(reply.status), headers=reply.headers, direct_passthrough=True)


def _no_such_url(_: Exchange) -> Reply:
    raise NotFound


class DirectDoor:
    """WSGI middleware: requests below ``prefix`` skip Flask's dispatch, as do those for the mount point itself, written
    without its slash."""

    def __init__(self, flask_door: WsgiApplication, blueprint: TransferBlueprint, desk: Desk, prefix: str) -> None:
        self._flask_door = flask_door
        self._direct = blueprint.direct
        self._desk = desk
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
        reply = self._desk.answer(view, route, self._desk.exchange(environ))
        start_response(status_line(reply.status), reply.headers)
        return (reply.body,) if isinstance(reply.body, bytes) else reply.body


def refuse_method(known: Sequence[str]) -> View:
    """A view that answers 405 and names the methods that there are."""

    def refuse(_: Exchange) -> Reply:
        raise MethodNotAllowed(known)

    return refuse


@functools.lru_cache(maxsize=100)
def status_line(status: HTTPStatus | Status) -> str:
    return f"{status.value} {status.phrase}"
