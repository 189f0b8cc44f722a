"""Records of sessions: what is written, and what servers of other releases wrote and read."""

from __future__ import annotations

import dataclasses
import json

import pytest

from hmacfs.sessions.codec import decode, encode
from hmacfs.uploads.session import Session, State

#: As servers wrote them before a session had a field for the beginning of the next chunk.
OF_1_0_0 = (
    '{"token":"k1","path":"a/b.jpg","slot":"a/b.jpg","length":100000,"content_type":"image/jpeg",'
    '"owner":"192.0.2.1","created":1700000000.25,"touched":1700000001.5,"state":"open","chunks":1,'
    '"metadata":"40000","revision":2}'
)
WITH_A_DIALECT = OF_1_0_0[:-1] + ',"dialect":"numbered","chunk_count":3,"etag":"","nonce":"n1","site":""}'

NUMBERED = Session(
    key="k1",
    path="a/b.jpg",
    slot="a/b.jpg",
    length=100_000,
    content_type="image/jpeg",
    owner="192.0.2.1",
    created=1_700_000_000.25,
    touched=1_700_000_001.5,
    chunks=1,
    next_chunk_at=40_000,
    revision=2,
    dialect="numbered",
    chunk_count=3,
    nonce="n1",
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"next_chunk_at": 0, "chunks": 0},
        {"state": State.FINISHED, "etag": '"1-2"'},
        {"dialect": "range", "next_chunk_at": 0},
        {"dialect": "tus", "slot": None, "metadata": "filename eA==", "next_chunk_at": 0},
        {"dialect": "tus", "slot": None, "metadata": "40000", "next_chunk_at": 0},
    ],
)
def test_a_record_is_read_back(changes: dict[str, object]) -> None:
    session = dataclasses.replace(NUMBERED, **changes)  # type: ignore[arg-type]
    assert decode(encode(session)) == session


def test_a_record_is_ascii_and_an_unknown_field_is_left_out() -> None:
    session = dataclasses.replace(NUMBERED, path="☃\0", owner="é")
    record = encode(session)
    assert record.isascii()
    assert decode(json.dumps({**json.loads(record), "later": 1})) == session


@pytest.mark.parametrize("key", ["", "a b", "x" * 65, "☃"])
def test_a_key_that_is_none_is_not_written(key: str) -> None:
    with pytest.raises(ValueError, match="not a session key"):
        encode(dataclasses.replace(NUMBERED, key=key))


def test_where_the_next_chunk_begins_is_read_from_older_records() -> None:
    assert decode(WITH_A_DIALECT) == NUMBERED
    assert decode(OF_1_0_0) == dataclasses.replace(NUMBERED, chunk_count=0, nonce="")


@pytest.mark.parametrize(
    ("slot", "metadata", "dialect"), [("a/b.jpg", "0", "numbered"), ("a/b.jpg", "", "range"), (None, "", "tus")]
)
def test_the_dialect_is_read_from_records_of_1_0_0(slot: str | None, metadata: str, dialect: str) -> None:
    record = json.dumps({**json.loads(OF_1_0_0), "slot": slot, "metadata": metadata})
    session = decode(record)
    assert (session.dialect, session.metadata, session.next_chunk_at) == (dialect, "", 0)


def test_older_servers_read_where_the_next_chunk_begins() -> None:
    """What they know of a record is as they would have written it."""
    record = json.loads(encode(NUMBERED))
    assert {name: record[name] for name in json.loads(WITH_A_DIALECT)} == json.loads(WITH_A_DIALECT)


def test_an_older_server_may_save_between_two_saves_of_this_one() -> None:
    """It drops the fields that it does not know, and moves the boundary in the one that it does."""
    known = json.loads(WITH_A_DIALECT).keys()
    seen = {name: value for name, value in json.loads(encode(NUMBERED)).items() if name in known}
    saved = decode(json.dumps({**seen, "metadata": "80000", "chunks": 2}))
    assert (saved.next_chunk_at, saved.chunks, saved.metadata) == (80_000, 2, "")
