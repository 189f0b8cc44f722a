"""How many uploads may be open at once, and for how long (docs/protocol.md, section 6)."""

from __future__ import annotations

import itertools

import pytest

from hmacfs.errors import SessionEnded, SessionExpired, Superseded, TooManySessions
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.creation import GIVES_WAY_SECONDS, Plan
from hmacfs.uploads.progress import SweepResult
from hmacfs.uploads.session import Owner, Session, State
from tests.stores.world import CONTENT, NAME, OWNER, TTL, Body, World


def open_of(world: World) -> list[Session]:
    return [session for session in world.sessions.records.values() if session.state is State.OPEN]


# -- uploads of one path --------------------------------------------------------------------------


def test_one_slot_has_three_uploads_at_most_whatever_it_creates(kind: str) -> None:
    world = World(kind, per_path=3)
    made = []
    for _ in range(100):
        world.now += 1
        made.append(world.begin(by_slot=False))
        world.append(made[-1], 0, CONTENT[:40])
    assert [session.key for session in open_of(world)] == [session.key for session in made[-3:]]
    assert world.unfinished() == {session.key for session in made[-3:]}
    assert sum(len(world.stored(session)) for session in made[-3:]) <= 3 * len(CONTENT)
    assert len(world.sessions.records) <= 7, "what has ended is not remembered without end either"


def test_the_upload_that_was_silent_longest_ends_by_its_own_last_byte(kind: str) -> None:
    world = World(kind, per_path=3)
    first, second, third = (world.begin(by_slot=False) for _ in range(3))
    world.now += 10  # so short that the records don't tell
    world.append(first, 0, CONTENT[:1])
    world.now += 1
    world.append(third, 0, CONTENT[:1])
    world.begin(by_slot=False)
    assert world.unfinished() >= {first.key, third.key}
    assert second.key not in world.unfinished()
    with pytest.raises(SessionEnded):
        world.get(second)


def test_all_dialects_share_a_path(kind: str) -> None:
    world = World(kind, per_path=1)
    slot = world.begin()
    world.now += 1
    by_token = world.begin(by_slot=False)
    assert world.unfinished() == {by_token.key}
    assert world.uploads.find(NAME) is None
    world.now += 1
    again = world.begin()
    assert again.key != slot.key
    assert world.unfinished() == {again.key}


def test_other_paths_have_uploads_of_their_own(kind: str) -> None:
    world = World(kind, per_path=1, per_client=100)
    names = [StoredName.from_text(f"slot/{number}") for number in range(5)]
    for name in names:
        world.begin(name=name)
    assert {session.path for session in open_of(world)} == {name.path for name in names}


