"""The store over a bucket: what only it has, beside the contract of all stores."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import gevent
import pytest

from hmacfs.errors import (
    BadName,
    DigestMismatch,
    NameTaken,
    NotFound,
    SessionStoreUnreachable,
    SessionUnknown,
    StorageFailed,
    StoreUnavailable,
)
from hmacfs.protocol.conditions import ByteRange
from hmacfs.protocol.names import StoredName
from hmacfs.stores.s3 import claims, renewal
from hmacfs.stores.s3.bucket import NO_ATTRIBUTES, Attributes, Doubt, InvalidPart, ListedObject, NoSuchUpload
from hmacfs.stores.s3.claims import CLAIM_SECONDS
from hmacfs.stores.s3.inventory import Inventory, Remainder
from hmacfs.stores.s3.objects import claimant_of, placeholder_of
from hmacfs.stores.s3.placeholders import OVERDUE_SECONDS
from hmacfs.stores.s3.store import S3FileStore
from hmacfs.system import clocks
from hmacfs.uploads.contracts.stores import PartialUpload
from hmacfs.uploads.files import NO_METADATA, FileMetadata
from hmacfs.uploads.writers import Writers
from tests.contracts.file_stores import KEY, NAME, append, begin, leased, reopen
from tests.stores.backends import PART_SIZE, Collector, ObjectBackend, careless_engine, content, put, write
from tests.stores.memory_bucket import Engine, Killed, LateBucket, MemoryBucket, Multipart, Stored

TARGET = f"files/{NAME.path}"
SIZE = 3 * PART_SIZE + 5
DATA = bytes(range(SIZE))


@pytest.fixture
def now() -> list[float]:
    return [50_000.0]


@pytest.fixture(params=["heeding", "careless"])
def backend(request: pytest.FixtureRequest, now: list[float]) -> ObjectBackend:
    """Over engines that heed conditions, and that ignore them."""

    def clock() -> float:
        return now[0]

    return ObjectBackend(clock) if request.param == "heeding" else careless_engine(clock)


@pytest.fixture
def heeding(now: list[float]) -> ObjectBackend:
    """Over an engine with exclusive creation."""
    return ObjectBackend(lambda: now[0])


def leftovers(backend: ObjectBackend) -> list[str]:
    """What is in the bucket besides files."""
    return [key for key in backend.engine.objects if not key.startswith("files/folder/")] + [*backend.engine.uploads]


def sweep(backend: ObjectBackend, now: list[float]) -> None:
    """As one that comes long after; no session knows of anything."""
    now[0] += 1000.0
    for key in backend.store.partials.untouched_since(now[0]):
        backend.store.partials.discard(key)


def failing(backend: ObjectBackend, call: str, when: str, error: BaseException, times: int = 1) -> S3FileStore:
    """The store of a process whose first calls of that name fail."""
    left = [times]

    def step(name: str, moment: str) -> bool:
        if (name, moment) == (call, when) and left[0]:
            left[0] -= 1
            raise error
        return False

    return backend.process(step)


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "a\\b",
        "photo\uffff.jpg",
        "\ufffe",
        "a" * 250 + "/" + "b" * 250 + "/" + "c" * 250 + "/" + "d" * 250 + "/" + "e" * 20,
    ],
)
def test_names_that_an_engine_does_not_take_are_refused(backend: ObjectBackend, path: str) -> None:
    name, store = StoredName.from_text(path), backend.store
    for refuse in (store.exists, store.stat, store.open, store.delete):
        with pytest.raises(BadName):
            refuse(name)
    with pytest.raises(BadName), store.stage(name, 3, NO_METADATA):
        pass


def test_what_no_url_names_is_not_listed(backend: ObjectBackend) -> None:
    put(backend.store, NAME, b"x")
    for key in ("files/a\\b", "files/folder/", "files/../x", "another/file", "files/.hmacfs/check/x"):
        backend.engine.objects[key] = Stored(b"x", '"x"', 1.0)
    assert [name for page in backend.store.names() for name in page] == [NAME]


# -- what is believed of objects ------------------------------------------------------------------


def test_the_type_of_a_foreign_object_is_not_believed(backend: ObjectBackend) -> None:
    foreign = Attributes("text/html", {"hmacfs-type": "text/html", "owner": "x", "hmacfs-stored": "5"})
    backend.engine.objects[TARGET] = Stored(b"<script>", '"x"', 7.0, foreign)
    info = backend.store.stat(NAME)
    assert info is not None
    assert info.metadata == NO_METADATA
    assert backend.store.open(NAME).info.metadata == NO_METADATA


def test_a_placeholder_is_not_there(backend: ObjectBackend) -> None:
    backend.engine.objects[TARGET] = Stored(b"id", '"x"', 7.0, placeholder_of("id", "upload", {}))
    assert not backend.store.exists(NAME)
    assert backend.store.stat(NAME) is None
    assert not backend.store.delete(NAME)
    assert [name for page in backend.store.names() for name in page] == []
    for wanted in (None, ByteRange(0, None), ByteRange(0, 1)):
        with pytest.raises(NotFound):
            backend.store.open(NAME, wanted)


# -- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "offset", "count"),
    [
        (ByteRange(0, None), 0, SIZE),
        (ByteRange(3, 9), 3, 7),
        (ByteRange(None, 6), SIZE - 6, 6),
        (ByteRange(0, None), 4, 6),
        (ByteRange(SIZE, None), 2, 3),
        (None, 2, 3),
    ],
)
def test_what_is_wanted_comes_whatever_was_announced(
    backend: ObjectBackend, wanted: ByteRange | None, offset: int, count: int
) -> None:
    put(backend.store, NAME, DATA)
    source = backend.store.open(NAME, wanted)
    assert source.info.size == SIZE
    assert b"".join(source.pieces(offset, count, 4)) == DATA[offset : offset + count]
    source.close()


def test_what_was_announced_comes_by_one_request(backend: ObjectBackend) -> None:
    put(backend.store, NAME, DATA)
    calls: list[str] = []

    def step(name: str, when: str) -> bool:
        calls.extend([name] if when == "before" else [])
        return False

    source = backend.process(step).open(NAME, ByteRange(5, 20))
    assert b"".join(source.pieces(5, 16, 100)) == DATA[5:21]
    assert calls == ["get"]


class _Breaking:
    """A download that breaks off after some bytes."""

    def __init__(self, download: object, after: int) -> None:
        self._download = download
        self._after = after

    def __getattr__(self, name: str) -> object:
        return getattr(self._download, name)

    def pieces(self, size: int) -> Iterator[bytes]:
        left = self._after
        for piece in self._download.pieces(1):  # type: ignore[attr-defined]
            if left == 0:
                raise Doubt("reset", may_repeat=True)
            left -= 1
            yield piece


@pytest.mark.parametrize("breaks", [1, 2])
def test_a_download_that_breaks_off_is_gone_on_with_once(backend: ObjectBackend, breaks: int) -> None:
    put(backend.store, NAME, DATA)
    bucket, left = backend.store.bucket, [breaks]
    whole = bucket.get

    def get(*arguments: object, **more: object) -> object:
        download = whole(*arguments, **more)  # type: ignore[arg-type]
        if left[0]:
            left[0] -= 1
            return _Breaking(download, 7)
        return download

    bucket.get = get  # type: ignore[method-assign, assignment]
    source = backend.store.open(NAME)
    if breaks == 1:
        assert b"".join(source.pieces(0, SIZE, 100)) == DATA
    else:
        with pytest.raises(OSError, match="broke off"):
            b"".join(source.pieces(0, SIZE, 100))


def test_a_file_that_was_replaced_is_not_gone_on_with(backend: ObjectBackend) -> None:
    put(backend.store, NAME, DATA)
    source = backend.store.open(NAME, None)
    backend.store.delete(NAME)
    put(backend.store, NAME, DATA[::-1])
    with pytest.raises(OSError):
        b"".join(source.pieces(0, SIZE, 100))


# -- sizes ----------------------------------------------------------------------------------------


def test_parts_grow_with_the_file(backend: ObjectBackend) -> None:
    store = backend.store
    assert store.part_size_of(None) == store.part_size_of(9000 * PART_SIZE) == PART_SIZE
    assert store.part_size_of(9000 * PART_SIZE + 1) == PART_SIZE + 1
    assert -(-(10**12) // store.part_size_of(10**12)) <= 10_000


def test_two_parts_at_most_are_spooled(backend: ObjectBackend) -> None:
    store = backend.store
    assert store.space_of(3) == 3
    assert store.space_of(5000) == store.space_of(None) == 2 * PART_SIZE
    with store.stage(NAME, 100 * PART_SIZE, NO_METADATA) as staged:
        for number in range(100):
            write(staged, bytes([number]) * PART_SIZE)
            assert store.spool.used <= 2 * PART_SIZE
        staged.publish()
    assert store.spool.used == 0


def test_a_part_that_cannot_be_sent_ends_the_upload_and_leaves_nothing(backend: ObjectBackend) -> None:
    store = failing(backend, "put_part", "before", StoreUnavailable(), times=2)
    with pytest.raises(StoreUnavailable):
        put(store, NAME, DATA)
    assert leftovers(backend) == []
    assert not backend.store.exists(NAME)
    assert store.spool.used == 0


# -- doubts ---------------------------------------------------------------------------------------


#: By which conditional calls an upload of that size is published.
PUBLICATIONS = pytest.mark.parametrize(
    ("backend", "size", "call"),
    [
        ("heeding", 3, "create"),
        ("heeding", SIZE, "create"),
        ("heeding", SIZE, "complete"),
        ("careless", 3, "complete"),
        ("careless", SIZE, "complete"),
    ],
    indirect=["backend"],
)


@PUBLICATIONS
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("times", [1, 3, 100])
def test_a_doubt_is_settled(
    backend: ObjectBackend, size: int, call: str, when: str, times: int, now: list[float]
) -> None:
    """Whether or not the call took effect, a 201 is right, and after an error nothing was promised."""
    failures = 0

    def step(name: str, moment: str) -> bool:
        nonlocal failures
        if (name, moment) == (call, when) and failures < times:
            failures += 1
            raise Doubt("lost", may_repeat=True)
        return False

    try:
        put(backend.process(step), NAME, DATA[:size])
    except (StoreUnavailable, Doubt) as error:
        assert not isinstance(error, Doubt), "it is the store's affair"
        assert times == 100 or not backend.engine.heeds_conditions  # under a claim it is asked for once
        assert not backend.store.exists(NAME) or content(backend.store, NAME) == DATA[:size]
    else:
        assert content(backend.store, NAME) == DATA[:size]
    assert failures
    sweep(backend, now)
    sweep(backend, now)
    assert leftovers(backend) == []


@PUBLICATIONS
def test_a_doubt_never_makes_another_s_file_ours(backend: ObjectBackend, size: int, call: str) -> None:
    """Even one that was stored by a program that knows of no placeholders and claims."""
    failures = 0

    def step(name: str, when: str) -> bool:
        nonlocal failures
        if (name, when) == (call, "before") and not failures:
            MemoryBucket(backend.engine).put(TARGET, b"another's")
            failures += 1
            raise Doubt("lost", may_repeat=True)
        return False

    with pytest.raises((NameTaken, StoreUnavailable)):
        put(backend.process(step), NAME, DATA[:size])
    assert failures
    assert content(backend.store, NAME) == b"another's"


# -- requests -------------------------------------------------------------------------------------


#: Of a multipart upload with its notes, but for the deletion of these.
BEGINNING, CONCLUDING = ("put", "begin_multipart", "put"), ("uploads", "pages")


def calls_of(backend: ObjectBackend, act: Callable[[S3FileStore], object]) -> list[str]:
    """The requests that ``act`` makes, by their names."""
    calls: list[str] = []

    def step(name: str, when: str) -> bool:
        calls.extend([name] if when == "before" else [])
        return False

    act(backend.process(step))
    return calls


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (3, ["create"]),
        (SIZE, [*BEGINNING, *["put_part"] * 4, "create", "complete", *CONCLUDING, "delete", "delete"]),
    ],
)
def test_the_requests_of_a_whole_upload(heeding: ObjectBackend, size: int, expected: list[str]) -> None:
    assert calls_of(heeding, lambda store: put(store, NAME, DATA[:size])) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (3, ["get", "create", "pages", "delete", "delete"]),
        (SIZE, ["get", "put_part", "create", "complete", *CONCLUDING, "delete", "delete", "delete"]),
    ],
)
def test_the_requests_of_the_end_of_an_unfinished_upload(
    heeding: ObjectBackend, size: int, expected: list[str]
) -> None:
    with begin(heeding) as upload:
        append(upload, DATA[:size])

    def finish(store: S3FileStore) -> None:
        with store.partials.open(KEY, leased(heeding)) as upload:
            upload.publish(NAME, NO_METADATA)

    opening = ["get", "pages"] if size == 3 else ["get", "pages", "parts"]
    assert calls_of(heeding, finish) == opening + expected


# -- names that are taken before the completion: by a placeholder, or by a claim ------------------


#: After so many seconds a name that is taken so is somebody else's affair.
OVER = max(OVERDUE_SECONDS, CLAIM_SECONDS)


def die_before_completion(backend: ObjectBackend) -> None:
    """What a process leaves that is killed once it has all parts, and the name."""
    with pytest.raises(Killed):
        put(backend.process(lambda name, when: (name, when) == ("complete", "before")), NAME, DATA)


@pytest.mark.parametrize("size", [3, SIZE])
def test_the_upload_of_a_process_that_died_before_the_completion_is_completed_by_the_next_one(
    backend: ObjectBackend, now: list[float], size: int
) -> None:
    die_before_completion(backend)
    now[0] += OVER - 1
    with pytest.raises(StoreUnavailable):
        put(backend.store, NAME, b"x" * size)
    now[0] += 1
    with pytest.raises(NameTaken):
        put(backend.store, NAME, b"x" * size)
    assert content(backend.store, NAME) == DATA
    sweep(backend, now)
    assert leftovers(backend) == []


def test_a_name_is_refused_before_the_body_while_another_upload_is_about_to_have_it(
    heeding: ObjectBackend, now: list[float]
) -> None:
    heeding.store.check_free(NAME)
    die_before_completion(heeding)
    with pytest.raises(StoreUnavailable):
        heeding.store.check_free(NAME)
    assert not heeding.store.exists(NAME)
    now[0] += OVERDUE_SECONDS
    with pytest.raises(NameTaken):
        heeding.store.check_free(NAME)
    assert content(heeding.store, NAME) == DATA


def test_an_upload_that_is_slow_to_complete_finds_that_others_have_completed_it(
    backend: ObjectBackend, now: list[float]
) -> None:
    rivals = [b"a rival's"]

    def halt(name: str, when: str) -> bool:
        if (name, when) == ("complete", "before"):
            now[0] += OVER
            with pytest.raises(NameTaken):
                put(backend.store, NAME, rivals.pop())
        return False

    put(backend.process(halt), NAME, DATA)
    assert rivals == []
    assert content(backend.store, NAME) == DATA
    assert leftovers(backend) == []


def test_an_unfinished_upload_that_others_have_completed_is_finished(backend: ObjectBackend, now: list[float]) -> None:
    with begin(backend) as upload:
        append(upload, DATA)
    dead = backend.process(lambda name, when: (name, when) == ("complete", "before"))
    lease = leased(backend)
    with pytest.raises(Killed):
        dead.partials.open(KEY, lease).publish(NAME, NO_METADATA)
    now[0] += OVER
    with pytest.raises(NameTaken):
        put(backend.store, NAME, b"another's")
    lease.release()
    with reopen(backend) as upload:
        assert upload.length == SIZE
        assert upload.publish(NAME, NO_METADATA).size == SIZE
    assert content(backend.store, NAME) == DATA
    assert leftovers(backend) == []


@pytest.mark.parametrize("is_dead", [False, True])
def test_a_rival_of_an_upload_that_stops_at_any_call_of_its_publication(
    backend: ObjectBackend, now: list[float], *, is_dead: bool
) -> None:
    """For so long that others take it for dead: one of the two has the name, and the other one learns that."""
    outcomes = set()
    for at in itertools.count():
        with begin(backend) as upload:
            append(upload, DATA)
        stopped = StoppedUpload(backend, now, at, is_dead=is_dead)
        is_published = stopped.publish()
        if stopped.is_rival_published is None:
            assert is_published
            break
        assert is_published is not stopped.is_rival_published
        assert content(backend.store, NAME) == (DATA if is_published else b"a rival's")
        outcomes.add(is_published)
        backend.store.delete(NAME)
        sweep(backend, now)
        sweep(backend, now)
        assert leftovers(backend) == []
    assert outcomes == {False, True}
    assert at > 10


class StoppedUpload:
    """The publication of ``KEY`` in a process that stops at that call, while a rival comes. is_dead: for good.
    is_rival_published: what the rival was told; ``None`` if there was no such call."""

    def __init__(self, backend: ObjectBackend, now: list[float], at: int, *, is_dead: bool) -> None:
        self.is_rival_published: bool | None = None
        self._backend = backend
        self._now = now
        self._calls = itertools.count()
        self._at = at
        self._is_dead = is_dead

    def publish(self) -> bool:
        """Whether it is the file in the end. If its process dies, another one goes on, which has all that was
        acknowledged, unless the rival has the name."""
        lease = leased(self._backend)
        try:
            return self._publish(self._backend.process(self._stop).partials.open(KEY, lease))
        except Killed:
            lease.release()
        partial = self._backend.store.partials.stat(KEY)
        if partial is None:
            return content(self._backend.store, NAME) == DATA
        assert partial.length == SIZE
        self._now[0] += OVER
        return self._publish(reopen(self._backend))

    def _publish(self, opened: PartialUpload) -> bool:
        with opened as upload:
            try:
                upload.publish(NAME, NO_METADATA)
            except NameTaken:
                assert upload.length == SIZE
                upload.discard()
                return False
            return True

    def _stop(self, _name: str, _when: str) -> bool:
        if next(self._calls) != self._at:
            return False
        self._now[0] += OVER
        try:
            put(self._backend.store, NAME, b"a rival's")
            self.is_rival_published = True
        except NameTaken:
            self.is_rival_published = False
        return self._is_dead


def test_under_a_claim_a_completion_is_asked_for_once(now: list[float]) -> None:
    """An engine that ignores conditions may make a broken file of two requests at once: nobody knows when it has done
    with the first one, also if the same upload asks."""
    backend = careless_engine(lambda: now[0])
    asked = 0

    def lose(name: str, when: str) -> bool:
        nonlocal asked
        if (name, when) == ("complete", "before"):
            asked += 1
            raise Doubt("lost", may_repeat=True)
        return False

    with begin(backend) as upload:
        append(upload, DATA)
    for seconds in (0.0, CLAIM_SECONDS - 1):
        now[0] += seconds
        with (
            backend.process(lose).partials.open(KEY, leased(backend)) as upload,
            pytest.raises(StoreUnavailable),
        ):
            upload.publish(NAME, NO_METADATA)
        assert asked == 1
        with pytest.raises(StoreUnavailable):
            put(backend.store, NAME, b"another's")
    now[0] += 1
    with reopen(backend) as upload:
        upload.publish(NAME, NO_METADATA)
    assert content(backend.store, NAME) == DATA
    sweep(backend, now)
    assert leftovers(backend) == []


def test_a_claim_that_was_taken_over_in_vain_stays_until_it_is_over(now: list[float]) -> None:
    """Whoever had it before may still ask for the completion, which would replace another's file."""
    backend = careless_engine(lambda: now[0])
    halted = []

    def halt(name: str, when: str) -> bool:
        if (name, when) == ("complete", "before"):
            halted.append(name)
            now[0] += CLAIM_SECONDS
            lease.release()
            other = failing(backend, "head", "before", StoreUnavailable())
            with other.partials.open(KEY, leased(backend)) as again, pytest.raises(StoreUnavailable):
                again.publish(NAME, NO_METADATA)
            with pytest.raises(StoreUnavailable):
                put(backend.store, NAME, b"a rival's")
        return False

    with begin(backend) as upload:
        append(upload, DATA)
    lease = leased(backend)
    backend.process(halt).partials.open(KEY, lease).publish(NAME, NO_METADATA)
    assert halted
    assert content(backend.store, NAME) == DATA


