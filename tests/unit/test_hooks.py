"""gunicorn's hooks: that gunicorn takes them, and what they keep count of."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from gevent.event import Event
from gunicorn.config import Config

from hmacfs.server import shared
from hmacfs.server.configuration import configuration
from hmacfs.server.hooks import Hooks
from hmacfs.server.lifecycle import Lifecycle, MasterIntent
from hmacfs.server.worker import TransferWorker


@pytest.fixture
def hooks() -> Hooks:
    return Hooks(configuration)


def test_gunicorn_takes_them(hooks: Hooks) -> None:
    config = Config()
    for name, hook in hooks.by_name().items():
        config.set(name, hook)  # gunicorn looks at the number of arguments
        assert config.settings[name].get() == hook


def test_replaced_workers_do_not_take_the_places_of_new_ones(hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn counts both: ``num_workers`` grows by the replaced ones, and shrinks as they end."""
    monkeypatch.setattr(shared, "intent", MasterIntent())
    monkeypatch.setattr(Hooks, "_settings", SimpleNamespace(metrics_enabled=False))
    monkeypatch.setattr("hmacfs.server.hooks.drop_gauges", lambda *_: None)
    workers = {pid: SimpleNamespace(age=pid, pid=pid) for pid in (1, 2, 3, 4)}
    server: Any = SimpleNamespace(num_workers=2, WORKERS=workers)
    shared.intent.supersede(2)
    counted = []
    for pid in (3, 1, 2):
        hooks.child_exit(server, workers.pop(pid))
        counted.append(server.num_workers)
    assert counted == [4, 3, 2]


def test_a_signal_to_stop_waits_until_a_new_worker_has_its_handlers(hooks: Hooks) -> None:
    worker: Any = TransferWorker.__new__(TransferWorker)
    worker.PIPE = os.pipe()
    worker._lifecycle, worker._signalled = Lifecycle(MasterIntent(), 1), Event()
    os.set_blocking(worker.PIPE[1], False)
    with process_signals():
        hooks.post_fork(None, worker)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # a worker has no other thread yet
        assert signal.sigpending() == {signal.SIGTERM}
        worker.init_signals()
        assert worker._lifecycle.must_drain
        assert signal.sigpending() == set()
    for fd in worker.PIPE:
        os.close(fd)


def test_a_signal_that_a_new_worker_gets_does_not_count_as_one_to_the_master(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "intent", MasterIntent())
    hooks._stop(SimpleNamespace(pid=os.getppid()), None)
    assert not shared.intent.is_stop


@contextlib.contextmanager
def process_signals() -> Iterator[None]:
    """Gives this process its own back at the end."""
    before = {number: signal.getsignal(number) for number in TransferWorker.SIGNALS}
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    wakeup = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
