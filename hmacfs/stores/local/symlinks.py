"""Symbolic links inside the store.

The kernel would follow relative ones below a folder by itself (``RESOLVE_BENEATH``), into the server's own folders,
and refuses absolute ones wherever they lead. So it follows none. Where there is one, all are resolved here, to a path
without links, which is opened as such: a link that is changed meanwhile gives an error and never a file outside.
"""

from __future__ import annotations

import os
import stat

from hmacfs.protocol.names import SEGMENTS_LIMIT, is_reserved
from hmacfs.stores.local.beneath import open_without_links
from hmacfs.stores.local.tree import Root
from hmacfs.system.descriptors import close

#: As many as the kernel follows (path_resolution(7)).
LINK_LIMIT = 40
#: Of all links together: each segment is looked up.
_STEPS_LIMIT = 1024
#: Of an absolute target: each is looked at, whether it is the store's folder under another name.
_DEPTH_LIMIT = 64
_LINK_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC


def resolve(root: Root, path: bytes) -> bytes | None:
    """The path that ``path`` (relative to ``root``) leads to, free of links as far as it exists, and empty for ``root``
    itself. ``None`` if it leads outside, in circles, into a folder that the server keeps for itself, or deeper than
    paths may."""
    way = _Way(root)
    try:
        return _followed(way, path)
    finally:
        way.begin_again()


def _followed(way: _Way, path: bytes) -> bytes | None:
    pending = path.split(b"/")[::-1]
    links = steps = 0
    while pending:
        steps += 1
        segment = pending.pop()
        if segment in (b"", b"."):
            continue
        if segment == b"..":
            if not way.names:
                return None
            way.leave()
            continue
        target = way.enter(segment)
        links += target is not None
        if len(way.names) > SEGMENTS_LIMIT or links > LINK_LIMIT or steps > _STEPS_LIMIT:
            return None
        if target is not None and target.startswith(b"/"):
            target = _below_root(way.root, target)
            if target is None:
                return None
            way.begin_again()
        if target is not None:
            pending += target.split(b"/")[::-1]
    return None if any(map(_is_reserved, way.names)) else b"/".join(way.names)


class _Way:
    """The way from the root to where a path has led so far: names, and as far as they exist their descriptors, so that
    each is opened from the one above."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.names: list[bytes] = []
        self._open: list[int] = []

    def enter(self, name: bytes) -> bytes | None:
        """Go on to ``name``; if that is a link stay, and return what it says."""
        if len(self._open) == len(self.names):
            target = self._look(name)
            if target is not None:
                return target
        self.names.append(name)
        return None

    def leave(self) -> None:
        """Go back to the folder above."""
        self.names.pop()
        if len(self._open) > len(self.names):
            close(self._open.pop())

    def begin_again(self) -> None:
        """Go back to the root, with nothing open."""
        while self.names:
            self.leave()

    def _look(self, name: bytes) -> bytes | None:
        """Open ``name``, if it is there; what it says if it is a link, which is not kept open."""
        try:
            fd = open_without_links(self._open[-1] if self._open else self.root.fd, name, _LINK_FLAGS)
        except OSError:
            return None
        try:
            target = os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else None
        except OSError:
            target = None
        if target is None:
            self._open.append(fd)
        else:
            close(fd)
        return target


def _is_reserved(segment: bytes) -> bool:
    return is_reserved(segment.decode("utf-8", "replace"))


def _below_root(root: Root, target: bytes) -> bytes | None:
    """An absolute path relative to the root, under whichever name of the root's it begins; ``None`` if with none."""
    parts = target.split(b"/")
    for end in range(1, min(len(parts), _DEPTH_LIMIT) + 1):
        try:
            status = os.stat(b"/".join(parts[:end]) or b"/")
        except OSError:
            return None
        if (status.st_dev, status.st_ino) == root.identity:
            return b"/".join(parts[end:]) or b"."
    return None
