"""Removing a file: its name, and the folders that are empty without it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator

from hmacfs.stores.local.beneath import FOLDER_FLAGS
from hmacfs.stores.local.tree import Root
from hmacfs.system.descriptors import close

_READ_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextlib.contextmanager
def only_remover(folder: int) -> Iterator[None]:
    """As long as the context lasts, no other process (or thread) that asks for the same removes files: a name that was
    looked at cannot become another file's in between, since it had to be removed first. It blocks. folder: any that all
    share."""
    fd = os.open(b".", _READ_FLAGS, dir_fd=folder)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        close(fd)


def remove(root: Root, path: bytes, sync: Callable[[int], None] | None) -> bool:
    """Remove the name ``path``, be it a file's or a link's, and each folder above that this leaves empty; whether there
    was one. sync: called with the folder that the topmost name was taken from. Raises ``OSError``."""
    *parents, filename = path.split(b"/")
    opened = [root.fd]
    try:
        for parent in parents:
            opened.append(root.open(parent, _READ_FLAGS, opened[-1]))
        os.unlink(filename, dir_fd=opened[-1])
        changed = len(parents)
        with contextlib.suppress(OSError):  # not empty
            while changed:
                os.rmdir(parents[changed - 1], dir_fd=opened[changed - 1])
                changed -= 1
        if sync is not None:
            sync(opened[changed])
        return True
    except FileNotFoundError:
        return False
    finally:
        for fd in opened[1:]:
            close(fd)


def remove_empty_folders(root: Root, path: bytes) -> None:
    """Remove the folders of a file that did not get there, from the last one up, as far as they are empty."""
    *parents, _ = path.split(b"/")
    opened = [root.fd]
    try:
        with contextlib.suppress(OSError):
            for parent in parents[:-1]:
                opened.append(root.open(parent, FOLDER_FLAGS, opened[-1]))
        with contextlib.suppress(OSError):
            for above, parent in reversed(list(zip(opened, parents, strict=False))):
                os.rmdir(parent, dir_fd=above)
    finally:
        for fd in opened[1:]:
            close(fd)
