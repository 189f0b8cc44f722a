"""What is found out of an engine: whether its conditional writes are exclusive, and what an operator is told."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace

import pytest

from hmacfs.errors import HmacfsError, StorageFailed, StoreStarting, StoreUnavailable
from hmacfs.stores.s3 import exclusive, probe
from hmacfs.stores.s3.answers import ErrorAnswer
from hmacfs.stores.s3.bucket import NO_ATTRIBUTES, Attributes, Bucket, ConditionFailed, Doubt, ObjectInfo, Payload
from hmacfs.stores.s3.checkup import Checkup, Finding
from hmacfs.stores.s3.exclusive import PATIENCE_SECONDS, SETTLE_SECONDS, ExclusiveWrites
from hmacfs.stores.s3.failures import EngineError
from hmacfs.stores.s3.probe import RIVALS, ROUNDS, Verdict, try_conditional_writes
from tests.servers import wait_until
from tests.stores.memory_bucket import Engine, MemoryBucket

RESERVED = "some/prefix/.hmacfs/"
FAIL, HOLD = f"{RESERVED}conditional-writes-fail", f"{RESERVED}conditional-writes-hold"


class Rivalry(MemoryBucket):
    """With an exclusive PUT, whatever threads do; subclasses have others. ``tried``: conditional writes by key."""

    def __init__(self, engine: Engine | None = None) -> None:
        super().__init__(engine or Engine(time.time, 1))
        self.lock = threading.Lock()
        self.tried: Counter[str] = Counter()

    @property
    def conditional(self) -> int:
        return self.tried.total()

    def put(self, key: str, payload: Payload, attributes: Attributes = NO_ATTRIBUTES, *, is_new: bool = False) -> str:
        with self.lock:
            self.tried[key] += is_new
        return self.create(key, payload, attributes) if is_new else super().put(key, payload, attributes)

    def create(self, key: str, payload: Payload, attributes: Attributes) -> str:
        with self.lock:
            return super().put(key, payload, attributes, is_new=True)


class Racing(Rivalry):
    """Looks first, and writes then. Its first rivals wait for one another after the look."""

    def __init__(self) -> None:
        super().__init__()
        self.rivals: defaultdict[str, threading.Barrier] = defaultdict(lambda: threading.Barrier(2, timeout=20))
        self.looked: Counter[str] = Counter()

    def create(self, key: str, payload: Payload, attributes: Attributes) -> str:
        with self.lock:
            self.looked[key] += 1
            is_first, is_taken = self.looked[key] <= 2, key in self.engine.objects
            rivals = self.rivals[key]
        if is_taken:
            raise ConditionFailed
        if is_first:
            rivals.wait()
        return MemoryBucket.put(self, key, payload, attributes)


class Lying(Rivalry):
    """Says that the condition failed, and stores all the same."""

    def create(self, key: str, payload: Payload, attributes: Attributes) -> str:
        with self.lock:
            is_taken = key in self.engine.objects
            etag = MemoryBucket.put(self, key, payload, attributes)
        if is_taken:
            raise ConditionFailed
        return etag


class OnlyWhileBusy(Rivalry):
    """Keeps to the condition for as long as rivals come, and forgets it afterwards."""

    def create(self, key: str, payload: Payload, attributes: Attributes) -> str:
        if self.tried[key] > RIVALS:
            return MemoryBucket.put(self, key, payload, attributes)
        return super().create(key, payload, attributes)


class RefusingAtOnce(Rivalry):
    """409 to all that are in one another's way."""

    def create(self, key: str, payload: Payload, attributes: Attributes) -> str:
        if self.tried[key] <= RIVALS:
            raise ConditionFailed
        return super().create(key, payload, attributes)


class Failing(Rivalry):
    """One of the answers does not come."""

    def __init__(self, error: Callable[[], Exception]) -> None:
        super().__init__()
        self.error = error
        self.is_mended = False

    def create(self, key: str, payload: Payload, attributes: Attributes) -> str:
        if not self.is_mended and payload == b"%d" % (RIVALS - 1):
            raise self.error()
        return super().create(key, payload, attributes)


def test_an_engine_that_keeps_to_conditions_is_tried_some_times_and_nothing_stays() -> None:
    bucket = Rivalry()
    assert try_conditional_writes(bucket, "check/") is Verdict.EXCLUSIVE
    assert bucket.conditional == ROUNDS * (RIVALS + 1)
    assert bucket.engine.objects == {}


