"""Texts from outside in messages have a bounded length."""

from __future__ import annotations

import json
import logging
import re
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmacfs.cut import FIELD_LIMIT, LINE_LIMIT, cut, cut_escaped
from hmacfs.errors import StorageFailed
from hmacfs.telemetry.logs import JsonFormatter, TextFormatter
from hmacfs.web.messages import Request
from tests.unit.requests import EMPTY

NOTE = re.compile(r"\.\.\.\(([0-9]+) bytes\)$")


@given(text=st.text(max_size=60), limit=st.integers(20, 80))
def test_what_is_too_long_is_cut_between_characters_and_says_so(text: str, limit: int) -> None:
    size, found = len(text.encode("utf-8", "surrogatepass")), cut(text, limit)
    assert len(found.encode("utf-8", "surrogatepass")) <= limit
    if size <= limit:
        assert found == text
    elif (match := NOTE.search(found)) is not None:
        assert int(match[1]) == size
        assert text.encode("utf-8", "ignore").startswith(found[: match.start()].encode())
    else:
        pytest.fail(found)


@given(text=st.text(st.characters(codec="utf-8"), max_size=60), limit=st.integers(20, 80))
def test_no_escape_and_no_escaped_character_is_cut_in_two(text: str, limit: int) -> None:
    escaped = quote(text)
    found = cut_escaped(escaped, len(escaped), limit)
    assert len(found) <= limit
    assert text.startswith(unquote(NOTE.sub("", found), errors="strict")) or found == escaped


@pytest.mark.parametrize(
    "path", ["/upload/" + "a" * 32_000, "/upload/" + "%e2%98%83" * 3_500, "/upload/%" + "%2" * 9_999]
)
@pytest.mark.parametrize("is_raw", [True, False])
def test_the_path_of_a_request_is_cut(path: str, *, is_raw: bool) -> None:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path if is_raw else "\xe9" * 32_000}
    if is_raw:
        environ["RAW_URI"] = f"{path}?v=secret"
    shown = Request(environ, "192.0.2.1", EMPTY).log_path
    assert len(shown) <= FIELD_LIMIT
    assert NOTE.search(shown)
    assert shown.isascii()


class Hostile(Exception):
    """With a text from outside."""


@pytest.mark.parametrize("text", ["x" * 93_000, "\u2603" * 40_000, "\x00" * 50_000, "\udcff" * 9_000, '"' * 20_000])
def test_every_line_is_cut(text: str) -> None:
    try:
        raise Hostile(text)
    except Hostile as error:
        trouble = (type(error), error, error.__traceback__)
    record = logging.LogRecord("hmacfs", logging.WARNING, __file__, 1, "it was: %s", (text,), trouble)
    lines = TextFormatter().format(record).splitlines()
    assert max(len(line.encode("utf-8", "backslashreplace")) for line in lines) <= LINE_LIMIT + 100
    assert "bytes)" in lines[0]
    line = JsonFormatter().format(record)
    assert len(line) <= 6 * LINE_LIMIT
    assert "bytes)" in json.loads(line)["message"]


def test_the_cause_of_a_failure_stands_after_a_long_path() -> None:
    error = StorageFailed(where="folder/" + "n" * 4_000)
    error.__cause__ = OSError(5, "Input/output error")
    assert len(error.for_log()) <= LINE_LIMIT
    assert error.for_log().endswith(": Input/output error")
