"""The use cases of an upload session, over each kind of store."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Container
from functools import partial
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmacfs.errors import (
    BadRequest,
    ChecksumMismatch,
    DeletionForbidden,
    DigestMismatch,
    HmacfsError,
    IncompleteBody,
    NameTaken,
    NoSpace,
    OffsetMismatch,
    PeerTimeout,
    SessionConflict,
    SessionEnded,
    SessionExpired,
    SessionStoreUnavailable,
    SessionUnknown,
    StorageFailed,
    StoreUnavailable,
    Superseded,
    TooLarge,
    TooManySessions,
    WriterBusy,
)
from hmacfs.protocol.digests import Claim, Digests, claims_of_file
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.contracts.stores import PartialInfo
from hmacfs.uploads.files import FileMetadata
from hmacfs.uploads.progress import Progress, SweepResult
from hmacfs.uploads.session import Session, State
from tests.stores.backends import BACKENDS
from tests.stores.world import CONTENT, NAME, TTL, Body, OtherWriter, World


@pytest.fixture
def world(kind: str) -> World:
    return World(kind)


# -- create ---------------------------------------------------------------------------------------


def test_an_upload_begins_empty(world: World) -> None:
    session = world.begin()
    assert world.uploads.find(NAME) == world.get(session) == session
    assert world.uploads.progress(session).offset == 0
    assert (session.path, session.slot, session.length, session.state) == (NAME.path, NAME.path, 100, State.OPEN)
    assert session.created == session.touched == world.now


def test_a_slot_has_one_open_session(world: World) -> None:
    assert world.begin() == world.begin()
    assert len(world.unfinished()) == 1


def test_a_session_known_by_its_token_alone_is_not_found_by_its_slot(world: World) -> None:
    first, second = world.begin(by_slot=False), world.begin(by_slot=False)
    assert first.key != second.key
    assert world.uploads.find(NAME) is None


@pytest.mark.parametrize(("length", "error"), [(1001, TooLarge), (900, NoSpace)])
def test_what_cannot_fit_is_not_begun(world: World, length: int, error: type[HmacfsError]) -> None:
    world.traffic.spare = (world.store.space_of(900) or 0) - 1
    with pytest.raises(error):
        world.begin(length)
    assert (world.unfinished(), world.sessions.records) == (set(), {})


def test_a_taken_name_is_not_begun(world: World) -> None:
    world.put_another()
    with pytest.raises(NameTaken):
        world.begin()
    assert world.unfinished() == set()


def test_a_client_has_so_many_open_sessions_at_most(world: World) -> None:
    sessions = [world.begin(by_slot=False) for _ in range(3)]
    with pytest.raises(TooManySessions) as refusal:
        world.begin(by_slot=False)
    assert refusal.value.retry_after > 0
    assert len(world.unfinished()) == 3
    world.create(NAME, 1, "192.0.2.2", by_slot=False)
    world.append(sessions[0], 0, CONTENT)
    world.begin(by_slot=False, name=StoredName.from_text("another"))


def test_a_client_that_begins_several_at_once_has_no_more_of_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        world.begin(by_slot=False)
    create = world.sessions.create

    def slow(session: Session) -> bool:
        monkeypatch.setattr(world.sessions, "create", create)
        world.begin(by_slot=False)  # another request, while this one waits for the store
        return create(session)

    monkeypatch.setattr(world.sessions, "create", slow)
    with pytest.raises(TooManySessions):
        world.begin(by_slot=False)
    assert len(world.unfinished()) == len(world.sessions.records) == 3


def test_clients_that_have_no_name_do_not_share_a_limit(world: World) -> None:
    for number in range(5):
        world.create(StoredName.from_text(f"f{number}"), 10, "", by_slot=True)


def test_a_slot_that_was_completed_this_moment_is_taken(world: World) -> None:
    session = world.begin()

    def complete_instead(_: Session) -> bool:
        world.append(session, 0, CONTENT)
        return False

    world.sessions.create = complete_instead  # type: ignore[method-assign,assignment]
    with pytest.raises(NameTaken):
        world.begin()
    assert world.unfinished() == set()


@pytest.mark.parametrize("by_slot", [True, False])
def test_a_slot_that_was_completed_since_its_name_was_looked_at_is_taken(world: World, by_slot: bool) -> None:
    """Else the other clients of the slot found an upload that can only fail."""
    session, create = world.begin(), world.sessions.create

    def complete_before(newcomer: Session) -> bool:
        world.append(session, 0, CONTENT)
        return create(newcomer)

    world.sessions.create = complete_before  # type: ignore[method-assign,assignment]
    with pytest.raises(NameTaken):
        world.begin(by_slot=by_slot)
    assert world.unfinished() == set()
    assert [one.key for one in world.sessions.of_path(NAME.path)] == [session.key]


def test_an_upload_whose_name_cannot_be_looked_at_again_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, create = world.begin(), world.sessions.create

    def fail(_name: StoredName) -> NoReturn:
        raise StoreUnavailable

    def fail_after(newcomer: Session) -> bool:
        world.append(session, 0, CONTENT)
        monkeypatch.setattr(world.store, "exists", fail)
        return create(newcomer)

    monkeypatch.setattr(world.sessions, "create", fail_after)
    with pytest.raises(StoreUnavailable):
        world.begin()
    assert world.unfinished() == set()
    assert [one.key for one in world.sessions.of_path(NAME.path)] == [session.key]


@pytest.mark.parametrize("calls", [0, 1])
def test_nothing_is_left_if_the_store_is_lost_while_an_upload_begins(world: World, calls: int) -> None:
    world.sessions.calls_left = calls
    with pytest.raises(SessionStoreUnavailable):
        world.begin()
    assert world.unfinished() == set()


# -- append ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BACKENDS)
@settings(max_examples=50)
@given(sizes=st.lists(st.integers(0, 40), max_size=10))
def test_pieces_become_the_file(kind: str, sizes: list[int]) -> None:
    world = World(kind)
    session, offset = world.begin(), 0
    for size in [*sizes, 100]:
        piece = CONTENT[offset : offset + size]
        progress = world.append(session, offset, piece)
        offset += len(piece)
        assert progress.offset == offset
        assert progress.is_finished == (offset == 100)
        if progress.is_finished:
            break
        assert world.record(session).touched == world.now
        session = progress.session
        world.now += TTL / 2
    assert progress.info is not None
    assert world.file() == CONTENT
    assert progress.info == world.store.stat(NAME)
    assert progress.info.metadata == FileMetadata("image/jpeg")
    assert world.unfinished() == set()
    assert world.record(session).state is State.FINISHED


def test_an_empty_file_is_complete_with_its_first_piece(world: World) -> None:
    assert world.append(world.begin(0), 0, b"").is_finished
    assert world.file() == b""


@pytest.mark.parametrize("failure", [IncompleteBody(), PeerTimeout(), Superseded(), KeyboardInterrupt()])
def test_what_arrived_is_kept(world: World, failure: BaseException) -> None:
    session = world.begin()
    world.now += 10
    with pytest.raises(type(failure)):
        world.uploads.append(session, 0, Body(CONTENT[:30], failure), 100)
    assert world.stored(session) == CONTENT[:30]
    assert world.uploads.progress(session).offset == 30
    assert world.append(session, 30, CONTENT[30:]).is_finished
    assert world.file() == CONTENT


def test_a_piece_that_fails_counts_as_a_sign_of_life_if_bytes_of_it_came(world: World) -> None:
    session, began = world.begin(), world.now
    world.now += 100
    with pytest.raises(IncompleteBody):
        world.uploads.append(session, 0, Body(b"", IncompleteBody()), 100)
    assert world.record(session).touched == began
    with pytest.raises(IncompleteBody):
        world.uploads.append(session, 0, Body(b"x", IncompleteBody()), 100)
    assert world.record(session).touched == world.now


@pytest.mark.parametrize("failure", [None, IncompleteBody()])
def test_a_record_is_not_written_for_each_piece(world: World, failure: BaseException | None) -> None:
    session, written = world.begin(), []
    for offset in range(50):
        world.now += 5
        with contextlib.suppress(IncompleteBody):
            session = world.uploads.append(session, offset, Body(b"x", failure), 1).session
        session = world.record(session)
        written.append(session.touched)
    assert len(set(written)) == 5  # once a minute
    assert max(now - touched for now, touched in zip(range(50_005, 50_255, 5), written, strict=True)) < 60


def test_progress_knows_when_the_last_byte_came(world: World) -> None:
    session = world.begin()
    world.now += 50
    told = world.append(session, 0, CONTENT[:30]).session.touched
    assert told == world.now
    assert world.uploads.progress(world.record(session)).session.touched == told
    world.now += 5
    assert world.append(world.record(session), 30, b"").session.touched <= told  # no byte, no longer life


def test_an_upload_lives_as_long_as_its_bytes_come_whatever_the_record_says(world: World) -> None:
    session = world.begin()
    world.now += 50
    session = world.append(session, 0, CONTENT[:30]).session
    world.now += TTL - 1
    assert world.get(session).state is State.OPEN
    assert world.uploads.sweep() == SweepResult(0, 0)
    world.now += 1
    with pytest.raises(SessionExpired):
        world.get(session)
    world.now += 1
    assert world.uploads.sweep() == SweepResult(1, 0)


@pytest.mark.parametrize("offset", [0, 29, 31, 99, 100])
def test_a_piece_that_starts_elsewhere_is_refused(world: World, offset: int) -> None:
    session = world.append(world.begin(), 0, CONTENT[:30]).session
    with pytest.raises(OffsetMismatch) as refusal:
        world.append(session, offset, b"")
    assert refusal.value.offset == 30
    assert world.stored(session) == CONTENT[:30]


@pytest.mark.parametrize(("length", "stored", "size"), [(100, 0, 101), (100, 30, 71), (None, 0, 1001), (None, 999, 2)])
def test_a_piece_that_leads_beyond_the_length_is_refused(
    world: World, length: int | None, stored: int, size: int
) -> None:
    session = world.append(world.begin(length), 0, bytes(stored)).session
    with pytest.raises(TooLarge):
        world.append(session, stored, bytes(size))
    assert world.stored(session) == bytes(stored)


@pytest.mark.parametrize(("offset", "size"), [(0, 101), (29, 72), (31, 70), (100, 1), (10**17, 1)])
def test_a_piece_that_leads_beyond_the_length_from_elsewhere_is_told_the_offset(
    world: World, offset: int, size: int
) -> None:
    """And asks no writer to let go."""
    session = world.append(world.begin(), 0, CONTENT[:30]).session
    other, waits = world.hold(session), list[bool]()
    world.backend.on_wait = lambda: waits.append(other.is_wanted())
    with pytest.raises(OffsetMismatch) as refusal:
        world.append(session, offset, bytes(size))
    assert refusal.value.offset == 30
    assert waits == []


def test_a_piece_beyond_the_length_of_one_that_has_just_been_finished_is_told_the_offset(world: World) -> None:
    session = world.begin()
    world.append(session, 0, CONTENT)
    with pytest.raises(OffsetMismatch) as refusal:
        world.append(session, 30, bytes(100))
    assert refusal.value.offset == 100


def test_nothing_is_kept_of_a_piece_that_turns_out_too_long(world: World) -> None:
    session = world.append(world.begin(), 0, CONTENT[:30]).session
    with pytest.raises(TooLarge):
        world.uploads.append(session, 30, Body(bytes(71)), None)
    assert world.stored(session) == CONTENT[:30]


def test_there_must_be_room_for_a_piece(world: World) -> None:
    session = world.begin()
    world.traffic.spare = 20
    with pytest.raises(NoSpace):
        world.append(session, 0, CONTENT)
    assert world.append(session, 0, CONTENT[:20]).offset == 20


def test_a_file_that_there_is_no_room_to_publish_is_published_later(world: World) -> None:
    """The last bytes, which are less than a part, are written once more."""
    if world.store.space_of(None) is None:
        pytest.skip("this store writes nothing twice")
    size = 2 * world.backend.part_size + 5
    session = world.begin(size)
    world.traffic.on_arrival = lambda: setattr(world.traffic, "spare", 4)
    with pytest.raises(NoSpace):
        world.append(session, 0, CONTENT[:size])
    assert not world.store.exists(NAME)
    world.traffic.spare = 5
    assert world.uploads.progress(session).offset == size
    assert world.file() == CONTENT[:size]


def test_nothing_is_kept_of_a_piece_of_unknown_length_that_there_is_no_room_for(world: World) -> None:
    if world.store.space_of(None) is not None:
        pytest.skip("this store has room for a part or it has none")
    session = world.append(world.begin(None), 0, CONTENT[:10]).session
    world.traffic.spare = 20
    with pytest.raises(NoSpace):
        world.uploads.append(session, 10, Body(bytes(21)), None)
    assert world.stored(session) == CONTENT[:10]
    assert world.uploads.append(session, 10, Body(CONTENT[10:30]), None).offset == 30


#: That the file consists of ``CONTENT``.
CLAIMS = claims_of_file(
    {"HTTP_REPR_DIGEST": f"sha-256=:{base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()}:"}
)


def claimed(data: bytes) -> Digests:
    """The claim that a piece consists of these bytes."""
    return Digests([Claim("Upload-Checksum", "sha1", hashlib.sha1(data).digest(), ChecksumMismatch)])


@pytest.mark.parametrize("failure", [None, IncompleteBody(), OSError(5, "broken"), KeyboardInterrupt()])
def test_nothing_is_kept_of_a_piece_without_its_checksum(world: World, failure: BaseException | None) -> None:
    session = world.append(world.begin(), 0, CONTENT[:30]).session
    # A store makes errors of the operating system its own.
    expected = (OSError, StorageFailed) if isinstance(failure, OSError) else type(failure or ChecksumMismatch())
    with pytest.raises(expected):
        world.uploads.append(session, 30, Body(CONTENT[30:60], failure), 70, digest=claimed(b"another"))
    assert world.stored(session) == CONTENT[:30]


def test_a_piece_with_its_checksum_is_kept(world: World) -> None:
    session = world.begin()
    assert world.append(session, 0, CONTENT[:50], digest=claimed(CONTENT[:50])).offset == 50


def test_what_is_claimed_of_the_file_is_looked_at_when_it_is_complete(world: World) -> None:
    session = world.append(world.begin(), 0, CONTENT[:50], file_claims=CLAIMS).session
    assert world.append(session, 50, CONTENT[50:], file_claims=CLAIMS).is_finished
    assert world.file() == CONTENT


def test_an_upload_ends_if_its_file_is_not_the_announced_one(world: World) -> None:
    session = world.append(world.begin(), 0, b"!" * 50).session
    with pytest.raises(DigestMismatch):
        world.append(session, 50, CONTENT[50:], file_claims=CLAIMS)
    assert not world.store.exists(NAME)
    assert not world.unfinished()
    assert world.uploads.find(NAME) is None
    assert world.append(world.begin(), 0, CONTENT, file_claims=CLAIMS).is_finished


@pytest.mark.parametrize("data", [CONTENT, b"!" + CONTENT[1:]])
def test_what_is_claimed_of_the_file_holds_for_whoever_finishes_it(world: World, data: bytes) -> None:
    """The process of the last piece died before it had judged the file."""
    session = world.begin()

    def die() -> None:
        raise KeyboardInterrupt

    world.traffic.on_arrival = die
    with pytest.raises(KeyboardInterrupt):
        world.append(session, 0, data, file_claims=CLAIMS)
    session = world.get(session)
    if data == CONTENT:
        assert world.uploads.progress(session).is_finished
        assert world.file() == CONTENT
    else:
        with pytest.raises(DigestMismatch):
            world.uploads.progress(session)
        assert not world.store.exists(NAME)
        assert not world.unfinished()


def test_what_is_claimed_of_the_file_holds_though_the_record_is_an_older_copy(world: World) -> None:
    session = world.append(world.begin(), 0, b"!" * 90).session
    with pytest.raises(IncompleteBody):
        world.uploads.append(session, 90, Body(CONTENT[90:], IncompleteBody()), 10, file_claims=CLAIMS)
    world.sessions.older[session.key] = session
    with pytest.raises(DigestMismatch):
        world.uploads.progress(world.get(session))
    assert not world.store.exists(NAME)


def test_an_upload_that_was_given_up_is_not_finished_by_an_older_copy_of_its_record(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process died between the record's end and that of the bytes."""
    session = world.begin()
    with world.hold(session) as other:
        other.write(CONTENT)

    def die(_upload: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(world.backend.upload_class, "discard", die)
        with pytest.raises(KeyboardInterrupt):
            world.uploads.terminate(world.get(session))
    world.sessions.older[session.key] = session
    with pytest.raises(SessionEnded):
        world.uploads.progress(world.get(session))
    assert not world.store.exists(NAME)
    assert not world.unfinished()


# -- pieces that start over: numbered chunks ------------------------------------------------------


def counting(session: Session, stored: int) -> Session:
    return dataclasses.replace(session, chunks=session.chunks + 1, next_chunk_at=stored)


def test_a_piece_starts_over_from_its_boundary(world: World) -> None:
    session = world.append(world.begin(), 0, CONTENT[:30], after=counting, restart=True).session
    with pytest.raises(IncompleteBody):
        world.uploads.append(session, 30, Body(b"garbage", IncompleteBody()), 70, after=counting, restart=True)
    assert world.record(session).chunks == 1
    session = world.append(session, 30, CONTENT[30:60], after=counting, restart=True).session
    assert (session.chunks, session.next_chunk_at) == (2, 60)
    assert world.append(session, 60, CONTENT[60:], after=counting, restart=True).is_finished
    assert world.file() == CONTENT


def test_a_piece_that_was_acknowledged_meanwhile_is_not_dropped(world: World) -> None:
    """The one reads the session, the other goes on with it, and then the first gets the lock."""
    before = world.begin()
    world.append(before, 0, CONTENT[:30], after=counting, restart=True)
    with pytest.raises(SessionConflict):
        world.append(before, 0, b"0123456789", after=counting, restart=True)
    assert world.stored(before) == CONTENT[:30]


def test_the_bytes_say_that_a_record_is_an_older_copy(world: World) -> None:
    older = world.append(world.begin(), 0, CONTENT[:30], after=counting, restart=True).session
    newest = world.append(older, 30, CONTENT[30:60], after=counting, restart=True).session
    world.sessions.older[older.key] = older
    assert world.uploads.up_to_date(older) == world.uploads.up_to_date(older, 60) == newest
    with pytest.raises(SessionConflict):
        world.append(older, 30, CONTENT[30:60], after=counting, restart=True)
    assert world.stored(older) == CONTENT[:60]


def test_a_record_that_knows_all_bytes_is_not_looked_up(world: World) -> None:
    session = world.append(world.begin(), 0, CONTENT[:30], after=counting, restart=True).session
    world.sessions.is_away = True
    assert world.uploads.up_to_date(session, 30) == session
    for offset in (31, None):
        with pytest.raises(SessionStoreUnavailable):
            world.uploads.up_to_date(session, offset)


def test_without_a_length_the_last_piece_ends_the_file(world: World) -> None:
    session = world.append(world.begin(None), 0, CONTENT[:30], after=counting).session
    progress = world.append(session, 30, b"end", is_last=True, after=counting)
    assert progress.is_finished
    assert progress.session.length == 33
    assert world.file() == CONTENT[:30] + b"end"


def test_a_last_piece_that_leaves_a_gap_is_refused_and_kept(world: World) -> None:
    session = world.begin()
    with pytest.raises(SessionConflict):
        world.append(session, 0, CONTENT[:30], is_last=True)
    assert world.stored(session) == CONTENT[:30]
    assert world.append(session, 30, CONTENT[30:]).is_finished


# -- several writers ------------------------------------------------------------------------------


def test_a_present_writer_is_asked_to_let_go(world: World) -> None:
    session = world.append(world.begin(), 0, CONTENT[:30]).session
    other = world.hold(session)

    def let_go() -> None:
        assert other.is_wanted()
        other.release()

    assert not other.is_wanted()
    world.backend.on_wait = let_go
    assert world.append(session, 30, CONTENT[30:]).is_finished


def test_one_who_does_not_let_go_stays(world: World) -> None:
    session = world.begin()
    other = world.hold(session)
    with pytest.raises(WriterBusy):
        world.append(session, 0, CONTENT)
    with pytest.raises(WriterBusy):
        world.append(session, 0, CONTENT, restart=True)
    other.write(b"ahead")
    with pytest.raises(OffsetMismatch) as refusal:
        world.append(session, 0, CONTENT)
    assert refusal.value.offset == 5


def test_who_waits_for_a_writer_that_finishes_learns_that_it_is_complete(world: World) -> None:
    session = world.begin()
    other = world.hold(session)
    world.backend.on_wait = lambda: other.write(CONTENT).publish()
    with pytest.raises(OffsetMismatch) as refusal:
        world.append(session, 0, CONTENT)
    assert refusal.value.offset == 100


@pytest.mark.parametrize("is_taken", [False, True])
def test_who_waits_for_a_writer_that_gives_up_learns_that(world: World, *, is_taken: bool) -> None:
    """And is not told that the upload is complete because another file has the name."""
    session = world.append(world.begin(), 0, CONTENT[:30]).session
    other = world.hold(session)

    def give_up() -> None:
        world.backend.on_wait = lambda: None
        other.release()
        if is_taken:
            world.put_another()
        world.uploads.terminate(session)

    world.backend.on_wait = give_up
    with pytest.raises(SessionEnded):
        world.append(session, 30, CONTENT[30:])
    with pytest.raises(SessionEnded):
        world.append(session, 30, bytes(71))
    with pytest.raises(SessionEnded):
        world.uploads.progress(session)


# -- finish ---------------------------------------------------------------------------------------


def test_the_first_to_finish_a_name_has_it(world: World) -> None:
    first, second = world.begin(by_slot=False), world.begin(by_slot=False)
    second = world.append(second, 0, bytes(60)).session
    world.append(first, 0, CONTENT)
    with pytest.raises(NameTaken):
        world.append(second, 60, bytes(40))
    assert world.file() == CONTENT
    assert world.unfinished() == set()
    assert world.record(second).state is State.ABORTED
    with pytest.raises(SessionEnded):
        world.get(second)


def test_a_name_taken_in_the_last_moment_ends_the_upload(world: World) -> None:
    session = world.begin()
    world.traffic.on_arrival = world.put_another
    with pytest.raises(NameTaken):
        world.append(session, 0, CONTENT)
    assert world.file() == b"another"
    assert world.unfinished() == set()
    assert world.record(session).state is State.ABORTED


def test_a_lost_upload_stays_until_its_end_is_recorded(world: World) -> None:
    """Else its record would say that it is open and the file with its name that it is complete."""
    session = world.begin(by_slot=False)
    world.put_another()
    world.sessions.is_away = True
    with pytest.raises(SessionStoreUnavailable):
        world.append(session, 0, CONTENT)
    world.sessions.is_away = False
    with pytest.raises(NameTaken):
        world.append(session, 0, CONTENT)
    assert world.unfinished() == set()


def test_an_upload_that_could_not_be_published_can_be_finished_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise NoSpace

    session = world.begin()
    with monkeypatch.context() as patch:
        patch.setattr(world.backend.upload_class, "publish", fail)
        with pytest.raises(NoSpace):
            world.append(session, 0, CONTENT)
    assert world.stored(session) == CONTENT
    progress = world.uploads.progress(session)
    assert progress.is_finished
    assert progress.offset == 100
    assert world.file() == CONTENT
    assert world.record(session).state is State.FINISHED


def test_a_probe_of_a_complete_upload_waits_for_who_finishes_it(world: World) -> None:
    session = world.begin()
    other = world.hold(session).write(CONTENT)
    world.backend.on_wait = other.publish
    assert world.uploads.progress(session).is_finished


@pytest.mark.parametrize("restart", [False, True])
def test_an_upload_published_by_a_process_that_died_is_finished_and_not_written(world: World, restart: bool) -> None:
    """Its partial file is the visible file itself."""
    session = world.begin(None if restart else 100)
    world.hold(session).write(CONTENT).release()
    world.backend.publish_and_die(session.key, NAME)
    offset, data = (0, b"changed") if restart else (100, b"")
    progress = world.append(session, offset, data, restart=restart, is_last=restart)
    assert progress.is_finished
    assert world.file() == CONTENT
    assert world.unfinished() == set()


def test_a_finished_upload_is_only_told_its_offset(world: World) -> None:
    session = world.append(world.begin(by_slot=False), 0, CONTENT).session
    assert world.uploads.progress(world.get(session)).is_finished
    assert world.append(session, 100, b"").is_finished
    with pytest.raises(TooLarge):
        world.append(session, 100, b"x")
    with pytest.raises(OffsetMismatch) as refusal:
        world.append(session, 0, CONTENT)
    assert refusal.value.offset == 100


# -- the session store goes away ------------------------------------------------------------------


def test_without_a_store_nothing_is_said_to_be_unknown(world: World) -> None:
    session = world.begin()
    world.sessions.is_away = True
    for operation in (
        lambda: world.uploads.find(NAME),
        lambda: world.get(session),
        lambda: world.uploads.get("s" + 43 * "x"),
        lambda: world.uploads.abort(session),
        world.uploads.sweep,
    ):
        with pytest.raises(SessionStoreUnavailable):
            operation()


def test_a_piece_is_kept_though_it_could_not_be_recorded(world: World) -> None:
    session = world.begin()
    world.now += 100
    world.sessions.is_away = True
    with pytest.raises(SessionStoreUnavailable):
        world.append(session, 0, CONTENT[:30])
    with pytest.raises(IncompleteBody):
        world.uploads.append(session, 30, Body(CONTENT[30:40], IncompleteBody()), 60)
    world.sessions.is_away = False
    assert world.uploads.progress(session).offset == 40
    assert world.append(session, 40, CONTENT[40:]).is_finished


def test_the_last_piece_succeeds_though_it_could_not_be_recorded(world: World) -> None:
    session = world.begin()
    world.traffic.on_arrival = partial(setattr, world.sessions, "is_away", True)
    assert world.append(session, 0, CONTENT).is_finished
    assert world.file() == CONTENT
    world.sessions.is_away = False
    assert world.record(session).state is State.OPEN
    assert world.uploads.progress(session).is_finished
    assert world.uploads.find(NAME) is None
    assert world.record(session).state is State.FINISHED


def test_a_chunk_that_could_not_be_recorded_starts_over(world: World) -> None:
    session = world.append(world.begin(), 0, CONTENT[:30], after=counting, restart=True).session
    world.sessions.calls_left = 1
    with pytest.raises(SessionStoreUnavailable):
        world.append(session, 30, CONTENT[30:60], after=counting, restart=True)
    world.sessions.calls_left = math.inf
    assert world.stored(session) == CONTENT[:60]
    assert world.append(session, 30, CONTENT[30:], after=counting, restart=True).is_finished
    assert world.file() == CONTENT


def test_bytes_that_are_lost_end_the_upload(world: World) -> None:
    session = world.begin()
    world.partials.discard(session.key)
    with pytest.raises(SessionUnknown):
        world.uploads.progress(session)
    with pytest.raises(SessionUnknown):
        world.append(session, 0, CONTENT)
    assert world.uploads.find(NAME) is None
    assert world.record(session).state is State.ABORTED
    assert world.begin() != session


# -- abort ----------------------------------------------------------------------------------------


def test_an_abort_removes_everything_though_somebody_writes(world: World) -> None:
    session = world.append(world.begin(), 0, CONTENT[:30]).session
    other = world.hold(session).write(CONTENT[30:40])
    world.backend.on_wait = other.release
    world.uploads.abort(session)
    assert (world.unfinished(), world.sessions.records) == (set(), {})
    world.uploads.abort(session)
    with pytest.raises(SessionUnknown):
        world.get(session)


def test_an_abort_does_not_touch_the_finished_file(world: World) -> None:
    session = world.append(world.begin(), 0, CONTENT).session
    world.uploads.abort(session)
    assert world.file() == CONTENT
    assert world.sessions.records == {}


def test_an_abort_waits_for_the_writer(world: World) -> None:
    session = world.begin()
    world.hold(session)
    with pytest.raises(WriterBusy):
        world.uploads.abort(session)
    assert world.record(session).state is State.OPEN


def test_a_terminated_upload_is_gone_and_known_to_be_until_the_sweep(world: World) -> None:
    session = world.append(world.begin(by_slot=False), 0, CONTENT[:30]).session
    other = world.hold(session).write(CONTENT[30:40])
    world.backend.on_wait = other.release
    world.now += TTL - 1
    world.uploads.terminate(session)
    assert world.unfinished() == set()
    world.now += TTL - 1
    assert world.uploads.sweep() == SweepResult(0, 0)
    with pytest.raises(SessionEnded):
        world.get(session)
    world.now += 2
    assert world.uploads.sweep() == SweepResult(1, 0)
    with pytest.raises(SessionUnknown):
        world.get(session)


def test_a_finished_upload_is_not_terminated_and_its_record_stays(world: World) -> None:
    session = world.append(world.begin(by_slot=False), 0, CONTENT).session
    with pytest.raises(DeletionForbidden):
        world.uploads.terminate(session)
    assert world.file() == CONTENT
    assert world.record(session).state is State.FINISHED
    world.store.delete(NAME)
    with pytest.raises(SessionUnknown):
        world.uploads.terminate(session)


@pytest.mark.parametrize("is_recorded", [True, False])
def test_an_upload_that_finishes_before_its_termination_stays(world: World, is_recorded: bool) -> None:
    session = world.begin(by_slot=False)
    other = world.hold(session)

    def finish() -> None:
        other.write(CONTENT).publish()
        if is_recorded:
            info = world.store.stat(NAME)
            assert info is not None
            world.sessions.save(dataclasses.replace(session, state=State.FINISHED, etag=info.etag))

    world.backend.on_wait = finish
    with pytest.raises(DeletionForbidden):
        world.uploads.terminate(session)
    assert world.file() == CONTENT


def test_an_upload_published_by_a_process_that_died_is_not_terminated(world: World) -> None:
    session = world.begin(by_slot=False)
    world.hold(session).write(CONTENT).release()
    world.backend.publish_and_die(session.key, NAME)
    with pytest.raises(DeletionForbidden):
        world.uploads.terminate(session)
    assert (world.file(), world.unfinished()) == (CONTENT, set())
    assert world.record(session).state is State.FINISHED


def test_a_termination_that_cannot_be_recorded_has_not_happened(world: World) -> None:
    session = world.append(world.begin(by_slot=False), 0, CONTENT[:30]).session
    world.sessions.is_away = True
    with pytest.raises(SessionStoreUnavailable):
        world.uploads.terminate(session)
    world.sessions.is_away = False
    assert world.append(session, 30, CONTENT[30:]).is_finished


# -- a length that is told later ------------------------------------------------------------------


def test_a_length_is_told_once_and_then_holds(world: World) -> None:
    session = world.begin(None, by_slot=False)
    session = world.append(session, 0, CONTENT[:30]).session
    assert session.length is None
    session = world.append(session, 30, CONTENT[30:60], length=100).session
    assert world.record(session).length == session.length == 100
    with pytest.raises(BadRequest):
        world.append(session, 60, b"", length=99)
    with pytest.raises(TooLarge):
        world.append(session, 60, bytes(41), length=100)
    assert world.append(session, 60, CONTENT[60:], length=100).is_finished
    assert world.file() == CONTENT


@pytest.mark.parametrize("stored", [0, 60, 100])
def test_a_length_that_is_reached_completes_the_file(world: World, stored: int) -> None:
    session = world.append(world.begin(None, by_slot=False), 0, CONTENT[:stored]).session
    assert world.append(session, stored, CONTENT[stored:], length=100).is_finished
    assert world.file() == CONTENT


@pytest.mark.parametrize(
    ("offset", "length", "error"),
    [
        (30, 29, BadRequest),
        (30, 39, TooLarge),
        (30, 1001, TooLarge),
        (29, 29, OffsetMismatch),
        (31, 1001, OffsetMismatch),
    ],
)
def test_a_length_that_cannot_be_is_refused_and_not_kept(
    world: World, offset: int, length: int, error: type[HmacfsError]
) -> None:
    session = world.append(world.begin(None, by_slot=False), 0, CONTENT[:30]).session
    with pytest.raises(error):
        world.append(session, offset, CONTENT[30:40], length=length)
    assert world.record(session).length is None
    assert world.append(session, 30, CONTENT[30:], length=100).is_finished


def test_a_length_that_another_request_told_meanwhile_holds(world: World) -> None:
    session = world.begin(None, by_slot=False)
    world.append(session, 0, CONTENT[:30], length=100)
    for data, length in ((bytes(71), None), (bytes(10), 50), (bytes(10), 500)):
        with pytest.raises((TooLarge, BadRequest)):
            world.append(session, 30, data, length=length)
    assert world.append(session, 30, CONTENT[30:]).is_finished
    assert world.file() == CONTENT


# -- the finished upload of a slot ----------------------------------------------------------------


def finished(world: World) -> Session | None:
    return world.uploads.find_finished(NAME, "any")


def test_a_finished_upload_is_found_by_its_slot(world: World) -> None:
    session = world.append(world.begin(), 0, CONTENT[:30]).session
    assert finished(world) is None
    session = world.append(session, 30, CONTENT[30:]).session
    assert finished(world) == session
    assert world.uploads.is_stored(session)
    assert world.uploads.find_finished(NAME, "another") is None


def test_a_finish_that_could_not_be_recorded_is_found_too(world: World) -> None:
    session = world.begin(None)
    world.sessions.calls_left = 2  # whether it is still as it was, and what is claimed of the file
    world.append(session, 0, CONTENT, after=counting, restart=True, is_last=True)
    world.sessions.calls_left = math.inf
    assert world.record(session).state is State.OPEN
    assert world.uploads.find(NAME) is None
    found = finished(world)
    assert found is not None
    assert (found.key, found.length) == (session.key, 100)


def test_another_file_is_not_taken_for_the_finished_upload(world: World) -> None:
    session = world.append(world.begin(), 0, CONTENT).session
    former = world.backend.take_away(NAME)
    assert finished(world) is None
    world.put_another(CONTENT[::-1])
    assert finished(world) is None
    assert not world.uploads.is_stored(session)
    # What 1.0.0 recorded is told by its size alone.
    world.sessions.records[session.key] = dataclasses.replace(session, etag="")
    assert finished(world) is not None
    world.store.delete(NAME)
    world.put_another(CONTENT + b"x")
    assert finished(world) is None
    world.backend.put_back(NAME, former)
    assert finished(world) is not None


def probe(world: World, *, may_know: bool = True) -> Progress | None:
    """Of the slot."""
    return world.uploads.unfinished(NAME, lambda _: may_know)


def test_a_probe_finds_how_far_the_slot_s_upload_is(world: World) -> None:
    assert probe(world) is None
    session = world.append(world.begin(), 0, CONTENT[:30]).session
    assert probe(world) == Progress(session, 30)
    assert probe(world, may_know=False) is None


def test_a_probe_finishes_nothing_until_it_is_asked_to(world: World) -> None:
    session = world.begin()
    world.hold(session).write(CONTENT).release()
    found = probe(world)
    assert found == Progress(session, 100)
    assert not world.store.exists(NAME)
    assert world.uploads.finish_if_complete(found).is_finished
    assert world.file() == CONTENT
    assert world.uploads.finish_if_complete(found).is_finished, "by another one meanwhile"


def test_an_upload_that_becomes_the_file_during_a_probe_has_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = world.append(world.begin(), 0, CONTENT[:30]).session
    stat = world.partials.stat

    def stat_before_the_end(key: str) -> PartialInfo | None:
        info = stat(key)
        monkeypatch.undo()
        world.append(session, 30, CONTENT[30:])
        return info

    monkeypatch.setattr(world.partials, "stat", stat_before_the_end)
    assert probe(world) == Progress(session, 30)
    assert world.file() == CONTENT


def test_a_probe_does_not_tell_of_an_upload_whose_name_went_to_another_file(world: World) -> None:
    world.append(world.begin(), 0, CONTENT[:30])
    world.put_another()
    assert probe(world) is None


# -- expiry and the sweep -------------------------------------------------------------------------


def test_an_upload_expires_after_its_last_byte(world: World) -> None:
    session = world.begin()
    world.now += TTL - 1
    session = world.append(session, 0, CONTENT[:30]).session
    world.now += TTL - 1
    assert world.uploads.find(NAME) == world.get(session) == session
    assert probe(world) == Progress(session, 30)
    world.now += 1
    with pytest.raises(SessionExpired):
        world.uploads.find(NAME)
    with pytest.raises(SessionExpired):
        probe(world)
    with pytest.raises(SessionExpired):
        world.get(session)
    world.now += 1
    assert world.uploads.sweep() == SweepResult(1, 0)
    assert (world.unfinished(), world.sessions.records) == (set(), {})
    assert world.uploads.find(NAME) is None


def test_bytes_that_nobody_could_record_keep_an_upload_alive(world: World) -> None:
    """Its process was killed while it received."""
    session = world.begin()
    world.now += TTL - 1
    world.hold(session).write(CONTENT[:30]).release()
    world.now += TTL - 1
    assert world.get(session) == session
    found = probe(world)
    assert found is not None
    assert found.session.expires(TTL) > world.now
    assert world.uploads.sweep() == SweepResult(0, 0)
    assert world.append(session, 30, CONTENT[30:]).is_finished


def test_a_sweep_never_touches_an_upload_that_is_being_written(world: World) -> None:
    written = [world.begin(by_slot=False) for _ in range(3)]
    others = [world.hold(session) for session in written]
    world.now += 1
    rest = [world.create(NAME, 1, f"192.0.2.{n}", by_slot=False) for n in range(10, 15)]
    world.now += TTL + 1
    assert world.uploads.sweep(batch=2) == SweepResult(5, 0)
    assert world.unfinished() == set(world.sessions.records) == {session.key for session in written}
    assert not {session.key for session in rest} & world.unfinished()
    assert not any(other.is_wanted() for other in others)


def test_a_sweep_removes_orphans_that_are_old_enough(world: World) -> None:
    world.orphan("an-old-orphan")
    written = world.orphan("one-that-is-being-written")
    writer = OtherWriter(world, written)
    world.now += TTL + 1
    new = world.orphan("a-new-one")
    session = world.begin()
    assert world.uploads.sweep() == SweepResult(0, 1)
    assert world.unfinished() == {written, new, session.key}
    writer.release()


def test_a_sweep_forgets_ended_sessions_too(world: World) -> None:
    world.append(world.begin(), 0, CONTENT)
    world.now += TTL + 1
    assert world.uploads.sweep() == SweepResult(1, 0)
    assert world.sessions.records == {}
    assert world.file() == CONTENT


def failing_discards(world: World, monkeypatch: pytest.MonkeyPatch, keys: Container[str], error: Exception) -> None:
    """The store cannot remove the uploads with these keys."""
    discard = world.partials.discard

    def fail(key: str) -> None:
        if key in keys:
            raise error
        discard(key)

    monkeypatch.setattr(world.partials, "discard", fail)


@pytest.mark.parametrize(
    ("error", "told"), [(StorageFailed(where="a"), "storage failed: a: "), (KeyError("begun"), "'begun'")]
)
def test_an_upload_that_cannot_be_removed_keeps_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    sessions = [world.create(NAME, 1, f"192.0.2.{n}", by_slot=False) for n in range(5)]
    failing = {sessions[0].key, sessions[3].key, world.orphan("an-orphan")}
    world.orphan("another-orphan")
    world.now += TTL + 1
    failing_discards(world, monkeypatch, failing, error)
    swept = world.uploads.sweep(batch=2)
    assert (swept.sessions, swept.orphans, swept.failed) == (3, 1, 3)
    assert swept.failure.startswith(told)
    assert world.unfinished() == failing
    assert set(world.sessions.records) == {sessions[0].key, sessions[3].key}


def test_an_orphan_that_cannot_be_looked_at_keeps_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    orphans = [world.create(NAME, 100, f"192.0.2.{n}", by_slot=False) for n in range(2)]
    for orphan in orphans:
        world.append(orphan, 0, bytes(50))
        world.sessions.remove(orphan.key)
    world.now += TTL + 1
    stat, lost = world.partials.stat, orphans[0].key

    def fail(key: str) -> PartialInfo | None:
        if key == lost:
            raise StorageFailed(where="a")
        return stat(key)

    with monkeypatch.context() as patch:
        patch.setattr(world.partials, "stat", fail)
        swept = world.uploads.sweep()
    assert (swept.orphans, swept.failed) == (1, 1)
    assert world.unfinished() == {lost}


def test_many_that_cannot_be_removed_keep_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come first, in each sweep."""
    failing = {world.create(NAME, 1, f"192.0.2.{n}", by_slot=False).key for n in range(25)}
    world.now += 1
    others = [world.create(NAME, 1, f"198.51.100.{n}", by_slot=False) for n in range(3)]
    world.orphan("an-orphan")
    world.now += TTL + 1
    failing_discards(world, monkeypatch, failing, StorageFailed(where="a"))
    swept = world.uploads.sweep(batch=2)
    assert (swept.sessions, swept.orphans, swept.failed) == (len(others), 1, len(failing))
    assert world.unfinished() == set(world.sessions.records) == failing


def test_a_sweep_ends_when_the_store_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each failure may have taken as long as the store's timeout."""
    keys = {world.orphan(f"orphan-{number}") for number in range(30)}
    world.now += TTL + 1
    failing_discards(world, monkeypatch, keys, StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        world.uploads.sweep()
    assert world.unfinished() == keys


def test_a_sweep_that_loses_the_store_removes_nothing_it_cannot_look_up(world: World) -> None:
    orphan = world.orphan("perhaps-somebodys")
    world.now += TTL + 1
    world.sessions.calls_left = 1
    with pytest.raises(SessionStoreUnavailable):
        world.uploads.sweep()
    assert world.unfinished() == {orphan}