@pytest.mark.parametrize("bucket", [Racing, Lying, OnlyWhileBusy])
def test_an_engine_that_only_seems_to(bucket: type[Rivalry]) -> None:
    tried = bucket()
    assert try_conditional_writes(tried, "check/") is Verdict.RACING
    assert tried.engine.objects == {}


def test_an_engine_that_ignores_conditions() -> None:
    bucket = Rivalry(Engine(time.time, 1, heeds_conditions=False))
    assert try_conditional_writes(bucket, "check/") is Verdict.IGNORED
    assert bucket.conditional == ROUNDS * RIVALS


def test_the_rivals_of_a_round_begin_with_no_other_s_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The further apart they come, the more engines that look first and write then would be taken for exclusive."""
    starters: list[threading.Thread] = []

    class Noted(threading.Thread):
        def start(self) -> None:
            starters.append(threading.current_thread())
            time.sleep(0.001)  # another round's turn
            super().start()

    monkeypatch.setattr(probe, "threading", SimpleNamespace(Thread=Noted, Lock=threading.Lock))
    assert try_conditional_writes(Rivalry(), "check/") is Verdict.EXCLUSIVE
    rounds = [starter for starter in starters if starter is not threading.current_thread()]
    assert [len(list(group)) for _, group in itertools.groupby(rounds)] == [RIVALS] * ROUNDS


def test_one_that_refuses_all_at_once_and_takes_one_alone_is_exclusive() -> None:
    assert try_conditional_writes(RefusingAtOnce(), "check/") is Verdict.EXCLUSIVE


@pytest.mark.parametrize(
    "error", [StoreUnavailable, StorageFailed, lambda: Doubt("lost", may_repeat=True), lambda: Doubt("late", may_repeat=False)]
)  # fmt: skip
def test_one_that_does_not_answer_is_not_judged(error: Callable[[], Exception]) -> None:
    """Of all others it is known how it went, and that is not enough."""
    bucket = Failing(error)
    with pytest.raises(StorageFailed):
        try_conditional_writes(bucket, "check/")
    assert bucket.engine.objects == {}


def test_a_round_with_a_lost_answer_is_made_again() -> None:
    """Of fifty requests, one or another is lost even by an engine that works well."""
    lost = iter([True] * 3 + [False] * 1000)

    class Losing(Rivalry):
        def create(self, key: str, payload: Payload, attributes: Attributes) -> str:
            with self.lock:
                is_lost = payload == b"3" and next(lost)
            if is_lost:
                raise Doubt("lost", may_repeat=True)
            return super().create(key, payload, attributes)

    bucket = Losing()
    assert try_conditional_writes(bucket, "check/") is Verdict.EXCLUSIVE
    assert bucket.engine.objects == {}


class Repeating(Rivalry):
    """Behind a proxy that sends some requests twice."""

    def __init__(self, doubled: Iterable[bool]) -> None:
        super().__init__()
        self.doubled = iter(doubled)

    def create(self, key: str, payload: Payload, attributes: Attributes) -> str:
        with self.lock:
            if next(self.doubled):
                MemoryBucket.put(self, key, payload, attributes, is_new=True)
            return MemoryBucket.put(self, key, payload, attributes, is_new=True)


def test_a_request_that_a_proxy_sends_twice_proves_nothing() -> None:
    bucket = Repeating(itertools.chain([True], itertools.repeat(False)))
    assert try_conditional_writes(bucket, "check/") is Verdict.EXCLUSIVE
    assert bucket.engine.objects == {}


def test_one_behind_a_proxy_that_sends_all_twice_is_not_judged() -> None:
    bucket = Repeating(itertools.repeat(True))
    with pytest.raises(StoreUnavailable):
        try_conditional_writes(bucket, "check/")
    assert bucket.engine.objects == {}


def test_one_that_takes_no_conditional_write_is_not_exclusive() -> None:
    class TakingNone(Rivalry):
        def create(self, key: str, payload: Payload, attributes: Attributes) -> str:
            raise ConditionFailed

    assert try_conditional_writes(TakingNone(), "check/") is Verdict.RACING


# -- remembered ------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def worker(
    bucket: Bucket, folder: Path, server: str = "1-1", clock: Clock | None = None, *, told: bool | None = None
) -> ExclusiveWrites:
    return ExclusiveWrites(
        bucket,
        RESERVED,
        told=told,
        remembered=folder / "run" / "conditional-writes",
        server=server,
        clock=clock or Clock(),
    )


def test_one_worker_tries_for_all_of_its_server(tmp_path: Path) -> None:
    bucket = Rivalry()
    workers = [worker(bucket, tmp_path) for _ in range(4)]
    assert bucket.conditional == 0
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda each=each: answers.append(each())) for each in workers * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [True] * 8
    assert bucket.conditional == ROUNDS * (RIVALS + 1)
    assert [*bucket.engine.objects] == [HOLD]


def test_a_restart_tries_again(tmp_path: Path) -> None:
    """The engine may be another one by then."""
    first, second = Rivalry(), Rivalry(Engine(time.time, 1, heeds_conditions=False))
    assert worker(first, tmp_path, "1-1")()
    assert not worker(second, tmp_path, "2-2")()
    assert not worker(second, tmp_path, "2-2")()
    assert second.conditional == ROUNDS * RIVALS


def test_what_is_remembered_may_be_damaged(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for text in ("", "{", "[]", '{"server": "1-1", "verdict": "maybe"}', '{"server": "1-1"}'):
        (tmp_path / "run" / "conditional-writes").write_text(text)
        bucket = Rivalry()
        assert worker(bucket, tmp_path)()
        assert bucket.conditional > 0


def test_an_engine_that_is_away_is_asked_again_and_never_believed(tmp_path: Path) -> None:
    bucket = Failing(StoreUnavailable)
    one, other = worker(bucket, tmp_path), worker(bucket, tmp_path)
    for _ in range(2):
        for each in (one, other):
            with pytest.raises(StoreUnavailable):
                each()
    bucket.is_mended = True
    assert one()
    tried = bucket.conditional
    assert other()
    assert bucket.conditional == tried


class Hanging(Rivalry):
    """The trial fails, but not before it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error or StoreUnavailable()
        self.begun, self.end = threading.Event(), threading.Event()

    @property
    def trials(self) -> int:
        """Each begins all rounds, each with a key of its own."""
        return math.ceil(len(self.tried) / ROUNDS)

    def create(self, key: str, payload: Payload, attributes: Attributes) -> str:
        self.begun.set()
        assert self.end.wait(30)
        raise self.error


