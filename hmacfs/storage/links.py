"""Symbolic links inside the store.

The kernel would follow relative ones below a folder by itself (``RESOLVE_BENEATH``), into the server's own folders,
and refuses absolute ones wherever they lead. So it follows none. Where there is one, all are resolved here, to a path
without links, which is opened as such: whoever changes a link meanwhile gets an error and never a file outside.
"""

from __future__ import annotations

import os
import stat

from hmacfs.descriptors import close
from hmacfs.naming import is_reserved
from hmacfs.storage.beneath import open_without_links
from hmacfs.storage.folders import Folder

#: As many as the kernel follows (path_resolution(7)).
LINK_LIMIT = 40
#: Of an absolute target: each is looked at, whether it is the store's folder under another name.
_DEPTH_LIMIT = 64
_LINK_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC


def resolve(root: Folder, path: bytes) -> bytes | None:
    """The path that ``path`` (relative to ``root``) leads to, free of links as far as it exists. ``None`` if it leads
    outside, in circles, or into a folder that the server keeps for itself."""
    pending = path.split(b"/")[::-1]
    done: list[bytes] = []
    links = 0
    while pending:
        segment = pending.pop()
        if segment in (b"", b"."):
            continue
        if segment == b"..":
            if not done:
                return None
            done.pop()
            continue
        target = _target(root, b"/".join([*done, segment]))
        if target is None:
            done.append(segment)
            continue
        links += 1
        below = _below_root(root, target) if target.startswith(b"/") else target
        if links > LINK_LIMIT or below is None:
            return None
        if target.startswith(b"/"):
            done = []
        pending += below.split(b"/")[::-1]
    return b"/".join(done) if done and not any(map(_is_reserved, done)) else None


def _is_reserved(segment: bytes) -> bool:
    return is_reserved(segment.decode("utf-8", "replace"))


def _target(root: Folder, path: bytes) -> bytes | None:
    """What the link at ``path`` says; ``None`` if there is none."""
    try:
        fd = open_without_links(root.fd, path, _LINK_FLAGS)
    except OSError:
        return None
    try:
        return os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else None
    except OSError:
        return None
    finally:
        close(fd)


def _below_root(root: Folder, target: bytes) -> bytes | None:
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
