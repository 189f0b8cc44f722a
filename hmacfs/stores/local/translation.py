"""The operating system's errors, as this project's own."""

from __future__ import annotations

import errno

from hmacfs.errors import BadName, HmacfsError, NoSpace, StorageFailed


class translated:  # noqa: N801 - used like a function
    """Turns the operating system's errors inside its context into this project's, the cause kept for the log.

    place: the parts of the path that it is about, for the log.
    """

    __slots__ = ("_place",)

    def __init__(self, *place: object) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        translate(error, *self._place)


def translate(error: BaseException | None, *place: object) -> None:
    """Raise this project's error for one of the operating system's; do nothing for any other. place: as above."""
    if isinstance(error, OSError) and not isinstance(error, HmacfsError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpace from error
        if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ):  # some file systems allow less than the protocol
            raise BadName("The store's file system does not take this name.") from error
        raise StorageFailed(where="/".join(map(str, place))) from error