def test_who_waits_for_a_trial_shares_its_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each would wait for an engine that is silent as long as all before it together."""
    waiting = threading.Semaphore(0)

    class Watched(futures.Future[None]):
        def exception(self, timeout: float | None = None) -> BaseException | None:
            waiting.release()
            return super().exception(timeout)

    monkeypatch.setattr(futures, "Future", Watched)
    bucket = Hanging()
    each = worker(bucket, tmp_path)
    refused: list[Exception] = []

    def ask() -> None:
        try:
            each()
        except StoreUnavailable as error:
            refused.append(error)

    asking = [threading.Thread(target=ask) for _ in range(5)]
    for thread in asking:
        thread.start()
    assert all(waiting.acquire(timeout=30) for _ in asking)
    bucket.end.set()
    for thread in asking:
        thread.join(30)
    assert len(refused) == 5
    assert bucket.trials == 1


def test_a_worker_does_not_wait_long_for_another_one(tmp_path: Path) -> None:
    bucket, clock = Hanging(), Clock()

    def fail() -> None:
        with pytest.raises(StoreUnavailable):
            worker(bucket, tmp_path)()

    first = threading.Thread(target=fail)
    first.start()
    assert bucket.begun.wait(30)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    other = ExclusiveWrites(
        *(bucket, RESERVED),
        told=None,
        remembered=tmp_path / "run" / "conditional-writes",
        server="1-1",
        clock=clock,
        sleep=sleep,
    )
    with pytest.raises(StoreUnavailable):
        other()
    assert PATIENCE_SECONDS < clock.now - 1000 < PATIENCE_SECONDS + 1
    assert bucket.trials == 1
    bucket.end.set()
    first.join(30)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exclusive, "_CHECK_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
def test_readiness_does_not_wait_for_a_trial(tmp_path: Path) -> None:
    """And once one has failed it says why, also while the next one is under way: each time by an error of its own, whose
    traceback does not grow."""
    bucket = Hanging(StoreUnavailable(where="here"))
    each = worker(bucket, tmp_path)
    with pytest.raises(StoreStarting):
        each.check()
    with pytest.raises(StoreStarting):
        each.check()
    bucket.end.set()
    with pytest.raises(StoreUnavailable):
        each()
    assert bucket.trials == 1
    bucket.end.clear()
    told = []
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="at the moment") as again:
            each.check()
        told.append(again.value)
    assert told[0] is not told[1]
    assert [error.where for error in told] == ["here", "here"]
    bucket.end.set()


class Slow(Rivalry):
    """No question is answered before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.end = threading.Semaphore(0), threading.Event()

    def head(self, key: str) -> ObjectInfo | None:
        self.asked.release()
        assert self.end.wait(30)
        return super().head(key)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("told", [None, True, False])
