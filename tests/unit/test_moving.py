"""Moving the sessions' database: no moment at which a crash, or the power's, leaves none."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from hmacfs.sessions.moving import move_database


def test_the_new_name_is_on_the_device_before_the_old_one_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old" / "sessions.sqlite3", tmp_path / "new" / "sessions.sqlite3"
    for path in (old, new):
        path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(old)) as connection:
        connection.execute("CREATE TABLE sessions (token)")
    synced: list[tuple[Path, bool, bool]] = []

    def sync(fd: int) -> None:
        synced.append((Path(os.readlink(f"/proc/self/fd/{fd}")), old.exists(), new.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    move_database(old, new)
    assert synced == [(new.with_name("sessions.sqlite3.draft"), True, False), (new.parent, True, True)]
    assert [path.name for path in (*old.parent.iterdir(), *new.parent.iterdir())] == [new.name]
