"""Whether an engine keeps to ``If-None-Match: *`` atomically: tried, since none tells, and some only seem to."""

from __future__ import annotations

import enum
import logging
import secrets
import threading
from collections.abc import Callable

from hmacfs.errors import HmacfsError, StoreUnavailable
from hmacfs.stores.s3.bucket import Attributes, Bucket, ConditionFailed, Doubt
from hmacfs.stores.s3.objects import PARTIAL_FOLDER

log = logging.getLogger("hmacfs.stores")

#: One of them alone is no proof: an engine that looks first and writes then is right most of the time.
ROUNDS = 3
RIVALS = 16
#: How many rounds are made again, in all.
REPETITIONS = 5
_RIVAL = "hmacfs-rival"


class Verdict(enum.StrEnum):
    """EXCLUSIVE: of those that create an object at once, one succeeds. RACING: more than one may. IGNORED: all do, at
    any time."""

    EXCLUSIVE = "exclusive"
    RACING = "racing"
    IGNORED = "ignored"


def trial_folder(reserved: str) -> str:
    """What keys of a trial begin with: as those of an unfinished upload that nobody knows of, so that a sweep removes
    what is left of a process that is killed in a trial."""
    return f"{reserved}{PARTIAL_FOLDER}/{secrets.token_hex(16)}/"


def try_conditional_writes(bucket: Bucket, folder: str) -> Verdict:
    """Let rivals create one object, some times. folder: what keys for it begin with; nothing is left below it.

    Raises what ``Bucket`` does: an engine that does not answer all of it is not judged, and never taken for one that
    keeps to conditions. A round of which an answer is lost, or does not tell what came of the request, is made again,
    some times: of so many, that happens.
    """
    rounds = repetitions = 0
    while rounds < ROUNDS:
        key = f"{folder}{secrets.token_hex(8)}"
        try:
            verdict = _try_once(bucket, key)
        except StoreUnavailable as error:
            repetitions += 1
            if not _may_repeat(error) or repetitions > REPETITIONS:
                raise
            continue
        finally:
            _remove(bucket, key)
        if verdict is not Verdict.EXCLUSIVE:
            return verdict
        rounds += 1
    return Verdict.EXCLUSIVE


def _may_repeat(error: StoreUnavailable) -> bool:
    return isinstance(error.__cause__, Doubt) and error.__cause__.may_repeat


def _try_once(bucket: Bucket, key: str) -> Verdict:
    outcomes = _at_once(lambda rival: _creates(bucket, key, rival))
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


def _at_once(call: Callable[[int], bool]) -> list[bool]:
    """What it returns for each rival; raises what one of them raises. By threads: in a gevent worker they are
    greenlets, and a command has no greenlets that wait."""
    outcomes: dict[int, bool] = {}
    errors: list[BaseException] = []

    def run(rival: int) -> None:
        try:
            outcomes[rival] = call(rival)
        except BaseException as error:
            errors.append(error)

    rivals = [threading.Thread(target=run, args=(rival,), daemon=True) for rival in range(RIVALS)]
    for each in rivals:
        each.start()
    for each in rivals:
        each.join()
    if errors:
        raise errors[0]
    return [outcomes[rival] for rival in range(RIVALS)]


def _remove(bucket: Bucket, key: str) -> None:
    try:
        bucket.delete(key)
    except HmacfsError as error:
        log.debug("%s is left of the trial of conditional writes: %s", key, error)
