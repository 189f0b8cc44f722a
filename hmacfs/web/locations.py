"""URL paths as clients know them, for ``Location`` (docs/protocol.md, section 3). Pure."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from hmacfs.protocol.names import StoredName
from hmacfs.web.messages import TUS_PATH

#: The characters that stay as they are in a path that an operator wrote, escapes included (RFC 3986 section 3.3).
_URL_PATH = "/%!$&'()*+,;=:@-._~"


class Locations:
    """Makes the paths for ``Location``.

    prefix: the mount point as this server sees it, with both slashes. public_url: ``PublicURL``; its path is the part
    that a proxy in front of this server removes.

    Example: with ``/upload/`` and ``https://example.org/files``, the file ``a/b`` is at ``/files/upload/a/b``.
    """

    def __init__(self, prefix: str, public_url: str = "") -> None:
        self._prefix = quote(urlsplit(public_url).path, safe=_URL_PATH).rstrip("/") + prefix

    def of_file(self, name: StoredName) -> str:
        """The path of a stored file."""
        return name.url_path(self._prefix)

    def of_upload(self, token: str) -> str:
        """The path of an unfinished tus upload."""
        return f"{self._prefix}{TUS_PATH}{token}"
