"""What strangers may ask of the session store at once."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

import hmacfs.web.unproven
from hmacfs.errors import SessionStoreBusy
from hmacfs.uploads.contracts.stores import PartialInfo
from hmacfs.uploads.tokens import key_of
from hmacfs.web.unproven import PER_CLIENT, UnprovenLookups


def test_one_client_has_a_share_and_the_others_theirs() -> None:
    lookups = UnprovenLookups(1000, lambda _: None)
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
    lookups = UnprovenLookups(2, lambda _: None)
    with lookups.turn("192.0.2.1"), pytest.raises(SessionStoreBusy), lookups.turn("192.0.2.2"):
        pass
    with lookups.turn("192.0.2.2"):
        pass


def test_only_what_has_the_form_of_a_token_is_looked_for() -> None:
    asked: list[str] = []

    def stat(key: str) -> PartialInfo:
        asked.append(key)
        return PartialInfo(0, 0.0)

    lookups = UnprovenLookups(2, stat)
    token = "s" + 43 * "x"
    assert lookups.is_known(token)
    assert not any(map(lookups.is_known, ("", "x", token + "x", token[:-1] + "/", "\u00e9" * 43)))
    assert asked == [key_of(token)]
