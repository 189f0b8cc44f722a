"""HEAD on a slot's URL while its upload becomes the file."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest

from hmacfs.errors import BadSignature, NotFound
from hmacfs.web.head_view import HeadView
from hmacfs.web.messages import Response

FILE = Response(HTTPStatus.OK, [("Content-Length", "5")])


class Request:
    is_folder = False
    verified = None
    client = "192.0.2.1"

    def __init__(self, query: str = "") -> None:
        self.environ = {"QUERY_STRING": query}

    def header(self, _name: str) -> None:
        return None


class World:
    """Guards, slots and the store. found: what each look for the file finds."""

    def __init__(self, *found: Response | Exception, is_of_upload: bool = True, signed_downloads: bool = False) -> None:
        self.found = list(found)
        self.is_of_upload = is_of_upload
        self.signed_downloads = signed_downloads
        self.view = HeadView(self.serve_file, self, self, self)  # type: ignore[arg-type]

    def serve_file(self, _request: Any) -> Response:
        found = self.found.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def probe_signature(self, _request: Any) -> bool:
        return self.is_of_upload

    def unfinished(self, _request: Any, _may_know: Any) -> None:
        """It was finished after the first look for the file."""


def test_an_upload_that_became_the_file_between_two_looks_is_the_file() -> None:
    world = World(NotFound(), FILE)
    assert world.view.head(Request()) is FILE  # type: ignore[arg-type]
    assert world.found == []


def test_a_file_that_is_not_there_is_looked_for_twice_at_most() -> None:
    world = World(NotFound(), NotFound())
    with pytest.raises(NotFound):
        world.view.head(Request())  # type: ignore[arg-type]
    assert world.found == []


def test_who_has_nothing_of_an_upload_is_answered_by_the_first_look() -> None:
    world = World(NotFound(), is_of_upload=False)
    with pytest.raises(NotFound):
        world.view.head(Request())  # type: ignore[arg-type]


def test_what_must_not_be_told_of_is_not_looked_for() -> None:
    world = World(signed_downloads=True)
    with pytest.raises(BadSignature):
        world.view.head(Request())  # type: ignore[arg-type]
