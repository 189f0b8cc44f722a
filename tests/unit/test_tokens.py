"""Session tokens, and that what is kept of them opens nothing."""

from __future__ import annotations

import dataclasses

import pytest

from hmacfs.protocol.keyring import Keyring, message_v, message_v2, message_v3
from hmacfs.sessions.codec import encode
from hmacfs.uploads.session import Session
from hmacfs.uploads.tokens import SessionTokens, is_of, key_of

OLD, NEW = b"the secret of last year", b"the secret of this year"


def session(tokens: SessionTokens) -> Session:
    identity = tokens.new()
    return Session(identity.key, "a/b", "a/b", 1, None, "192.0.2.1", 0.0, 0.0, nonce=identity.nonce)


def test_a_token_is_found_again_and_leads_to_its_session() -> None:
    tokens = SessionTokens(Keyring([NEW]))
    one, other = session(tokens), session(tokens)
    token = tokens.of(one)
    assert token is not None
    assert key_of(token) == one.key
    assert is_of(one, token)
    assert not is_of(other, token)
    assert tokens.of(other) != token


def test_a_change_of_the_secret_loses_no_token_as_long_as_the_old_one_is_known() -> None:
    made = session(SessionTokens(Keyring([OLD])))
    token = SessionTokens(Keyring([OLD])).of(made)
    assert token is not None
    assert SessionTokens(Keyring([NEW, OLD])).of(made) == token
    assert SessionTokens(Keyring([NEW])).of(made) is None
    assert is_of(made, token), "who has it needs no secret to be believed"


def test_nothing_that_is_kept_is_a_token() -> None:
    tokens = SessionTokens(Keyring([NEW]))
    made = session(tokens)
    token = tokens.of(made)
    assert token is not None
    assert token not in encode(made)
    assert token[1:] not in repr(made)
    for kept in (made.key, made.nonce, made.key[:43], made.key[:44], f"s{made.key[:43]}"):
        assert key_of(kept) != made.key
        assert not is_of(made, kept)


@pytest.mark.parametrize("text", ["", "s", "x" * 44, "s" + "x" * 41, "s" + "x" * 44, "s" + "ü" * 43, "../" + "x" * 41])
def test_what_is_no_token_has_no_key(text: str) -> None:
    assert key_of(text) is None
    assert not is_of(session(SessionTokens(Keyring([NEW]))), text)


def test_uploads_of_the_first_release_go_on_under_their_own_tokens() -> None:
    tokens = SessionTokens(Keyring([NEW]))
    former = "AbC-_" + "x" * 38
    made = dataclasses.replace(session(tokens), key=former, nonce="")
    assert tokens.of(made) == key_of(former) == former
    assert is_of(made, former)


def test_no_signature_of_a_request_is_a_token() -> None:
    """Who may have paths signed at will, as users of XMPP servers may, gets no token that way."""
    keyring = Keyring([NEW])
    purpose = b"\0hmacfs session token\0"
    assert not any(
        message.startswith(purpose[:1])
        for message in (message_v("a", 1), message_v2("a", 1, "b/c"), message_v3("PUT", 1, "/upload/a"))
    )
    assert list(keyring.macs(b"x")) == [keyring.sign(b"x")]
