"""Whether an engine keeps to ``If-None-Match: *`` atomically: tried, since none tells, and some only seem to."""

from __future__ import annotations

import enum
import logging
import secrets
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from hmacfs.errors import HmacfsError, StoreUnavailable
from hmacfs.stores.s3.bucket import Attributes, Bucket, ConditionFailed, Doubt
from hmacfs.stores.s3.objects import PARTIAL_FOLDER

T = TypeVar("T")

log = logging.getLogger("hmacfs.stores")

#: One of them alone is no proof: an engine that looks first and writes then is right most of the time.
ROUNDS = 3
RIVALS = 16
#: How often a round is made again.
REPETITIONS = 5
_RIVAL = "hmacfs-rival"


class Verdict(enum.StrEnum):
    """EXCLUSIVE: of those that create an object at once, one succeeds. RACING: more than one may. IGNORED: all do, at
    any time. In the order of what is worse."""

    EXCLUSIVE = "exclusive"
    RACING = "racing"
    IGNORED = "ignored"


def trial_folder(reserved: str) -> str:
    """What keys of a trial begin with: as those of an unfinished upload that nobody knows of, so that a sweep removes
    what is left of a process that is killed in a trial."""
    return f"{reserved}{PARTIAL_FOLDER}/{secrets.token_hex(16)}/"


def try_conditional_writes(bucket: Bucket, folder: str) -> Verdict:
    """Let rivals create one object, in some rounds: these run beside each other, since an engine may have those that
    collide wait for seconds. folder: what keys for it begin with; nothing is left below it.

    Raises what ``Bucket`` does: an engine that does not answer all of it is not judged, and never taken for one that
    keeps to conditions. A round of which an answer is lost, or does not tell what came of the request, is made again,
    some times: of so many, that happens.
    """
    starting = threading.Lock()
    verdicts = _at_once(ROUNDS, lambda _: _try(bucket, folder, starting), nullcontext())
    return max(verdicts, key=[*Verdict].index)


def _try(bucket: Bucket, folder: str, starting: threading.Lock) -> Verdict:
    """One round, made again if it tells nothing."""
    repetitions = 0
    while True:
        key = f"{folder}{secrets.token_hex(8)}"
        try:
            return _try_once(bucket, key, starting)
        except StoreUnavailable as error:
            repetitions += 1
            if not _may_repeat(error) or repetitions > REPETITIONS:
                raise
        finally:
            _remove(bucket, key)


def _may_repeat(error: StoreUnavailable) -> bool:
    return isinstance(error.__cause__, Doubt) and error.__cause__.may_repeat


def _try_once(bucket: Bucket, key: str, starting: threading.Lock) -> Verdict:
    outcomes = _at_once(RIVALS, lambda rival: _creates(bucket, key, rival), starting)
    winners = [rival for rival, is_winner in enumerate(outcomes) if is_winner]
    if len(winners) == RIVALS:
        return Verdict.IGNORED
    # None: an engine may refuse them all (409) while they are in one another's way.
    if not winners and _creates(bucket, key, RIVALS):
        winners = [RIVALS]
    stored = bucket.head(key)
    if not winners and stored is not None:
        # As when a proxy sends a request twice: the first one has created it, and the second one's answer is a refusal.
        raise StoreUnavailable(where=key) from Doubt("a write that was refused has created the object", may_repeat=True)
    written = None if stored is None else stored.attributes.metadata.get(_RIVAL)
    if [str(winner) for winner in winners] == [written] and not _creates(bucket, key, RIVALS + 1):
        return Verdict.EXCLUSIVE
    return Verdict.RACING


def _creates(bucket: Bucket, key: str, rival: int) -> bool:
    """Whether the engine says that this rival has created the object."""
    try:
        bucket.put(key, b"%d" % rival, Attributes("text/plain", {_RIVAL: str(rival)}), is_new=True)
    except ConditionFailed:
        return False
    except Doubt as error:
        raise StoreUnavailable(where=key) from error
    return True


def _at_once(count: int, call: Callable[[int], T], starting: AbstractContextManager[object]) -> list[T]:
    """What it returns for each number below ``count``; raises what one of them raises. By threads: in a gevent worker
    they are greenlets, and a command has no greenlets that wait.

    starting: held until all have begun. With another round's between them, rivals come too far apart to meet in an
    engine that looks first and writes then."""
    outcomes: dict[int, T] = {}
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            outcomes[number] = call(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    with starting:
        for each in threads:
            each.start()
    for each in threads:
        each.join()
    if errors:
        raise errors[0]
    return [outcomes[number] for number in range(count)]


def _remove(bucket: Bucket, key: str) -> None:
    try:
        bucket.delete(key)
    except HmacfsError as error:
        log.debug("%s is left of the trial of conditional writes: %s", key, error)
