"""Whether the engine's conditional writes decide whose a name is: tried or told, remembered for all workers of a
server, and agreed on by all servers of a bucket."""

from __future__ import annotations

import copy
import fcntl
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

from hmacfs.errors import StorageFailed, StoreStarting, StoreUnavailable
from hmacfs.stores.s3.bucket import Bucket
from hmacfs.stores.s3.probe import Verdict, trial_folder, try_conditional_writes
from hmacfs.system.shared_file import SharedFile

log = logging.getLogger("hmacfs.stores")

#: For how long a worker believes that no other server has found otherwise; it looks again before that, so that nobody
#: has to wait for it.
_LOOK_SECONDS = 60.0
_LOOK_AHEAD_SECONDS = 30.0
#: After a server has noted that conditional writes fail, others learn of it within the time above; and what they have
#: begun before that is published, or given up.
SETTLE_SECONDS = _LOOK_SECONDS + 30.0
#: For how long it waits for what another worker finds. If it takes longer, the engine does not answer well: the
#: rivals of a trial took SeaweedFS 9 s on a busy machine, and 20 s and more below a load.
PATIENCE_SECONDS = 30.0
_POLL_SECONDS = 0.02
#: For how long a check of readiness waits for a look.
_CHECK_SECONDS = 2.0
_TEXTS = {
    Verdict.RACING: "takes more than one of the conditional writes that come at once",
    Verdict.IGNORED: "ignores the conditions of writes",
}
#: With the key of the note before it.
CONTRADICTION = (
    'a server has noted that conditional writes fail, so S3ConditionalWrites = "on" cannot be: set "auto" or "off"; '
    "or, for an engine that keeps to them, stop all servers of this bucket, remove that object, and start them"
)
_UNSETTLED = (
    f"it was noted that conditional writes fail: nothing is published for {SETTLE_SECONDS:.0f} s, until all servers of "
    "this bucket know"
)


