"""What the store's file system can do: tried once at start, in the store itself."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from hmacfs.errors import ConfigError
from hmacfs.protocol.names import RESERVED_FOLDER
from hmacfs.stores.local.beneath import HAS_OPENAT2
from hmacfs.system.anonymous_files import open_anonymous
from hmacfs.system.descriptors import close

TYPE_ATTRIBUTE = "user.mime_type"
_RENAME_NOREPLACE = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Capabilities:
    """anonymous: files without a name that can be linked later (O_TMPFILE), which need no cleaning up ever.
    hard_links: a named temporary file can be linked to its final name exclusively.
    attributes: a file can carry its type (extended attributes).
    safe_links: symbolic links are followed inside the store and never outside; without it they are refused.
    spellings: names by which the server's own folder is found besides its own, since the file system takes several
    spellings for one name."""

    anonymous: bool
    hard_links: bool
    attributes: bool
    safe_links: bool = HAS_OPENAT2
    spellings: tuple[str, ...] = ()

    def remarks(self) -> Iterator[str]:
        """What an operator should know, one sentence each."""
        if not self.anonymous:
            yield "the store's file system has no anonymous files: uploads use named temporary files"
        if not self.attributes:
            yield "the store's file system has no extended attributes: files are typed by their extension"
        if not self.safe_links:
            yield "this system has no openat2: symbolic links in the store are not followed"
        if self.spellings:
            others = ", ".join(map(repr, self.spellings))
            yield (
                f"the store's file system takes {others} for {RESERVED_FOLDER}: each path is looked at step by step, "
                "which takes longer; nginx must not serve the store itself"
            )


def probe(scratch: int, spellings: tuple[str, ...] = ()) -> Capabilities:
    """Try them in the folder ``scratch`` (a descriptor), but for the ``spellings``, which are known. Raises
    ``ConfigError`` if a file cannot be published exclusively in any way."""
    anonymous = _can_link_anonymous(scratch)
    hard_links = anonymous or _can_link_named(scratch)
    if not hard_links and not _can_rename_exclusively(scratch):
        raise ConfigError("StoreDir: its file system can neither link nor rename a file exclusively")
    return Capabilities(anonymous, hard_links, _can_keep_attributes(scratch), spellings=spellings)


def look(folder: Path) -> Capabilities:
    """What the file system of that folder, or of the one it will be made in, can probably do. Nothing is left of the
    look, and nobody can see it: it needs files without a name to try more than it can ask."""
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    try:
        fd = open_anonymous(there)
    except OSError:
        return Capabilities(anonymous=False, hard_links=True, attributes=_has_attributes(there))
    try:
        return Capabilities(anonymous=True, hard_links=True, attributes=_can_keep_type(fd))
    finally:
        close(fd)


def _has_attributes(folder: Path) -> bool:
    try:
        os.getxattr(folder, TYPE_ATTRIBUTE)
    except AttributeError:
        return False
    except OSError as error:
        return error.errno == errno.ENODATA
    return True


def link_anonymous(fd: int, name: bytes, folder: int) -> None:
    """Give a file made with O_TMPFILE a name. ``FileExistsError`` if there is one."""
    # With any src_dir_fd CPython calls linkat() with AT_SYMLINK_FOLLOW, which this needs; without one it does not.
    os.link(b"/proc/self/fd/%d" % fd, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)


def rename_exclusively(source: bytes, source_folder: int, name: bytes, folder: int) -> None:
    """renameat2(RENAME_NOREPLACE), for file systems without hard links. ``FileExistsError`` if ``name`` exists."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(source_folder, source, folder, name, _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def _trial_file(scratch: int) -> Iterator[bytes]:
    name = _trial_name()
    close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=scratch))
    try:
        yield name
    finally:
        _forget(name, scratch)


def _trial_name() -> bytes:
    return b"trial-" + secrets.token_hex(8).encode()


def _forget(name: bytes, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _can_link_anonymous(scratch: int) -> bool:
    target = _trial_name()
    try:
        fd = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=scratch)
    except (OSError, AttributeError):  # EOPNOTSUPP, EISDIR, EINVAL; no O_TMPFILE outside Linux
        return False
    try:
        link_anonymous(fd, target, scratch)
    except OSError:  # ENOENT: no /proc
        return False
    finally:
        close(fd)
    _forget(target, scratch)
    return True


def _can_link_named(scratch: int) -> bool:
    with _trial_file(scratch) as name:
        try:
            os.link(name, name + b"-link", src_dir_fd=scratch, dst_dir_fd=scratch, follow_symlinks=False)
        except OSError:
            return False
        _forget(name + b"-link", scratch)
        return True


def _can_rename_exclusively(scratch: int) -> bool:
    with _trial_file(scratch) as name:
        try:
            rename_exclusively(name, scratch, name + b"-renamed", scratch)
        except OSError:
            return False
        _forget(name + b"-renamed", scratch)
        return True


def _can_keep_attributes(scratch: int) -> bool:
    with _trial_file(scratch) as name:
        fd = os.open(name, os.O_RDWR | os.O_CLOEXEC, dir_fd=scratch)
        try:
            return _can_keep_type(fd)
        finally:
            close(fd)


def _can_keep_type(fd: int) -> bool:
    try:
        os.setxattr(fd, TYPE_ATTRIBUTE, b"text/plain")
    except (OSError, AttributeError):
        return False
    return True
