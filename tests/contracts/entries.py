"""The contract of shared entries (``Entries``), as one suite: every table passes it, the one in memory too.

A module that runs it has a subclass of ``EntriesContract`` and a fixture ``backend``.
"""

from __future__ import annotations

import pytest

from hmacfs.sessions.replica import EntryTable
from hmacfs.uploads.contracts.entries import KEPT_SECONDS, Entry
from tests.contracts.session_stores import Backend, together
from tests.servers import wait_until

KEY = "lease 0123456789abcdef"
RIVALS = 20


def made(entries: EntryTable, value: str = "mine", seconds: float = 30.0, key: str = KEY) -> int:
    """The version of a new entry."""
    version = entries.replace(key, None, value, seconds)
    assert version is not None
    return version


def found(entries: EntryTable, key: str = KEY) -> Entry:
    """One that is there."""
    entry = entries.read(key)
    assert entry is not None
    return entry


class EntriesContract:
    """The suite."""

    @pytest.fixture
    def entries(self, backend: Backend) -> EntryTable:
        return backend.open().entries

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "x" * 16_384,
            "héllo wörld ☃ 🎉",
            "quotes ' \" \\ % %s :name ; -- \x7f \n",
            '{"id": "5f", "uploadId": "2~/+="}',
        ],
        ids=["empty", "long", "unicode", "hostile", "json"],
    )
    def test_a_value_is_read_as_it_was_written(self, backend: Backend, value: str) -> None:
        entries, other = backend.open().entries, backend.open().entries
        assert other.read(KEY) is None
        version = made(entries, value)
        entry = found(other)
        assert (entry.value, entry.version) == (value, version)
        assert 0 < entry.seconds_left <= 30

    @pytest.mark.parametrize("near", ["name A/x", "name a/x ", "name a/é", "name a/e\u0301", "lease a/x", "name a/x%"])
    def test_keys_are_compared_byte_by_byte(self, entries: EntryTable, near: str) -> None:
        made(entries, key="name a/x")
        assert entries.read(near) is None
        made(entries, "another", key=near)
        assert [found(entries, key).value for key in ("name a/x", near)] == ["mine", "another"]

    def test_a_key_may_be_as_long_as_a_name_ever_is(self, entries: EntryTable) -> None:
        made(entries, key="name " + "☃" * 1365)
        assert entries.read("name " + "☃" * 1364) is None

    def test_one_that_is_there_is_not_made_again(self, entries: EntryTable) -> None:
        version = made(entries)
        assert entries.replace(KEY, None, "another", 30.0) is None
        assert found(entries)[:2] == ("mine", version)

    def test_one_that_is_not_there_is_not_changed(self, entries: EntryTable) -> None:
        assert entries.replace(KEY, 1, "mine", 30.0) is None
        assert entries.read(KEY) is None

    def test_a_change_is_made_to_the_version_that_it_names(self, backend: Backend) -> None:
        entries, other = backend.open().entries, backend.open().entries
        first = made(entries)
        second = other.replace(KEY, first, "another", 60.0)
        assert second not in (None, first)
        assert entries.replace(KEY, first, "late", 30.0) is None
        entry = found(entries)
        assert entry[:2] == ("another", second)
        assert 30 < entry.seconds_left <= 60

    def test_a_change_may_leave_the_end_as_it_is(self, entries: EntryTable) -> None:
        version = made(entries, seconds=1000.0)
        before = found(entries).seconds_left
        assert entries.replace(KEY, version, "asked", None) is not None
        entry = found(entries)
        assert entry.value == "asked"
        assert before - 100 < entry.seconds_left <= before

    def test_one_that_is_over_is_read_and_changed_as_any_other(self, backend: Backend) -> None:
        entries, other = backend.open().entries, backend.open().entries
        version = made(entries, seconds=0.05)
        wait_until(lambda: found(entries).seconds_left <= 0, what="the end of the entry")
        assert other.replace(KEY, None, "another", 30.0) is None
        assert found(other)[:2] == ("mine", version)
        assert other.replace(KEY, version, "another", 30.0) is not None
        assert found(entries).seconds_left > 0
        assert entries.replace(KEY, version, "late", 30.0) is None

    def test_it_is_over_when_it_says_so(self, entries: EntryTable) -> None:
        made(entries, seconds=-60.0)
        assert -90 < found(entries).seconds_left <= -60

    def test_one_that_is_removed_is_gone(self, backend: Backend) -> None:
        entries, other = backend.open().entries, backend.open().entries
        version = made(entries)
        assert other.remove(KEY, version)
        assert entries.read(KEY) is None
        assert entries.remove(KEY, version)
        assert entries.replace(KEY, version, "late", 30.0) is None

    def test_another_version_is_not_removed(self, entries: EntryTable) -> None:
        first = made(entries)
        second = entries.replace(KEY, first, "another", 30.0)
        assert not entries.remove(KEY, first)
        assert found(entries)[:2] == ("another", second)

    def test_one_made_again_is_told_from_its_former_self(self, entries: EntryTable) -> None:
        versions = set()
        for _ in range(5):
            versions.add(made(entries))
            assert entries.remove(KEY, found(entries).version)
        assert len(versions) == 5
        made(entries, "another")
        assert [entries.replace(KEY, version, "late", 30.0) for version in versions] == [None] * 5
        assert not any(entries.remove(KEY, version) for version in versions)

    def test_those_that_were_over_for_long_are_forgotten(self, entries: EntryTable) -> None:
        made(entries, key="name long", seconds=-KEPT_SECONDS - 60)
        made(entries, key="name lately", seconds=-KEPT_SECONDS + 60)
        made(entries, key="name running")
        entries.forget()
        left = [entries.read(f"name {key}") is not None for key in ("long", "lately", "running")]
        assert left == [False, True, True]

    def test_of_rivals_one_makes_it(self, backend: Backend) -> None:
        tables = [backend.open().entries for _ in range(4)]
        for turn in range(5):
            key = f"name {turn}"
            got = together(
                RIVALS,
                lambda number, key=key: tables[number % 4].replace(key, None, str(number), 30.0),  # type: ignore[misc]
            )
            winners = [number for number, version in enumerate(got) if version is not None]
            assert len(winners) == 1
            assert found(tables[0], key)[:2] == (str(winners[0]), got[winners[0]])

    def test_of_rivals_one_takes_it_over(self, backend: Backend) -> None:
        tables = [backend.open().entries for _ in range(4)]
        version = made(tables[0], seconds=-1.0)
        for _ in range(5):
            got = together(
                RIVALS,
                lambda number, version=version: tables[number % 4].replace(KEY, version, str(number), 30.0),  # type: ignore[misc]
            )
            winners = [number for number, one in enumerate(got) if one is not None]
            assert len(winners) == 1
            version = found(tables[0]).version
            assert version == got[winners[0]]

    def test_no_change_of_rivals_is_lost(self, backend: Backend) -> None:
        tables = [backend.open().entries for _ in range(4)]
        made(tables[0], "0")

        def count(number: int) -> None:
            table, left = tables[number % 4], 5
            while left:
                entry = found(table)
                left -= table.replace(KEY, entry.version, str(int(entry.value) + 1), None) is not None

        together(4, count)
        assert found(tables[0]).value == "20"