def test_of_requests_that_begin_at_once_the_last_one_sees_all(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(kind, per_path=2, per_client=100)
    create, others = world.sessions.create, iter(range(6))

    def slow(session: Session) -> bool:
        world.now += 0.001
        created = create(session)
        if next(others, None) is not None:  # another request, before this one looks around
            world.begin(by_slot=False)
        return created

    monkeypatch.setattr(world.sessions, "create", slow)
    world.begin(by_slot=False)
    assert len(open_of(world)) == len(world.unfinished()) == 2


def test_a_writer_that_does_not_let_go_costs_the_newcomer_its_upload(kind: str) -> None:
    world = World(kind, per_path=1)
    busy = world.begin(by_slot=False)
    world.hold(busy)
    world.now += 1
    with pytest.raises(TooManySessions):
        world.begin(by_slot=False)
    assert world.unfinished() == {busy.key}
    assert [session.key for session in open_of(world)] == [busy.key]


def test_an_upload_that_has_all_its_bytes_is_no_victim(kind: str) -> None:
    """It becomes the file, though its process ended before it could say so."""
    world = World(kind, per_path=1)
    session = world.begin(by_slot=False)
    world.hold(session).write(CONTENT).release()
    world.now += 1
    world.begin(by_slot=False)
    assert session.key not in world.unfinished()


# -- uploads of one client ------------------------------------------------------------------------


def begin(world: World, number: int, owner: Owner) -> Session:
    name = StoredName.from_text(f"slot-{number}/a")
    return world.uploads.create(Plan(name, 10, None, owner, by_slot=False, dialect="any"))


def test_an_abandoned_upload_makes_room_for_its_neighbours(kind: str) -> None:
    world = World(kind, per_client=3)
    made = []
    for number in range(3):
        made.append(begin(world, number, Owner(OWNER)))
        world.now += 1
    with pytest.raises(TooManySessions):
        begin(world, 3, Owner(OWNER))
    world.now += GIVES_WAY_SECONDS / 2
    world.append(made[0], 0, b"12345")  # goes on, which its record may not tell yet
    world.now += GIVES_WAY_SECONDS / 2
    begin(world, 4, Owner(OWNER))
    assert made[1].key not in world.unfinished()
    begin(world, 5, Owner(OWNER))
    assert made[2].key not in world.unfinished()
    with pytest.raises(TooManySessions):
        begin(world, 6, Owner(OWNER))
    assert len(open_of(world)) == 3


def test_another_owner_behind_the_same_address_has_a_share_of_its_own(kind: str) -> None:
    world = World(kind, per_client=2)
    numbers = itertools.count()
    for owner in ("user romeo@example.org", "user juliet@example.org"):
        for _ in range(2):
            begin(world, next(numbers), Owner(owner))
        with pytest.raises(TooManySessions):
            begin(world, next(numbers), Owner(owner))


def test_hopping_over_networks_gives_four_shares_and_no_more(kind: str) -> None:
    world = World(kind, per_client=2)
    for number in range(8):
        begin(world, number, Owner(f"2001:db8:0:{number}::/64", "2001:db8::/48"))
    with pytest.raises(TooManySessions):
        begin(world, 9, Owner("2001:db8:0:9::/64", "2001:db8::/48"))
    begin(world, 10, Owner("2001:db8:1:1::/64", "2001:db8:1::/48"))
    assert len(world.unfinished()) == len(open_of(world)) == 9


# -- how long an upload lives ---------------------------------------------------------------------


def test_a_byte_now_and_then_does_not_keep_an_upload_for_ever(kind: str) -> None:
    world = World(kind)
    session, sent = world.begin(), 0
    while world.now < session.created + 7 * TTL - 1:
        world.append(world.get(session), sent, CONTENT[sent : sent + 1])
        assert world.uploads.progress(world.get(session)).session.expires(TTL) <= session.created + 7 * TTL
        sent += 1
        world.now += TTL * 0.3
    assert sent > 20
    world.now = session.created + 7 * TTL
    with pytest.raises(SessionExpired):
        world.get(session)
    with pytest.raises(SessionExpired):
        world.uploads.find(NAME)
    world.now += 1
    assert world.uploads.sweep() == SweepResult(1, 0)
    assert (world.unfinished(), world.sessions.records) == (set(), {})


def test_a_piece_that_is_under_way_ends_with_its_upload(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(kind)
    session = world.begin()

    def receive(body: Body, sink: object, *, is_wanted: object, **_: object) -> int:
        assert callable(is_wanted)
        assert not is_wanted()
        world.now = session.created + 7 * TTL
        assert is_wanted()
        raise Superseded

    monkeypatch.setattr(world.traffic, "receive", receive)
    with pytest.raises(SessionExpired):
        world.append(session, 0, CONTENT[:50])


def test_an_upload_that_is_completed_late_is_remembered_as_any(kind: str) -> None:
    world = World(kind)
    session = world.begin()
    world.now += TTL * 0.9
    world.append(session, 0, CONTENT[:50])
    while world.now < session.created + 5.5 * TTL:
        world.now += TTL * 0.9
        session = world.get(session)
        world.append(session, len(world.stored(session)), CONTENT[:1])
    progress = world.append(session, len(world.stored(session)), CONTENT[len(world.stored(session)) :])
    assert progress.is_finished
    world.now += TTL - 1
    assert world.get(session).state is State.FINISHED
