"""The contract of session stores (``Replica``), as one suite: every store passes it, the one in memory too.

A module that runs it has a subclass of ``SessionStoreContract`` and a fixture ``backend``.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hmacfs.sessions.replica import Replica
from hmacfs.uploads.session import CountedBy, Session, State
from tests.contracts.opening import open_store
from tests.fakes import MemorySessions, MemorySessionStore
from tests.live.pieces import new_key

#: Seconds that a store is given for each call: more than a busy machine ever takes.
PATIENT = 15.0


class Backend:
    """A server, a file or memory that several stores, as of several workers, can be opened on."""

    timeout = PATIENT

    def __init__(self) -> None:
        self.stores: list[Replica] = []

    def open(self) -> Replica:
        store = self._open()
        self.stores.append(store)
        return store

    def _open(self) -> Replica:
        return open_store(*self.words, timeout=self.timeout)

    @property
    def words(self) -> tuple[str, str]:
        """What ``open_store`` is told."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget all sessions, tables included."""
        raise NotImplementedError

    def connections(self) -> int:
        """How many the backend has from its stores."""
        raise NotImplementedError

    def close_stores(self) -> None:
        while self.stores:
            self.stores.pop().close()


class MemoryBackend(Backend):
    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def _open(self) -> Replica:
        return MemorySessionStore(sessions=self._sessions)

    def clear(self) -> None:
        self._sessions = MemorySessions()


class SqliteBackend(Backend):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / ".hmacfs" / "sessions.sqlite3"

    @property
    def words(self) -> tuple[str, str]:
        return "sqlite", str(self.path)

    def clear(self) -> None:
        for path in self.path.parent.glob("sessions.sqlite3*"):
            path.unlink()

    def connections(self) -> int:
        log = self.path.resolve().with_name(f"{self.path.name}-wal")  # each connection opens it, and nobody else
        return sum(descriptor.resolve() == log for descriptor in Path("/proc/self/fd").iterdir())


def session(path: str = "a/photo.jpg", **changes: object) -> Session:
    basic = Session(
        key=new_key(),
        path=path,
        slot=path,
        length=1_048_576,
        content_type="image/jpeg",
        owner="192.0.2.1",
        created=1_700_000_000.25,
        touched=1_700_000_001.123457,
    )
    return dataclasses.replace(basic, **changes)  # type: ignore[arg-type]


def together(count: int, act: Callable[[int], object]) -> list[object]:
    """What ``count`` threads got that began at the same moment."""
    barrier = threading.Barrier(count)

    def run(number: int) -> object:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


