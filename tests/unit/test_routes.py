"""The table of routes: which endpoint answers which method on which path."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from hmacfs.errors import MethodNotAllowed
from hmacfs.web.messages import Request, Response
from hmacfs.web.routes import OTHER, Covers, Route, RouteTable
from tests.unit.requests import EMPTY


def answer(_: Request) -> Response:
    return Response(HTTPStatus.OK, [])


TABLE = RouteTable(
    [
        Route("/files/", Covers.ALL_BELOW, ("GET", "PUT"), answer, "files"),
        Route("/files/parts/", Covers.ALL_BELOW, ("PATCH",), answer, "files"),
        Route("/files/parts/", Covers.ALL_BELOW, ("GET",), answer, "files"),
        Route("/", Covers.ITSELF, ("GET",), answer, "/"),
    ]
)


@pytest.mark.parametrize(
    ("path", "method", "name", "allowed"),
    [
        ("/files/a", "GET", "files", None),
        ("/files/", "PUT", "files", None),
        ("/files/a", "PATCH", "files", ("GET", "PUT")),
        ("/files/a", "BREW", OTHER, ("GET", "PUT")),
        ("/files/a", "get", OTHER, ("GET", "PUT")),
        ("/files/parts/a", "PATCH", "files", None),
        ("/files/parts/a", "GET", "files", None),
        ("/files/parts/a", "PUT", "files", ("PATCH", "GET")),
        ("/", "GET", "/", None),
        ("/", "PUT", OTHER, ("GET",)),
    ],
)
def test_an_endpoint_is_found_or_refuses(path: str, method: str, name: str, allowed: tuple[str, ...] | None) -> None:
    found = TABLE.find(path, method)
    assert found is not None
    assert found.name == name
    request = Request({"REQUEST_METHOD": method, "PATH_INFO": path}, "192.0.2.1", EMPTY, found.allowed)
    if allowed is None:
        assert found.view is answer
        return
    with pytest.raises(MethodNotAllowed) as refusal:
        found.view(request)
    assert refusal.value.allowed == allowed


@pytest.mark.parametrize("path", ["", "/files", "//files/a", "/file", "/x", "*"])
def test_a_path_that_no_route_covers(path: str) -> None:
    assert TABLE.find(path, "GET") is None


def test_the_order_of_the_rows_does_not_matter() -> None:
    short = Route("/a/", Covers.ALL_BELOW, ("GET",), answer, "short")
    long = Route("/a/b/", Covers.ALL_BELOW, ("GET",), answer, "long")
    for rows in ([short, long], [long, short]):
        found = RouteTable(rows).find("/a/b/c", "GET")
        assert found is not None
        assert found.name == "long"
