"""When expired uploads are looked for."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

from hmacfs.housekeeping import Sweeper
from hmacfs.uploads.progress import Swept


def test_one_process_at_a_time(tmp_path: Path) -> None:
    sweeper = Sweeper(lambda: Swept(2, 1), tmp_path / "lock", 1.0)
    assert sweeper.run_once() == Swept(2, 1)
    with (tmp_path / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert sweeper.run_once() is None
    assert sweeper.run_once() == Swept(2, 1)


def test_it_ends_when_it_is_stopped_whatever_a_sweep_comes_to(tmp_path: Path) -> None:
    sweeps = threading.Semaphore(0)

    def sweep() -> Swept:
        sweeps.release()
        raise ZeroDivisionError

    sweeper = Sweeper(sweep, tmp_path / "lock", 0.001)
    thread = threading.Thread(target=sweeper.run_forever, daemon=True)
    thread.start()
    assert all(sweeps.acquire(timeout=10) for _ in range(3))
    sweeper.stop()
    thread.join(10)
    assert not thread.is_alive()
