"""What strangers may ask of the session store at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from http import HTTPStatus
from typing import NoReturn

import pytest

import hmacfs.web.unproven
from hmacfs.errors import HmacfsError, NotFound, SessionStoreBusy, SessionUnknown
from hmacfs.stores.s3.store import S3FileStore
from hmacfs.web.head_view import HeadView
from hmacfs.web.locations import Locations
from hmacfs.web.messages import TUS_PATH, Request
from hmacfs.web.slot_views import SlotViews
from hmacfs.web.tus_views import TusViews
from hmacfs.web.unproven import PER_CLIENT, UnprovenLookups
from tests.stores.world import NAME, Body, World

CLIENT = "192.0.2.1"


def test_one_client_has_a_share_and_the_others_theirs() -> None:
    lookups = UnprovenLookups(1000)
    with ExitStack() as stack:
        for number in range(PER_CLIENT):
            stack.enter_context(lookups.turn(f"2001:db8::{number}"))  # one /64
        with pytest.raises(SessionStoreBusy), lookups.turn("2001:db8::ffff"):
            pass
        stack.enter_context(lookups.turn("2001:db8:1::1"))
    with lookups.turn("2001:db8::1"):
        pass
    assert not lookups._asking, "nobody is remembered"


def test_all_together_have_half_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hmacfs.web.unproven, "PATIENCE", 0.01)
    lookups = UnprovenLookups(2)
    with lookups.turn("192.0.2.1"), pytest.raises(SessionStoreBusy), lookups.turn("192.0.2.2"):
        pass
    with lookups.turn("192.0.2.2"):
        pass


def test_the_tokens_of_some_thousand_sessions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hmacfs.web.unproven, "_KNOWN_LIMIT", 2)
    lookups, world = UnprovenLookups(2), World("folder")
    sessions = [world.begin(by_slot=False) for _ in range(3)]
    for session in sessions:
        lookups.remember(session)
    assert [lookups.is_known(world.uploads.token_of(session) or "") for session in sessions] == [False, True, True]
    assert not any(map(lookups.is_known, ("", "x", sessions[2].key, "\u00e9" * 43)))


UNKNOWN = "s" + "x" * 43


@pytest.mark.parametrize("view", [TusViews.head, TusViews.patch, TusViews.delete, TusViews.name_of_file])
def test_a_token_that_no_session_has_costs_an_object_store_nothing(view: Callable[[TusViews, Request], object]) -> None:
    world, lookups = World("objects"), UnprovenLookups(1000)
    views = TusViews(world.uploads, "/upload/", Locations("/upload/", ""), lookups)

    def ask(token: str) -> None:
        view(views, tus_request(token))

    calls = note_calls(world)
    with pytest.raises(SessionUnknown):
        ask(UNKNOWN)
    assert calls == []
    session = world.begin(by_slot=False)
    token = world.uploads.token_of(session) or ""
    with ExitStack() as stack:
        for _ in range(PER_CLIENT):
            stack.enter_context(lookups.turn(CLIENT))
        for each in (UNKNOWN, token):
            with pytest.raises(SessionStoreBusy):
                ask(each)
        lookups.remember(session)
        with suppress(HmacfsError):
            ask(token)
        with pytest.raises(SessionUnknown):
            ask("no token")


def test_a_head_of_a_slot_with_a_token_that_no_session_has_costs_no_listing() -> None:
    world, lookups = World("objects"), UnprovenLookups(1000)
    slots = SlotViews(world.uploads, Locations("/upload/", ""))
    view = HeadView(no_file, Strangers(), slots, lookups)  # type: ignore[arg-type]
    session = world.begin()
    calls = note_calls(world)
    for token in (UNKNOWN, "no token"):
        with pytest.raises(NotFound):
            view.head(slot_request(token))
    assert calls == []
    token = world.uploads.token_of(session) or ""
    assert view.head(slot_request(token)).status == HTTPStatus.OK
    assert lookups.is_known(token)


class Strangers:
    """Guards of requests without a signature."""

    signed_downloads = False

    def probe_signature(self, _request: Request) -> bool:
        return False

    def may_be_signed(self, _request: Request) -> bool:
        return False

    def is_signed(self, *_: object) -> bool:
        return False


def no_file(_request: Request) -> NoReturn:
    raise NotFound


def note_calls(world: World) -> list[str]:
    """The calls of the engine from now on."""
    calls: list[str] = []

    def step(name: str, when: str) -> bool:
        calls.append(f"{when} {name}")
        return False

    assert isinstance(world.store, S3FileStore)
    world.store.bucket.on_step = step  # type: ignore[attr-defined]
    return calls


def tus_request(token: str) -> Request:
    environ = {"REQUEST_METHOD": "PATCH", "PATH_INFO": f"/upload/{TUS_PATH}{token}", "HTTP_TUS_RESUMABLE": "1.0.0"}
    return Request(environ | {"HTTP_UPLOAD_OFFSET": "0", "CONTENT_LENGTH": "0"}, CLIENT, Body(b""))


def slot_request(token: str) -> Request:
    request = Request(
        {"REQUEST_METHOD": "HEAD", "PATH_INFO": "/upload/x", "HTTP_X_SESSION_TOKEN": token}, CLIENT, Body(b"")
    )
    request.name = NAME
    return request
