"""What a request gives away in the log."""

from __future__ import annotations

import os
import re

import pytest

from hmacfs.web.messages import Request, new_request_id
from tests.unit.requests import EMPTY


@pytest.mark.parametrize(
    ("raw", "path_info", "expected"),
    [
        ("/upload/a/b.jpg?v=secret", "/upload/a/b.jpg", "/upload/a/b.jpg"),
        ("/upload/a%20b", "/upload/a b", "/upload/a%20b"),
        ("/upload/\xc3\xa4", "/upload/\xc3\xa4", "/upload/%C3%A4"),
        (None, "/upload/a\nb", "/upload/a%0Ab"),
        (
            "/upload/.hmacfs/tus/0123456789abcdef",
            "/upload/.hmacfs/tus/0123456789abcdef",
            "/upload/.hmacfs/tus/01234567...",
        ),
        ("/upload/%2ehmacfs/tus/%300123456", "/upload/.hmacfs/tus/00123456789\n", "/upload/.hmacfs/tus/00123456..."),
        (None, "/upload/.hmacfs/tus/0123456789/.hmacfs/tus/x", "/upload/.hmacfs/tus/01234567..."),
    ],
)
def test_the_path_is_printable_and_gives_no_rights(raw: str | None, path_info: str, expected: str) -> None:
    environ = {"REQUEST_METHOD": "PATCH", "PATH_INFO": path_info}
    if raw is not None:
        environ["RAW_URI"] = raw
    assert Request(environ, "192.0.2.1", EMPTY).log_path == expected


def test_request_ids_tell_nothing_and_never_come_twice() -> None:
    ids = [new_request_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
    assert not any(f"{os.getpid():x}" == part for one in ids for part in one.split("-"))
    assert ids != sorted(ids)


def test_a_child_process_does_not_go_on_with_its_parents_request_ids() -> None:
    new_request_id()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, new_request_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(reading, 100).decode()
    os.close(reading)
    os.close(writing)
    assert len(told) == 32
    assert told not in {new_request_id() for _ in range(600)}
