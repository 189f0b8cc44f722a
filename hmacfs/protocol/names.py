"""From a URL path to the name of a stored file: the gate for every name from outside (docs/protocol.md, section 1)."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from urllib.parse import quote

from hmacfs.caching import bounded_cache
from hmacfs.errors import BadName

#: The name of the folders that belong to this server alone: at the top of the store, and of each file system that is
#: mounted inside it.
RESERVED_FOLDER = ".hmacfs"

SEGMENT_LIMIT_BYTES = 255
PATH_LIMIT_BYTES = 4096
#: XMPP servers use two or three. Each look-up costs as much as the path is deep, and common tools fail at thousands.
SEGMENTS_LIMIT = 64

#: Most names: printable ASCII in short segments none of which begins with a dot.
_PLAIN = re.compile(rf"[ !-\-0-~][ -.0-~]{{0,254}}(?:/[ !-\-0-~][ -.0-~]{{0,254}}){{0,{SEGMENTS_LIMIT - 1}}}")

#: Variation selectors and fillers: what Unicode calls ignorable besides the format characters (category Cf).
_IGNORABLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]")

#: What may stand unescaped in a URL path (RFC 3986 section 3.3).
_SAFE_IN_URLS = "/!$&'()*+,;=:@-._~"
#: Most paths: these need no ``quote``, which is slow.
_UNESCAPED = re.compile(r"[/!$&'()*+,;=:@\-._~0-9A-Za-z]*")


@dataclasses.dataclass(frozen=True, slots=True)
class StoredName:
    """A legal name of a stored file. Storage takes these and never a string.

    path: the segments joined by "/", as Unicode text.
    """

    path: str

    @property
    def raw(self) -> bytes:
        """The path as file systems get it: UTF-8, in every locale."""
        return self.path.encode()

    @property
    def segments(self) -> tuple[str, ...]:
        return tuple(self.path.split("/"))

    def url_path(self, prefix: str) -> str:
        """The URL path below ``prefix``, escaped."""
        return prefix + (self.path if _UNESCAPED.fullmatch(self.path) else quote(self.path, safe=_SAFE_IN_URLS))

    @classmethod
    def from_path_info(cls, path_info: str, prefix: str) -> StoredName:
        """From WSGI's PATH_INFO (percent-decoded once, its bytes as latin-1 text) below the mount point ``prefix``.

        Raises ``BadName``.
        """
        path = path_info[len(prefix) :]
        if not path:
            raise BadName("The path is empty.")
        if not path_info.startswith(prefix):
            raise BadName("The path is not below the mount point.")
        if len(path) < PATH_LIMIT_BYTES and _PLAIN.fullmatch(path):
            return cls(path)
        try:
            text = path.encode("latin-1").decode("utf-8")
        except UnicodeError as error:
            raise BadName("The path is not UTF-8.") from error
        return cls.from_text(text)

    @classmethod
    def from_text(cls, path: str) -> StoredName:
        """From Unicode text. Raises ``BadName``."""
        if len(path) < PATH_LIMIT_BYTES and _PLAIN.fullmatch(path):
            return cls(path)
        try:
            size = len(path.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise BadName("The path is not Unicode text.") from error
        if size > PATH_LIMIT_BYTES:
            raise BadName(f"The path is longer than {PATH_LIMIT_BYTES} bytes.")
        segments = path.split("/")
        if len(segments) > SEGMENTS_LIMIT:
            raise BadName(f"The path has more than {SEGMENTS_LIMIT} segments.")
        for segment in segments:
            _check_segment(segment)
        if any(map(is_reserved, segments)):
            raise BadName("The path names a folder that this server keeps for itself.")
        return cls(path)


#: What stands for the mount point where a request asks for that; the name of no file, which storage never gets.
MOUNT_POINT = StoredName("")


def is_reserved(segment: str) -> bool:
    """Whether a segment names a reserved folder, as any file system may read it: without regard to letter case (by
    Unicode's rules), to dots and blanks at the end, to a stream's name after a colon (NTFS), and to characters that are
    not seen (HFS+, ext4 with casefold)."""
    if segment.isascii() and RESERVED_FOLDER not in segment.lower():
        return False
    # One by one, and no further than the name goes on: some characters become 18, and a whole path of those would cost
    # as much as a hundred requests. No two characters together become one of the name's.
    left = RESERVED_FOLDER
    for character in segment:
        for seen in as_seen(character):
            if left:
                if not left.startswith(seen):
                    return False
                left = left[1:]
            elif seen == ":":
                return True
            elif seen not in ". ":
                return False
    return not left


@bounded_cache(512)
def as_seen(character: str) -> str:
    """What is left of a character for a file system that folds case and width and drops what is not seen."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", character).casefold())
    return _IGNORABLE.sub("", "".join(each for each in folded if unicodedata.category(each) != "Cf"))


def _check_segment(segment: str) -> None:
    if not segment:
        raise BadName("The path has an empty segment.")
    if segment in (".", ".."):
        raise BadName("The path has a segment of dots.")
    if len(segment.encode("utf-8")) > SEGMENT_LIMIT_BYTES:
        raise BadName(f"The path has a segment longer than {SEGMENT_LIMIT_BYTES} bytes.")
    if any(unicodedata.category(character) == "Cc" for character in segment):
        raise BadName("The path has a control character.")