class SessionStoreContract:
    """The suite."""

    @pytest.fixture
    def store(self, backend: Backend) -> Replica:
        return backend.open()

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"slot": None, "length": None, "content_type": None, "metadata": "filename d29ybGQ=,empty"},
            {"path": "0b7e/héllo wörld ☃ 🎉.jpg", "slot": "0b7e/héllo wörld ☃ 🎉.jpg"},
            {"path": "/".join(["☃" * 85] * 16)[:1365], "slot": "/".join(["☃" * 85] * 16)[:1365]},
            {"metadata": "x" * 16_384, "owner": "2001:db8::/64", "chunks": 2**31, "length": 2**53 - 1},
            {"metadata": "quotes ' \" \\ % %s :name ; -- \x00 \x7f \n", "content_type": 'text/plain; charset="utf-8"'},
        ],
        ids=["plain", "nothing", "unicode", "longest", "large", "hostile"],
    )
    def test_it_gives_back_what_it_was_given(self, backend: Backend, changes: dict[str, object]) -> None:
        store, other = backend.open(), backend.open()
        made = session(**changes)  # type: ignore[arg-type]
        assert store.create(made)
        assert other.get(made.key) == made
        assert other.find(made.path) == (made if made.slot else None)

    def test_a_slot_has_one_open_session(self, store: Replica) -> None:
        first, second = session(), session()
        assert store.create(first)
        assert not store.create(second)
        assert store.get(second.key) is None
        assert store.find(first.path) == first

    def test_sessions_without_a_slot_share_a_path(self, store: Replica) -> None:
        assert all(store.create(session(slot=None)) for _ in range(3))
        assert store.find("a/photo.jpg") is None

    def test_a_creation_may_be_repeated_when_its_answer_was_lost(self, store: Replica) -> None:
        made = session()
        assert store.create(made)
        assert store.create(made)
        assert store.count_by_state()["open"] == 1

    @pytest.mark.parametrize(
        "near", ["a/Photo.jpg", "a/photo.jpg ", "A/photo.jpg", "a/photo.jpé", "a/photo.jp", "a/photo%"]
    )
    def test_slots_are_compared_byte_by_byte(self, store: Replica, near: str) -> None:
        made, other = session(), session(near)
        assert store.create(made)
        assert store.find(near) is None
        assert store.create(other)
        assert (store.find("a/photo.jpg"), store.find(near)) == (made, other)

    def test_normal_forms_of_a_name_are_different_slots(self, store: Replica) -> None:
        assert store.create(session("a/\u00e9"))
        assert store.create(session("a/e\u0301"))

    @pytest.mark.parametrize("key", ["", " ", "a b", "tök", "a\0b", "' OR 1=1 --", "%", "x" * 5000, "*", "../x"])
    def test_no_text_from_a_url_is_more_than_an_unknown_token(self, store: Replica, key: str) -> None:
        made = session()
        assert store.create(made)
        assert store.get(key) is None
        store.remove(key)
        assert store.get(made.key) == made

    def test_tokens_are_compared_byte_by_byte(self, store: Replica) -> None:
        made = session(key="AbC-_x")
        assert store.create(made)
        assert [store.get(key) for key in ("abc-_x", "AbC-_x ", "AbC-_", "AbC-_x")] == [None, None, None, made]

    def test_a_save_is_seen_by_every_worker(self, backend: Backend) -> None:
        store, other = backend.open(), backend.open()
        made = session()
        store.create(made)
        saved = store.save(dataclasses.replace(made, touched=made.touched + 1, chunks=7))
        assert (saved.revision, saved.chunks) == (made.revision + 1, 7)
        assert other.get(made.key) == other.find(made.path) == saved
        again = other.save(saved)
        assert again.revision == saved.revision + 1
        assert store.get(made.key) == again

    def test_a_save_inserts_what_is_missing(self, store: Replica) -> None:
        saved = store.save(session(revision=4))
        assert saved.revision == 5
        assert store.get(saved.key) == store.find(saved.path) == saved

    def test_the_last_save_counts_even_from_an_older_copy(self, store: Replica) -> None:
        made = session()
        store.create(made)
        for _ in range(3):
            store.save(dataclasses.replace(store.get(made.key) or made, chunks=1))
        saved = store.save(dataclasses.replace(made, chunks=9))
        assert (saved.revision, saved.chunks) == (4, 9)
        assert store.get(made.key) == saved

    @pytest.mark.parametrize("end", [State.FINISHED, State.ABORTED])
    def test_an_ended_session_gives_its_slot_back(self, store: Replica, end: State) -> None:
        made, following = session(), session()
        store.create(made)
        ended = store.save(dataclasses.replace(made, state=end))
        assert store.find(made.path) is None
        assert store.get(made.key) == ended
        assert store.count_open(CountedBy.OWNER, made.owner) == 0
        assert store.create(following)
        assert store.find(made.path) == following

    def test_a_finished_session_is_found_by_its_slot(self, backend: Backend) -> None:
        store, other = backend.open(), backend.open()
        made, following, beside = session(), session(), session(slot=None)
        assert store.find_finished(made.path) is None
        store.create(made)
        store.create(beside)
        assert store.find_finished(made.path) is None
        ended = store.save(
            dataclasses.replace(made, state=State.FINISHED, etag='"1-2"', dialect="numbered", chunk_count=7)
        )
        store.save(dataclasses.replace(beside, state=State.FINISHED, touched=made.touched + 5))
        assert other.find_finished(made.path) == ended
        assert other.find_finished("a/Photo.jpg") is None
        # Its file was removed, and the slot used again.
        later = store.put(dataclasses.replace(following, state=State.FINISHED, touched=made.touched + 1))
        assert other.find_finished(made.path) == later
        ended = store.save(dataclasses.replace(ended, chunks=7))
        assert other.find_finished(made.path) == later
        store.remove(later.key)
        store.remove(made.key)
        assert other.find_finished(made.path) is None

    def test_an_aborted_session_is_not_found_by_its_slot(self, store: Replica) -> None:
        made = session()
        store.create(made)
        store.save(dataclasses.replace(made, state=State.ABORTED))
        assert store.find_finished(made.path) is None

    def test_put_keeps_the_newer_of_two_copies(self, store: Replica) -> None:
        older = session(revision=3)
        newer = dataclasses.replace(older, revision=4, touched=older.touched - 100, chunks=2)
        later = dataclasses.replace(newer, touched=newer.touched + 1, chunks=3)
        assert store.put(older) == older
        assert store.put(newer) == newer
        assert store.put(older) == newer
        assert store.put(later) == later
        assert store.put(newer) == later
        assert store.put(later) == later
        assert store.get(older.key) == store.find(older.path) == later

    def test_put_does_not_take_a_slot_from_another_session(self, store: Replica) -> None:
        holder, copy = session(), session()
        store.create(holder)
        assert store.put(copy) == copy
        assert store.get(copy.key) == copy
        assert store.find(copy.path) == holder
        saved = store.save(copy)
        assert store.get(copy.key) == saved
        assert store.find(copy.path) == holder

    def test_remove_forgets_all_of_a_session(self, store: Replica) -> None:
        made = session()
        store.create(made)
        store.remove(made.key)
        store.remove(made.key)
        assert (store.get(made.key), store.find(made.path)) == (None, None)
        assert store.count_open(CountedBy.OWNER, made.owner) == 0
        assert sum(store.count_by_state().values()) == 0
        assert store.keys_since(0.0) == []
        assert store.create(session())

    def test_removing_an_ended_session_leaves_its_slot_to_the_next(self, store: Replica) -> None:
        ended, following = session(), session()
        store.create(ended)
        store.save(dataclasses.replace(ended, state=State.ABORTED))
        store.create(following)
        store.remove(ended.key)
        assert store.find(following.path) == following

    def test_stale_gives_the_oldest_of_any_state_first(self, store: Replica) -> None:
        made = [session(f"a/{age}", touched=1_700_000_000.5 - age) for age in (3, 1, 5, 2, 4)]
        for one in made:
            store.create(one)
        ended = store.save(dataclasses.replace(made[2], state=State.FINISHED))
        by_age = [ended, made[4], made[0], made[3], made[1]]
        assert store.stale(1_700_000_000.5, 10) == by_age
        assert store.stale(1_700_000_000.5, 2) == by_age[:2]
        assert store.stale(made[0].touched, 10) == by_age[:2]
        assert store.stale(made[0].touched - 60, 10) == []

    def test_keys_since_a_time_include_that_time(self, store: Replica) -> None:
        made = [session(f"a/{age}", touched=1_700_000_000.125 - age) for age in (2, 1, 3)]
        for one in made:
            store.put(one)
        ended = store.save(dataclasses.replace(made[0], state=State.ABORTED))
        assert store.keys_since(made[0].touched) == [ended.key, made[1].key]
        assert store.keys_since(0.0) == [made[2].key, ended.key, made[1].key]
        assert store.keys_since(2e9) == []

    def test_counts(self, store: Replica) -> None:
        for number in range(4):
            store.create(session(f"a/{number}", owner="one"))
        store.create(session("b", owner="two"))
        first = store.find("a/0")
        assert first is not None
        store.save(dataclasses.replace(first, state=State.FINISHED))
        assert [store.count_open(CountedBy.OWNER, owner) for owner in ("one", "two", "three")] == [3, 1, 0]
        assert store.count_by_state() == {"open": 4, "finished": 1, "aborted": 0}

    def test_one_of_many_concurrent_creations_wins(self, backend: Backend) -> None:
        stores = [backend.open() for _ in range(8)]
        for store in stores:
            store.ping()
        for number in range(10):
            path = f"a/{number}"
            won = together(8, lambda worker, path=path: stores[worker].create(session(path)))  # type: ignore[misc]
            assert sorted(map(str, won)) == ["False"] * 7 + ["True"]
            assert stores[0].find(path) is not None

    def test_concurrent_saves_of_different_sessions_all_stay(self, backend: Backend) -> None:
        stores = [backend.open() for _ in range(6)]

        def save_often(worker: int) -> Session:
            own = session(f"a/{worker}")
            assert stores[worker].create(own)
            for number in range(20):
                own = stores[worker].save(dataclasses.replace(own, chunks=number + 1))
            return own

        saved = together(6, save_often)
        assert [stores[0].get(one.key) for one in saved if isinstance(one, Session)] == saved
        assert stores[0].count_open(CountedBy.OWNER, "192.0.2.1") == 6

    def test_every_connection_of_a_store_commits(self, backend: Backend) -> None:
        store, other = backend.open(), backend.open()
        store.ping()
        saved = together(8, lambda number: store.save(session(f"a/{number}")))
        assert [other.get(one.key) for one in saved if isinstance(one, Session)] == saved

    def test_all_sessions_of_a_path_are_known(self, backend: Backend) -> None:
        store, other = backend.open(), backend.open()
        path = "0b7e/" + "☃" * 400
        made = [session(path), session(path, slot=None), session(path, slot=None), session("a/b")]
        for one in made:
            assert store.create(one)
        made[1] = store.save(dataclasses.replace(made[1], state=State.ABORTED, touched=made[1].touched + 1))

        def known(path: str) -> dict[str, Session]:
            found = other.of_path(path)
            assert len({one.key for one in found}) == len(found)
            return {one.key: one for one in found}

        assert known(path) == {one.key: one for one in made[:3]}
        assert known("a/b") == {made[3].key: made[3]}
        assert known("a/B") == {}
        store.remove(made[0].key)
        store.remove(made[1].key)
        assert known(path) == {made[2].key: made[2]}
        put = other.put(session(path, slot=None))
        assert known(path) == {made[2].key: made[2], put.key: put}

    def test_open_sessions_are_known_by_owner_and_by_site(self, store: Replica) -> None:
        made = [
            session(
                f"a/{number}", owner=f"2001:db8::{number % 2}", site="2001:db8::/48", touched=1_700_000_100.0 - number
            )
            for number in range(6)
        ]
        for one in made:
            store.create(one)
        store.create(session("b", owner="192.0.2.1"))
        assert store.count_open(CountedBy.SITE, "2001:db8::/48") == 6
        assert [store.count_open(CountedBy.OWNER, f"2001:db8::{number}") for number in (0, 1, 2)] == [3, 3, 0]
        assert (store.count_open(CountedBy.SITE, ""), store.open_of(CountedBy.SITE, "", 5)) == (0, [])
        assert store.open_of(CountedBy.SITE, "2001:db8::/48", 2) == [made[5], made[4]]
        assert store.open_of(CountedBy.OWNER, "2001:db8::0", 9) == [made[4], made[2], made[0]]
        ended = store.save(dataclasses.replace(made[4], state=State.FINISHED))
        assert store.count_open(CountedBy.SITE, "2001:db8::/48") == 5
        assert store.open_of(CountedBy.OWNER, "2001:db8::0", 9) == [made[2], made[0]]
        store.remove(made[2].key)
        store.remove(ended.key)
        assert store.open_of(CountedBy.OWNER, "2001:db8::0", 9) == [made[0]]
        touched = store.save(dataclasses.replace(made[5], touched=1_700_000_200.0))
        assert store.open_of(CountedBy.SITE, "2001:db8::/48", 9) == [made[3], made[1], made[0], touched]
