"""The one ritual by which a file becomes visible: complete, synced, linked exclusively, folder synced."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from typing import NamedTuple

from hmacfs.descriptors import close
from hmacfs.errors import NameTaken
from hmacfs.filetypes import type_by_name
from hmacfs.naming import StoredName
from hmacfs.storage.abilities import TYPE_ATTRIBUTE, Abilities, link_anonymous, rename_exclusively
from hmacfs.storage.beneath import FOLDER_FLAGS, open_beneath, open_without_links
from hmacfs.storage.folders import Folder

#: Somebody may remove a folder between our making it and our linking into it: an upload that failed cleans up the
#: folders it made, and another one may have been about to use them.
_ATTEMPTS = 10


#: A proxy that serves the store itself knows types by extension only. It must not be able to read a file whose type is
#: another, so that it asks this server for it.
_TYPE_IS_IN_ATTRIBUTE = 0o600

#: A part of the path is a file, or a link that leads in circles or outside the store.
NO_FOLDER_ERRNOS = frozenset({errno.ENOTDIR, errno.ELOOP, errno.EXDEV})


class FileFacts(NamedTuple):
    """Of a stored file. ``content_type`` is the recorded one, ``None`` if there is none."""

    size: int
    mtime: float
    content_type: str | None

    @property
    def etag(self) -> str:
        """A strong entity tag (RFC 9110 section 8.8.3), in nginx's format, so that it is the same when nginx serves the
        file. It holds because a stored name never changes its content."""
        return f'"{int(self.mtime):x}-{self.size:x}"'


@dataclasses.dataclass(slots=True)
class Candidate:
    """A complete file that nobody sees: its descriptor, what its file system can do, and its temporary name if it has
    one, with the folder of that."""

    fd: int
    abilities: Abilities
    temporary: bytes | None = None
    folder: Folder | None = None
    is_linked: bool = False


class OtherFileSystem(OSError):
    """The file cannot be linked to that name, which is on another file system, or on another mount of the same."""


class LeadsAway(NameTaken):
    """A part of the path is a file, or a link, which may lead to another folder of the store."""


def publish(root: int, candidate: Candidate, name: StoredName, content_type: str | None, *, durable: bool) -> FileFacts:
    """Make ``candidate`` visible as ``name`` below the folder ``root``. It blocks.

    Raises ``NameTaken`` if the name exists (the stored file is not touched, whoever is first wins), ``LeadsAway`` if
    its folder cannot be reached, ``OtherFileSystem`` if it is on another one, and ``OSError`` if the disk fails.
    Nothing is visible then, and no folder that was made for it is left. A candidate with a temporary name may be this
    very file, published by a process that ended before it could say so: then only the rest is done.
    """
    if content_type is not None and candidate.abilities.attributes:
        os.setxattr(candidate.fd, TYPE_ATTRIBUTE, content_type.encode("latin-1"))
        if content_type != type_by_name(name.filename):
            os.fchmod(candidate.fd, _TYPE_IS_IN_ATTRIBUTE)
    if durable:
        _sync(candidate.fd)
    for attempt in range(_ATTEMPTS):
        try:
            _link_into_place(root, candidate, name, durable=durable)
            break
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1:
                raise
    status = os.fstat(candidate.fd)
    return FileFacts(status.st_size, status.st_mtime, content_type)


def _sync(fd: int) -> None:
    """fsync, whose failure no caller may take for a passing one: the kernel tells of lost writes once, and the next
    fsync of the same file succeeds."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(errno.EIO, f"fsync: {error.strerror}") from error


