"""All files of a store, page by page."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Protocol

from hmacfs.errors import BadName
from hmacfs.protocol.names import SEGMENTS_LIMIT, StoredName
from hmacfs.stores.local.tree import NOT_THERE_ERRNOS, Root
from hmacfs.system.descriptors import close

_LIST_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Listing(Iterator[os.DirEntry[str]], Protocol):
    def close(self) -> None: ...


class Walk:
    """Goes through the folders below ``root``, each in the order in which the kernel lists it.

    Of each folder on the way down one listing is open, so it begins at once and needs little memory, however many files
    there are. Links are not followed, and the server's own folders are no folders of files.

    failed: the first folder that could not be listed, and why; one that was removed meanwhile is none.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self._listings = [(b"", _listing(root, b"."))]
        self.failed: tuple[bytes, OSError] | None = None

    def page(self, limit: int) -> list[StoredName]:
        """The next names, ``limit`` at most; empty at the end. It blocks."""
        found: list[StoredName] = []
        while self._listings and len(found) < limit:
            prefix, listing = self._listings[-1]
            entry = next(listing, None)
            if entry is None:
                self._listings.pop()[1].close()
            elif entry.is_dir(follow_symlinks=False):
                self._enter(prefix + os.fsencode(entry.name))
            elif entry.is_file(follow_symlinks=False):
                with contextlib.suppress(BadName, UnicodeDecodeError):  # not one that a URL can have
                    found.append(StoredName.from_text((prefix + os.fsencode(entry.name)).decode()))
        return found

    def close(self) -> None:
        """End it before its end."""
        while self._listings:
            self._listings.pop()[1].close()

    def _enter(self, path: bytes) -> None:
        with contextlib.suppress(BadName, UnicodeDecodeError):
            if len(StoredName.from_text(path.decode()).segments) < SEGMENTS_LIMIT:
                try:
                    self._listings.append((path + b"/", _listing(self._root, path)))
                except OSError as error:
                    if error.errno not in NOT_THERE_ERRNOS:
                        self.failed = self.failed or (path, error)


def _listing(root: Root, path: bytes) -> _Listing:
    fd = root.open(path, _LIST_FLAGS)
    try:
        return os.scandir(fd)  # which duplicates it
    finally:
        close(fd)