def test_a_new_worker_is_ready_though_the_engine_is_slow(tmp_path: Path, told: bool | None) -> None:
    """What its server found counts. The notes of others it asks for, and who publishes waits for that."""
    assert worker(Rivalry(), tmp_path)()
    bucket = Slow()
    each = worker(bucket, tmp_path, told=told)
    each.check()
    bucket.end.set()
    assert each() is (told is not False)
    each.check()


def test_notes_are_looked_for_before_anybody_has_to_wait_for_them(tmp_path: Path) -> None:
    clock, bucket = Clock(), Slow()
    bucket.end.set()
    each = worker(bucket, tmp_path, clock=clock)
    assert each()
    bucket.end.clear()
    while bucket.asked.acquire(blocking=False):
        pass
    clock.now += 29
    assert each()
    assert not bucket.asked.acquire(blocking=False)
    clock.now += 2
    assert each()
    each.check()
    assert bucket.asked.acquire(timeout=30)
    bucket.end.set()
    wait_until(lambda: each._latest is not None and each._latest.done(), what="the look's end")
    bucket.end.clear()
    clock.now += 29
    assert each(), "31 s after it was begun"
    bucket.end.set()


def test_what_is_noted_counts_at_once(tmp_path: Path) -> None:
    """A look ahead that finds the note ends what was believed, before its time is over."""
    clock, bucket = Clock(), Slow()
    bucket.end.set()
    each = worker(bucket, tmp_path, clock=clock)
    assert each()
    bucket.put(FAIL, b"")
    bucket.end.clear()
    clock.now += 31
    assert each()
    bucket.end.set()
    wait_until(lambda: each._latest is not None and each._latest.done(), what="the look's end")
    with pytest.raises(StoreUnavailable):
        each()


def test_what_one_server_finds_to_be_false_all_believe(tmp_path: Path) -> None:
    """Of an engine whose rivals are rarely at once, one server may find what another one does not."""
    clock = Clock()
    engine = Engine(clock, 1)
    confident = worker(Rivalry(engine), tmp_path / "one", clock=clock)
    assert confident()
    engine.heeds_conditions = False
    other, late = Rivalry(engine), Rivalry(engine)
    doubtful, third = (
        worker(bucket, tmp_path / name, clock=clock) for bucket, name in ((other, "other"), (late, "third"))
    )
    begun = clock.now
    with pytest.raises(StoreUnavailable):
        doubtful()
    engine.heeds_conditions = True
    clock.now += 29
    assert confident(), "it has not looked again"
    while clock.now < begun + SETTLE_SECONDS:
        for each in (doubtful, third):
            with pytest.raises(StoreUnavailable, match="moment") as raised:
                each()
            assert f"nothing is published for {SETTLE_SECONDS:.0f} s" in raised.value.for_log()
        clock.now += 10
    assert not any(each() for each in (confident, doubtful, third))
    assert late.conditional == 0
    assert {*engine.objects} == {FAIL, HOLD}
    clock.now += 61
    engine.objects.clear()
    assert not any(each() for each in (confident, doubtful, third))


def test_where_no_server_works_in_another_way_nobody_waits(tmp_path: Path) -> None:
    bucket = Rivalry(Engine(time.time, 1, heeds_conditions=False))
    assert not worker(bucket, tmp_path / "one")()
    assert not worker(bucket, tmp_path / "two", told=False)()
    assert [*bucket.engine.objects] == [FAIL]


