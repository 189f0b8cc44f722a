"""One running upload for a name: the rows that processes share, and the rule."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from hmacfs.admission.running import SILENT_SECONDS, RunningUploads
from hmacfs.errors import UploadRunning
from hmacfs.protocol.names import StoredName
from hmacfs.system.shared_rows import WINDOW, Row, SharedRows
from tests.programs import program

OTHER = str(program("claim_rows.py"))
KILLED = str(program("killed_at_each_line.py"))
PLACES = 64


@contextmanager
def other(path: Path, *keys: str) -> Iterator[None]:
    """Another process that has rows; in the end it is killed."""
    command = [sys.executable, OTHER, str(path), str(PLACES), *keys]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        yield
        process.kill()


def found(rows: SharedRows, key: bytes) -> list[int]:
    with rows:
        return [row.number for row in rows.find(key)]


def test_rows_of_processes_that_live_are_found(tmp_path: Path) -> None:
    rows = SharedRows(tmp_path / "rows", places=PLACES)
    mine = Row(b"key", 5)
    with other(tmp_path / "rows", "key", "another"):
        with rows:
            rows.claim(mine)
        assert sorted(found(rows, b"key")) == [5, 7]
        assert found(rows, b"another") == [7]
        mine.number = 6
        rows.write(mine)
        assert sorted(found(rows, b"key")) == [6, 7]
    assert found(rows, b"key") == [6]
    with rows:
        rows.release(mine)
    assert found(rows, b"key") == []


def test_a_look_without_the_lock_tells_of_most_keys_that_they_have_no_row(tmp_path: Path) -> None:
    rows = SharedRows(tmp_path / "rows", places=PLACES)
    mine = Row(b"key")
    assert not rows.may_have(b"key")
    with rows:
        rows.claim(mine)
    assert rows.may_have(b"key")
    assert sum(rows.may_have(b"%d" % number) for number in range(1000)) <= 1
    with rows:
        rows.release(mine)
    assert not rows.may_have(b"key")


def test_places_of_the_dead_are_taken_again(tmp_path: Path) -> None:
    rows = SharedRows(tmp_path / "rows", places=PLACES)
    keys = [f"key {number}" for number in range(2 * WINDOW)]
    with other(tmp_path / "rows", *keys):
        pass
    mine = [Row(b"mine %d" % number) for number in range(WINDOW)]
    with rows:
        for row in mine:
            rows.claim(row)
    assert all(row.position is not None for row in mine)
    SharedRows(tmp_path / "rows", places=PLACES)
    assert not any(rows.may_have(key.encode()) for key in keys)


def test_wherever_a_process_is_killed_the_rows_of_others_are_found(tmp_path: Path) -> None:
    command = [sys.executable, KILLED, str(tmp_path / "rows")]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(told) > 20
    assert [line for line in told if not line.endswith(" True [5]")] == []


def test_in_a_full_table_a_row_has_no_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = SharedRows(tmp_path / "rows", places=1)
    mine = [Row(b"%d" % number) for number in range(WINDOW + 1)]
    with rows:
        for row in mine:
            rows.claim(row)
    assert [row.position is None for row in mine] == [False] * WINDOW + [True]
    assert "is full" in caplog.text
    rows.write(mine[-1])
    assert rows.request_of(mine[-1]) == 0
    with rows:
        for row in mine:
            rows.release(row)
    assert not any(rows.may_have(row.key) for row in mine)


def test_what_is_no_table_is_replaced_and_a_removed_one_made_again(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    SharedRows.file_of(path).write_bytes(b"garbage")
    rows, mine = SharedRows(path, places=PLACES), Row(b"key", 5)
    with rows:
        rows.claim(mine)
    SharedRows.file_of(path).unlink()
    for _ in range(2):
        rows.repair()
    with other(path, "key"):
        assert sorted(found(rows, b"key")) == [5, 7]


class Body:
    def __init__(self, *, is_here: bool = False) -> None:
        self.is_here = is_here
        self.waiting_since = 0.0
        self.is_interrupted = False

    def interrupt(self) -> None:
        self.is_interrupted = True


class World:
    """``meanwhile`` is what happens while a newcomer waits."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.uploads = RunningUploads(SharedRows(folder / "rows", places=PLACES), lambda: self.now)
        self.meanwhile: Callable[[], object] = lambda: None
        monkeypatch.setattr("hmacfs.admission.running.time.sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.uploads.check_requests()
        self.meanwhile()

    @contextmanager
    def claim(self, body: Body, name: str = "file") -> Iterator[None]:
        """For a body that is here, what is done in its stead."""
        stored = StoredName.from_text(name)
        if body.is_here:
            self.uploads.wait_until_free(stored)
            yield
        else:
            with self.uploads.claim(stored, body):
                yield


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


@pytest.mark.parametrize("is_here", [False, True])
def test_one_upload_of_a_name_is_running(world: World, *, is_here: bool) -> None:
    first = Body()
    with world.claim(first):
        with world.claim(Body(is_here=is_here), "other"):
            pass
        with pytest.raises(UploadRunning), world.claim(Body(is_here=is_here)):
            pass
    with world.claim(Body(is_here=is_here)):
        pass
    assert not first.is_interrupted


def test_one_that_is_here_keeps_nobody_out(world: World) -> None:
    with world.claim(Body(is_here=True)), world.claim(Body()):
        pass


@pytest.mark.parametrize("is_here", [False, True])
def test_a_silent_one_gives_way(world: World, *, is_here: bool) -> None:
    first, stack = Body(), ExitStack()
    stack.enter_context(world.claim(first))
    first.waiting_since = world.now
    world.now += SILENT_SECONDS - 0.1
    with pytest.raises(UploadRunning), world.claim(Body()):
        pass
    world.now += 0.1
    world.meanwhile = lambda: stack.close() if first.is_interrupted else None
    newcomer = Body(is_here=is_here)
    with world.claim(newcomer):
        assert first.is_interrupted
        world.uploads.check_requests()
    assert not newcomer.is_interrupted


def test_one_whose_server_is_slow_is_not_silent(world: World) -> None:
    first = Body()
    with world.claim(first):
        world.now += SILENT_SECONDS  # and nobody could tell that it goes on
        with pytest.raises(UploadRunning), world.claim(Body()):
            pass
        assert not first.is_interrupted


def test_one_that_does_not_let_go_keeps_the_name(world: World) -> None:
    first = Body()
    with world.claim(first):
        first.waiting_since = world.now
        world.now += SILENT_SECONDS
        with pytest.raises(UploadRunning), world.claim(Body()):
            pass
        assert first.is_interrupted
