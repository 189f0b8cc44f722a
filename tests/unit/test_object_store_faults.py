"""Processes over one bucket that die, freeze while others go on, or lose an answer of the engine, at any of their calls,
some of which the engine carries out a second time later: who was told that a file is stored finds it, no acknowledged
offset goes back, and the sweep leaves nothing but files."""

from __future__ import annotations

import itertools
import random
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from hmacfs.errors import HmacfsError, NameTaken, NotFound, StorageFailed, StoreUnavailable
from hmacfs.protocol.names import StoredName
from hmacfs.stores.s3.bucket import NO_ATTRIBUTES, Attributes, Doubt, NoSuchUpload, Payload
from hmacfs.stores.s3.placeholders import OVERDUE_SECONDS
from hmacfs.stores.s3.probe import trial_folder, try_conditional_writes
from hmacfs.stores.s3.store import S3FileStore
from hmacfs.uploads.contracts.locks import Lease
from hmacfs.uploads.contracts.stores import PartialUpload
from hmacfs.uploads.files import FileMetadata
from hmacfs.uploads.writers import Writers
from tests.stores.backends import PART_SIZE, ObjectBackend, content, put, write
from tests.stores.leases import LeaseTable, MemoryLocker
from tests.stores.memory_bucket import Killed, MemoryBucket

NAME = StoredName("folder/file")
METADATA = FileMetadata("image/jpeg")
TTL = 1000.0
LEASE = 30.0
#: The engines: which conditions they heed.
ENGINES: dict[str, dict[str, bool]] = {
    "heeds all": {},
    "heeds those of creations": {"heeds_match": False},
    "ignores all": {"heeds_conditions": False},
}
ROUNDS = 100
#: More calls than most actions make, counting before and after.
CALLS = 50
#: Of requests that the engine may carry out again: those for parts, and for these notes.
REPEATED_SHARE = 0.1
_REPEATED = re.compile(r"/[ct]\.[^/]*$")

Event = Callable[[bool], None]


class Access(MemoryBucket):
    """A process's access to the engine. event: what happens at its call of the number ``at``, counting before and after;
    it is told whether that call is tried once only. repeat: is given requests that may be carried out again."""

    def __init__(self, engine: Any, event: Event, at: int, repeat: Callable[[Callable[[], Any]], None]) -> None:
        self._calls = itertools.count()
        self._repeat = repeat
        self._event = event
        self._at = at
        self._is_new = False
        super().__init__(engine, self._step)

    def put(self, key: str, payload: Payload, attributes: Attributes = NO_ATTRIBUTES, *, is_new: bool = False) -> str:
        self._is_new = is_new
        return super().put(key, payload, attributes, is_new=is_new)

    def carry_out(self, name: str, key: str, request: Callable[[], Any]) -> Any:
        if name == "put_part" or (name in ("put", "delete") and _REPEATED.search(key)):
            self._repeat(request)
        return request()

    def _step(self, name: str, when: str) -> bool:
        if next(self._calls) == self._at:
            self._event(name == "complete" or (name == "put" and self._is_new))
        return False

    def die(self, _: bool) -> None:
        self.is_dead = True
        raise Killed


def lose_answer(is_tried_once: bool) -> None:
    """As the bucket's client tells of it."""
    if is_tried_once:
        raise Doubt("lost", may_repeat=True)
    raise StoreUnavailable


def stay_silent(is_tried_once: bool) -> None:
    if is_tried_once:
        raise Doubt("silent", may_repeat=False)
    raise StoreUnavailable


