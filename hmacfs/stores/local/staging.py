"""Where files are staged: a folder of ours on the file system that they are meant for.

A store may have other file systems in it: disks, bind mounts, btrfs subvolumes, a tmpfs. No file can be linked or
renamed from one into another, so each has an area of its own, with what that file system can do.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterator

from hmacfs.errors import ConfigError, StorageFailed
from hmacfs.protocol.names import RESERVED_FOLDER
from hmacfs.stores.local.beneath import FOLDER_FLAGS, open_without_links
from hmacfs.stores.local.capabilities import Capabilities, probe
from hmacfs.stores.local.folders import own_folder
from hmacfs.stores.local.publish import StagedInode
from hmacfs.stores.local.tree import Folder, Root
from hmacfs.system.descriptors import close
from hmacfs.system.ownership import STORED_FILE_MODE

TEMPORARY = b"tmp"

_MOUNT_ID = re.compile(rb"^mnt_id:\s*(\d+)", re.MULTILINE)
_OCTAL = re.compile(rb"\\([0-7]{3})")


def new_staged_inode(folder: Folder, capabilities: Capabilities) -> StagedInode:
    """An empty file in the folder. Without anonymous files it has a name, and a lock that says that its process lives.
    Raises ``OSError``."""
    if capabilities.anonymous:
        fd = os.open(b".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, STORED_FILE_MODE, dir_fd=folder.fd)
        return StagedInode(fd, capabilities)
    while True:
        name = secrets.token_hex(16).encode()
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, STORED_FILE_MODE, dir_fd=folder.fd)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:  # else a cleaner was faster than the lock
            return StagedInode(fd, capabilities, name, folder)
        close(fd)


def remove_staged(staged_inode: StagedInode) -> None:
    """Close it, and take its temporary name away if it still has that."""
    if staged_inode.temporary is not None and staged_inode.folder is not None:
        with contextlib.suppress(FileNotFoundError):  # renamed into place
            os.unlink(staged_inode.temporary, dir_fd=staged_inode.folder.fd)
    close(staged_inode.fd)


def remove_dead(folder: Folder) -> int:
    """Remove the temporary files of processes that ended; how many. Those in use are locked and stay."""
    removed = 0
    for name in os.listdir(folder.fd):
        with contextlib.suppress(OSError):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder.fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(name, dir_fd=folder.fd)
                removed += 1
            finally:
                close(fd)
    return removed


class OtherFileSystems:
    """The file systems inside the store that files were meant for so far, by the path of their top folder.

    No descriptor is kept, so that they can be unmounted.
    """

    def __init__(self) -> None:
        self.known: dict[bytes, Capabilities] = {}

    def learn(self, root: Root, path: bytes) -> None:
        """Note the file system that the folder of ``path`` is on, or would be. Raises ``OSError``, ``StorageFailed`` if
        no file can be published there."""
        top = _top_of(root, path)
        if top is not None:
            folder = own_folder(root, TEMPORARY, top)
            try:
                self.known[top] = probe(folder.fd)
            except ConfigError as error:
                raise StorageFailed from error

    def new_staged_inode(self, root: Root, path: bytes) -> StagedInode | None:
        """An empty file for ``path`` on its file system; ``None`` if that is the root's, as far as is known. Raises
        ``OSError``."""
        for top in sorted(self.known, key=len, reverse=True):
            if path.startswith(top + b"/"):
                try:
                    return new_staged_inode(own_folder(root, TEMPORARY, top), self.known[top])
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    del self.known[top]  # it was unmounted, or another is there now: to be learnt again
        return None


def remove_dead_elsewhere(root: Root, store: bytes) -> int:
    """The same as ``remove_dead`` for all file systems that are mounted below the folder ``store``, which is open as
    ``root``."""
    removed = 0
    for top in _mounted_below(os.path.realpath(store)):
        with contextlib.suppress(OSError):
            path = top + b"/" + RESERVED_FOLDER.encode() + b"/" + TEMPORARY
            removed += remove_dead(Folder(open_without_links(root.fd, path, os.O_RDONLY | os.O_DIRECTORY)))
    return removed


def _mounted_below(folder: bytes) -> Iterator[bytes]:
    """The paths of all mount points below it, relative to it (Linux; see proc(5))."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(b" ")
        path = _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), fields[4]) if len(fields) > 4 else b""
        if path.startswith(folder.rstrip(b"/") + b"/"):
            yield path[len(folder.rstrip(b"/")) + 1 :]


def _top_of(root: Root, path: bytes) -> bytes | None:
    """The top folder of the mount or subvolume that the folder of ``path`` is on; ``None`` if it is the root's."""
    parents = path.split(b"/")[:-1]
    mount, top = mount_of(root.fd), None
    here = os.dup(root.fd)
    try:
        for depth, name in enumerate(parents, start=1):
            try:
                below = root.open(name, FOLDER_FLAGS, here)
            except OSError:  # not made yet
                break
            close(here)
            here = below
            if mount_of(here) != mount:
                mount, top = mount_of(here), b"/".join(parents[:depth])
    finally:
        close(here)
    return top


def mount_of(fd: int) -> tuple[int, bytes]:
    """What has to be the same for two files to be linked: the device (a subvolume has one of its own) and the mount."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            match = _MOUNT_ID.search(file.read())
    except OSError:
        match = None
    return os.fstat(fd).st_dev, match[1] if match else b""
