"""Running calls that block (fsync, a slow disk) without stopping the event loop."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from gevent import monkey
from gevent.threadpool import ThreadPool

from hmacfs.system.descriptors import close

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

#: Native threads are meant: gevent's own ``threading.local`` tells greenlets apart.
_NativeLocal = monkey.get_original("threading", "local")

#: A call that took longer than this has stalled every other transfer of the worker: a network disk, a full write-back
#: queue. Ordinary writes to the page cache take well under a millisecond, and some tens where processors are scarce.
SLOW_CALL_SECONDS = 0.05
#: How long a disk counts as slow after its last slow call. One that stays slow says so again in every call.
SLOW_FOR_SECONDS = 5.0


class ThreadOffload:
    """Runs calls in native threads, so that the greenlets of this process go on meanwhile.

    Outside a gevent worker (the command line, a thread-based server) a call simply runs where it is made.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool: ThreadPool | None = None

    def __call__(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of ``call``, or its exception. It has ended when this returns or raises, even if the greenlet
        is killed while it waits: the call may use a descriptor that the caller is about to close."""
        if not monkey.is_module_patched("socket"):
            return call(*args, **kwargs)
        if self._pool is None:
            self._pool = ThreadPool(self._threads)
        pending: Any = self._pool.spawn(_outcome, lambda: call(*args, **kwargs))
        interruption: BaseException | None = None
        while not pending.ready():
            try:
                pending.wait()
            except BaseException as error:  # a kill or a timeout: it is raised once the thread is done
                interruption = interruption or error
        if interruption is not None:
            raise interruption
        result, failure = pending.get()
        if failure is not None:
            raise failure
        value: R = result
        return value


def _outcome(call: Callable[[], R]) -> tuple[R | None, BaseException | None]:
    """A call's result or error, as a value: gevent prints the traceback of every error that a thread raises."""
    try:
        return call(), None
    except BaseException as error:
        return None, error


class FileCalls:
    """Calls to the file system that are quick on a healthy disk and must not stop the loop on a slow one.

    The first slow call makes the disk suspect, a second one confirms it: from then on all calls go through threads
    until the disk has been quick for ``SLOW_FOR_SECONDS``. A healthy disk costs nothing more (a call through a thread
    costs about 80 us, a write to the page cache 5), and busy processors are not taken for a slow disk: of a suspect
    one, the time that a call waited for a processor does not count.
    """

    def __init__(
        self,
        offload: ThreadOffload,
        clock: Callable[[], float] = time.monotonic,
        processor_wait: Callable[[], float] | None = None,
    ) -> None:
        self._offload = offload
        self._clock = clock
        self._processor_wait = processor_wait or seconds_waited_for_processor
        self._suspect_until = 0.0
        self._slow_until = 0.0

    @property
    def is_slow(self) -> bool:
        return self._slow_until > 0.0 and self._clock() < self._slow_until

    def __call__(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        before = self._clock()
        if before < self._slow_until:
            return self._offload(lambda: self._measured(call, *args, **kwargs))
        if before < self._suspect_until:
            return self._measured(call, *args, **kwargs)
        try:
            return call(*args, **kwargs)
        finally:
            if self._clock() - before > SLOW_CALL_SECONDS:
                self._suspect_until = self._clock() + SLOW_FOR_SECONDS

    def always_blocking(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """For calls that wait for the device by their nature (fsync): through a thread in any case."""
        return self._offload(call, *args, **kwargs)

    def inline(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Make the call here even on a slow disk (and notice whether it was slow): for sequences that must not be
        interrupted by another greenlet. The caller looks at ``is_slow`` first."""
        return self(call, *args, **kwargs) if not self.is_slow else self._measured(call, *args, **kwargs)

    def _measured(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        waited, before = self._processor_wait(), self._clock()
        try:
            return call(*args, **kwargs)
        finally:
            after = self._clock()
            lasted = after - before - (self._processor_wait() - waited)
            if lasted > SLOW_CALL_SECONDS:
                if self._slow_until < before:
                    log.info("the store's disk is slow (a call took %.0f ms): using threads for it", lasted * 1e3)
                self._slow_until = after + SLOW_FOR_SECONDS


class _OwnDescriptor:
    """The scheduler's statistics of the thread that made it, open for as long as this object is kept."""

    def __init__(self) -> None:
        self.fd = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            close(self.fd)


class ProcessorWait:
    """How long the calling thread was ready to run and did not, so far, in seconds; 0 where the kernel does not tell
    (Linux does).

    Each thread keeps its descriptor: to open the file twice for each call to a disk in doubt takes 30 us. It tells of
    the thread that opened it, not of the one that reads it: a child process has to ``forget`` those of its parent.
    That of a thread is closed when the thread ends.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._of_thread: Any = _NativeLocal()

    def __call__(self) -> float:
        try:
            return int(os.pread(self._fd(), 64, 0).split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0

    def _fd(self) -> int:
        own: _OwnDescriptor | None = getattr(self._of_thread, "descriptor", None)
        if own is None:
            own = self._of_thread.descriptor = _OwnDescriptor()
        return own.fd


seconds_waited_for_processor = ProcessorWait()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=seconds_waited_for_processor.forget)