class ExclusiveWrites:
    """Whether the engine's conditional PUT is exclusive, found out when somebody first wants to know.

    That is in a worker, not at the start: an engine that is away keeps no server from starting. Unless it is ``told``,
    one worker tries, and the others of this server take its word (``remembered``, a file, under the name ``server``): a
    restart tries again, since the engine may be another one by then.

    Of two servers that work on one bucket in different ways, both could publish one name. So each notes in the bucket
    which way it works, and the note that conditional writes fail counts for all: one that was told that they hold does
    not go on, the others turn to claims. Each looks for that note again after ``_LOOK_SECONDS``, so nothing is
    published under claims within ``SETTLE_SECONDS`` of it, unless no server has ever worked in the other way.

    reserved: what the keys of our own begin with, with a slash at its end. told: what an operator says, ``None`` to
    have it tried.
    """

    def __init__(
        self,
        bucket: Bucket,
        reserved: str,
        *,
        told: bool | None,
        remembered: Path,
        server: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._bucket = bucket
        self._folder = trial_folder(reserved)
        self._fail_note = fail_note(reserved)
        self._hold_note = f"{reserved}conditional-writes-hold"
        self._told = told
        self._remembered = remembered
        self._server = server
        self._clock = clock
        self._sleep = sleep or time.sleep  # asked for here: in a gevent worker it is cooperative only after the fork
        self._is_exclusive = False
        #: When that was found out; never, or for good.
        self._looked = -math.inf
        self._failure: BaseException | None = None
        self._beginning = threading.Lock()
        self._latest: futures.Future[None] | None = None

    def __call__(self) -> bool:
        """Waits until it is known. Raises ``StoreUnavailable``, ``StorageFailed`` while nobody can tell, or servers do
        not agree."""
        look = self._needed_look()
        if look is not None:
            _end(look)
        return self._is_exclusive

    def check(self) -> None:
        """Wait for it ``_CHECK_SECONDS`` at most. Raises what the last look raised, until one succeeds; and
        ``StoreStarting`` while this server has no verdict. Where only the others' notes are still asked for, it does
        not: an engine that is slow is not away."""
        look = self._needed_look()
        if look is None:
            return
        if futures.wait([look], _CHECK_SECONDS).done:
            _end(look)
        elif self._failure is not None:
            raise _again(self._failure)
        elif self._told is None and self._known_verdict() is None:
            raise StoreStarting

    def _needed_look(self) -> futures.Future[None] | None:
        """The look that tells; ``None`` if it is known. All who ask while it is under way share it, and its failure:
        else each would wait for an engine that is silent as long as all before it together."""
        if self._is_known(_LOOK_AHEAD_SECONDS):
            return None
        with self._beginning:
            if self._is_known(_LOOK_AHEAD_SECONDS):
                return None
            if self._latest is None or self._latest.done():
                self._latest = futures.Future()
                threading.Thread(target=self._look, args=(self._latest,), daemon=True).start()
            return None if self._is_known(_LOOK_SECONDS) else self._latest

    def _is_known(self, seconds: float) -> bool:
        return self._clock() - self._looked < seconds

    def _look(self, look: futures.Future[None]) -> None:
        """In a thread of its own: nobody who asks is bound to wait for it."""
        began = self._clock()
        try:
            self._is_exclusive = self._find_out()
        except BaseException as error:  # whoever waits is told
            self._failure = error
            look.set_exception(error)
        else:
            self._failure = None
            self._looked = began if self._is_exclusive else math.inf
            look.set_result(None)

    def _find_out(self) -> bool:
        if not self._is_there(self._fail_note):
            if self._is_exclusive:
                return True
            if self._seems_exclusive():
                if not self._is_there(self._hold_note):
                    self._bucket.put(self._hold_note, b"")
                # Noted first, looked then: of two servers that do so at once, one at least sees the other's note.
                if not self._is_there(self._fail_note):
                    return True
            else:
                self._bucket.put(self._fail_note, b"")
        self._looked = -math.inf  # what was believed until now counts no more
        if self._told:
            raise StoreUnavailable(where=self._fail_note) from Disagreement(CONTRADICTION)
        self._check_is_settled()
        if self._told is None:
            log.warning("the object store: conditional writes fail, as %s notes", self._fail_note)
        return False

    def _is_there(self, note: str) -> bool:
        return self._bucket.head(note) is not None

    def _check_is_settled(self) -> None:
        """Raises ``StoreUnavailable`` while another server may publish in the other way."""
        noted = self._bucket.head(self._fail_note)
        if noted is None or not self._is_there(self._hold_note):
            return
        if self._bucket.now() < noted.modified + SETTLE_SECONDS:
            raise StoreUnavailable(where=self._fail_note) from Disagreement(_UNSETTLED)

    def _seems_exclusive(self) -> bool:
        return self._verdict() is Verdict.EXCLUSIVE if self._told is None else self._told

    def _verdict(self) -> Verdict:
        """Of this server: what one of its workers has found, or finds now while the others wait."""
        with self._record() as fd:
            self._wait_for_lock(fd)
            verdict = self._read(fd)
            if verdict is None:
                verdict = self._try()
                self._write(fd, verdict)
            return verdict

    def _known_verdict(self) -> Verdict | None:
        """The same, if it is found already."""
        with self._record() as fd:
            return self._read(fd)

    @contextmanager
    def _record(self) -> Iterator[int]:
        """The file in which the verdict is remembered."""
        try:
            with SharedFile(self._remembered) as file:
                yield file.fd
        except OSError as error:
            raise StorageFailed(where=str(self._remembered)) from error

    def _wait_for_lock(self, fd: int) -> None:
        deadline = self._clock() + PATIENCE_SECONDS
        while not _is_locked(fd):
            if self._clock() > deadline:
                raise StoreUnavailable(where=self._fail_note)
            self._sleep(_POLL_SECONDS)

    def _try(self) -> Verdict:
        verdict = try_conditional_writes(self._bucket, self._folder)
        if verdict is Verdict.EXCLUSIVE:
            log.info("the object store keeps to conditional writes")
        else:
            log.warning("the object store %s: claims in the session store decide instead", _TEXTS[verdict])
        return verdict

    def _read(self, fd: int) -> Verdict | None:
        try:
            record = json.loads(os.pread(fd, 4096, 0))
            return Verdict(record["verdict"]) if record["server"] == self._server else None
        except (ValueError, KeyError, TypeError):
            return None

    def _write(self, fd: int, verdict: Verdict) -> None:
        content = json.dumps({"server": self._server, "verdict": verdict}).encode()
        os.ftruncate(fd, 0)
        os.pwrite(fd, content, 0)


def _end(look: futures.Future[None]) -> None:
    """Wait for it. Raises what it raised."""
    error = look.exception()
    if error is not None:
        raise _again(error)


def _again(error: BaseException) -> BaseException:
    """The same for one more of those who asked: what is told to many for long has a traceback for each."""
    if not isinstance(error, StorageFailed):
        return error
    another = copy.copy(error).with_traceback(error.__traceback__)
    another.__cause__ = error.__cause__
    return another


class Disagreement(Exception):
    """Servers of one bucket would decide in different ways whose a name is; a sentence for the operator."""


def fail_note(reserved: str) -> str:
    """The key of the note that conditional writes fail, which stays until an operator removes it."""
    return f"{reserved}conditional-writes-fail"


def _is_locked(fd: int) -> bool:
    """Whether the lock on the file is this descriptor's now. It is asked for again and again, since a wait for it would
    stop all greenlets."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
