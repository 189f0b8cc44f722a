"""Preconditions and ranges."""

from __future__ import annotations

import time
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmacfs.protocol.conditions import evaluate_conditions, fails_change, has_change_conditions, has_conditions

MTIME = 784111777
ETAG = '"2ebcb0a1-5"'


@pytest.mark.parametrize(
    "date", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_all_forms_of_dates_are_utc(monkeypatch: pytest.MonkeyPatch, date: str) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        environ = {"REQUEST_METHOD": "GET", "HTTP_IF_MODIFIED_SINCE": date}
        assert evaluate_conditions(environ, ETAG, MTIME, 5).status == HTTPStatus.NOT_MODIFIED
        assert evaluate_conditions(environ, ETAG, MTIME + 1, 5).status == HTTPStatus.OK
        ranged = {"REQUEST_METHOD": "GET", "HTTP_RANGE": "bytes=1-", "HTTP_IF_RANGE": date}
        assert evaluate_conditions(ranged, ETAG, MTIME, 5) == (HTTPStatus.PARTIAL_CONTENT, 1, 4)
        assert evaluate_conditions(ranged, ETAG, MTIME + 1, 5) == (HTTPStatus.OK, 0, 5)
    finally:
        monkeypatch.undo()
        time.tzset()


_TEXT = st.text(st.characters(max_codepoint=255, min_codepoint=32), max_size=40)
_DATE = st.builds(
    " ".join, st.lists(st.sampled_from(["Sun,", "06", "Nov", "1994", "99", "08:49:37", "GMT", "+9999", "-", "0"]))
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "HTTP_RANGE",
                "HTTP_IF_RANGE",
                "HTTP_IF_MATCH",
                "HTTP_IF_NONE_MATCH",
                "HTTP_IF_MODIFIED_SINCE",
                "HTTP_IF_UNMODIFIED_SINCE",
            ]
        ),
        _TEXT | _DATE | st.sampled_from(["bytes=0-1", "bytes=-1", "bytes=4-" + "9" * 64, ETAG, "*"]),
    ),
    st.integers(0, 10),
)
def test_garbage_selects_something(headers: dict[str, str], size: int) -> None:
    environ = {"REQUEST_METHOD": "GET", **headers}
    chosen = evaluate_conditions(environ, ETAG, MTIME, size)
    assert has_conditions(environ) or chosen == (HTTPStatus.OK, 0, size)
    assert 0 <= chosen.offset <= chosen.offset + chosen.length <= size


@pytest.mark.parametrize(
    ("headers", "without_file", "with_file"),
    [
        ({}, False, False),
        ({"IF_MATCH": "*"}, True, False),
        ({"IF_MATCH": '"a", "5-3"'}, True, False),
        ({"IF_MATCH": '"a"'}, True, True),
        ({"IF_MATCH": 'W/"5-3"'}, True, True),
        ({"IF_MATCH": '"5-3"', "IF_UNMODIFIED_SINCE": "Thu, 01 Jan 1970 00:00:00 GMT"}, True, False),
        ({"IF_UNMODIFIED_SINCE": "Thu, 01 Jan 1970 00:00:04 GMT"}, False, True),
        ({"IF_UNMODIFIED_SINCE": "Thu, 01 Jan 1970 00:00:05 GMT"}, False, False),
        ({"IF_UNMODIFIED_SINCE": "yesterday"}, False, False),
        ({"IF_NONE_MATCH": "*"}, False, False),
    ],
)
def test_the_conditions_of_a_change(headers: dict[str, str], without_file: bool, with_file: bool) -> None:
    environ = {f"HTTP_{name}": value for name, value in headers.items()}
    assert fails_change(environ, None, 0) is without_file
    assert fails_change(environ, '"5-3"', 5) is with_file
    assert has_change_conditions(environ) or not (without_file or with_file)