@pytest.mark.parametrize("other", [None, True])
def test_one_that_is_told_to_work_in_another_way_makes_all_do_so(tmp_path: Path, other: bool | None) -> None:
    clock = Clock()
    bucket = Rivalry(Engine(clock, 1))
    trusting = worker(bucket, tmp_path / "one", clock=clock, told=other)
    claiming = worker(bucket, tmp_path / "two", clock=clock, told=False)
    assert trusting()
    tried = bucket.conditional
    with pytest.raises(StoreUnavailable):
        claiming()
    assert bucket.conditional == tried, "nothing is tried"
    clock.now += SETTLE_SECONDS
    assert not claiming()
    if other is None:
        assert not trusting()
        return
    for each in (trusting, worker(bucket, tmp_path / "three", told=True)):
        with pytest.raises(StoreUnavailable) as raised:
            each()
        assert raised.value.for_log().startswith(f"storage failed: {FAIL}: a server has noted that conditional writes")
        assert "stop all servers of this bucket, remove that object" in raised.value.for_log()
    del bucket.engine.objects[FAIL]
    assert trusting()


@pytest.mark.parametrize("first", ["trusting", "claiming"])
def test_of_two_that_begin_at_once_in_different_ways_one_gives_way(tmp_path: Path, first: str) -> None:
    """Each looks for the other's note after it has written its own."""
    clock = Clock()
    engine = Engine(clock, 1)
    claiming = worker(Rivalry(engine), tmp_path / "claiming", clock=clock, told=False)
    noted = FAIL if first == "claiming" else HOLD

    class Interrupted(Rivalry):
        """The other server does all that it does right after the first one has written its note."""

        def put(self, key: str, *arguments: object, **options: object) -> str:
            etag = super().put(key, *arguments, **options)  # type: ignore[arg-type]
            if key == noted and other not in asked:
                asked.append(other)
                answers.append(answer_of(other))
            return etag

    asked: list[ExclusiveWrites] = []
    answers: list[bool | None] = []
    interrupted = worker(Interrupted(engine), tmp_path / "one", clock=clock, told=first == "trusting")
    other = claiming if first == "trusting" else worker(Rivalry(engine), tmp_path / "two", clock=clock, told=True)
    answers.append(answer_of(interrupted))
    assert answers in ([None, None], [None, False])


def answer_of(one: ExclusiveWrites) -> bool | None:
    """``None`` for a refusal."""
    try:
        return one()
    except StoreUnavailable:
        return None


def test_a_runtime_folder_that_is_gone_is_made_again_or_told_of(tmp_path: Path) -> None:
    assert worker(Rivalry(), tmp_path / "none" / "there")()
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed):
        worker(Rivalry(), tmp_path / "file")()


# -- told ------------------------------------------------------------------------------------------


def refused(code: str, status: int = 403) -> StorageFailed:
    error = StorageFailed()
    error.__cause__ = EngineError("check", ErrorAnswer(status, code, "No.", ""))
    return error


class Refusing(Rivalry):
    """Some operations are refused."""

    def __init__(self, errors: Mapping[str, HmacfsError]) -> None:
        super().__init__()
        self.errors = errors
        self.on_step = self.step

    def step(self, name: str, when: str) -> bool:
        if when == "before" and name in self.errors:
            raise self.errors[name]
        return False


def findings(bucket: Bucket, offset: float | None = 0.0, *, told: bool | None = None) -> dict[str, str]:
    return {finding.subject: finding.problem for finding in checkup(bucket, offset, told=told)}


def checkup(bucket: Bucket, offset: float | None = 0.0, *, told: bool | None = None) -> list[Finding]:
    return list(Checkup(bucket, lambda: offset, RESERVED, told=told).run())


def errors(bucket: Bucket, offset: float | None = 0.0, *, told: bool | None = None) -> list[str]:
    """What keeps a server from working."""
    return [one.subject for one in checkup(bucket, offset, told=told) if one.problem and not one.is_tolerable]


ALL = [
    *("connection", "clock", "credentials", "bucket", "put", "head", "get", "list", "delete"),
    *("multipart create", "multipart part", "multipart list", "multipart complete", "multipart abort"),
    "conditional writes",
]


@pytest.mark.parametrize(
    ("error", "working"), [(StoreUnavailable, [True, False]), (StorageFailed, [False])], ids=["slow", "refused"]
)
@pytest.mark.parametrize("told", [None, True, False])
def test_a_trial_that_fails(error: type[StorageFailed], working: list[bool], told: bool | None) -> None:
    """A server that is told makes none; but one that is told to write under conditions does write so."""
    bucket = Failing(error)
    assert errors(bucket, told=told) == ([] if told in working else ["conditional writes"])
    bucket.put(FAIL, b"")
    assert errors(bucket, told=told) == ([] if told is False else ["conditional writes"])