def _link_into_place(root: int, candidate: Candidate, name: StoredName, *, durable: bool) -> None:
    place = _make_place(root, name)
    try:
        unsynced = place.made
        if not candidate.is_linked:
            if not _link(candidate, place.name, place.folder):
                unsynced = len(name.segments) - 1  # who knows which of them that process has synced
            candidate.is_linked = True
        if durable:
            _sync_folders(root, name, unsynced)
    except BaseException as error:
        if candidate.is_linked:
            os.unlink(place.name, dir_fd=place.folder)
            candidate.is_linked = False
        remove_folders(root, name, place.made)
        if isinstance(error, FileExistsError):
            raise NameTaken from error
        if isinstance(error, OSError) and error.errno == errno.EXDEV:
            raise OtherFileSystem(*error.args) from error
        raise
    finally:
        if place.folder != root:
            close(place.folder)


def _link(candidate: Candidate, filename: bytes, parent: int) -> bool:
    """False if it is linked there already. Raises ``FileExistsError`` if another file is."""
    if candidate.temporary is None:
        link_anonymous(candidate.fd, filename, parent)
        return True
    assert candidate.folder is not None
    source = (candidate.temporary, candidate.folder.fd)
    if not candidate.abilities.hard_links:
        rename_exclusively(*source, filename, parent)
        return True
    try:
        os.link(source[0], filename, src_dir_fd=source[1], dst_dir_fd=parent, follow_symlinks=False)
    except FileExistsError:
        present = os.stat(filename, dir_fd=parent, follow_symlinks=False)
        if not os.path.samestat(present, os.fstat(candidate.fd)):
            raise
        return False
    return True


class _Place(NamedTuple):
    """Where to link a file: ``name`` in ``folder`` (a descriptor), of whose path the last ``made`` levels are new."""

    folder: int
    name: bytes
    made: int


def _make_place(root: int, name: StoredName) -> _Place:
    """The folder for ``name``, made if need be. Raises ``LeadsAway`` where a file or a link is in the way."""
    *parents, filename = name.raw.split(b"/")
    if not parents:
        return _Place(root, filename, 0)
    if len(parents) == 1:  # XMPP servers give each upload a folder of its own: most often there is none yet
        with contextlib.suppress(FileExistsError):
            os.mkdir(parents[0], 0o777, dir_fd=root)
            # What was just made is no link, so the path leads nowhere else.
            return _Place(root, name.raw, 1)
    try:
        try:
            return _Place(open_without_links(root, b"/".join(parents), FOLDER_FLAGS), filename, 0)
        except FileNotFoundError:
            folder, made = _make_folders(root, parents)
            return _Place(folder, filename, made)
    except OSError as error:
        if error.errno in NO_FOLDER_ERRNOS:
            raise LeadsAway("A part of the path is the name of a file.") from error
        raise


def _make_folders(root: int, parents: list[bytes]) -> tuple[int, int]:
    made = 0
    here = os.dup(root)
    try:
        for depth, segment in enumerate(parents, start=1):
            try:
                os.mkdir(segment, 0o777, dir_fd=here)
                made = made or len(parents) - depth + 1
            except FileExistsError:
                pass
            below = open_without_links(root, b"/".join(parents[:depth]), FOLDER_FLAGS)
            close(here)
            here = below
    except BaseException:
        close(here)
        raise
    return here, made


def _sync_folders(root: int, name: StoredName, made: int) -> None:
    """Sync the folder that got the file, and each folder that got a new folder."""
    parents = name.raw.split(b"/")[:-1]
    for depth in range(len(parents), len(parents) - made - 1, -1):
        fd = open_beneath(root, b"/".join(parents[:depth]) or b".", os.O_RDONLY | os.O_DIRECTORY, 0)
        try:
            _sync(fd)
        finally:
            close(fd)


def remove_folders(root: int, name: StoredName, made: int) -> None:
    """Take back the folders made for a file that did not get there; those that others use by now stay."""
    parents = name.raw.split(b"/")[:-1]
    with contextlib.suppress(OSError):
        for depth in range(len(parents), len(parents) - made, -1):
            above = open_beneath(root, b"/".join(parents[: depth - 1]) or b".", FOLDER_FLAGS, 0)
            try:
                os.rmdir(parents[depth - 1], dir_fd=above)
            finally:
                close(above)