def test_a_claim_lasts_as_long_as_its_request(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is slow to complete is not asked by others meanwhile."""
    monkeypatch.setattr(renewal, "_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(claims, "_RENEW_SECONDS", 0.0)
    backend = careless_engine(lambda: now[0])
    refused = []

    def seconds_left() -> float:
        claim = backend.claims.read(f"claim {TARGET}")
        return 0.0 if claim is None else claim.seconds_left

    def halt(name: str, when: str) -> bool:
        if (name, when) == ("complete", "before"):
            with gevent.Timeout(30.0):
                for _ in range(2):
                    now[0] += 0.6 * CLAIM_SECONDS
                    while seconds_left() < CLAIM_SECONDS:
                        gevent.sleep(0.001)
            with pytest.raises(StoreUnavailable) as raised:
                put(backend.store, NAME, b"a rival's")
            refused.append(raised.value)
        return False

    put(backend.process(halt), NAME, DATA)
    assert refused
    assert content(backend.store, NAME) == DATA
    assert backend.claims.read(f"claim {TARGET}") is None


def test_nothing_is_asked_for_once_the_claim_may_be_another_s(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process was frozen, or the engine was slow to say whose the name is."""
    clock, is_slow = [1000.0], True
    asked: list[str] = []
    monkeypatch.setattr(clocks, "boot_clock", lambda: clock[0])
    backend = careless_engine(lambda: now[0])

    def wait(name: str, when: str) -> bool:
        is_claimed = backend.claims.read(f"claim {TARGET}") is not None
        if (name, when) == ("head", "after") and is_claimed and is_slow:
            clock[0] += CLAIM_SECONDS
        if (name, when) == ("complete", "before"):
            asked.append(name)
        return False

    with pytest.raises(StoreUnavailable) as raised:
        put(backend.process(wait), NAME, DATA)
    assert asked == []
    assert "the name is claimed" in raised.value.for_log()
    is_slow = False
    put(backend.process(wait), NAME, DATA)
    assert asked == ["complete"]


def test_nothing_is_asked_for_under_a_claim_that_the_renewal_has_lost(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session store that forgets gives it to a rival before its time is over."""
    monkeypatch.setattr(renewal, "_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(claims, "_RENEW_SECONDS", 0.0)
    backend = careless_engine(lambda: now[0])
    asked: list[str] = []

    def forget(name: str, when: str) -> bool:
        claim = backend.claims.read(f"claim {TARGET}")
        if (name, when) == ("head", "after") and claim is not None and "rival" not in claim.value:
            value = '{"holder": "rival", "right": ["rival", "upload", ""]}'
            assert backend.claims.replace(f"claim {TARGET}", claim.version, value, CLAIM_SECONDS)
            with gevent.Timeout(30.0):
                while not lost:
                    gevent.sleep(0.001)
        if (name, when) == ("complete", "before"):
            asked.append(name)
        return False

    lost: list[str] = []
    find = claims._Claim._find

    def watched(claim: Any) -> bool:
        is_there = find(claim)
        lost.extend([] if is_there else ["lost"])
        return is_there

    monkeypatch.setattr(claims._Claim, "_find", watched)
    with pytest.raises(StoreUnavailable):
        put(backend.process(forget), NAME, DATA)
    assert lost
    assert asked == []


def test_a_claim_whose_renewal_is_not_answered_is_given_up_all_the_same(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = careless_engine(lambda: now[0])

    def renew(name: str, when: str) -> bool:
        if (name, when) == ("complete", "after"):
            claim = backend.claims.read(f"claim {TARGET}")
            assert claim is not None
            assert backend.claims.replace(f"claim {TARGET}", claim.version, claim.value, CLAIM_SECONDS)
        return False

    put(backend.process(renew), NAME, DATA)
    assert backend.claims.read(f"claim {TARGET}") is None


def test_a_claim_whose_renewal_is_made_and_not_answered_is_renewed_again(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(claims, "_RENEW_SECONDS", 0.0)
    backend = careless_engine(lambda: now[0])
    replace, answers = backend.claims.replace, iter([True, False])

    def lose(*arguments: Any) -> int | None:
        version = replace(*arguments)
        if not next(answers, True):
            raise SessionStoreUnreachable
        return version

    monkeypatch.setattr(backend.claims, "replace", lose)
    lasted = []

    def halt(name: str, when: str) -> bool:
        if (name, when) == ("complete", "before"):
            with gevent.Timeout(30.0):
                for _ in range(3):
                    now[0] += 0.6 * CLAIM_SECONDS
                    while (claim := backend.claims.read(f"claim {TARGET}")) and claim.seconds_left < CLAIM_SECONDS:
                        gevent.sleep(0.001)
            lasted.append(claim is not None)
        return False

    put(backend.process(halt), NAME, DATA)
    assert lasted == [True]


def test_what_the_engine_said_is_told_though_its_claim_is_in_the_way_afterwards(now: list[float]) -> None:
    backend = careless_engine(lambda: now[0])
    failed = failing(backend, "complete", "before", Doubt("500: the disk is on fire", may_repeat=True))
    with pytest.raises(StoreUnavailable) as raised:
        put(failed, NAME, DATA)
    assert "the disk is on fire" in raised.value.for_log()


def test_a_claim_under_which_nothing_was_asked_for_is_given_up(now: list[float]) -> None:
    backend = careless_engine(lambda: now[0])
    with pytest.raises(StoreUnavailable):
        put(failing(backend, "head", "before", StoreUnavailable()), NAME, b"x")
    put(backend.store, NAME, DATA)
    assert content(backend.store, NAME) == DATA


def test_an_upload_whose_placeholder_is_withdrawn_can_be_completed_no_more(heeding: ObjectBackend) -> None:
    """Also one that a process began which had lost its lease: no list of what was to be aborted has it."""
    die_before_completion(heeding)
    heeding.store.publisher.withdraw(TARGET, claimant_of(heeding.engine.objects[TARGET].info))
    assert TARGET not in heeding.engine.objects
    assert heeding.engine.uploads == {}


@pytest.mark.parametrize("lost", [1, 2, 4])
def test_an_overdue_upload_of_which_a_part_is_another_by_now_is_not_completed(
    backend: ObjectBackend, now: list[float], lost: int
) -> None:
    """Its session lives: the client sends its last piece again, since it was not told that the first one arrived."""
    die_before_completion(backend)
    ((_, upload),) = backend.engine.uploads.items()
    upload.parts[lost] = Stored(b"y" * len(upload.parts[lost].data), '"another"', now[0])
    now[0] += OVER
    with pytest.raises(StoreUnavailable):
        put(backend.store, NAME, b"x")
    sweep(backend, now)
    assert not backend.store.exists(NAME)
    assert leftovers(backend) == []


@pytest.mark.parametrize("size", [3, SIZE])
def test_an_upload_that_waits_for_another_s_sends_nothing_meanwhile(heeding: ObjectBackend, size: int) -> None:
    die_before_completion(heeding)
    calls = Counter[str]()

    def step(name: str, when: str) -> bool:
        calls[name] += when == "before"
        return False

    with heeding.process(step).stage(NAME, size, NO_METADATA) as staged:
        write(staged, DATA[:size])
        with pytest.raises(StoreUnavailable):
            staged.publish()
        assert calls["create"] == 1
        assert calls["head"] > 3


@pytest.mark.parametrize("call", ["uploads", "delete", "pages"])
@pytest.mark.parametrize("size", [3, SIZE])
@pytest.mark.parametrize("is_judged", [True, False])
def test_what_cannot_be_tidied_up_after_the_commit_point_is_the_sweeps(
    backend: ObjectBackend, now: list[float], size: int, call: str, *, is_judged: bool
) -> None:
    is_visible = False

    def step(name: str, when: str) -> bool:
        nonlocal is_visible
        if is_visible and name == call and when == "before":
            raise StoreUnavailable
        is_visible = is_visible or backend.process().stat(NAME) is not None
        return False

    with begin(backend) as upload:
        append(upload, DATA[:size])
    with backend.process(step).partials.open(KEY, leased(backend)) as upload:
        if is_judged:
            upload.feed(Collector())
        assert upload.publish(NAME, NO_METADATA).size == size
    assert is_visible
    sweep(backend, now)
    sweep(backend, now)
    assert content(backend.store, NAME) == DATA[:size]
    assert leftovers(backend) == []


# -- sweeps ---------------------------------------------------------------------------------------


def test_an_upload_that_no_note_names_is_aborted_once_it_is_not_young(backend: ObjectBackend, now: list[float]) -> None:
    """Its process died between beginning it and noting that."""
    dead = backend.process(lambda name, when: (name, when) == ("begin_multipart", "after"))
    with pytest.raises(Killed), dead.stage(NAME, SIZE, NO_METADATA) as staged:
        write(staged, DATA)
    assert len(backend.engine.uploads) == 1
    (key,) = backend.store.partials.untouched_since(now[0] + 1)
    backend.store.partials.discard(key)
    assert len(backend.engine.uploads) == 1, "another process may be about to note it"
    now[0] += 1000.0
    backend.store.partials.discard(key)
    assert len(backend.engine.uploads) == 1, "it may have been noted since the notes were listed"
    assert backend.store.partials.untouched_since(now[0] + 1) == [key]
    sweep(backend, now)
    assert leftovers(backend) == []


def test_one_that_no_note_names_is_aborted_though_its_process_died_at_the_end(
    backend: ObjectBackend, now: list[float]
) -> None:
    """Of a file that was judged, ``begun`` goes before anything is looked for."""
    with begin(backend) as upload:
        append(upload, DATA)
    backend.store.bucket.begin_multipart(TARGET, NO_ATTRIBUTES)
    dying = backend.process(lambda name, when: (name, when) == ("delete", "after"))
    with dying.partials.open(KEY, leased(backend)) as upload:
        upload.feed(Collector())
        with pytest.raises(Killed):
            upload.publish(NAME, NO_METADATA)
    sweep(backend, now)
    assert content(backend.store, NAME) == DATA
    assert leftovers(backend) == []


def test_a_multipart_upload_that_is_begun_after_its_upload_s_end_is_aborted(
    backend: ObjectBackend, now: list[float]
) -> None:
    bucket = LateBucket(backend.engine, lambda name, _: name == "begin_multipart", is_again=False)
    with pytest.raises(StoreUnavailable):
        put(backend.over(bucket), NAME, DATA)
    bucket.catch_up()
    assert len(backend.engine.uploads) == 1
    sweep(backend, now)
    assert leftovers(backend) == []


def test_a_sweep_leaves_what_others_are_writing_under_the_same_name(backend: ObjectBackend, now: list[float]) -> None:
    dead = backend.process(lambda name, when: (name, when) == ("put_part", "after"))
    with pytest.raises(Killed), dead.stage(NAME, SIZE, NO_METADATA) as staged:
        write(staged, DATA)
    now[0] += 900.0
    with backend.store.stage(NAME, SIZE, NO_METADATA) as living:
        write(living, DATA)
        partials = backend.store.partials
        (key,) = partials.untouched_since(now[0] - 100)
        partials.discard(key)
        now[0] += 100.0
        assert key in partials.untouched_since(now[0] + 1), "it is looked at again, since there is another one"
        partials.discard(key)
        living.publish()
    assert content(backend.store, NAME) == DATA
    sweep(backend, now)
    assert leftovers(backend) == []


def test_a_long_upload_that_still_gets_parts_is_not_silent(backend: ObjectBackend, now: list[float]) -> None:
    partials = backend.store.partials
    with backend.store.stage(NAME, None, NO_METADATA) as staged:
        for _ in range(5):
            write(staged, DATA)
            now[0] += 500.0
        (key,) = partials.untouched_since(now[0] - 600)
        assert not Writers(partials, backend.locker).discard(key, now[0] - 600)
        staged.publish()
    assert content(backend.store, NAME) == 5 * DATA


class ListingBucket(MemoryBucket):
    """prefixes: those that were listed."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.prefixes: list[str] = []

    def pages(self, prefix: str, *, limit: int = 1000) -> Iterator[Sequence[ListedObject]]:
        self.prefixes.append(prefix)
        return super().pages(prefix, limit=limit)


def test_a_sweep_looks_through_all_uploads_notes_once(backend: ObjectBackend, now: list[float]) -> None:
    """However many are left of which a multipart upload may have turned up."""
    for number in range(3):
        dead = backend.process(lambda name, when: (name, when) == ("begin_multipart", "after"))
        with pytest.raises(Killed), dead.stage(StoredName(f"folder/{number}"), SIZE, NO_METADATA) as staged:
            write(staged, DATA)
    sweep(backend, now)
    assert len(backend.engine.uploads) == 3
    bucket = ListingBucket(backend.engine)
    store = backend.over(bucket)
    now[0] += 1000.0
    for key in store.partials.untouched_since(now[0]):
        store.partials.discard(key)
    assert leftovers(backend) == []
    assert bucket.prefixes.count(store.keys.partial) == 1


def test_an_end_looks_through_no_other_uploads_notes(backend: ObjectBackend) -> None:
    """Also beside others of its name."""
    bucket = ListingBucket(backend.engine)
    store = backend.over(bucket)
    with backend.store.stage(NAME, SIZE, NO_METADATA) as other:
        write(other, DATA)
        store.partials.create(KEY, NAME, None, NO_METADATA)
        with store.partials.open(KEY, leased(backend)) as upload:
            append(upload, DATA)
            upload.discard()
        put(store, NAME, DATA)
    assert bucket.prefixes
    assert store.keys.partial not in bucket.prefixes


@pytest.mark.parametrize("size", [1, SIZE])
def test_what_may_have_become_the_file_is_not_aborted_as_one_that_no_note_names(
    backend: ObjectBackend, now: list[float], size: int
) -> None:
    """An engine that is killed during a completion may have the object and the upload."""
    bucket = backend.store.bucket
    upload_id = bucket.begin_multipart(TARGET, NO_ATTRIBUTES)
    bucket.put_part(TARGET, upload_id, 1, DATA[:size])
    put(backend.store, NAME, DATA)
    sweep(backend, now)
    assert list(backend.engine.uploads) == ([upload_id] if size == SIZE else [])
    assert leftovers(backend) == list(backend.engine.uploads)


def test_an_upload_whose_claim_is_over_is_not_aborted_if_it_has_become_the_file(now: list[float]) -> None:
    """Its process died before it could give the claim up."""
    backend = careless_engine(lambda: now[0])
    begun: list[Multipart] = []

    def die(name: str, when: str) -> bool:
        if (name, when) == ("complete", "before"):
            begun.extend(backend.engine.uploads.values())
        return (name, when) == ("complete", "after")

    with pytest.raises(Killed):
        put(backend.process(die), NAME, DATA)
    backend.engine.uploads["2~1/upload"] = begun[0]  # as after the engine's death
    now[0] += CLAIM_SECONDS
    with pytest.raises(NameTaken):
        put(backend.store, NAME, b"another's")
    assert list(backend.engine.uploads) == ["2~1/upload"]


def test_a_small_file_leaves_no_multipart_upload_of_parts_that_were_taken_back(backend: ObjectBackend) -> None:
    with begin(backend) as upload:
        append(upload, DATA, atomic=True)
        with upload.begin(0, atomic=True) as piece:
            write(piece, b"less")
        upload.publish(NAME, NO_METADATA)
    assert content(backend.store, NAME) == b"less"
    assert leftovers(backend) == []


def test_notes_that_others_are_removing_abort_nothing_that_has_become_the_file(
    backend: ObjectBackend, now: list[float]
) -> None:
    """The process that published it died once it had removed the first note."""
    with begin(backend) as upload:
        append(upload, DATA)
    ((upload_id, multipart),) = backend.engine.uploads.items()
    dead = backend.process(lambda name, when: (name, when) == ("delete", "after"))
    lease = leased(backend)
    with pytest.raises(Killed):
        dead.partials.open(KEY, lease).publish(NAME, NO_METADATA)
    backend.engine.uploads[upload_id] = multipart  # as after the engine's death
    sweep(backend, now)
    assert leftovers(backend) == [upload_id]


# -- unfinished uploads ---------------------------------------------------------------------------


def test_many_remainders_become_one(backend: ObjectBackend) -> None:
    data = bytes(range(PART_SIZE - 1))
    begin(backend).__exit__(None, None, None)
    backend.engine.part_size, size = 1, 100
    backend.store.partials.part_size_of = lambda _: size
    backend.store.partials.discard(KEY)
    begin(backend).__exit__(None, None, None)
    for at in range(90):
        with reopen(backend) as upload:
            append(upload, data[at % 15 : at % 15 + 1])
        names = [key for key in backend.engine.objects if "/c." in key]
        assert len(names) <= 18
        assert backend.content_of(KEY) == b"".join(data[n % 15 : n % 15 + 1] for n in range(at + 1))


class CountingBucket(MemoryBucket):
    """moved: how many bytes of objects were sent and asked for. most: the most that were in the spool at a request."""

    moved = most = 0
    store: S3FileStore

    def carry_out(self, name: str, key: str, request: Callable[[], Any]) -> Any:
        self.most = max(self.most, self.store.spool.used)
        result = request()
        if name == "put":
            self.moved += len(self.engine.objects[key].data)
        elif name == "get" and result is not None:
            self.moved += result.count
        return result


def counting(part_size: int) -> tuple[ObjectBackend, CountingBucket]:
    backend = ObjectBackend(lambda: 0.0, part_size)
    bucket = CountingBucket(backend.engine)
    backend.store = bucket.store = backend.over(bucket)
    begin(backend).__exit__(None, None, None)
    return backend, bucket


def test_tiny_pieces_after_a_long_remainder_move_few_bytes() -> None:
    backend, bucket = counting(8 << 20)
    with reopen(backend) as upload:
        append(upload, b"x" * (7 << 20))
    bucket.moved = bucket.most = 0
    for number in range(200):
        with reopen(backend) as upload:
            append(upload, b"y", atomic=number % 2 == 0)
    assert bucket.moved < 100_000
    assert bucket.most < 1000
    assert backend.content_of(KEY) == b"x" * (7 << 20) + b"y" * 200


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize("pieces", [[5], [5, 3], [1] * 20, [60], [64]], ids=str)
@pytest.mark.parametrize("size", [1, 10, 63, 64, 150, 1000])
def test_what_an_upload_has_in_the_spool_is_told_before(pieces: list[int], size: int, *, atomic: bool) -> None:
    backend, bucket = counting(64)
    for length in pieces:
        with reopen(backend) as upload:
            append(upload, bytes(length))
    with reopen(backend) as upload:
        bucket.most = 0
        space = upload.space_of(upload.length, size, atomic=atomic)
        append(upload, bytes(size), atomic=atomic)
        assert 0 < bucket.most <= (space or 0)
        bucket.most = 0
        space = upload.space_to_publish
        upload.publish(NAME, NO_METADATA)
        assert bucket.most == (space or 0)
    assert backend.store.spool.used == 0


def test_parts_that_the_engine_does_not_take_are_the_operators_affair(backend: ObjectBackend) -> None:
    with pytest.raises(StorageFailed):
        put(failing(backend, "complete", "before", InvalidPart()), NAME, DATA)
    assert leftovers(backend) == []


def test_a_tail_that_cannot_be_read_leaves_what_was_there() -> None:
    backend, _ = counting(64)
    with reopen(backend) as upload:
        append(upload, b"x" * 5)
    for atomic in (False, True):
        store, _ = late(backend, "get", "c", is_again=False)
        with store.partials.open(KEY, leased(backend)) as upload, pytest.raises(StoreUnavailable):
            append(upload, b"y" * 100, atomic=atomic)
        assert backend.content_of(KEY) == b"x" * 5
        assert store.spool.used == 0


def test_of_two_multipart_uploads_the_one_that_got_further_counts(backend: ObjectBackend) -> None:
    """Two holders of one lease each began one."""
    first = begin(backend)
    second = backend.store.partials.open(KEY, first.lease)
    append(first, b"1" * 2 * PART_SIZE)
    append(second, b"2" * PART_SIZE)
    first.__exit__(None, None, None)
    with reopen(backend) as upload:
        assert upload.length == 2 * PART_SIZE
        append(upload, b"1")
        upload.publish(NAME, NO_METADATA)
    assert content(backend.store, NAME) == b"1" * 2 * PART_SIZE + b"1"
    assert leftovers(backend) == []


def test_an_upload_whose_parts_were_swept_is_unavailable_and_does_no_harm(backend: ObjectBackend) -> None:
    with begin(backend) as upload:
        append(upload, DATA)
        for upload_id in [*backend.engine.uploads]:
            backend.engine.uploads.pop(upload_id)
        with pytest.raises(StoreUnavailable):
            upload.publish(NAME, NO_METADATA)
    assert not backend.store.exists(NAME)


class _Claim:
    """A digest that is claimed of the whole file."""

    def __init__(self, data: bytes) -> None:
        self._claimed = hashlib.sha256(data).digest()
        self._hash = hashlib.sha256()

    def update(self, data: memoryview, /) -> None:
        self._hash.update(data)

    def check(self) -> None:
        if self._hash.digest() != self._claimed:
            raise DigestMismatch


@pytest.mark.parametrize("size", [3, SIZE])
def test_a_whole_file_s_digest_is_judged_before_it_is_published(backend: ObjectBackend, size: int) -> None:
    with begin(backend) as upload:
        append(upload, DATA[:size])
        claim = _Claim(DATA[:size])
        upload.feed(claim)
        claim.check()
        upload.publish(NAME, FileMetadata("image/jpeg"))
    assert content(backend.store, NAME) == DATA[:size]
    assert leftovers(backend) == []


def test_a_file_that_nobody_judges_goes_again(backend: ObjectBackend, now: list[float]) -> None:
    with begin(backend) as upload:
        append(upload, DATA)
        upload.feed(Collector())
    sweep(backend, now)
    assert not backend.store.exists(NAME)
    assert leftovers(backend) == []


def test_a_file_that_is_to_be_judged_is_not_published_by_one_who_cannot(backend: ObjectBackend) -> None:
    """Its copy of the session is older than the claims."""
    with begin(backend) as upload:
        append(upload, DATA)
        upload.feed(Collector())
    with reopen(backend) as again:
        assert again.is_published(NAME)
        with pytest.raises(StoreUnavailable):
            again.publish(NAME, NO_METADATA)
    assert backend.store.stat(NAME) is None


@pytest.mark.parametrize("size", [PART_SIZE, SIZE])
def test_a_file_that_is_not_judged_yet_has_no_name_to_be_listed(size: int) -> None:
    """The larger one cannot be a placeholder."""
    backend = ObjectBackend(lambda: 50_000.0, PART_SIZE * 64)
    data = bytes(size * 64)
    with begin(backend) as upload:
        append(upload, data)
        upload.feed(Collector())
        assert list(backend.store.names()) == []
        upload.publish(NAME, NO_METADATA)
        assert list(backend.store.names()) == [[NAME]]


def test_an_upload_that_was_discarded_is_unknown(backend: ObjectBackend, now: list[float]) -> None:
    upload: PartialUpload = begin(backend)
    append(upload, DATA)
    upload.discard()
    upload.__exit__(None, None, None)
    with pytest.raises(SessionUnknown):
        backend.store.partials.open(KEY, leased(backend))
    sweep(backend, now)
    assert leftovers(backend) == []


@pytest.mark.parametrize("has_own_tags", [True, False])
def test_a_part_that_the_engine_still_tells_the_former_bytes_of_is_sent_again(
    backend: ObjectBackend, monkeypatch: pytest.MonkeyPatch, *, has_own_tags: bool
) -> None:
    """SeaweedFS does, of two that came in one second. has_own_tags: each part has another tag, as where they are
    encrypted."""
    if has_own_tags:
        numbers = itertools.count()
        monkeypatch.setattr(backend.engine, "tag", lambda _data: f'"{next(numbers)}"')
    with begin(backend) as upload:
        append(upload, b"1" * PART_SIZE, atomic=True)
    bucket = backend.store.bucket
    put_part: Callable[..., str] = bucket.put_part
    ignored = [1]

    def forgetful(key: str, upload_id: str, number: int, payload: object) -> str:
        if not ignored[0]:
            return put_part(key, upload_id, number, payload)
        ignored[0] -= 1
        before = backend.engine.uploads[upload_id].parts[number]
        etag = put_part(key, upload_id, number, payload)
        backend.engine.uploads[upload_id].parts[number] = before
        return etag

    bucket.put_part = forgetful  # type: ignore[method-assign]
    with reopen(backend) as upload, upload.begin(0, atomic=True) as piece:
        write(piece, b"2" * PART_SIZE)
    assert backend.content_of(KEY) == b"2" * PART_SIZE
    bucket.put_part = _gone  # type: ignore[assignment]
    with reopen(backend) as upload, pytest.raises(StoreUnavailable):
        append(upload, b"3" * PART_SIZE)


# -- requests that are carried out late, or again ----------------------------------------------------


def late(backend: ObjectBackend, call: str, kind: str, *, is_again: bool) -> tuple[S3FileStore, LateBucket]:
    """The store of a process, of which such requests for such notes are late."""
    bucket = LateBucket(backend.engine, lambda name, key: name == call and f"/{kind}." in key, is_again=is_again)
    return backend.over(bucket), bucket


def attempt(backend: ObjectBackend, store: S3FileStore, offset: int, data: bytes) -> None:
    """At an atomic piece, which may fail."""
    with (
        suppress(StoreUnavailable),
        store.partials.open(KEY, leased(backend)) as upload,
        upload.begin(offset, atomic=True) as piece,
    ):
        write(piece, data)


@pytest.mark.parametrize("is_again", [True, False])
@pytest.mark.parametrize("size", [3, PART_SIZE, 2 * PART_SIZE + 3])
def test_a_tombstone_that_comes_late_takes_nothing_back(
    backend: ObjectBackend, now: list[float], size: int, *, is_again: bool
) -> None:
    begin(backend).__exit__(None, None, None)
    attempt(backend, backend.store, 0, b"1" * size)
    store, bucket = late(backend, "put", "t", is_again=is_again)
    attempt(backend, store, 0, b"2" * size)
    assert bucket.late
    now[0] += 5
    for stored in (b"3" * size, b"1" * size):
        attempt(backend, backend.store, 0, stored)
        bucket.late[0]()
        assert backend.content_of(KEY) == stored
    with reopen(backend) as upload:
        append(upload, b"next")
    bucket.late[0]()
    assert backend.content_of(KEY) == b"1" * size + b"next"


@pytest.mark.parametrize("is_again", [True, False])
@pytest.mark.parametrize("between", [b"", b"2222"])
@pytest.mark.parametrize("next_length", [2, 3, 4])
def test_a_remainder_that_comes_late_replaces_nothing(
    backend: ObjectBackend, now: list[float], next_length: int, between: bytes, *, is_again: bool
) -> None:
    begin(backend).__exit__(None, None, None)
    store, bucket = late(backend, "put", "c", is_again=is_again)
    attempt(backend, store, 0, b"111")
    now[0] += 5
    attempt(backend, backend.store, 0, between)
    attempt(backend, backend.store, 0, b"3" * next_length)
    now[0] += 5
    bucket.catch_up()
    assert backend.content_of(KEY) == b"3" * next_length
    with reopen(backend) as upload:
        append(upload, b"x" * PART_SIZE)
    assert backend.content_of(KEY) == b"3" * next_length + b"x" * PART_SIZE


@pytest.mark.parametrize("seconds", [0, 30])
def test_a_remainder_that_comes_while_its_piece_is_sent_again_takes_nothing_back(
    backend: ObjectBackend, now: list[float], seconds: int
) -> None:
    begin(backend).__exit__(None, None, None)
    store, bucket = late(backend, "put", "c", is_again=False)
    attempt(backend, store, 0, b"abc")
    now[0] += seconds
    with reopen(backend) as upload, upload.begin(0, atomic=False) as piece:
        write(piece, b"abcdefg")
        bucket.catch_up()
        now[0] += 1
    assert backend.content_of(KEY) == b"abcdefg"
    with reopen(backend) as upload:
        append(upload, b"next")
    assert backend.content_of(KEY) == b"abcdefgnext"


@pytest.mark.parametrize("sent", [b"de", b"XYZ"])
def test_a_remainder_that_comes_late_is_of_an_earlier_era_than_what_follows_parts(
    backend: ObjectBackend, now: list[float], sent: bytes
) -> None:
    """Of the eras before them nothing is left."""
    begin(backend).__exit__(None, None, None)
    for number in range(PART_SIZE):
        attempt(backend, backend.store, number, b"x")
        now[0] += 0.01
    store, bucket = late(backend, "put", "c", is_again=False)
    attempt(backend, store, PART_SIZE, sent)
    now[0] += 2
    attempt(backend, backend.store, PART_SIZE, b"d")
    attempt(backend, backend.store, PART_SIZE + 1, b"ef")
    bucket.catch_up()
    assert backend.content_of(KEY) == b"x" * PART_SIZE + b"def"


@pytest.mark.parametrize(
    ("remainders", "chain"),
    [
        ([(0, 3, 1, 5.0), (0, 7, 1, 6.0)], [(0, 7)]),
        ([(0, 3, 1, 5.0), (0, 2, 2, 6.0)], [(0, 2)]),
        ([(0, 2, 1, 5.0), (2, 5, 4, 6.0), (0, 6, 2, 7.0)], [(0, 2), (2, 5)]),
        ([(0, 2, 1, 5.0), (2, 4, 2, 6.0), (0, 6, 3, 7.0), (6, 1, 3, 8.0)], [(0, 6), (6, 1)]),
        ([(0, 1, 1, 5.0), (0, 2, 2, 5.0), (1, 2, 3, 6.0)], [(0, 1), (1, 2)]),
        ([(1, 2, 3, 6.0)], []),
    ],
    ids=["furthest of one era", "latest era", "latest era at the end", "merged", "behind the shorter", "gap"],
)
def test_of_several_chains_of_remainders_the_one_of_the_latest_eras_counts(
    remainders: list[tuple[int, int, int, float]], chain: list[tuple[int, int]]
) -> None:
    inventory = Inventory()
    for one in remainders:
        inventory.add_remainder(Remainder.new(*one))
    assert [(one.start, one.length) for one in inventory.chain] == chain
    assert inventory.length == sum(length for _, length in chain)


def test_of_remainders_that_are_alike_the_one_that_came_first_counts() -> None:
    inventory = Inventory()
    for modified in (7.0, 6.0, 8.0):
        inventory.add_remainder(Remainder.new(0, 3, 1, modified))
    assert [one.modified for one in inventory.chain] == [6.0]


def test_a_deletion_that_comes_late_removes_nothing_else(backend: ObjectBackend) -> None:
    begin(backend).__exit__(None, None, None)
    attempt(backend, backend.store, 0, b"111")
    store, bucket = late(backend, "delete", "c", is_again=True)
    for stored in (b"222", b"333", b"111"):
        attempt(backend, store, 0, stored)
        assert bucket.late
        for request in bucket.late:
            request()
        assert backend.content_of(KEY) == stored


@PUBLICATIONS
def test_an_upload_that_was_given_up_becomes_no_file_that_stays(
    backend: ObjectBackend, now: list[float], size: int, call: str
) -> None:
    with begin(backend) as upload:
        append(upload, DATA[:size])
    bucket = LateBucket(backend.engine, lambda name, key: (name, key) == (call, TARGET), is_again=False)
    with backend.over(bucket).partials.open(KEY, leased(backend)) as upload, pytest.raises(StoreUnavailable):
        upload.publish(NAME, NO_METADATA)
    with reopen(backend) as upload:
        upload.discard()
    assert bucket.late
    with suppress(NoSuchUpload):
        bucket.catch_up()
    sweep(backend, now)
    assert leftovers(backend) == []
    assert backend.engine.objects == {}


def test_an_upload_that_was_given_up_in_part_becomes_no_file_that_stays(
    heeding: ObjectBackend, now: list[float]
) -> None:
    """The engine was away when ``begun`` was to be removed."""
    with begin(heeding) as upload:
        append(upload, DATA[:3])
    bucket = LateBucket(heeding.engine, lambda name, _: name == "create", is_again=False)
    with heeding.over(bucket).partials.open(KEY, leased(heeding)) as upload, pytest.raises(StoreUnavailable):
        upload.publish(NAME, NO_METADATA)
    store = failing(heeding, "delete", "before", StoreUnavailable())
    with store.partials.open(KEY, leased(heeding)) as upload, pytest.raises(StoreUnavailable):
        upload.discard()
    bucket.catch_up()
    sweep(heeding, now)
    sweep(heeding, now)
    assert heeding.engine.objects == {}


def test_what_was_taken_back_is_not_kept_for_ever(backend: ObjectBackend) -> None:
    begin(backend).__exit__(None, None, None)
    for size in (3, PART_SIZE, 2 * PART_SIZE + 3) * 5:
        attempt(backend, backend.store, 0, b"x" * size)
    with reopen(backend) as upload:
        append(upload, b"y")
    assert len([key for key in backend.engine.objects if "/t." in key]) == 1
    assert len([key for key in backend.engine.objects if "/c." in key]) == 2


class _Replaced(MemoryBucket):
    """So many tombstones are gone when they are read that were there when they were listed."""

    def __init__(self, backend: ObjectBackend, count: int) -> None:
        super().__init__(backend.engine)
        self.count = count

    def get(self, key: str, *args: Any, **kwargs: Any) -> Any:
        if "/t." in key and self.count:
            self.count -= 1
            return None
        return super().get(key, *args, **kwargs)


def test_a_tombstone_that_was_replaced_since_the_listing_is_looked_for_again(backend: ObjectBackend) -> None:
    begin(backend).__exit__(None, None, None)
    for data in (b"111", b"2222"):
        attempt(backend, backend.store, 0, data)
    info = backend.over(_Replaced(backend, 2)).partials.stat(KEY)
    assert info is not None
    assert info.length == 4


def test_an_engine_that_lists_a_tombstone_which_it_does_not_have_is_asked_a_few_times(backend: ObjectBackend) -> None:
    begin(backend).__exit__(None, None, None)
    for data in (b"111", b"2222"):
        attempt(backend, backend.store, 0, data)
    with pytest.raises(StoreUnavailable):
        backend.over(_Replaced(backend, 100)).partials.stat(KEY)


def _gone(*_: object) -> str:
    raise NoSuchUpload
