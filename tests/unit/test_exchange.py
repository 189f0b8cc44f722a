"""What a request gives away in the log."""

from __future__ import annotations

import pytest

from hmacfs.web.exchange import Exchange


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
    assert Exchange(environ, "192.0.2.1", 1.0).log_path == expected
