"""Flask, and what extends it: the one module that imports them.

The application is a Flask application with two blueprints made from the table of routes, flask-limiter's storage and
strategy, and the exporter's registry. Flask's dispatch and the fast path find the same ``Endpoint``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import flask
from flask_limiter import Limiter
from prometheus_client import CollectorRegistry
from prometheus_flask_exporter.multiprocess import GunicornPrometheusMetrics
from werkzeug.exceptions import HTTPException
from werkzeug.routing import PathConverter

from hmacfs.addresses import network_of
from hmacfs.protocol.http1.responses import pairs_of
from hmacfs.rates.failover import FailoverCounter
from hmacfs.rates.limiting import STORAGE_URI, STRATEGY, WindowRateLimiter
from hmacfs.web.dispatch import FastPath, RequestHandler
from hmacfs.web.routes import NO_SUCH_PATH, Covers, Route, RouteTable

Application = flask.Flask


class _AnyPath(PathConverter):
    """Matches every rest of a path, also one that is no legal name: the view's own check judges it."""

    regex = "(?s:.*)"
    part_isolating = False


class _PlainResponse(flask.Response):
    """Has no Content-Type by default: a ``Response`` of ours has all the headers that there are to be."""

    default_mimetype = None
    automatically_set_content_length = False  # the server does

    def get_app_iter(self, environ: dict[str, Any]) -> Iterable[bytes]:
        """The body, for HEAD too, whose Content-Length the server takes from it without sending it."""
        del environ
        return cast("Iterable[bytes]", self.response)


def new_application() -> Application:
    app = flask.Flask("hmacfs", static_folder=None)
    app.url_map.merge_slashes = False  # "a//b" is refused, not redirected
    app.url_map.converters["any_path"] = _AnyPath
    return app


def add_routes(
    app: Application, handler: RequestHandler, *, transfers: Iterable[Route], others: Iterable[Route]
) -> FastPath:
    """Have the application answer both kinds of routes. The ``transfers`` are answered by the fast path as well, which
    gets every request first, and is returned."""
    transfers, others = tuple(transfers), tuple(others)
    table = RouteTable((*transfers, *others))

    def respond(*_: object, **__: object) -> flask.Response:
        # The path is read from the environ, once and strictly: Flask's own idea of it drops slashes, for example.
        environ = flask.request.environ
        endpoint = table.find(environ["PATH_INFO"], environ["REQUEST_METHOD"]) or NO_SUCH_PATH
        response = handler.handle(endpoint, environ)
        body = [response.body] if isinstance(response.body, bytes) else response.body
        return _PlainResponse(body, response.status_line, pairs_of(response.headers), direct_passthrough=True)

    app.register_blueprint(_blueprint("transfers", transfers, respond))
    app.register_blueprint(_blueprint("probes", others, respond))
    app.register_error_handler(HTTPException, respond)  # no such route, or a method that the route does not have
    fast_path = FastPath(app.wsgi_app, RouteTable(transfers), handler)
    app.wsgi_app = fast_path  # type: ignore[method-assign]
    return fast_path


def _blueprint(name: str, routes: Iterable[Route], respond: Callable[..., flask.Response]) -> flask.Blueprint:
    blueprint = flask.Blueprint(name, __name__)
    for number, route in enumerate(routes):
        if route.path.startswith("/"):  # OPTIONS * is no URL
            rule = f"{route.path}<any_path:path>" if route.covers is Covers.ALL_BELOW else route.path
            blueprint.add_url_rule(rule, f"{number}", respond, methods=route.methods, provide_automatic_options=False)
    return blueprint


def rate_limiter(
    app: Application, counter: FailoverCounter, clients: Callable[[dict[str, Any]], str]
) -> WindowRateLimiter:
    """The strategy of flask-limiter, which counts in ``counter``. clients: the address of a request's client.

    ``RateLimits`` asks it: flask-limiter's own check of each request would be the dearest part of a small one (a third
    of the requests per second), and runs for those only that Flask dispatches.
    """
    limiter = Limiter(
        lambda: network_of(clients(flask.request.environ)),
        app=app,
        storage_uri=STORAGE_URI,
        storage_options={"counter": counter},  # type: ignore[dict-item]  # passed on to FailoverStorage
        strategy=STRATEGY,
    )
    return cast("WindowRateLimiter", limiter.limiter)


def metrics_registry(app: Application) -> CollectorRegistry:
    """The exporter's, for metrics of our own: its would cost a fifth of the small requests, and their labels have no
    bound. ``PROMETHEUS_MULTIPROC_DIR`` names the folder of their values."""
    registry: CollectorRegistry = GunicornPrometheusMetrics(app, export_defaults=False).registry
    return registry
