"""Telling something once."""

from __future__ import annotations

from hmacfs.once import Once


def test_once_for_each_subject() -> None:
    once = Once(2)
    assert [once(subject) for subject in ("a", "a", "b", "a", "b")] == [True, False, True, False, False]


def test_without_a_subject_once_in_all() -> None:
    once = Once()
    assert [once() for _ in range(3)] == [True, False, False]


def test_again_after_the_time() -> None:
    once = Once(seconds=60.0)
    assert [once("a", now) for now in (5.0, 64.9, 65.0, 70.0)] == [True, False, True, False]


def test_beyond_its_bound_it_is_silent_or_begins_again() -> None:
    silent, forgetful = Once(2), Once(2, forgets=True)
    subjects = ("a", "b", "c", "a", "c")
    assert [silent(subject) for subject in subjects] == [True, True, False, False, False]
    assert [forgetful(subject) for subject in subjects] == [True, True, True, True, False]
