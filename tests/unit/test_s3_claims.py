"""What is claimed of a file that comes in pieces, over a bucket: nobody sees the file before it is judged, whichever
process dies at whichever of its calls, and whoever comes then judges it."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Callable
from contextlib import suppress

import gevent
import pytest

from hmacfs.errors import DigestMismatch, NotFound, OffsetMismatch, SessionEnded, Superseded
from hmacfs.protocol.digests import claims_of_file
from hmacfs.stores.s3 import renewal
from hmacfs.stores.s3.claims import CLAIM_SECONDS
from hmacfs.uploads.contracts.stores import PartialUpload
from hmacfs.uploads.files import NO_METADATA
from hmacfs.uploads.session import Session
from tests.contracts.file_stores import KEY
from tests.stores.backends import Collector, ObjectBackend, content, write
from tests.stores.leases import LeaseTable, MemoryLocker
from tests.stores.memory_bucket import Killed, LateBucket
from tests.stores.world import CONTENT, NAME, TTL, World

WRONG = b"!" + CONTENT[1:]


def _claims(data: bytes) -> str:
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return claims_of_file({"HTTP_REPR_DIGEST": f"sha-256=:{digest}:"})


CLAIMS = _claims(CONTENT)
#: Where the last piece begins.
LAST = 90
#: It makes more calls than these, counting before and after.
CALLS = 20
LEASE = 30.0


@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize("kind", ["objects", "careless"])
@pytest.mark.parametrize("data", [CONTENT, WRONG])
def test_a_death_at_any_call_leaves_the_file_to_be_judged(kind: str, data: bytes, *, repeats: bool) -> None:
    at = 0
    while _die(World(kind), at, data, repeats=repeats):
        at += 1
    assert at > CALLS


def _die(world: World, at: int, data: bytes, *, repeats: bool) -> bool:
    """Send the last piece to a process that dies at that call, and see what comes of the upload then; whether there was
    such a call. repeats: the client sends that piece again before it asks for the offset."""
    backend, is_dead = world.backend, False
    assert isinstance(backend, ObjectBackend)
    session = world.append(world.begin(), 0, data[:LAST]).session
    calls = itertools.count()

    def step(_name: str, _when: str) -> bool:
        _check_nothing_wrong_is_seen(backend)
        return next(calls) == at

    try:
        world.append(session, LAST, data[LAST:], uploads=world.process(backend.process(step)), file_claims=CLAIMS)
    except Killed:
        is_dead = True
        world.now += CLAIM_SECONDS
    except DigestMismatch:
        assert data == WRONG
    _check_nothing_wrong_is_seen(backend)
    if data == CONTENT:
        _go_on(world, session, data, repeats=repeats)
        assert world.file() == CONTENT
    else:
        with pytest.raises((DigestMismatch, SessionEnded)):
            _go_on(world, session, data, repeats=repeats)
        assert backend.store.stat(NAME) is None
    for _ in range(2):  # what may turn up late is looked for again
        world.now += 2 * TTL
        world.uploads.sweep()
    assert list(backend.engine.objects) == ([backend.store.keys.of(NAME)] if data == CONTENT else [])
    assert list(backend.engine.uploads) == []
    return is_dead


def test_a_note_that_is_written_again_after_the_end_hides_no_file() -> None:
    world = World("objects")
    backend = world.backend
    assert isinstance(backend, ObjectBackend)
    session = world.append(world.begin(), 0, CONTENT[:LAST]).session
    late = LateBucket(backend.engine, lambda name, key: name == "put" and key.endswith("/unverified"), is_again=True)
    world.append(session, LAST, CONTENT[LAST:], uploads=world.process(backend.over(late)), file_claims=CLAIMS)
    late.catch_up()
    assert content(backend.process(), NAME) == CONTENT
    world.now += 2 * TTL
    world.uploads.sweep()
    assert list(backend.engine.objects) == [backend.store.keys.of(NAME)]


def _check_nothing_wrong_is_seen(backend: ObjectBackend) -> None:
    """By a process that knows nothing yet."""
    store = backend.process()
    if store.stat(NAME) is None:
        with pytest.raises(NotFound):
            store.open(NAME)
    else:
        assert content(store, NAME) == CONTENT


def _go_on(world: World, session: Session, data: bytes, *, repeats: bool) -> None:
    if repeats:
        with suppress(OffsetMismatch):
            world.append(world.get(session), LAST, data[LAST:], file_claims=CLAIMS)
    progress = world.uploads.progress(world.get(session))
    if not progress.is_finished:
        world.append(progress.session, progress.offset, data[progress.offset :], file_claims=CLAIMS)


# -- the lease of who judges ----------------------------------------------------------------------


class Holder:
    """An upload of one who has a lease of it, for whom time goes on at a call of the engine. now: what leases go by."""

    def __init__(self, at: tuple[str, str], wait: Callable[[Holder], None]) -> None:
        self.now = 0.0
        self.table = LeaseTable(lambda: self.now, LEASE)
        self.locker = MemoryLocker(self.table, lambda _: None)
        self.backend = ObjectBackend(lambda: self.now)

        def step(name: str, when: str) -> bool:
            if (name, when) == at:
                wait(self)
            return False

        self.backend.store.partials.create(KEY, NAME, None, NO_METADATA)
        lease = self.locker.acquire(KEY)
        assert lease is not None
        self.upload = self.backend.process(step).partials.open(KEY, lease)

    def seconds_left(self) -> float:
        entry = self.table.entries.read(f"lease {KEY}")
        return 0.0 if entry is None else entry.seconds_left


def test_a_lease_lasts_as_long_as_the_engine_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "_LOOK_SECONDS", 0.001)

    def take_long(holder: Holder) -> None:
        with gevent.Timeout(30.0):
            for _ in range(4):
                holder.now += 0.6 * LEASE
                while holder.seconds_left() < LEASE:
                    gevent.sleep(0.001)

    holder, digest = Holder(("complete", "before"), take_long), Collector()
    with holder.upload as upload:
        _append(upload)
        upload.feed(digest)
        upload.publish(NAME, NO_METADATA)
    assert holder.now > 2 * LEASE
    assert digest.data == content(holder.backend.store, NAME) == CONTENT
    assert holder.locker.acquire(KEY) is not None, "nobody renews it any more"


def test_who_has_lost_the_lease_goes_no_further() -> None:
    def lose(holder: Holder) -> None:
        holder.now += 2 * LEASE
        assert holder.locker.acquire(KEY) is not None

    holder, digest = Holder(("complete", "after"), lose), Collector()
    with holder.upload as upload:
        _append(upload)
        with pytest.raises(Superseded):
            upload.feed(digest)
        with pytest.raises(Superseded):
            upload.publish(NAME, NO_METADATA)
    assert digest.data == b""
    assert holder.backend.store.stat(NAME) is None


def _append(upload: PartialUpload) -> None:
    with upload.begin(0, atomic=True) as piece:
        write(piece, CONTENT)


# -- readers --------------------------------------------------------------------------------------


def test_a_reader_that_is_halted_is_not_given_what_is_removed_meanwhile() -> None:
    """It has found the file; when it looks for the note, that is gone as well."""
    holder = Holder(("none", ""), lambda _: None)

    def reject(name: str, when: str) -> bool:
        if (name, when) == ("get", "after"):
            holder.upload.discard()
        return False

    with holder.upload as upload:
        _append(upload)
        upload.feed(Collector())
        with pytest.raises(NotFound):
            holder.backend.process(reject).open(NAME)


def test_a_file_of_the_same_bytes_as_one_that_was_judged_is_judged_itself() -> None:
    world = World("objects")
    backend = world.backend
    assert isinstance(backend, ObjectBackend)
    reader = backend.process()
    world.append(world.begin(), 0, CONTENT, file_claims=CLAIMS)
    assert content(reader, NAME) == CONTENT
    assert reader.delete(NAME)
    dying = backend.process(lambda name, when: (name, when) == ("complete", "after"))
    with pytest.raises(Killed):
        world.append(world.begin(), 0, CONTENT, uploads=world.process(dying), file_claims=_claims(WRONG))
    with pytest.raises(NotFound):
        reader.open(NAME)
