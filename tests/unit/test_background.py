"""What a worker repeats in the background."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from pathlib import Path

import pytest

from hmacfs.background import RepairLoop, Sweeper
from hmacfs.cli import main
from hmacfs.errors import StorageFailed, StoreUnavailable
from hmacfs.uploads.progress import SweepResult


def test_one_process_at_a_time(tmp_path: Path) -> None:
    sweeper = Sweeper(lambda: SweepResult(2, 1), tmp_path / "lock", 1.0)
    assert sweeper.run_once() == SweepResult(2, 1)
    with (tmp_path / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert sweeper.run_once() is None
    assert sweeper.run_once() == SweepResult(2, 1)


def test_what_cannot_be_removed_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    swept = threading.Event()

    def sweep() -> SweepResult:
        swept.set()
        return SweepResult(2, 0, 3, "storage failed: a: denied")

    sweeper = Sweeper(sweep, tmp_path / "lock", 0.001)
    with caplog.at_level(logging.INFO):
        sweeper.run_while(lambda: not swept.is_set())
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "removed 2 expired uploads and 0 orphans",
        "3 expired uploads cannot be removed, the first for this: storage failed: a: denied",
    ]


def test_the_command_tells_what_it_cannot_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.toml").write_text(f'Secret = "0123456789abcdef"\nStoreDir = "{tmp_path}"\n')
    results = [SweepResult(2, 1), SweepResult(2, 1, 3, "storage failed: a: denied")]
    monkeypatch.setattr("hmacfs.app.open_sweeper", lambda _: Sweeper(lambda: results.pop(0), tmp_path / "lock", 1.0))
    arguments = ["sweep", "-config", str(tmp_path / "config.toml")]
    assert [main(arguments), main(arguments)] == [0, 1]
    told = capsys.readouterr()
    assert told.out == "removed 2 expired uploads and 1 orphans\n" * 2
    assert told.err == "hmacfs sweep: 3 cannot be removed, the first for this: storage failed: a: denied\n"


def test_the_command_tells_why_nothing_could_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> SweepResult:
        raise StoreUnavailable(where="list") from ConnectionRefusedError(111, "Connection refused")

    (tmp_path / "config.toml").write_text(f'Secret = "0123456789abcdef"\nStoreDir = "{tmp_path}"\n')
    monkeypatch.setattr("hmacfs.app.open_sweeper", lambda _: Sweeper(fail, tmp_path / "lock", 1.0))
    assert main(["sweep", "-config", str(tmp_path / "config.toml")]) == 1
    assert capsys.readouterr().err == "hmacfs sweep: storage failed: list: Connection refused\n"


def test_it_ends_when_it_is_stopped_whatever_a_sweep_comes_to(tmp_path: Path) -> None:
    sweeps = threading.Semaphore(0)

    def sweep() -> SweepResult:
        sweeps.release()
        raise ZeroDivisionError

    sweeper = Sweeper(sweep, tmp_path / "lock", 0.001)
    stopped = threading.Event()
    thread = threading.Thread(target=sweeper.run_while, args=[lambda: not stopped.is_set()], daemon=True)
    thread.start()
    assert all(sweeps.acquire(timeout=10) for _ in range(3))
    stopped.set()
    thread.join(10)
    assert not thread.is_alive()


def test_what_cannot_be_made_again_is_told_without_numbers_of_errors(caplog: pytest.LogCaptureFixture) -> None:
    """Once each, with the path if it is one."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    caused = StorageFailed("The server could not store or read the file.")
    caused.__cause__ = full
    inside = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run/x/metrics")
    below = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), ".hmacfs/tmp")
    errors: list[Exception] = [full, inside, caused, below]

    def fail() -> None:
        raise errors[0]

    loop = RepairLoop([fail])
    with caplog.at_level(logging.WARNING):
        while errors:
            loop.run_once()
            del errors[0]
    told = [record.getMessage().partition("yet: ")[2] for record in caplog.records]
    assert told[:2] == ["No space left on device", "/run/x/metrics: No space left on device"]
    assert told[2].endswith("(No space left on device)")
    assert told[3] == "No space left on device"
