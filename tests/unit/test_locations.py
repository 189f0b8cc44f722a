"""Where answers say that files and uploads are."""

from __future__ import annotations

import pytest

from hmacfs.protocol.names import StoredName
from hmacfs.web.locations import Locations


@pytest.mark.parametrize(
    ("public_url", "before"),
    [
        ("", ""),
        ("https://x.example", ""),
        ("https://x.example/", ""),
        ("https://x.example/files", "/files"),
        ("https://x.example/files/", "/files"),
        ("https://x.example:8443/a/b", "/a/b"),
        ("https://x.example/my%20files", "/my%20files"),
        ("https://x.example/my files/☃", "/my%20files/%E2%98%83"),
    ],
)
def test_locations_are_below_the_public_urls_path(public_url: str, before: str) -> None:
    locations = Locations("/upload/", public_url)
    assert locations.of_file(StoredName.from_text("a/b c.jpg")) == f"{before}/upload/a/b%20c.jpg"
    assert locations.of_upload("token") == f"{before}/upload/.hmacfs/tus/token"
