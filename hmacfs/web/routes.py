"""The table of routes, and what it says of a request. Flask's blueprints and the fast path are both made from it.

Methods are case-sensitive (RFC 9110 section 9.1): ``put`` is no method of this server.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from hmacfs.errors import MethodNotAllowed, NotFound
from hmacfs.web.messages import Request, Response, View

#: The route, in metrics and logs, of requests that no view is for.
OTHER = "other"


class Covers(enum.Enum):
    """Which paths a route's path stands for."""

    ITSELF = enum.auto()
    ALL_BELOW = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """One row of the table. path: decoded, as in WSGI's PATH_INFO; name: what metrics and logs call the route.

    Example: ``Route("/upload/", Covers.ALL_BELOW, ("PUT",), put, "/upload/<path>")``.
    """

    path: str
    covers: Covers
    methods: tuple[str, ...]
    view: View
    name: str


class Endpoint(NamedTuple):
    """What answers a request. name: the route's, for metrics and logs; allowed: the methods that the path has."""

    view: View
    name: str
    allowed: tuple[str, ...]


class RouteTable:
    """Finds the endpoint of a request. Of several routes that cover a path the one with the longest path counts."""

    def __init__(self, routes: Iterable[Route]) -> None:
        of_path: dict[tuple[Covers, str], list[Route]] = {}
        methods_of_name: dict[str, set[str]] = {}
        for route in routes:
            of_path.setdefault((route.covers, route.path), []).append(route)
            methods_of_name.setdefault(route.name, set()).update(route.methods)
        found = {key: _resource(rows, methods_of_name[rows[0].name]) for key, rows in of_path.items()}
        self._exact = {path: resource for (covers, path), resource in found.items() if covers is Covers.ITSELF}
        below = [
            (path, len(path), *resource) for (covers, path), resource in found.items() if covers is Covers.ALL_BELOW
        ]
        self._below = sorted(below, key=lambda item: item[1], reverse=True)

    def find(self, path: str, method: str) -> Endpoint | None:
        """The endpoint for that method on the path, which may be a refusal; ``None`` if no route covers the path."""
        for prefix, length, by_method, others in self._below:
            if path[:length] == prefix:  # half of what startswith costs
                return by_method.get(method, others)
        found = self._exact.get(path)
        return None if found is None else found.by_method.get(method, found.others)


class _Resource(NamedTuple):
    """The endpoints of one path. others: of methods that no path of that name has."""

    by_method: Mapping[str, Endpoint]
    others: Endpoint


def _resource(routes: Sequence[Route], methods_of_name: Iterable[str]) -> _Resource:
    """A method that this path does not have is counted under the route's name if another path of that name has it;
    invented methods are not, else the metrics would have a series for each."""
    allowed = tuple(method for route in routes for method in route.methods)
    name = routes[0].name
    by_method = dict.fromkeys(methods_of_name, Endpoint(refuse_method, name, allowed))
    by_method.update((method, Endpoint(route.view, name, allowed)) for route in routes for method in route.methods)
    return _Resource(by_method, Endpoint(refuse_method, OTHER, allowed))


def refuse_method(request: Request) -> Response:
    raise MethodNotAllowed(request.allowed)


def refuse_path(_: Request) -> Response:
    raise NotFound("Not Found.")


#: The endpoint of a path that no route covers.
NO_SUCH_PATH = Endpoint(refuse_path, OTHER, ())
