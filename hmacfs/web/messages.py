"""A request and its answer, as the views see them: the same with and without Flask's dispatch."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from hmacfs.cut import FIELD_LIMIT, cut_escaped
from hmacfs.net.body import Body
from hmacfs.net.send import FileSlice
from hmacfs.protocol.http1 import responses
from hmacfs.protocol.methods import METHODS
from hmacfs.protocol.names import RESERVED_FOLDER

if TYPE_CHECKING:
    from hmacfs.dialects.pieces import Piece
    from hmacfs.protocol.names import StoredName
    from hmacfs.protocol.signing import Verified

Headers = responses.Headers

#: An id that a proxy or client gives is taken over if it cannot upset a log line.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

#: Where unfinished tus uploads are below the mount point: no stored file's name begins with the reserved folder.
TUS_PATH = f"{RESERVED_FOLDER}/tus/"
#: The token that follows is the right to write the upload; so much of it tells uploads apart in a log.
_TOKEN_SHOWN = 8

#: Hex digits of a request's id: 128 random bits, so that no two are alike, whichever processes made them.
_ID_DIGITS = 32
#: How many ids one system call makes.
_IDS_AT_ONCE = 256
_ids: list[str] = []
# A child with its parent's ids would use them a second time.
os.register_at_fork(after_in_child=_ids.clear)


def new_request_id() -> str:
    """An id that no other request of any process has. It tells neither the process nor how many requests there were."""
    try:
        return _ids.pop()
    except IndexError:
        digits = os.urandom(_IDS_AT_ONCE * _ID_DIGITS // 2).hex()
        _ids.extend([digits[begin : begin + _ID_DIGITS] for begin in range(0, len(digits), _ID_DIGITS)])
        return _ids.pop()


class Request:
    """One request, parsed as far as every view needs it; the rest stays in the WSGI ``environ``.

    What the checks before a view find out is noted here, each by one of them:

    name: the file's (see ``is_folder`` for a folder's). piece: which part of the file a PUT carries, ``None`` for a
    whole one. verified: the signature that holds. file_type: the type to keep with the file. rate_headers: a rate
    limit's, for the answer or refusal.
    """

    __slots__ = (
        "allowed",
        "body",
        "client",
        "content_type",
        "environ",
        "file_type",
        "is_folder",
        "length",
        "method",
        "name",
        "piece",
        "rate_headers",
        "request_id",
        "started",
        "verified",
    )

    name: StoredName

    def __init__(self, environ: dict[str, Any], client: str, body: Body, allowed: Sequence[str] = METHODS) -> None:
        """client: its address; allowed: the methods that the path has."""
        self.started = time.monotonic()
        self.environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.client = client
        self.allowed = allowed
        self.body = body
        declared = environ.get("CONTENT_LENGTH")
        #: The declared length of the body in bytes, ``None`` without one.
        self.length = int(declared) if declared and declared.isascii() and declared.isdigit() else None
        #: The Content-Type as sent, ``None`` without one.
        self.content_type: str | None = environ.get("CONTENT_TYPE") or None
        self.is_folder = False
        self.piece: Piece | None = None
        self.verified: Verified | None = None
        self.file_type: str | None = None
        self.rate_headers: Headers | None = None
        given = environ.get("HTTP_X_REQUEST_ID")
        self.request_id = given if given and _REQUEST_ID.fullmatch(given) else new_request_id()

    def header(self, name: str) -> str | None:
        """A request header by its name in the environ's spelling without prefix (``RANGE``, ``IF_NONE_MATCH``)."""
        value: str | None = self.environ.get(f"HTTP_{name}")
        return value

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunked coding, its length unknown until its end."""
        return "HTTP_TRANSFER_ENCODING" in self.environ

    def __str__(self) -> str:
        return self.log_path

    @property
    def log_path(self) -> str:
        """The path as it was sent, in printable ASCII, without what gives rights: the query, and the greater part of an
        unfinished upload's token. A very long one is cut: see ``cut``.

        Example: ``/upload/.hmacfs/tus/01234567...``.
        """
        raw: str | None = self.environ.get("RAW_URI")
        before, reserved, token = self.environ.get("PATH_INFO", "").partition(TUS_PATH)
        if reserved:
            path, safe = f"{before}{reserved}{token[:_TOKEN_SHOWN]}...", "/."
        elif (at := before.lower().find(RESERVED_FOLDER)) >= 0:  # misspelt, and a token may follow all the same
            path, safe = f"{before[: at + len(RESERVED_FOLDER)]}...", "/."
        elif raw:
            path, safe = raw.partition("?")[0], "/%!$&'()*+,;=:@-._~"
            if path.isascii() and len(path) <= FIELD_LIMIT:
                return path
        else:
            path, safe = self.environ.get("PATH_INFO", ""), "/"
        return cut_escaped(quote(path[:FIELD_LIMIT], safe=safe, encoding="latin-1"), len(path))


class Status(int):
    """A status that ``HTTPStatus`` does not have."""

    phrase: str

    def __new__(cls, code: int, phrase: str) -> Self:
        status = super().__new__(cls, code)
        status.phrase = phrase
        return status

    @property
    def value(self) -> int:
        return int(self)


# ``HTTPStatus.value`` and the hash of a member cost a small request more than its status line does.
_STATUS_LINES = {int(status): f"{status.value} {status.phrase}" for status in HTTPStatus}


@dataclasses.dataclass(slots=True)
class Response:
    """An answer. reason: the word of a refusal or failure (see ``errors``), empty for success; stored: whether the
    request made a file visible."""

    status: HTTPStatus | Status
    headers: Headers
    body: bytes | FileSlice = b""
    reason: str = ""
    stored: bool = False

    @property
    def status_line(self) -> str:
        """The status with its phrase, as in the first line of a response."""
        status = self.status
        return _STATUS_LINES.get(int(status)) or f"{int(status)} {status.phrase}"


View = Callable[[Request], Response]
#: A check that comes before a view: it raises what the request is refused for, and may note on the request what it
#: found out.
Check = Callable[[Request], None]