def test_all_is_tried_and_well_and_nothing_stays() -> None:
    bucket = Rivalry()
    assert findings(bucket) == dict.fromkeys(ALL, "")
    assert (bucket.engine.objects, bucket.engine.uploads) == ({}, {})


def test_an_engine_that_cannot_be_reached_is_asked_nothing_more() -> None:
    away = StoreUnavailable()
    away.__cause__ = OSError("connection refused")
    bucket = Refusing({"check": away})
    assert findings(bucket) == {"connection": "cannot be reached: connection refused"}
    assert errors(bucket) == ["connection"]
    assert bucket.conditional == 0


@pytest.mark.parametrize(
    "code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "ExpiredToken"]
)
def test_wrong_credentials(code: str) -> None:
    found = findings(Refusing({"check": refused(code)}), 2000.0)
    assert found["credentials"] == f"check: 403 {code}: No."
    assert "set it by NTP" in found["clock"]
    assert list(found) == ["connection", "clock", "credentials"]
    assert errors(Refusing({"check": refused(code)}), 2000.0) == ["credentials"]


def test_no_bucket() -> None:
    found = findings(Refusing({"check": refused("NoSuchBucket", 404)}))
    assert found["bucket"] == "check: 404 NoSuchBucket: No."
    assert list(found)[-1] == "bucket"
    assert errors(Refusing({"check": refused("NoSuchBucket", 404)})) == ["bucket"]


@pytest.mark.parametrize(
    ("offset", "words"),
    [(None, "did not tell"), (59, ""), (-59, ""), (61, "61 s behind"), (-61, "61 s ahead of"), (901, "NTP"), (-901, "NTP")],
)  # fmt: skip
def test_the_clock(offset: float | None, words: str) -> None:
    found = findings(Rivalry(), offset)["clock"]
    assert words in found
    assert bool(words) == bool(found)
    assert errors(Rivalry(), offset) == [], "an engine that minds refuses the signature"


@pytest.mark.parametrize(
    ("operation", "told", "left_out"),
    [
        ("put", "put", ["head", "get", "list", "delete"]), ("head", "head", []), ("get", "get", []), ("pages", "list", []),
        ("delete", "delete", []), ("begin_multipart", "multipart create", [name for name in ALL if "multipart" in name][1:]),
        ("put_part", "multipart part", ["multipart complete"]), ("parts", "multipart list", []), ("uploads", "multipart list", []),
        ("complete", "multipart complete", []), ("abort", "multipart abort", []),
    ],
)  # fmt: skip
def test_permissions_one_by_one(operation: str, told: str, left_out: list[str]) -> None:
    found = findings(Refusing({operation: refused("AccessDenied")}))
    assert found[told] == "check: 403 AccessDenied: No."
    assert not set(left_out) & set(found)
    besides = {subject for subject, problem in found.items() if problem} - {told}
    assert besides <= {"delete", "conditional writes"}
    assert told in errors(Refusing({operation: refused("AccessDenied")}))


@pytest.mark.parametrize("told", [None, True, False])
def test_conditions_that_are_ignored_matter_to_those_who_want_them(told: bool | None) -> None:
    engine = Engine(time.time, 1, heeds_conditions=False)
    problem = findings(Rivalry(engine), told=told)["conditional writes"]
    assert ("claims in the session store" in problem) == (told is not False)
    assert errors(Rivalry(engine), told=told) == (["conditional writes"] if told else [])


@pytest.mark.parametrize("told", [None, True, False])
def test_what_another_server_has_noted_matters_to_one_that_is_told_otherwise(told: bool | None) -> None:
    bucket = Rivalry()
    bucket.put(FAIL, b"")
    found = findings(bucket, told=told)["conditional writes"]
    assert found.startswith(f"{FAIL}: a server has noted that conditional writes fail") == (told is True)
    assert bool(found) == (told is True)
    assert errors(bucket, told=told) == (["conditional writes"] if told else [])


class Forgetful(Rivalry):
    """Keeps no metadata, as some gateways do unless they are told to."""

    def put(self, key: str, payload: Payload, attributes: Attributes = NO_ATTRIBUTES, *, is_new: bool = False) -> str:
        return super().put(key, payload, attributes if is_new else Attributes(attributes.content_type), is_new=is_new)


def test_metadata_that_is_not_kept() -> None:
    assert findings(Forgetful())["head"] == "type and metadata are not kept, which this server needs"