class Cluster:
    """Some clients of several processes. Each step of a client is a request to a process of its own."""

    def __init__(self, engine: dict[str, bool], seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 50_000.0
        self.backend = ObjectBackend(lambda: self.now, **engine)
        self.table = LeaseTable(lambda: self.now, LEASE)
        self.clients: list[Client] = []
        self.is_quiet = False
        #: Whether somebody may have deleted the file.
        self.is_deleted = False
        self._frozen = 0
        #: Requests that the engine carries out again some time.
        self._late: list[Callable[[], Any]] = []

    @property
    def store(self) -> S3FileStore:
        """One to which nothing happens."""
        return self.backend.store

    def locker(self) -> MemoryLocker:
        return MemoryLocker(self.table, lambda _: None)

    def process(self, client: Client) -> S3FileStore:
        """To which something may happen."""
        at = self.chance.randrange(CALLS)
        access = Access(self.backend.engine, lambda once: self._happen(access, client, once), at, self._repeat)
        return self.backend.over(access)

    def _happen(self, access: Access, client: Client, is_tried_once: bool) -> None:
        if self.is_quiet:
            return
        self.now += self.chance.choice([0.0, 1.0])
        event = self.chance.choice([access.die, lose_answer, stay_silent, self._freeze, self._freeze])
        event(is_tried_once)

    def _repeat(self, request: Callable[[], Any]) -> None:
        if not self.is_quiet and self.chance.random() < REPEATED_SHARE:
            self._late.append(request)

    def _catch_up(self, share: float) -> None:
        """Carry some of them out."""
        for request in [one for one in self._late if self.chance.random() < share]:
            self._late.remove(request)
            with suppress(NoSuchUpload):
                request()

    def _freeze(self, is_tried_once: bool) -> None:
        """While others go on: for less than a lease, longer than it, or so long that sessions expire."""
        if self._frozen > 2:
            return
        self._frozen += 1
        self.now += self.chance.choice([0.0, 2 * LEASE, 2 * TTL])
        for _ in range(self.chance.randrange(1, 6)):
            self.chance.choice(self.clients).step()
        self._frozen -= 1

    def run(self) -> None:
        """Until each client is done, the last ones in peace."""
        for _ in range(self.chance.randrange(20)):
            self.chance.choice(self.clients).step()
            self._catch_up(0.3)
        self.is_quiet = True
        self.now += 2 * LEASE
        for one in self.clients:
            for _ in range(20):
                one.step()
                self._catch_up(0.1)
        self._catch_up(1.0)

    def sweep(self, store: S3FileStore) -> None:
        for client in self.clients:
            client.note_sweep()
        for key in store.partials.untouched_since(self.now - TTL):
            Writers(store.partials, self.locker()).discard(key, self.now - TTL)

    def check_file(self, data: bytes | None = None) -> None:
        """That it is there, with these bytes or those of any client, unless somebody may have deleted it."""
        try:
            found = content(self.store, NAME)
        except NotFound:
            assert self.is_deleted
            return
        if data is None or self.is_deleted:
            assert found in [client.data for client in self.clients]
        else:
            assert found == data

    def check_leftovers(self) -> None:
        """After two sweeps: an upload that ends beside others of its name is looked at again."""
        for _ in range(2):
            self.now += 10 * TTL
            self.sweep(self.store)
        assert list(self.backend.engine.uploads) == []
        expected = [self.store.keys.of(NAME)] if self.store.exists(NAME) else []
        assert list(self.backend.engine.objects) == expected


class Client(ABC):
    """is_stored: it was told that its file is."""

    def __init__(self, cluster: Cluster, data: bytes) -> None:
        self.cluster = cluster
        self.data = data
        self.is_stored = self.is_done = False

    def step(self) -> None:
        if self.is_done:
            return
        try:
            self.act(self.cluster.process(self))
        except Killed:
            pass
        except NameTaken:
            self.note_taken()
        except HmacfsError as error:
            assert type(error) is not StorageFailed, "nothing is there for an operator to mend"

    @abstractmethod
    def act(self, store: S3FileStore) -> None: ...

    def note_taken(self) -> None:
        """There is a file by now, whoever's it is."""
        self.cluster.check_file()
        self.is_done = True

    def note_sweep(self) -> None:  # noqa: B027 - most need not know
        """One begins."""

    def note_stored(self) -> None:
        self.cluster.check_file(self.data)
        self.is_stored = self.is_done = True


class Whole(Client):
    def act(self, store: S3FileStore) -> None:
        with store.stage(NAME, len(self.data), METADATA) as staged:
            write(staged, self.data)
            staged.publish()
        self.note_stored()


class Pieces(Client):
    """An upload in pieces, of which another connection may go on at any moment."""

    def __init__(self, cluster: Cluster, data: bytes) -> None:
        super().__init__(cluster, data)
        self.key = f"{len(cluster.clients):032x}"
        self.touched = cluster.now
        self.acknowledged = 0
        self.is_given_up = self.was_overdue = False
        cluster.store.partials.create(self.key, NAME, len(data), METADATA)

    def act(self, store: S3FileStore) -> None:
        known = self.acknowledged
        info = self.cluster.store.partials.stat(self.key)
        if info is None:
            self._note_end()
            return
        if self.is_given_up:  # which is in its record
            self.give_up()
            return
        assert info.length >= known or self._may_have_lost_bytes(), "an acknowledged offset went back"
        lease = self.cluster.locker().acquire(self.key)
        if lease is None:
            return
        with store.partials.open(self.key, lease) as upload:
            if upload.is_published(NAME) or upload.length == len(self.data):
                upload.publish(NAME, METADATA)
                self.note_stored()
                return
            begin = self.begin_of(upload)
            end = min(len(self.data), begin + self.cluster.chance.randrange(3 * PART_SIZE))
            sent_at = self.cluster.now
            with upload.begin(begin, atomic=self.is_atomic()) as piece:
                write(piece, self.data[begin:end])
            assert upload.length >= end
            self.touched = sent_at if end > begin else self.touched
            self.acknowledged = max(self.acknowledged, end)

    def begin_of(self, upload: PartialUpload) -> int:
        """The offset of the next piece."""
        return upload.length

    def is_atomic(self) -> bool:
        return self.cluster.chance.random() < 0.3

    def _may_have_lost_bytes(self) -> bool:
        """A sweep began when it was overdue, its file may have been deleted already, or another has the name: under
        claims, who takes one over aborts its holder's upload."""
        store = self.cluster.store
        is_beaten = store.exists(NAME) and content(store, NAME) != self.data
        return self.was_overdue or self.cluster.is_deleted or is_beaten

    def _note_end(self) -> None:
        """It has become the file, it was given up, or it was silent for so long that a sweep came."""
        store = self.cluster.store
        if store.exists(NAME) and content(store, NAME) == self.data:
            self.note_stored()
        self.is_done = True
        assert self.is_stored or self.is_given_up or self.was_overdue or self.cluster.is_deleted

    def note_sweep(self) -> None:
        """One that is frozen may end an upload that goes on meanwhile."""
        self.was_overdue = self.was_overdue or self.cluster.now - self.touched >= TTL

    def note_taken(self) -> None:
        super().note_taken()
        self.is_done = False
        self.give_up()

    def give_up(self) -> None:
        """As a client that deletes its upload: whatever this meets, the sweep is left to do."""
        if self.is_done:
            return
        lease = self.cluster.locker().acquire(self.key)
        if lease is None:
            return
        self.is_given_up = True
        try:
            with self.cluster.process(self).partials.open(self.key, lease) as upload:
                if not upload.is_published(NAME):
                    upload.discard()
        except (Killed, HmacfsError):
            pass


class Chunks(Pieces):
    """Numbered ones: what is stored after the last acknowledged one is of an attempt that failed."""

    def begin_of(self, upload: PartialUpload) -> int:
        return min(self.acknowledged, upload.length)

    def is_atomic(self) -> bool:
        return True


class Deserter(Pieces):
    """Gives its upload up some time."""

    def act(self, store: S3FileStore) -> None:
        if self.cluster.chance.random() < 0.2:
            self.give_up()
        super().act(store)


class Sweeps(Client):
    def act(self, store: S3FileStore) -> None:
        self.cluster.sweep(store)


class Deletes(Client):
    """Of whatever file there is."""

    def act(self, store: S3FileStore) -> None:
        if self.cluster.chance.random() < 0.3:
            self.cluster.is_deleted = True
            store.delete(NAME)


KINDS: list[type[Client]] = [Whole, Whole, Pieces, Chunks, Deserter]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_whatever_happens_one_has_the_name_and_nothing_else_is_left(
    engine: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(ENGINES[engine], seed)
    names = random.Random(seed)
    monkeypatch.setattr(secrets, "token_hex", lambda size: names.randbytes(size).hex())  # so that a seed repeats a run
    for number in range(cluster.chance.randrange(1, 5)):
        size = cluster.chance.choice([1, PART_SIZE, 3 * PART_SIZE, 4 * PART_SIZE + 5])
        kind = cluster.chance.choice(KINDS)
        cluster.clients.append(kind(cluster, bytes([number]) + cluster.chance.randbytes(size - 1)))
    cluster.clients.append(Sweeps(cluster, b""))
    if cluster.chance.random() < 0.2:
        cluster.clients.append(Deletes(cluster, b""))
    cluster.run()
    stored = [client.data for client in cluster.clients if client.is_stored]
    assert len(stored) <= 1 or cluster.is_deleted
    for data in stored:
        cluster.check_file(data)
    cluster.check_leftovers()


def test_what_has_become_the_file_is_never_aborted() -> None:
    """An engine that is killed during a completion may have the object and the upload: aborting that would take the
    object's bytes."""
    cluster = Cluster({}, 0)
    data = bytes(2 * PART_SIZE)
    upload = Pieces(cluster, data)
    with cluster.store.partials.open(upload.key, taken(cluster)) as opened, opened.begin(0, atomic=False) as piece:
        write(piece, data)
    ((upload_id, multipart),) = cluster.backend.engine.uploads.items()
    cluster.backend.publish_and_die(upload.key, NAME)
    cluster.backend.engine.uploads[upload_id] = multipart
    cluster.now += 10 * TTL
    cluster.sweep(cluster.store)
    assert list(cluster.backend.engine.uploads) == [upload_id]
    assert list(cluster.backend.engine.objects) == [cluster.store.keys.of(NAME)]


@pytest.mark.parametrize("is_needed", [True, False])
def test_a_placeholder_that_comes_late_stands_in_nobody_s_way(*, is_needed: bool) -> None:
    """The engine was silent for too long; when it has taken the request at last, the upload is aborted already."""
    cluster = Cluster({}, 0)
    late: list[Callable[[], object]] = []

    class SlowBucket(MemoryBucket):
        def put(
            self, key: str, payload: Payload, attributes: Attributes = NO_ATTRIBUTES, *, is_new: bool = False
        ) -> str:
            if is_new:
                late.append(lambda: MemoryBucket.put(self, key, payload, attributes, is_new=True))
                raise Doubt("silent", may_repeat=False)
            return super().put(key, payload, attributes)

    with pytest.raises(StoreUnavailable):
        put(cluster.backend.over(SlowBucket(cluster.backend.engine)), NAME, bytes(2 * PART_SIZE), METADATA)
    late[0]()
    assert list(cluster.backend.engine.uploads) == []
    assert not cluster.store.exists(NAME)
    if is_needed:
        cluster.now += OVERDUE_SECONDS
        put(cluster.store, NAME, bytes(2 * PART_SIZE), METADATA)
    else:
        assert cluster.store.keys.of(NAME) in cluster.backend.engine.objects
    cluster.check_leftovers()


def test_a_sweep_that_was_halted_leaves_an_upload_to_who_goes_on_with_it() -> None:
    cluster = Cluster({}, 0)
    upload = Pieces(cluster, b"hello")
    other: list[object] = []

    def halt(name: str, when: str) -> bool:
        if name == "pages" and when == "after" and len(other) == 1:  # it has seen how long nothing came
            cluster.now += 2 * LEASE
            with cluster.store.partials.open(upload.key, taken(cluster)) as opened, opened.begin(0, atomic=False) as it:
                write(it, b"hel")
        if name == "pages" and when == "after":
            other.append(name)
        return False

    cluster.now += 2 * TTL
    cluster.sweep(cluster.backend.over(MemoryBucket(cluster.backend.engine, halt)))
    assert len(other) > 1
    info = cluster.store.partials.stat(upload.key)
    assert info is not None
    assert info.length == 3


def taken(cluster: Cluster) -> Lease:
    lease = cluster.locker().acquire("0" * 32)
    assert lease is not None
    return lease


def test_what_is_left_of_a_trial_is_removed_by_the_sweep() -> None:
    """Its process is killed before it can remove the object, or the engine takes a request when it is over."""
    cluster = Cluster({}, 0)
    bucket = MemoryBucket(cluster.backend.engine, lambda name, when: (name, when) == ("delete", "before"))
    with pytest.raises(Killed):
        try_conditional_writes(bucket, trial_folder(cluster.store.keys.reserved))
    assert cluster.backend.engine.objects
    cluster.check_leftovers()
